//! Mutual TLS 1.3 between members. Certificates carry the same identities as
//! on the overlay (libp2p's TLS specification); no authority signs them. The
//! exchange of proofs follows on each connection, and no session is resumed.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::identity::Keypair;
use libp2p_tls::certificate;
use parking_lot::{Mutex, MutexGuard};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use tokio_util::sync::CancellationToken;

use crate::host::{Event, Host};
use crate::line::{Line, Notes};
use crate::proof::{self, ProofError};
use crate::traffic::Traffic;

/// What both sides say they speak inside.
const ALPN: &[u8] = b"weir/1";

/// Longest time from an accepted connection to a member's.
const SETUP: Duration = Duration::from_secs(10);

/// Why there is no connection to a member.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The own certificate cannot be made.
    #[error("make a certificate")]
    Certificate(#[from] certificate::GenError),
    /// TLS cannot be set up with it.
    #[error("set up TLS")]
    Setup(#[from] rustls::Error),
    /// The connection or the handshake failed.
    #[error("the handshake failed")]
    Handshake(#[from] io::Error),
    /// The other side did not prove to be a member, or did not believe it of us.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// It took too long.
    #[error("it took longer than {SETUP:?}")]
    Slow,
}

/// Accepts members.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    host: Arc<dyn Host>,
    traffic: Arc<Traffic>,
    /// What ends the connections of each member that has some.
    members: Arc<Mutex<HashMap<PeerId, (usize, CancellationToken)>>>,
}

/// A connection that a member opened. It counts as one of that member's until
/// this is dropped.
pub struct Accepted {
    /// Who.
    pub member: PeerId,
    acceptor: Acceptor,
    cut: CancellationToken,
}

impl Accepted {
    /// Waits until the connection must end, whatever it carries.
    pub async fn is_cut(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        let mut members = self.acceptor.members();
        // After a cut there may be a newer entry, which is not this one's.
        if let Some((connections, _)) = members.get_mut(&self.member)
            && !self.cut.is_cancelled()
        {
            *connections -= 1;
            if *connections == 0 {
                members.remove(&self.member);
            }
        }
    }
}

/// Connects to members.
#[derive(Clone)]
pub struct Connector {
    provider: Arc<CryptoProvider>,
    certified: Arc<SingleCertAndKey>,
    host: Arc<dyn Host>,
}

/// AES first where the processor has it: it costs a third less there on large
/// bodies, and far more elsewhere.
fn provider() -> Arc<CryptoProvider> {
    #[cfg(target_arch = "x86_64")]
    let aes = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let aes = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let aes = false;
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let mut provider = ring::default_provider();
    provider.cipher_suites = match aes {
        true => vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        false => vec![
            TLS13_CHACHA20_POLY1305_SHA256,
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
        ],
    };
    Arc::new(provider)
}

/// A certificate that names the node with `key`. It is made anew at each start
/// and signs itself; libp2p's extension in it is critical, which only those
/// who know it accept.
fn certified(key: &Keypair) -> Result<Arc<SingleCertAndKey>, TlsError> {
    let (certificate, private) = certificate::generate(key)?;
    let signing = ring::sign::any_ecdsa_type(&private)?;
    let certified = CertifiedKey::new(vec![certificate], signing);
    Ok(Arc::new(SingleCertAndKey::from(certified)))
}

impl Acceptor {
    /// For the node with `key`. Who is heard is noted in `traffic`.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn new(
        key: &Keypair,
        host: Arc<dyn Host>,
        traffic: Arc<Traffic>,
    ) -> Result<Acceptor, TlsError> {
        let certified = certified(key)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Verifier { expected: None }))
            .with_cert_resolver(certified);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Acceptor {
            tls: TlsAcceptor::from(Arc::new(config)),
            host,
            traffic,
            members: Arc::default(),
        })
    }

    fn members(&self) -> MutexGuard<'_, HashMap<PeerId, (usize, CancellationToken)>> {
        self.members.lock()
    }

    /// Ends all connections that a member opened, with the calls on them.
    pub fn cut(&self, member: &PeerId) {
        if let Some((_, cut)) = self.members().remove(member) {
            cut.cancel();
        }
    }

    /// Ends all connections that members opened.
    pub fn cut_all(&self) {
        for (_, (_, cut)) in self.members().drain() {
            cut.cancel();
        }
    }

    fn count(&self, member: PeerId) -> Accepted {
        let mut members = self.members();
        let (connections, cut) = members.entry(member).or_default();
        *connections += 1;
        Accepted {
            member,
            cut: cut.clone(),
            acceptor: self.clone(),
        }
    }

    /// Makes a connection that was accepted a member's.
    ///
    /// # Errors
    /// Why it is none.
    pub async fn accept<S>(
        &self,
        stream: S,
    ) -> Result<(Accepted, Line<server::TlsStream<S>>), TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let accepted = async {
            let stream = self.tls.accept(stream).await?;
            let peer = peer_of(stream.get_ref().1.peer_certificates())?;
            let mut stream = stream.compat();
            let proved = proof::check(&mut stream, &*self.host, peer).await;
            tell(&*self.host, peer, &proved);
            proved?;
            let notes = Arc::new(Notes::new(self.traffic.of(peer)));
            Ok((self.count(peer), Line::new(stream.into_inner(), notes)))
        };
        tokio::time::timeout(SETUP, accepted)
            .await
            .map_err(|_| TlsError::Slow)?
    }
}

