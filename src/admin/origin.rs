//! Who asks for a change, for the log of invalidations. It is bound to the task that carries the change out, so that no handler has to
//! pass it on.

use std::net::SocketAddr;

use crate::upkeep::invalidation_log::{InvalidationOrigin, OriginKind};

/// Who asks.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The name of the token, or what stands for one.
    pub token: String,
    pub peer: Option<SocketAddr>,
}

tokio::task_local! {
    static OPERATOR: Operator;
}

/// Carries out what this operator asks for.
pub async fn on_behalf_of<T>(operator: Operator, change: impl Future<Output = T>) -> T {
    OPERATOR.scope(operator, change).await
}

/// A purge by the operator whose change this task carries out.
pub fn purge() -> InvalidationOrigin {
    let operator = OPERATOR.try_with(Operator::clone).ok();
    let (token, peer) = operator.map_or((None, None), |it| (Some(it.token), it.peer));
    let peer = peer.map(|peer| peer.to_string());
    InvalidationOrigin { token, peer, ..InvalidationOrigin::of(OriginKind::Purge) }
}
