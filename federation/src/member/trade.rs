//! The words by which two nodes prove to each other that they belong together,
//! and by which an invite becomes a certificate.

use super::*;
use crate::files::Saved;

/// The version of what nodes say to each other that this program speaks.
pub(super) const VERSION: u16 = 1;

/// Denials that are said along with an answer.
const TOLD_DENIALS: usize = 32;

/// Refusals of an invite that no later attempt mends.
const FINAL: [Refused; 4] = [
    Refused::Used,
    Refused::WrongFederation,
    Refused::Expired,
    Refused::Forged,
];

/// What an opener says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Versions that it speaks.
    pub(super) versions: Vec<u16>,
    /// Its certificate, if it has one.
    #[serde(default)]
    pub(super) certificate: Option<ByteBuf>,
    /// The invite that it wants to trade for one.
    #[serde(default)]
    pub(super) token: Option<String>,
    /// Changes of the federation's secret, the oldest first.
    #[serde(default)]
    pub(super) successions: Vec<ByteBuf>,
}

/// What it is told.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Reply {
    /// The version that both speak.
    version: u16,
    /// The certificate of whoever answers.
    certificate: Option<ByteBuf>,
    /// A new one for the opener.
    issued: Option<ByteBuf>,
    /// Why it is refused: the word, and more of it.
    refused: Option<(String, String)>,
    /// Who is denied, as the federation says.
    denials: Vec<ByteBuf>,
    /// Changes of the federation's secret, the oldest first.
    successions: Vec<ByteBuf>,
}

/// An invite that was traded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Used {
    pub(super) by: String,
    pub(super) expires: UnixTime,
}

/// One who is let in.
enum Admitted {
    /// It belonged here before; its new certificate, if it gets one.
    Known(Option<Certificate>),
    /// It belongs here once its invite is written down as used.
    New(Certificate, Saved),
}

impl Member {
    /// The first words to `to`.
    pub fn hello(&self) -> Vec<u8> {
        let state = self.state.read();
        encode(&Hello {
            versions: vec![VERSION],
            certificate: state
                .certificate
                .as_ref()
                .map(|certificate| ByteBuf::from(certificate.to_bytes())),
            token: state.token.as_ref().map(ToString::to_string),
            successions: bytes_of(&state.successions),
        })
    }

    /// The answer that ends a connection.
    pub fn refuse(refusal: Refusal) -> Answer {
        let reply = Reply {
            version: VERSION,
            refused: Some((refusal.reason.to_owned(), refusal.text.clone())),
            ..Reply::default()
        };
        Answer {
            bytes: encode(&reply),
            verdict: Err(refusal),
        }
    }

    /// The answer to the first words of `from`, whose identity is proved. Where an
    /// invite is traded it comes once that is on disk.
    pub async fn answer(&self, from: PeerId, hello: &[u8]) -> Answer {
        let issued = match self.admit(from, hello) {
            Ok(Admitted::Known(issued)) => issued,
            Ok(Admitted::New(certificate, saved)) => {
                // Only what is on disk was used: a crash must not let a second
                // one in.
                if let Err(error) = saved.done().await {
                    tracing::error!(%error, "a node cannot be let in");
                    let text = "this node cannot write its list of used tokens";
                    return Member::refuse(refusal("disk", text));
                }
                self.known.write().insert(from, certificate.clone());
                Some(certificate)
            }
            Err(refusal) => return Member::refuse(refusal),
        };
        let denials = self.denials().into_iter().take(TOLD_DENIALS);
        let reply = Reply {
            version: VERSION,
            certificate: self.certificate().map(ByteBuf::from),
            issued: issued.map(|certificate| ByteBuf::from(certificate.to_bytes())),
            refused: None,
            denials: denials.map(ByteBuf::from).collect(),
            successions: bytes_of(&self.state.read().successions),
        };
        Answer {
            bytes: encode(&reply),
            verdict: Ok(()),
        }
    }

    fn admit(&self, from: PeerId, hello: &[u8]) -> Result<Admitted, Refusal> {
        let hello: Hello = cbor4ii::serde::from_slice(hello)
            .map_err(|_| refusal("malformed", "what it says is not what Weir says"))?;
        if !hello.versions.contains(&VERSION) {
            let text = format!(
                "it speaks versions {:?}, this node {VERSION}",
                hello.versions
            );
            return Err(refusal("version", text));
        }
        if self.has_left() {
            return Err(refusal("left", "this node has left the federation"));
        }
        self.hear_successions(&hello.successions);
        let shown = hello.certificate.as_ref().map(|bytes| {
            let introduced = self.introduce(from, bytes);
            introduced.map(|rights| (rights, Certificate::from_bytes(bytes).ok()))
        });
        if self.is_denied(&from) {
            return Err(refusal("denied", "it is denied"));
        }
        match shown {
            Some(Ok((rights, certificate))) => {
                let now = unix_time();
                let state = self.state.read();
                let is_past = |c: &Certificate| {
                    let theirs = c.membership().federation;
                    theirs != state.federation && Some(theirs) != state.next
                };
                let past = certificate.as_ref().is_some_and(is_past);
                let worn = certificate.is_some_and(|c| is_worn(&c, now));
                let secret = state.secret.as_ref().filter(|_| worn || past);
                let anew = secret.map(|s| s.certify(from, rights, now, now + self.life.as_secs()));
                // Anybody may pass on what whoever changed the secret issued.
                let issued = || self.known.read().get(&from).filter(|_| past).cloned();
                Ok(Admitted::Known(anew.or_else(issued)))
            }
            Some(Err(refused)) if hello.token.is_none() => Err(refusal(
                refused.reason(),
                format!("its certificate: {refused}"),
            )),
            Some(Err(_)) | None => match &hello.token {
                Some(token) => self.trade(from, token),
                None => Err(refusal(
                    "no-proof",
                    "it shows neither certificate nor token: join with one from `weir token`",
                )),
            },
        }
    }