impl Connector {
    /// For the node with `key`.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn new(key: &Keypair, host: Arc<dyn Host>) -> Result<Connector, TlsError> {
        Ok(Connector {
            provider: provider(),
            certified: certified(key)?,
            host,
        })
    }

    /// Makes a connection to `peer` of one that was opened.
    ///
    /// # Errors
    /// Why it is none: nobody else at that address will do.
    pub async fn connect(
        &self,
        peer: PeerId,
        stream: TcpStream,
    ) -> Result<client::TlsStream<TcpStream>, TlsError> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier {
                expected: Some(peer),
            }))
            .with_client_cert_resolver(self.certified.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        // Names mean nothing between members, but the protocol wants one.
        config.enable_sni = false;
        let name = ServerName::try_from("weir.invalid").expect("a name");
        let connected = async {
            let stream = TlsConnector::from(Arc::new(config))
                .connect(name, stream)
                .await?;
            let mut stream = stream.compat();
            let proved = proof::offer(&mut stream, &*self.host, peer).await;
            tell(&*self.host, peer, &proved);
            proved?;
            Ok(stream.into_inner())
        };
        tokio::time::timeout(SETUP, connected)
            .await
            .map_err(|_| TlsError::Slow)?
    }
}

fn tell(host: &dyn Host, peer: PeerId, proved: &Result<(), ProofError>) {
    if let Err(ProofError::Refused(refusal)) = proved {
        host.happened(Event::Refused {
            reason: refusal.reason,
            text: format!("{peer}: {refusal}"),
        });
    }
}

fn peer_of(certificates: Option<&[CertificateDer<'_>]>) -> io::Result<PeerId> {
    let invalid = |text: &'static str| io::Error::new(io::ErrorKind::InvalidData, text);
    let [certificate] = certificates.unwrap_or_default() else {
        return Err(invalid("exactly one certificate is wanted"));
    };
    let parsed = certificate::parse(certificate);
    let parsed = parsed.map_err(|_| invalid("a certificate without an identity"))?;
    Ok(parsed.peer_id())
}

/// Believes a certificate that signs its own identity, and of the peer that is
/// wanted if there is one.
#[derive(Debug)]
struct Verifier {
    expected: Option<PeerId>,
}

impl Verifier {
    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        if !more.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        let parsed = certificate::parse(certificate)
            .map_err(|_| rustls::Error::from(CertificateError::BadSignature))?;
        match self.expected.is_none_or(|peer| peer == parsed.peer_id()) {
            true => Ok(()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let bad = |_| rustls::Error::from(CertificateError::BadSignature);
        let parsed = certificate::parse(certificate)
            .map_err(|_| rustls::Error::from(CertificateError::BadSignature))?;
        let verified = parsed.verify_signature(signed.scheme, message, signed.signature());
        verified.map_err(bad)?;
        Ok(HandshakeSignatureValid::assertion())
    }
}

/// TLS 1.2 is never negotiated.
fn never() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General(
        "only TLS 1.3 is spoken here".to_owned(),
    ))
}

/// What a member's certificate is signed with.
fn schemes() -> Vec<SignatureScheme> {
    vec![
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ED25519,
    ]
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(certificate, more)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        never()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Verifier::signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(certificate, more)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        never()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Verifier::signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}
