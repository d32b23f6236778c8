//! This node's own membership, on disk and towards others: the secret if it
//! may invite, its certificate, who is denied, which invites were used; and
//! the words by which two nodes prove to each other that they belong together.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{
    Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::sync::Notify;
pub(crate) use weir_node::private::write as save;
use weir_overlay::{Answer, Refusal};

use crate::membership::{
    Certificate, Denial, Federation, Refused, Rights, RootSecret, Token, UnixTime,
};

mod rotation;

/// The version of what nodes say to each other that this program speaks.
const VERSION: u16 = 1;

/// Certificates of others, and denials, that are remembered.
const REMEMBERED: usize = 4_096;

/// Denials that are said along with an answer.
const TOLD_DENIALS: usize = 32;

/// Largest file of those here.
const FILE_BYTES: u64 = 8 << 20;

/// Refusals of an invite that no later attempt mends.
const FINAL: [Refused; 4] = [
    Refused::Used,
    Refused::WrongFederation,
    Refused::Expired,
    Refused::Forged,
];

/// What an opener says.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    /// Versions that it speaks.
    versions: Vec<u16>,
    /// Its certificate, if it has one.
    #[serde(default)]
    certificate: Option<ByteBuf>,
    /// The invite that it wants to trade for one.
    #[serde(default)]
    token: Option<String>,
    /// Changes of the federation's secret, the oldest first.
    #[serde(default)]
    successions: Vec<ByteBuf>,
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

/// Why this node's membership cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// A file cannot be used.
    #[error("access {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} cannot be read: restore it, or remove it to join again with a token")]
    Malformed {
        /// Which.
        path: PathBuf,
    },
    /// The invite cannot be used.
    #[error("the join token: {0}")]
    Token(Refused),
    /// This node holds no secret.
    #[error(
        "this node does not hold the federation's secret: ask one that does (the node that \
         founded it)"
    )]
    NoSecret,
    /// It belongs somewhere else than its invite says.
    #[error(
        "this node is a member of the federation {own}, and the join token is of {invited}: take \
         the token away (--join, federation.join) to stay, or leave with `weir leave` and start \
         again with the token"
    )]
    Elsewhere {
        /// Where it belongs.
        own: Federation,
        /// Where it was invited.
        invited: Federation,
    },
    /// It left, and is told to join by what it joined with before.
    #[error(
        "this node left the federation {0} (`weir leave`), and the join token is the one of \
         before: take it away (--join, federation.join), or give a new one of `weir token`"
    )]
    Left(Federation),
    /// It would deny itself.
    #[error("a node cannot deny itself: `weir leave` takes it out of its federation")]
    Itself,
    /// The denial is the federation's.
    #[error(
        "it is denied in the whole federation: take that back with `weir deny {0} --federation \
         --undo`"
    )]
    DeniedByAll(PeerId),
}

/// One who is denied.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Denied {
    /// Since when.
    at: UnixTime,
    /// The federation's own word of it; `None` when only this node says so.
    #[serde(default)]
    statement: Option<String>,
    /// Whether the federation took it back since.
    #[serde(default)]
    lifted: bool,
}

/// What a node that left remembers, so that its old token does not bring it
/// back.
#[derive(Debug, Serialize, Deserialize)]
struct Departure {
    federation: String,
    /// The id of the invite that it was told to join by.
    invite: String,
}

/// An invite that was traded.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Used {
    by: String,
    expires: UnixTime,
}

struct State {
    federation: Federation,
    /// The secret if it may invite.
    secret: Option<RootSecret>,
    /// Changes of the secret that it knows, the oldest first.
    successions: Vec<Vec<u8>>,
    /// What the last of them leads to, until it is certified there too.
    next: Option<Federation>,
    certificate: Option<Certificate>,
    token: Option<Token>,
    denied: BTreeMap<String, Denied>,
}

