//! The threads that serve clients' connections. Each has a runtime of its own, so that a connection, its requests and their fetches
//! run on one core: waking a task of another thread costs a system call, and a runtime with several threads moves tasks between them.
//! A connection stays with the worker that had the fewest when it came. The admin and background work are on other threads.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After how many tasks a worker looks for one that another thread has woken: most wait for Redis, or for another worker's fetch. tokio
/// looks after 31, which takes long while the worker has many tasks of its own.
const REMOTE_INTERVAL: u32 = 3;

/// How many workers there are: one for each core that the process may use.
pub(super) fn count() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The workers. Dropped, they end, with all that still runs in them.
pub(super) struct Workers {
    workers: Vec<Worker>,
    end: CancellationToken,
}

struct Worker {
    runtime: Handle,
    /// Each connection has a copy.
    connections: Arc<()>,
    /// `None` once it was waited for.
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts so many.
    pub fn start(count: usize) -> io::Result<Workers> {
        let mut workers = Workers { workers: Vec::with_capacity(count), end: CancellationToken::new() };
        for _ in 0..count {
            workers.workers.push(Worker::start(workers.end.clone())?);
        }
        Ok(workers)
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
        let running = self.workers.iter().filter(|worker| worker.is_running());
        let worker = running.min_by_key(|worker| Arc::strong_count(&worker.connections));
        let worker = worker.ok_or_else(|| io::Error::other("no thread is left that serves connections"))?;
        // Its readiness is reported to the runtime that it was made in.
        let stream = stream.into_std()?;
        let counted = Arc::clone(&worker.connections);
        let served = async move {
            let _counted = counted;
            match TcpStream::from_std(stream) {
                Ok(stream) => serve(stream).await,
                Err(error) => tracing::warn!(%error, "cannot serve a connection"),
            }
        };
        connections.spawn_on(served, &worker.runtime);
        Ok(())
    }
}

impl Worker {
    fn start(end: CancellationToken) -> io::Result<Worker> {
        let runtime = Builder::new_current_thread().global_queue_interval(REMOTE_INTERVAL).enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = thread::Builder::new().name("worker".to_owned());
        let thread = thread.spawn(move || {
            runtime.block_on(end.cancelled());
            // What blocks a thread of its own is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Worker { runtime: handle, connections: Arc::default(), thread: Some(thread) })
    }

    fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.end.cancel();
        for thread in self.workers.iter_mut().filter_map(|worker| worker.thread.take()) {
            // One that has panicked has ended.
            let _ = thread.join();
        }
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
        let (workers, connections) = (Workers::start(2).unwrap(), TaskTracker::new());
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
        let (workers, connections) = (Workers::start(1).unwrap(), TaskTracker::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        workers.serve(&connections, stream, |_stream| std::future::pending()).unwrap();
        drop(workers);
        connections.close();
        connections.wait().await;
    }
}