    fn trade(&self, from: PeerId, token: &str) -> Result<Admitted, Refusal> {
        let refused = |refused: Refused| refusal(refused.reason(), format!("its token: {refused}"));
        let token: Token = token.parse().map_err(refused)?;
        let secret = self.state.read().secret.clone().ok_or_else(|| {
            let text = "this node may not let anybody in: join at the node that made the token";
            refusal("not-inviting", text)
        })?;
        let now = unix_time();
        let mut used = self.used.lock();
        used.retain(|_, used| used.expires > now);
        let id = STANDARD.encode(token.invite().id);
        // The same node again: its first answer may have been lost.
        let by_another = used
            .get(&id)
            .is_some_and(|used| used.by != from.to_string());
        let certificate = secret
            .admit(&token, from, by_another, now, now + self.life.as_secs())
            .map_err(refused)?;
        let traded = Used {
            by: from.to_string(),
            expires: token.invite().expires,
        };
        used.insert(id, traded);
        let saved = self.files.saved(self.folder.join("used"), json(&*used));
        Ok(Admitted::New(certificate, saved))
    }

    /// Judges the answer of `from` to this node's first words.
    ///
    /// # Errors
    /// Why it is no member, or did not take this node for one.
    pub fn judge(&self, from: PeerId, answer: &[u8]) -> Result<(), Refusal> {
        let reply: Reply = cbor4ii::serde::from_slice(answer)
            .map_err(|_| refusal("malformed", "what it answers is not what Weir says"))?;
        if let Some((reason, text)) = reply.refused {
            let text: String = text.chars().take(300).collect();
            self.note_refusal(from, &reason, &text);
            // Of strangers nothing follows for one who belongs somewhere.
            if !self.is_member() || self.known.read().contains_key(&from) {
                *self.refusal.lock() = Some(text.clone());
            }
            return Err(refusal(
                "refused-by-peer",
                format!("it refused this node ({reason}): {text}"),
            ));
        }
        if reply.version != VERSION {
            let text = format!("it speaks version {}, this node {VERSION}", reply.version);
            return Err(refusal("version", text));
        }
        if self.has_left() {
            return Err(refusal("left", "this node has left the federation"));
        }
        self.hear_successions(&reply.successions);
        let certificate = reply
            .certificate
            .ok_or_else(|| refusal("no-proof", "it shows no certificate"))?;
        self.introduce(from, &certificate)
            .map_err(|refused| refusal(refused.reason(), format!("its certificate: {refused}")))?;
        for denial in reply.denials.iter().take(TOLD_DENIALS) {
            let _ = self.hear_denial(denial);
        }
        if self.is_denied(&from) {
            return Err(refusal("denied", "it is denied"));
        }
        if let Some(issued) = reply.issued {
            self.take_certificate(&issued)
                .map_err(|refused| refusal(refused.reason(), refused.to_string()))?;
        }
        *self.refusal.lock() = None;
        Ok(())
    }

    /// Notes that its invite was refused for good, where whoever made the invite
    /// says so: of others' refusals nothing follows.
    fn note_refusal(&self, from: PeerId, reason: &str, text: &str) {
        let state = self.state.read();
        let Some(token) = state.token.as_ref().filter(|_| state.certificate.is_none()) else {
            return;
        };
        let own = format!("/p2p/{from}");
        let mut bootstrap = token.invite().bootstrap.iter();
        let is_final = FINAL.iter().any(|refused| refused.reason() == reason);
        if is_final && bootstrap.any(|address| address.ends_with(&own)) {
            let said = text.strip_prefix("its token: ").unwrap_or(text);
            let reason = format!("{from} refuses the join token: {said}");
            let _ = self.turned_away.set(reason);
            self.decided.notify_waiters();
        }
    }

    fn take_certificate(&self, bytes: &[u8]) -> Result<(), Refused> {
        let certificate = Certificate::from_bytes(bytes)?;
        if self.take_over(&certificate)? {
            return Ok(());
        }
        certificate.check(&self.federation(), self.id, unix_time())?;
        self.keep_certificate(&certificate);
        let mut state = self.state.write();
        let joined = state.certificate.is_none();
        state.certificate = Some(certificate);
        state.token = None;
        drop(state);
        match joined {
            true => {
                self.decided.notify_waiters();
                tracing::info!(federation = %self.federation(), "joined the federation");
            }
            false => tracing::info!("membership renewed"),
        }
        Ok(())
    }
}

pub(super) fn bytes_of(statements: &[Vec<u8>]) -> Vec<ByteBuf> {
    statements.iter().cloned().map(ByteBuf::from).collect()
}

fn refusal(reason: &'static str, text: impl Into<String>) -> Refusal {
    Refusal {
        reason,
        text: text.into(),
    }
}

pub(super) fn encode<T: Serialize>(words: &T) -> Vec<u8> {
    cbor4ii::serde::to_vec(Vec::new(), words).expect("plain values can be encoded")
}
