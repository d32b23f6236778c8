//! Which nodes are believed to be who they say, over TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};

use super::ClientError;

/// What TLS is spoken with: bundled authorities, and those in the file `ca`.
pub(super) fn tls(ca: Option<&Path>) -> Result<rustls::ClientConfig, ClientError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let mut own = Vec::new();
    if let Some(path) = ca {
        let wrong = |reason: String| ClientError::Certificates {
            path: path.to_owned(),
            reason,
        };
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots
                .add(certificate.clone())
                .map_err(|_| wrong("it holds what is no certificate of TLS".to_owned()))?;
            own.push(certificate);
        }
        if own.is_empty() {
            return Err(wrong("there is none in it".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let usual = usual.build().expect("there are bundled roots");
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting { usual, own }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Why TLS did not come about, and the remedy.
pub(super) fn tls_reason(error: &rustls::Error, node: &str) -> String {
    let host = node.split("://").nth(1).unwrap_or(node);
    match error {
        rustls::Error::InvalidMessage(_) => {
            "what answers there speaks no TLS: write http://".to_owned()
        }
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::UnknownIssuer => {
                "its certificate is signed by nobody that is trusted here: give the certificate, or \
                 its authority's, with --ca FILE"
                    .to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired: have it renewed".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not good yet: check the clocks".to_owned()
            }
            CertificateError::NotValidForName => format!(
                "its certificate is not for {host:?}: name the node as the certificate does"
            ),
            CertificateError::NotValidForNameContext { presented, .. } => format!(
                "its certificate is not for {host:?} but for {}: name the node so",
                presented.join(", ")
            ),
            CertificateError::Other(_) if is_authority(wrong) => {
                "its certificate is an authority's own: trust that very one with --ca FILE"
                    .to_owned()
            }
            _ => "its certificate cannot be used: give the right one with --ca FILE, or have it \
                  made anew"
                .to_owned(),
        },
        _ => "the TLS handshake failed: check that it is a node, and http:// or https://".to_owned(),
    }
}

/// Whether a certificate is refused only because it may sign others, as the usual
/// `openssl req -x509` makes them.
fn is_authority(error: &CertificateError) -> bool {
    // The library that finds it out is rustls's own, and not ours to name.
    matches!(error, CertificateError::Other(other)
        if format!("{other:?}").contains("CaUsedAsEndEntity"))
}

/// Checks a node's certificate as usual, and lets one be its own authority where
/// the user trusts that very certificate.
#[derive(Debug)]
struct Trusting {
    usual: Arc<WebPkiServerVerifier>,
    /// What the user trusts.
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let usual = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match usual {
            // Its times were looked at before; what is left is whose it is.
            Err(rustls::Error::InvalidCertificate(error))
                if is_authority(&error) && self.own.contains(end_entity) =>
            {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                verify_server_name(&parsed, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            usual => usual,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}