/// A node as a member, or as one who wants to be.
pub struct Member {
    id: PeerId,
    folder: PathBuf,
    /// How long certificates that it issues are good.
    life: Duration,
    state: RwLock<State>,
    used: Mutex<BTreeMap<String, Used>>,
    /// Certificates of others, as they were shown.
    known: RwLock<HashMap<PeerId, Certificate>>,
    /// The same, of the federation that follows.
    coming: RwLock<HashMap<PeerId, Certificate>>,
    /// The token that it was started with.
    told: Option<Token>,
    /// It left, and is nobody's member until it starts anew.
    left: AtomicBool,
    /// Why it will never be let in by its token.
    turned_away: OnceLock<String>,
    /// Whether it is let in was decided.
    decided: Notify,
    /// What the last member said that did not take this node for one.
    refusal: Mutex<Option<String>>,
}

/// Seconds since 1970, by this machine's clock.
pub fn unix_time() -> UnixTime {
    unix_millis() / 1_000
}

/// Milliseconds since 1970, by this machine's clock.
pub(crate) fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Member {
    /// Takes up what `folder` holds. Without a certificate there, the node
    /// joins with `token`, or founds a federation of its own with the 32
    /// random bytes of `chance`.
    ///
    /// # Errors
    /// Which file cannot be used, or what is wrong with the token.
    pub fn open(
        folder: &Path,
        id: PeerId,
        rights: Rights,
        token: Option<Token>,
        life: Duration,
        chance: [u8; 32],
    ) -> Result<Member, MemberError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| MemberError::File { path, source }
        };
        fs::create_dir_all(folder).map_err(failed(folder))?;
        let now = unix_time();
        let path = folder.join("certificate");
        let mut certificate = load(&path)?
            .map(|bytes| Certificate::from_bytes(&bytes))
            .transpose()
            .map_err(|_| MemberError::Malformed { path: path.clone() })?;
        let (mut secret, rotated) = rotation::load(folder)?;
        // Somebody else changed the secret since this one was written.
        if secret.as_ref().is_some_and(|s| rotated.replaced(s)) {
            secret = None;
        }
        let expired = |certificate: &Certificate| certificate.membership().expires <= now;
        if secret.is_none() && certificate.as_ref().is_some_and(expired) && token.is_some() {
            certificate = None;
        }
        if secret.is_none() && certificate.is_none() && token.is_none() {
            save(&folder.join("secret"), &chance).map_err(failed(&folder.join("secret")))?;
            secret = Some(RootSecret::new(chance));
        }
        // Whoever holds the secret certifies itself, with what it is now.
        if let Some(secret) = &secret {
            let own = secret.certify(id, rights, now, now + life.as_secs());
            save(&path, &own.to_bytes()).map_err(failed(&path))?;
            certificate = Some(own);
        }
        let federation = match (&certificate, &token) {
            (Some(certificate), told) => {
                let own = certificate.membership().federation;
                let invited = told.as_ref().map_or(own, |token| token.invite().federation);
                if invited != own && !rotated.knows(&invited) {
                    return Err(MemberError::Elsewhere { own, invited });
                }
                own
            }
            (None, Some(token)) => {
                let federation = token.invite().federation;
                let departure = load_json::<Departure>(&folder.join("left"))?;
                let invite = STANDARD.encode(token.invite().id);
                if departure.is_some_and(|departure| departure.invite == invite) {
                    return Err(MemberError::Left(federation));
                }
                token.check(&federation, now).map_err(MemberError::Token)?;
                federation
            }
            (None, None) => unreachable!("a federation was founded"),
        };
        let next = rotated.next(federation);
        Ok(Member {
            id,
            folder: folder.to_owned(),
            life,
            state: RwLock::new(State {
                federation,
                secret,
                successions: rotated.successions,
                next,
                token: token.clone().filter(|_| certificate.is_none()),
                certificate,
                denied: load_list(&folder.join("denied"))?,
            }),
            used: Mutex::new(load_list(&folder.join("used"))?),
            known: RwLock::new(rotated.certified),
            coming: RwLock::default(),
            told: token,
            left: AtomicBool::new(false),
            turned_away: OnceLock::new(),
            decided: Notify::new(),
            refusal: Mutex::default(),
        })
    }

    /// Which federation this is.
    pub fn federation(&self) -> Federation {
        read(&self.state).federation
    }

    /// Waits until it is let in, or turned away for good; why, in that case.
    pub async fn is_let_in(&self) -> Result<(), String> {
        loop {
            let decided = self.decided.notified();
            if let Some(reason) = self.turned_away.get() {
                return Err(reason.clone());
            }
            if self.is_member() {
                return Ok(());
            }
            decided.await;
        }
    }

    /// Why the last member that was asked did not take this node for one; `None`
    /// once another did.
    pub fn refusal(&self) -> Option<String> {
        lock(&self.refusal).clone()
    }

    /// Whether its own membership has ended.
    pub fn is_expired(&self) -> bool {
        let state = read(&self.state);
        let certificate = state.certificate.as_ref();
        certificate.is_some_and(|c| c.membership().expires <= unix_time())
    }

    /// Whether it left its federation since it started.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Whether it was let in, ever.
    pub fn is_member(&self) -> bool {
        read(&self.state).certificate.is_some()
    }

    /// What it may do: by its certificate, or by its invite until it has one.
    pub fn own_rights(&self) -> Option<Rights> {
        let state = read(&self.state);
        let certified = state.certificate.as_ref().map(|c| c.membership().rights);
        certified.or_else(|| state.token.as_ref().map(|t| t.invite().rights))
    }

    /// Whether it may invite.
    pub fn may_invite(&self) -> bool {
        read(&self.state).secret.is_some()
    }

    /// Its certificate in bytes.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        let state = read(&self.state);
        state.certificate.as_ref().map(Certificate::to_bytes)
    }

    /// Whether it should ask for a new certificate soon.
    pub fn wants_renewal(&self) -> bool {
        let now = unix_time();
        let state = read(&self.state);
        let certificate = state.certificate.as_ref();
        state.next.is_some() || certificate.is_some_and(|c| is_worn(c, now))
    }

    /// How long its certificate is good from the first to the last moment.
    pub fn life(&self) -> Option<Duration> {
        let state = read(&self.state);
        let membership = state.certificate.as_ref()?.membership();
        let seconds = membership.expires.saturating_sub(membership.issued);
        Some(Duration::from_secs(seconds))
    }

    /// Renews its own certificate, where it holds the secret.
    pub fn renew_own(&self) {
        let now = unix_time();
        let mut state = write(&self.state);
        if let (Some(secret), Some(own)) = (&state.secret, &state.certificate) {
            let rights = own.membership().rights;
            let renewed = secret.certify(self.id, rights, now, now + self.life.as_secs());
            self.keep_certificate(&renewed);
            state.certificate = Some(renewed);
        }
    }

    /// Makes an invite. `chance` is random.
    ///
    /// # Errors
    /// When this node holds no secret.
    pub fn invite(
        &self,
        chance: [u8; 16],
        life: Duration,
        rights: Rights,
        bootstrap: Vec<String>,
    ) -> Result<Token, MemberError> {
        let state = read(&self.state);
        let secret = state.secret.as_ref().ok_or(MemberError::NoSecret)?;
        let expires = unix_time().saturating_add(life.as_secs());
        Ok(secret.invite(chance, expires, rights, bootstrap))
    }

    /// Denies a member: on this node, durably, and in the whole federation
    /// where `everywhere`; then the bytes to pass on.
    ///
    /// # Errors
    /// When it should be everywhere and this node holds no secret, or nothing
    /// can be written.
    pub fn deny(&self, peer: PeerId, everywhere: bool) -> Result<Option<Vec<u8>>, MemberError> {
        if peer == self.id {
            return Err(MemberError::Itself);
        }
        let mut state = write(&self.state);
        let at = self.later_than_said(&state, &peer);
        let statement = match (everywhere, &state.secret) {
            (false, _) => None,
            (true, Some(secret)) => Some(secret.deny(peer, at)),
            (true, None) => return Err(MemberError::NoSecret),
        };
        let denied = Denied {
            at,
            statement: statement.as_ref().map(|bytes| STANDARD.encode(bytes)),
            lifted: false,
        };
        state.denied.insert(peer.to_string(), denied);
        self.keep_denied(&state)?;
        Ok(statement)
    }

    /// When something is said that counts after all that was said of a member.
    fn later_than_said(&self, state: &State, peer: &PeerId) -> UnixTime {
        let said = state.denied.get(&peer.to_string());
        said.map_or(0, |said| said.at + 1).max(unix_time())
    }

    /// Takes a denial back: one that only this node knows; or, `everywhere`, the
    /// federation's, and then the bytes to pass on. `None` when there is none.
    ///
    /// # Errors
    /// When the denial is the federation's and it should be this node's; when
    /// this node holds no secret; when nothing can be written.
    pub fn allow(
        &self,
        peer: PeerId,
        everywhere: bool,
    ) -> Result<Option<Option<Vec<u8>>>, MemberError> {
        let mut state = write(&self.state);
        let known = state.denied.get(&peer.to_string());
        let known = known.filter(|denied| !denied.lifted);
        let by_all = known.is_some_and(|denied| denied.statement.is_some());
        if !everywhere && by_all {
            return Err(MemberError::DeniedByAll(peer));
        }
        if !everywhere {
            let gone = known.is_some();
            state.denied.remove(&peer.to_string());
            self.keep_denied(&state)?;
            return Ok(gone.then_some(None));
        }
        let secret = state.secret.as_ref().ok_or(MemberError::NoSecret)?;
        if !by_all {
            return Ok(None);
        }
        let at = self.later_than_said(&state, &peer);
        let statement = secret.allow(peer, at);
        let denied = Denied {
            at,
            statement: Some(STANDARD.encode(&statement)),
            lifted: true,
        };
        state.denied.insert(peer.to_string(), denied);
        self.keep_denied(&state)?;
        Ok(Some(Some(statement)))
    }

    /// Takes the federation's word that somebody is denied, or is not any more;
    /// of whom, when that is news.
    pub fn hear_denial(&self, bytes: &[u8]) -> Result<Option<PeerId>, Refused> {
        let denial = match Denial::from_bytes(bytes, &self.federation()) {
            // Said before the secret was changed; whoever changed it says it anew.
            Err(Refused::WrongFederation) if self.is_past(bytes) => return Ok(None),
            read => read?,
        };
        let peer = denial.member().ok_or(Refused::Malformed)?;
        let mut state = write(&self.state);
        let known = state.denied.get(&peer.to_string());
        let as_new = |known: &Denied| {
            known.at >= denial.at && self.is_current(&state.federation, known.statement.as_deref())
        };
        if known.is_some_and(as_new) {
            return Ok(None);
        }
        if state.denied.len() >= REMEMBERED {
            return Ok(None);
        }
        let denied = Denied {
            at: denial.at,
            statement: Some(STANDARD.encode(bytes)),
            lifted: denial.lifted,
        };
        state.denied.insert(peer.to_string(), denied);
        if let Err(error) = self.keep_denied(&state) {
            tracing::error!(%error, "a denial is not kept over a restart");
        }
        Ok(Some(peer))
    }

    /// All denials that the federation made, to be passed on.
    pub fn denials(&self) -> Vec<Vec<u8>> {
        let state = read(&self.state);
        let statements = state.denied.values().filter_map(|d| d.statement.as_ref());
        statements
            .filter_map(|text| STANDARD.decode(text).ok())
            .filter(|bytes| Denial::from_bytes(bytes, &state.federation).is_ok())
            .collect()
    }

    /// Whether nobody was ever denied.
    pub fn denies_nobody(&self) -> bool {
        read(&self.state).denied.is_empty()
    }

    /// Whether somebody is denied now, by the certificate that was shown.
    pub fn is_denied(&self, peer: &PeerId) -> bool {
        let state = read(&self.state);
        // Asked on each call, where a text of the id costs more than the rest.
        if state.denied.is_empty() {
            return false;
        }
        let denied = state.denied.get(&peer.to_string());
        let Some(denied) = denied.filter(|denied| !denied.lifted) else {
            return false;
        };
        // A certificate that is later than the federation's word holds again.
        denied.statement.is_none()
            || read(&self.known)
                .get(peer)
                .is_none_or(|c| c.membership().issued <= denied.at)
    }

    /// What a member may do; `None` when it is none, or none any more.
    pub fn rights(&self, peer: &PeerId) -> Option<Rights> {
        if self.has_left() || self.is_denied(peer) {
            return None;
        }
        self.certified(peer)
    }

    fn certified(&self, peer: &PeerId) -> Option<Rights> {
        let federation = self.federation();
        let known = read(&self.known);
        let certificate = known.get(peer)?;
        let checked = certificate.check(&federation, *peer, unix_time());
        checked.ok()
    }

    /// Remembers the certificate of a peer, if it is good.
    ///
    /// # Errors
    /// Why it is not.
    pub fn introduce(&self, peer: PeerId, bytes: &[u8]) -> Result<Rights, Refused> {
        let certificate = Certificate::from_bytes(bytes)?;
        let now = unix_time();
        let (federation, next) = {
            let state = read(&self.state);
            (state.federation, state.next)
        };
        match certificate.check(&federation, peer, now) {
            Ok(rights) => {
                remember(&mut write(&self.known), peer, certificate);
                Ok(rights)
            }
            Err(Refused::WrongFederation) => {
                let theirs = certificate.membership().federation;
                if let Some(next) = next.filter(|next| *next == theirs) {
                    let rights = certificate.check(&next, peer, now)?;
                    remember(&mut write(&self.coming), peer, certificate);
                    return Ok(rights);
                }
                match self.follows(&theirs) {
                    // It was taken over, and has not heard of that yet.
                    true => self.certified(&peer).ok_or(Refused::Superseded),
                    false => Err(Refused::WrongFederation),
                }
            }
            Err(refused) => Err(refused),
        }
    }

    /// Whether a member may have written what it signed, by the certificate
    /// that it put beside it: one that has expired since, or whose secret was
    /// changed since, was good then. A denied member is not believed.
    ///
    /// # Errors
    /// Why not.
    pub fn may_have_written(&self, writer: PeerId, certificate: &[u8]) -> Result<(), Refused> {
        let certificate = Certificate::from_bytes(certificate)?;
        let membership = certificate.membership();
        if membership.member() != Some(writer) {
            return Err(Refused::WrongMember);
        }
        let (current, next) = {
            let state = read(&self.state);
            (state.federation, state.next)
        };
        let theirs = membership.federation;
        if theirs != current && Some(theirs) != next && !self.follows(&theirs) {
            return Err(Refused::WrongFederation);
        }
        if !membership.rights.deploy || self.is_denied(&writer) {
            return Err(Refused::MayNotDeploy);
        }
        Ok(())
    }

    /// The first words to `to`.
    pub fn hello(&self) -> Vec<u8> {
        let state = read(&self.state);
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

    /// The answer to the first words of `from`, whose identity is proved.
    pub fn answer(&self, from: PeerId, hello: &[u8]) -> Answer {
        match self.admit(from, hello) {
            Ok(issued) => {
                let denials = self.denials().into_iter().take(TOLD_DENIALS);
                let reply = Reply {
                    version: VERSION,
                    certificate: self.certificate().map(ByteBuf::from),
                    issued: issued.map(|certificate| ByteBuf::from(certificate.to_bytes())),
                    refused: None,
                    denials: denials.map(ByteBuf::from).collect(),
                    successions: bytes_of(&read(&self.state).successions),
                };
                Answer {
                    bytes: encode(&reply),
                    verdict: Ok(()),
                }
            }
            Err(refusal) => Member::refuse(refusal),
        }
    }

    fn admit(&self, from: PeerId, hello: &[u8]) -> Result<Option<Certificate>, Refusal> {
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
                let state = read(&self.state);
                let is_past = |c: &Certificate| {
                    let theirs = c.membership().federation;
                    theirs != state.federation && Some(theirs) != state.next
                };
                let past = certificate.as_ref().is_some_and(is_past);
                let worn = certificate.is_some_and(|c| is_worn(&c, now));
                let secret = state.secret.as_ref().filter(|_| worn || past);
                let anew = secret.map(|s| s.certify(from, rights, now, now + self.life.as_secs()));
                // Anybody may pass on what whoever changed the secret issued.
                let issued = || read(&self.known).get(&from).filter(|_| past).cloned();
                Ok(anew.or_else(issued))
            }
            Some(Err(refused)) if hello.token.is_none() => Err(refusal(
                refused.reason(),
                format!("its certificate: {refused}"),
            )),
            Some(Err(_)) | None => match &hello.token {
                Some(token) => self.trade(from, token).map(Some),
                None => Err(refusal(
                    "no-proof",
                    "it shows neither certificate nor token: join with one from `weir token`",
                )),
            },
        }
    }

    fn trade(&self, from: PeerId, token: &str) -> Result<Certificate, Refusal> {
        let refused = |refused: Refused| refusal(refused.reason(), format!("its token: {refused}"));
        let token: Token = token.parse().map_err(refused)?;
        let secret = read(&self.state).secret.clone().ok_or_else(|| {
            let text = "this node may not let anybody in: join at the node that made the token";
            refusal("not-inviting", text)
        })?;
        let now = unix_time();
        let mut used = lock(&self.used);
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
        // Only what is on disk was used: a crash must not let a second one in.
        save_list(&self.folder.join("used"), &*used).map_err(|error| {
            tracing::error!(%error, "a node cannot be let in");
            refusal("disk", "this node cannot write its list of used tokens")
        })?;
        drop(used);
        write(&self.known).insert(from, certificate.clone());
        Ok(certificate)
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
            if !self.is_member() || read(&self.known).contains_key(&from) {
                *lock(&self.refusal) = Some(text.clone());
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
        *lock(&self.refusal) = None;
        Ok(())
    }

    /// Notes that its invite was refused for good, where whoever made the invite
    /// says so: of others' refusals nothing follows.
    fn note_refusal(&self, from: PeerId, reason: &str, text: &str) {
        let state = read(&self.state);
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
        let mut state = write(&self.state);
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

    fn keep_certificate(&self, certificate: &Certificate) {
        let path = self.folder.join("certificate");
        if let Err(error) = save(&path, &certificate.to_bytes()) {
            tracing::error!(path = %path.display(), %error, "the membership is lost at the next start");
        }
    }

    /// Forgets its membership: the next start needs a token, or founds anew.
    ///
    /// # Errors
    /// When nothing can be removed.
    pub fn forget_membership(&self) -> Result<(), MemberError> {
        self.left.store(true, Ordering::Relaxed);
        if let Some(token) = &self.told {
            let departure = Departure {
                federation: self.federation().to_string(),
                invite: STANDARD.encode(token.invite().id),
            };
            let path = self.folder.join("left");
            let bytes = serde_json::to_vec_pretty(&departure).map_err(io::Error::from);
            let saved = bytes.and_then(|bytes| save(&path, &bytes));
            saved.map_err(|source| MemberError::File { path, source })?;
        }
        let files = [
            "certificate",
            "secret",
            "rotation",
            "successions",
            "used",
            "denied",
            "addresses",
            "forgotten",
        ];
        for name in files {
            let path = self.folder.join(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(MemberError::File { path, source });
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn keep_denied(&self, state: &State) -> Result<(), MemberError> {
        let path = self.folder.join("denied");
        save_list(&path, &state.denied).map_err(|source| MemberError::File { path, source })
    }
}

fn bytes_of(statements: &[Vec<u8>]) -> Vec<ByteBuf> {
    statements.iter().cloned().map(ByteBuf::from).collect()
}

/// Keeps the later of two certificates, as far as there is room.
fn remember(known: &mut HashMap<PeerId, Certificate>, peer: PeerId, certificate: Certificate) {
    let issued = |certificate: &Certificate| {
        let membership = certificate.membership();
        (membership.federation, membership.issued)
    };
    let (federation, later) = issued(&certificate);
    let is_news = known.get(&peer).map(issued).is_none_or(|(whose, since)| {
        // What another secret signed does not count here any more.
        whose != federation || since < later
    });
    if is_news && (known.len() < REMEMBERED || known.contains_key(&peer)) {
        known.insert(peer, certificate);
    }
}

/// Whether less than half of a certificate's life is left.
fn is_worn(certificate: &Certificate, now: UnixTime) -> bool {
    let membership = certificate.membership();
    let life = membership.expires.saturating_sub(membership.issued);
    membership.expires.saturating_sub(now) < life / 2
}

fn refusal(reason: &'static str, text: impl Into<String>) -> Refusal {
    Refusal {
        reason,
        text: text.into(),
    }
}

fn encode<T: Serialize>(words: &T) -> Vec<u8> {
    cbor4ii::serde::to_vec(Vec::new(), words).expect("plain values can be encoded")
}

/// The bytes of a file; `None` where there is none.
fn load(path: &Path) -> Result<Option<Vec<u8>>, MemberError> {
    let failed = |source| MemberError::File {
        path: path.to_owned(),
        source,
    };
    match File::open(path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(FILE_BYTES)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn load_list<T: serde::de::DeserializeOwned>(
    path: &Path,
) -> Result<BTreeMap<String, T>, MemberError> {
    Ok(load_json(path)?.unwrap_or_default())
}

/// What a file says; `None` where there is none.
fn load_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, MemberError> {
    let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes);
    let said = load(path)?.map(read).transpose();
    said.map_err(|_| MemberError::Malformed {
        path: path.to_owned(),
    })
}

fn save_list<T: Serialize>(path: &Path, list: &BTreeMap<String, T>) -> io::Result<()> {
    save(path, &serde_json::to_vec_pretty(list)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Role;
    use weir_federation_core::samples::id;

    pub(super) const EDGE: Rights = Rights {
        role: Role::Edge,
        deploy: true,
    };

    pub(super) const DAY: Duration = Duration::from_secs(86_400);

    pub(super) struct Node {
        pub(super) member: Member,
        pub(super) folder: tempfile::TempDir,
        number: u8,
    }

    fn open(folder: tempfile::TempDir, number: u8, token: Option<Token>, life: Duration) -> Node {
        let opened = Member::open(folder.path(), id(number), EDGE, token, life, [number; 32]);
        Node {
            member: opened.expect("it opens"),
            folder,
            number,
        }
    }

    pub(super) fn node(number: u8, token: Option<Token>) -> Node {
        open(tempfile::tempdir().expect("a folder"), number, token, DAY)
    }

    impl Node {
        pub(super) fn token(&self) -> Token {
            let made = self.member.invite([self.number; 16], DAY, EDGE, Vec::new());
            made.expect("it holds the secret")
        }

        /// Says hello to `other`; what both made of it.
        pub(super) fn meet(
            &self,
            other: &Node,
        ) -> (Result<(), &'static str>, Result<(), &'static str>) {
            let answer = other.member.answer(id(self.number), &self.member.hello());
            let judged = self.member.judge(id(other.number), &answer.bytes);
            let word = |refusal: Refusal| refusal.reason;
            (answer.verdict.map_err(word), judged.map_err(word))
        }

        pub(super) fn restart(self) -> Node {
            open(self.folder, self.number, None, DAY)
        }
    }

    pub(super) const BOTH: (Result<(), &str>, Result<(), &str>) = (Ok(()), Ok(()));

    #[test]
    fn a_token_makes_a_member_that_stays_one() {
        let founder = node(1, None);
        let second = node(2, Some(founder.token()));
        assert!(!second.member.is_member());
        assert_eq!(second.meet(&founder), BOTH);
        assert!(second.member.is_member());
        let second = second.restart();
        assert_eq!(second.meet(&founder), BOTH);
        assert!(!second.member.may_invite());
        // And those whom it never met believe it too.
        let token = founder.member.invite([9; 16], DAY, EDGE, Vec::new());
        let third = node(3, token.ok());
        assert_eq!(third.meet(&founder), BOTH);
        assert_eq!(third.meet(&second), BOTH);
    }

    #[test]
    fn whoever_does_not_belong_is_refused_by_name() {
        let founder = node(1, None);
        let refused = |word| (Err(word), Err("refused-by-peer"));
        let token = founder.token();
        let second = node(2, Some(token.clone()));
        assert_eq!(second.meet(&founder), BOTH);
        assert_eq!(node(3, Some(token.clone())).meet(&founder), refused("used"));
        assert_eq!(node(4, None).meet(&founder), refused("wrong-federation"));
        let at_the_wrong_node = node(5, Some(token));
        assert_eq!(at_the_wrong_node.meet(&second), refused("not-inviting"));
        // One who shows what it saw of another.
        let answer = founder.member.answer(id(6), &second.member.hello());
        assert_eq!(answer.verdict.expect_err("replayed").reason, "wrong-member");
        let answer = founder.member.answer(id(6), b"what?");
        assert_eq!(answer.verdict.expect_err("malformed").reason, "malformed");
        let old = encode(&Hello {
            versions: vec![99],
            certificate: None,
            token: None,
            successions: Vec::new(),
        });
        let answer = founder.member.answer(id(6), &old);
        assert_eq!(answer.verdict.expect_err("too new").reason, "version");
    }

    #[test]
    fn an_expired_certificate_is_refused_and_a_worn_one_renewed() {
        let folder = tempfile::tempdir().expect("a folder");
        let founder = open(folder, 1, None, Duration::from_secs(4));
        let second = node(2, Some(founder.token()));
        assert_eq!(second.meet(&founder), BOTH);
        // By the clock that certificates are held to.
        until(|| second.member.wants_renewal());
        founder.member.renew_own();
        assert_eq!(second.meet(&founder), BOTH);
        assert!(!second.member.wants_renewal());
        let life = second.member.life().expect("it is a member");
        let renewed = unix_time();
        until(|| unix_time() > renewed + life.as_secs());
        let (verdict, _) = second.meet(&founder);
        assert_eq!(verdict, Err("expired"));
    }

    fn until(fact: impl Fn() -> bool) {
        while !fact() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_denial_is_taken_back_everywhere_and_may_be_said_again() {
        let founder = node(1, None);
        let second = node(2, Some(founder.token()));
        assert_eq!(second.meet(&founder), BOTH);
        let token = founder.member.invite([9; 16], DAY, EDGE, Vec::new());
        let third = node(3, token.ok());
        assert_eq!(third.meet(&founder), BOTH);
        assert_eq!(third.meet(&second), BOTH);
        let denied = founder.member.deny(id(2), true).expect("said");
        let hear = |statement: &[u8]| third.member.hear_denial(statement);
        let denied = denied.expect("a statement");
        assert_eq!(hear(&denied), Ok(Some(id(2))));
        assert!(matches!(
            third.member.allow(id(2), false),
            Err(MemberError::DeniedByAll(_))
        ));
        let allowed = founder.member.allow(id(2), true).expect("said");
        let allowed = allowed.flatten().expect("a statement");
        assert_eq!(hear(&allowed), Ok(Some(id(2))));
        assert_eq!(hear(&denied), Ok(None));
        let third = third.restart();
        assert!(!third.member.is_denied(&id(2)));
        assert_eq!(second.meet(&third), BOTH);
        assert!(matches!(founder.member.allow(id(2), true), Ok(None)));
        let again = founder.member.deny(id(2), true).expect("said");
        let again = again.expect("a statement");
        assert_eq!(third.member.hear_denial(&again), Ok(Some(id(2))));
        assert!(third.member.is_denied(&id(2)));
        assert!(matches!(
            founder.member.deny(id(1), true),
            Err(MemberError::Itself)
        ));
    }

    #[test]
    fn who_belongs_somewhere_does_not_join_elsewhere_and_an_old_token_brings_nobody_back() {
        let (founder, other) = (node(1, None), node(4, None));
        let token = founder.token();
        let second = node(2, Some(token.clone()));
        assert_eq!(second.meet(&founder), BOTH);
        let (folder, number) = (second.folder, second.number);
        let reopen =
            |token: Token| Member::open(folder.path(), id(number), EDGE, Some(token), DAY, [2; 32]);
        assert!(matches!(
            reopen(other.token()),
            Err(MemberError::Elsewhere { .. })
        ));
        // The flags of the first start are no mistake at the next one.
        let member = reopen(token.clone()).expect("it belongs there");
        member.forget_membership().expect("written");
        assert_eq!(member.rights(&id(1)), None);
        assert!(matches!(reopen(token), Err(MemberError::Left(_))));
        assert!(reopen(other.token()).is_ok());
    }

    #[test]
    fn the_denied_are_out_here_and_everywhere() {
        let founder = node(1, None);
        let second = node(2, Some(founder.token()));
        assert_eq!(second.meet(&founder), BOTH);
        let statement = founder
            .member
            .deny(id(2), true)
            .expect("it holds the secret");
        assert_eq!(second.meet(&founder).0, Err("denied"));
        let token = founder.member.invite([9; 16], DAY, EDGE, Vec::new());
        let third = node(3, token.ok());
        // It is told when it joins, and by others later.
        assert_eq!(third.meet(&founder), BOTH);
        assert!(third.member.is_denied(&id(2)));
        let told = third.member.hear_denial(&statement.expect("a statement"));
        assert_eq!(told, Ok(None));
        assert!(matches!(
            third.member.deny(id(1), true),
            Err(MemberError::NoSecret)
        ));
        let third = third.restart();
        assert_eq!(second.meet(&third).0, Err("denied"));
    }
}
