//! stub
pub mod auth;
use crate::running::Running;
use std::sync::Arc;
pub async fn serve(_r: Arc<Running>, _l: tokio::net::TcpListener, _s: tokio_util::sync::CancellationToken) {}
