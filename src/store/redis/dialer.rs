//! Opens connections. Without a certificate authority of its own (`tls_ca`), TLS trusts those of the system.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates,
};

use super::HEARTBEAT;
use crate::config::StoreConfig;
use crate::config::store_url::{Login, Security, ServerAddress, StoreUrl};

/// Time without an answer of the peer's host after which the kernel drops a connection.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Requests that may be queued for one connection.
const QUEUE: usize = 1024;

/// `[store]` cannot be used as it is.
#[derive(Debug, thiserror::Error)]
pub enum SetupFault {
    /// The URL is invalid. The message does not quote it, since it may hold a password.
    #[error("[store] redis {message}; {remedy}")]
    Url {
        /// What is wrong with it.
        message: &'static str,
        /// What to do.
        remedy: String,
    },
    /// The file with the password cannot be read.
    #[error("[store] password_file = {path:?}: {source}; write the path of a file that Larder may read")]
    PasswordFile {
        /// As it was typed.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A file that TLS needs cannot be read, or is damaged.
    #[error("[store] {field} = {path:?}: {source}; write the path of a PEM file that Larder may read")]
    Unreadable {
        /// `tls_ca`, `tls_cert` or `tls_key`.
        field: &'static str,
        /// As it was typed.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A file that TLS needs holds something else.
    #[error("[store] {field} = {path:?}: it holds no {what} in PEM format (-----BEGIN …)")]
    Content {
        /// `tls_ca`, `tls_cert` or `tls_key`.
        field: &'static str,
        /// As it was typed.
        path: String,
        /// What it has to hold.
        what: &'static str,
    },
}

/// User and password of this Larder.
pub(super) fn login(config: &StoreConfig, of_url: Login) -> Result<Login, SetupFault> {
    let read = |path: &PathBuf| {
        fs::read_to_string(path)
            .map_err(|source| SetupFault::PasswordFile { path: path.display().to_string(), source })
    };
    let password = config.password_file.as_ref().map(read).transpose()?;
    Ok(config.login(of_url, password.map(|text| text.trim_end_matches(['\r', '\n']).to_owned())))
}

/// Login and TLS settings of connections, for any address.
pub(super) struct Dialer {
    login: RedisConnectionInfo,
    /// TLS settings, without host and port.
    template: ConnectionAddr,
}

impl Dialer {
    /// For servers with this login.
    pub(super) fn new(
        config: &StoreConfig,
        url: &StoreUrl,
        login: &Login,
        database: u16,
    ) -> Result<Dialer, SetupFault> {
        let settings = RedisConnectionInfo::default().set_skip_set_lib_name().set_db(database.into());
        let settings = login.user.iter().fold(settings, RedisConnectionInfo::set_username);
        let settings = login.password.iter().fold(settings, RedisConnectionInfo::set_password);
        Ok(Dialer { login: settings, template: template(config, url)? })
    }

    /// Whether connections use TLS.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.template, ConnectionAddr::TcpTls { .. })
    }

    /// Opens a connection and logs in.
    pub(super) async fn open(&self, place: &ServerAddress) -> RedisResult<MultiplexedConnection> {
        let client = self.client(place, ProtocolVersion::RESP2)?;
        client.get_multiplexed_async_connection_with_config(&untimed()).await
    }

    pub(super) fn client(&self, place: &ServerAddress, protocol: ProtocolVersion) -> RedisResult<Client> {
        let info = self.address(place).into_connection_info()?;
        let login = self.login.clone().set_protocol(protocol);
        Client::open(tuned(info).set_redis_settings(login))
    }

    fn address(&self, place: &ServerAddress) -> ConnectionAddr {
        let ServerAddress { host, port } = place.clone();
        match self.template.clone() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure, tls_params }
            }
            _ => ConnectionAddr::Tcp(host, port),
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_tls() { "Dialer(TLS)" } else { "Dialer" })
    }
}

fn template(config: &StoreConfig, url: &StoreUrl) -> Result<ConnectionAddr, SetupFault> {
    let insecure = match url.security {
        Security::Plain => return Ok(ConnectionAddr::Tcp(String::new(), 0)),
        Security::Tls => false,
        Security::TlsInsecure => true,
    };
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let no_host = ConnectionAddr::TcpTls { host: String::new(), port: 0, insecure, tls_params: None };
    let root_cert = config.tls_ca.as_deref().map(|path| pem("tls_ca", path, "CERTIFICATE")).transpose()?;
    let mut address = no_host;
    if let Some(path) = &config.tls_ca {
        let certificates = TlsCertificates { root_cert: root_cert.clone(), client_tls: None };
        address = with_certificates(address, certificates).map_err(|error| unreadable("tls_ca", path, error))?;
    }
    if let Some((cert, key)) = &config.tls_identity {
        let client_cert = pem("tls_cert", cert, "CERTIFICATE")?;
        let identity = ClientTlsConfig { client_cert, client_key: pem("tls_key", key, "PRIVATE KEY")? };
        let certificates = TlsCertificates { root_cert, client_tls: Some(identity) };
        address = with_certificates(address, certificates).map_err(|error| unreadable("tls_cert", cert, error))?;
    }
    Ok(address)
}

fn with_certificates(address: ConnectionAddr, certificates: TlsCertificates) -> RedisResult<ConnectionAddr> {
    Client::build_with_tls(address, certificates).map(|client| client.get_connection_info().addr().clone())
}

fn unreadable(field: &'static str, path: &Path, error: RedisError) -> SetupFault {
    SetupFault::Unreadable { field, path: path.display().to_string(), source: io::Error::other(error) }
}

/// Reads the PEM file that this field names.
fn pem(field: &'static str, path: &Path, what: &'static str) -> Result<Vec<u8>, SetupFault> {
    let shown = || path.display().to_string();
    let text = fs::read(path).map_err(|source| SetupFault::Unreadable { field, path: shown(), source })?;
    match String::from_utf8_lossy(&text).contains(&format!("{what}-----")) {
        true => Ok(text),
        false => Err(SetupFault::Content { field, path: shown(), what }),
    }
}

/// Without the client's time limits: Larder limits connecting, and each request, as a whole.
pub(super) fn untimed() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE)
}

/// The kernel must detect a peer whose host is down: it sends nothing.
fn tuned(info: ConnectionInfo) -> ConnectionInfo {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(HEARTBEAT);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(KEEPALIVE);
    info.set_tcp_settings(tcp)
}
