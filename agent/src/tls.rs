//! TLS for the HTTP door.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why the door cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of that kind.
    #[error("read {what} from {path}")]
    Pem {
        /// What should be in it.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: PemError,
    },
    /// The file holds no certificate at all.
    #[error("{path} holds no certificate: give a chain in PEM, the node's own first")]
    NoCertificate {
        /// Which file.
        path: PathBuf,
    },
    /// The two do not belong together, or are of a kind that is not supported.
    #[error("use certificate and key")]
    Rustls(#[from] rustls::Error),
}

/// Reads certificate chain and key, for HTTP/2 and HTTP/1.1 on one port.
pub fn server(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { what, path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem("the certificate chain", certificate))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate {
            path: certificate.to_owned(),
        });
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(pem("the private key", key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
