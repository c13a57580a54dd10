//! TLS to upstream: trusted authorities and Larder's own certificate (`[server.upstream_tls]`).

use std::fmt::Display;
use std::path::Path;

use hyper_rustls::ConfigBuilderExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::UpstreamFault;
use crate::config::UpstreamTls;

/// The configuration for connections to an `https` upstream.
///
/// # Errors
///
/// A file cannot be read or does not contain what it should, or the system's certificate store cannot be read.
pub(crate) fn client(tls: &UpstreamTls) -> Result<ClientConfig, UpstreamFault> {
    let builder = ClientConfig::builder();
    let builder = match &tls.ca {
        Some(path) => builder.with_root_certificates(authorities(path)?),
        None => builder.with_native_roots().map_err(UpstreamFault::Certificates)?,
    };
    let Some((cert, key)) = &tls.identity else { return Ok(builder.with_no_client_auth()) };
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| fault("key", key, &error))?;
    let chain = certificates("cert", cert)?;
    builder.with_client_auth_cert(chain, key).map_err(|error| fault("cert", cert, &error))
}

/// The configuration for an `http` upstream. It is never used, so the system's certificates are not read.
pub(crate) fn none() -> ClientConfig {
    ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
}

fn authorities(path: &Path) -> Result<RootCertStore, UpstreamFault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca", path)? {
        roots.add(certificate).map_err(|error| fault("ca", path, &error))?;
    }
    Ok(roots)
}

fn certificates(field: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, UpstreamFault> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| fault(field, path, &error))?;
    if certificates.is_empty() {
        return Err(fault(field, path, &"it contains no certificate (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(certificates)
}

fn fault(field: &'static str, path: &Path, error: &dyn Display) -> UpstreamFault {
    UpstreamFault::Tls { field, path: path.display().to_string(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_invalid_file_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.pem");
        std::fs::write(&file, "nothing").unwrap();
        let nowhere = dir.path().join("nowhere.pem");
        let rows = [
            (UpstreamTls { ca: Some(nowhere.clone()), ..UpstreamTls::default() }, "ca = "),
            (UpstreamTls { ca: Some(file.clone()), ..UpstreamTls::default() }, "it contains no certificate"),
            (UpstreamTls { ca: None, identity: Some((file.clone(), file)), server_name: None }, "key = "),
        ];
        for (tls, expected) in rows {
            // On a machine without a certificate store that fault is reported first.
            let Err(fault) = client(&tls) else { panic!("{tls:?} is accepted") };
            let message = fault.to_string();
            assert!(message.contains(expected) || message.contains("certificate store"), "{message}");
        }
    }
}
