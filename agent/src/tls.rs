//! TLS for the HTTP door.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

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

/// Certificate and key of the door, which can be read again while it serves.
#[derive(Debug)]
pub struct Certificates {
    current: ArcSwap<CertifiedKey>,
    /// In seconds since 1970.
    expires: AtomicI64,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl Certificates {
    /// Reads certificate chain and key.
    pub fn read(certificate: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let (certified, expires) = read(certificate, key)?;
        Ok(Arc::new(Certificates {
            current: ArcSwap::from_pointee(certified),
            expires: AtomicI64::new(expires),
        }))
    }

    /// Reads them again, for connections that begin from now on.
    pub fn renew(&self, certificate: &Path, key: &Path) -> Result<(), TlsError> {
        let (certified, expires) = read(certificate, key)?;
        self.current.store(Arc::new(certified));
        self.expires.store(expires, Ordering::Relaxed);
        Ok(())
    }

    /// When the node's own certificate ends.
    pub fn expires(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.expires.load(Ordering::Relaxed)).ok()
    }

    /// The settings of a door that shows them, for HTTP/2 and HTTP/1.1 on one
    /// port.
    pub fn server(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn read(certificate: &Path, key: &Path) -> Result<(CertifiedKey, i64), TlsError> {
    let pem = |what, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem { what, path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem("the certificate chain", certificate))?;
    let Some(own) = chain.first() else {
        return Err(TlsError::NoCertificate {
            path: certificate.to_owned(),
        });
    };
    // One whose end cannot be read is not known to end.
    let expires = not_after(own).map_or(i64::MAX, Timestamp::as_second);
    let key = PrivateKeyDer::from_pem_file(key).map_err(pem("the private key", key))?;
    let provider = rustls::crypto::ring::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider)?;
    Ok((certified, expires))
}

/// The tag and content of the first value of `der`, and what follows it.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..0x80 => (usize::from(first), rest),
        _ => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let fold = |sum: usize, byte: &u8| sum.checked_mul(256)?.checked_add((*byte).into());
            (bytes.iter().try_fold(0, fold)?, rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// Until when a certificate is good (RFC 5280, 4.1.2.5).
fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (_, certificate, _) = value(certificate)?;
    let (_, mut fields, _) = value(certificate)?;
    // Version, serial number, algorithm and issuer come first; the version may
    // be left out.
    let skipped = if value(fields)?.0 == 0xa0 { 4 } else { 3 };
    for _ in 0..skipped {
        fields = value(fields)?.2;
    }
    let (_, validity, _) = value(fields)?;
    let (_, _, rest) = value(validity)?;
    let (tag, time, _) = value(rest)?;
    let time = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let time = match tag {
        // Two digits of the year: 50 and more are of the last century.
        0x17 if time.get(..2)? >= "50" => format!("19{time}"),
        0x17 => format!("20{time}"),
        _ => time.to_owned(),
    };
    let part = |at: std::ops::Range<usize>| time.get(at);
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0..4)?,
        part(4..6)?,
        part(6..8)?,
        part(8..10)?,
        part(10..12)?,
        part(12..14)?
    );
    text.parse().ok()
}
