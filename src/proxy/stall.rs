//! Detects HTTP/2 streams whose client has stopped reading. A client can stop reading one stream while it reads others, so that no
//! write to its connection stalls: only the task of the stream can notice. The state is local to that task, and costs responses over
//! HTTP/1.1 nothing.

use std::cell::Cell;

tokio::task_local! {
    static STALL: StreamStall;
}

/// How far the response of one stream has been read.
#[derive(Debug, Default)]
pub struct StreamStall {
    is_clients: Cell<bool>,
    /// Pieces of the response that were taken.
    taken: Cell<u64>,
}

/// Runs the task of a stream.
pub fn within<F: Future>(stream: F) -> impl Future<Output = F::Output> {
    STALL.scope(StreamStall::default(), stream)
}

/// The client should read something: the head of the response, or another piece of its body.
pub fn give() {
    let _ = STALL.try_with(|stall| {
        stall.is_clients.set(true);
        stall.taken.set(stall.taken.get() + 1);
    });
}

/// There is nothing to read yet: Larder waits, not the client.
pub fn wait() {
    let _ = STALL.try_with(|stall| stall.is_clients.set(false));
}

/// How many pieces there were, if the client has not read the last one.
pub fn of_client() -> Option<u64> {
    STALL.try_with(|stall| stall.is_clients.get().then(|| stall.taken.get())).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_client_stalls_a_stream_while_there_is_something_to_take() {
        let steps = async {
            let before = of_client();
            give();
            let first = of_client();
            wait();
            let between = of_client();
            give();
            (before, first, between, of_client())
        };
        assert_eq!(within(steps).await, (None, Some(1), None, Some(2)));
    }

    #[test]
    fn outside_of_a_stream_nothing_is_said() {
        give();
        assert_eq!(of_client(), None);
    }
}
