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

/// One worker for each core. Dropped, they end, with all that still runs in them.
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
    /// Starts them.
    pub fn start() -> io::Result<Workers> {
        let end = CancellationToken::new();
        let count = thread::available_parallelism().map_or(1, NonZero::get);
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
