//! The threads that serve clients' connections. Each has a runtime of its own, so that all that belongs to a connection, its requests
//! and their fetches, runs on one core: waking a task of another thread costs a system call, and a runtime with several threads moves
//! tasks between them. A connection stays with the worker that had the fewest when it came.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The workers. Dropped, they end, with all that still runs in them.
pub(super) struct Workers {
    workers: Vec<Worker>,
    /// Dropped before the threads are joined.
    end: Option<DropGuard>,
}

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts one for each core.
    pub fn start() -> io::Result<Workers> {
        Workers::start_some(thread::available_parallelism().map_or(1, NonZero::get))
    }

    fn start_some(count: usize) -> io::Result<Workers> {
        let end = CancellationToken::new();
        let workers = (0..count).map(|_| Worker::start(end.clone())).collect::<io::Result<_>>()?;
        Ok(Workers { workers, end: Some(end.drop_guard()) })
    }

    /// Serves a connection, in the worker with the fewest. `connections` tracks it.
    pub fn serve<F>(
        &self,
        connections: &TaskTracker,
        stream: TcpStream,
        serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + Send,
    {
        // Its readiness is reported to the runtime that it was made in.
        let stream = stream.into_std()?;
        if let Some(worker) = self.workers.iter().min_by_key(|worker| worker.connections.load(Relaxed)) {
            let counted = Counted::new(&worker.connections);
            let served = async move {
                let _counted = counted;
                match TcpStream::from_std(stream) {
                    Ok(stream) => serve(stream).await,
                    Err(error) => tracing::warn!(%error, "cannot serve a connection"),
                }
            };
            connections.spawn_on(served, &worker.runtime);
        }
        Ok(())
    }
}

impl Worker {
    fn start(end: CancellationToken) -> io::Result<Worker> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = thread::Builder::new().name("worker".to_owned());
        let thread = thread.spawn(move || {
            runtime.block_on(end.cancelled());
            // What blocks a thread of its own is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Worker { runtime: handle, connections: Arc::default(), thread: Some(thread) })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        drop(self.end.take());
        for thread in self.workers.iter_mut().filter_map(|worker| worker.thread.take()) {
            // One that has panicked has ended.
            let _ = thread.join();
        }
    }
}

/// A connection, counted as long as this lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Counted {
        connections.fetch_add(1, Relaxed);
        Counted(Arc::clone(connections))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::ThreadId;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn a_connection_is_served_by_the_worker_that_has_the_fewest() {
        let (workers, connections) = (Workers::start_some(2).unwrap(), TaskTracker::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (served, mut by) = mpsc::unbounded_channel::<(ThreadId, CancellationToken)>();
        let mut next = async || {
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let served = served.clone();
            let serve = move |_stream| async move {
                let end = CancellationToken::new();
                served.send((thread::current().id(), end.clone())).unwrap();
                end.cancelled().await;
            };
            workers.serve(&connections, stream, serve).unwrap();
            by.recv().await.unwrap()
        };
        let [first, second, third, fourth] = [next().await, next().await, next().await, next().await];
        assert!(first.0 != second.0 && [first.0, second.0].contains(&third.0) && third.0 != fourth.0);
        // Both connections of one worker end: the next two are its.
        let (ended, stays) = if first.0 == third.0 { (first, second) } else { (second, first) };
        ended.1.cancel();
        third.1.cancel();
        while connections.len() > 2 {
            tokio::task::yield_now().await;
        }
        assert!([next().await.0, next().await.0] == [ended.0; 2] && stays.0 == fourth.0);
    }

    #[tokio::test]
    async fn what_still_runs_ends_with_them() {
        let (workers, connections) = (Workers::start_some(1).unwrap(), TaskTracker::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        workers.serve(&connections, stream, |_stream| std::future::pending()).unwrap();
        drop(workers);
        connections.close();
        connections.wait().await;
    }
}
