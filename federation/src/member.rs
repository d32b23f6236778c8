//! This node's own membership, on disk and towards others: the secret if it
//! may invite, its certificate, who is denied, which invites were used; and
//! the words by which two nodes prove to each other that they belong together.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libp2p_identity::PeerId;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::sync::Notify;
pub(crate) use weir_node::private::write as save;
use weir_overlay::{Answer, Refusal};

use crate::files::Files;
use crate::membership::{
    Certificate, Denial, Federation, Refused, Rights, RootSecret, Token, UnixTime,
};

mod denial;
mod files;
mod rotation;
#[cfg(test)]
mod slow_disk;
#[cfg(test)]
mod tests;
mod trade;

use self::denial::Denied;
use self::files::{json, load, load_json, load_list};
use self::rotation::Rotated;
use self::trade::Used;

/// Certificates of others, and denials, that are remembered.
const REMEMBERED: usize = 4_096;

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

/// What a node that left remembers, so that its old token does not bring it
/// back.
#[derive(Debug, Serialize, Deserialize)]
struct Departure {
    federation: String,
    /// The id of the invite that it was told to join by.
    invite: String,
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
    /// Writes them: most of what is heard comes on the overlay's thread.
    files: Files,
    /// How long certificates that it issues are good.
    life: Duration,
    state: RwLock<State>,
    /// Held by whoever changes the federation's secret.
    rotating: Mutex<()>,
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

fn load_certificate(path: &Path) -> Result<Option<Certificate>, MemberError> {
    let read = load(path)?.map(|bytes| Certificate::from_bytes(&bytes));
    let malformed = |_| MemberError::Malformed {
        path: path.to_owned(),
    };
    read.transpose().map_err(malformed)
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
        let files = Files::new();
        Member::open_with(files, folder, id, rights, token, life, chance)
    }

    fn open_with(
        files: Files,
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
        let mut certificate = load_certificate(&path)?;
        let (secret, rotated) = rotation::load(folder)?;
        // Not where somebody else changed it since this one was written.
        let mut secret = secret.filter(|secret| !rotated.replaced(secret));
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
        let federation = belongs_to(certificate.as_ref(), token.as_ref(), &rotated, folder)?;
        Ok(Member {
            id,
            folder: folder.to_owned(),
            files,
            rotating: Mutex::default(),
            life,
            state: RwLock::new(State {
                federation,
                secret,
                next: rotated.next(federation),
                successions: rotated.successions,
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

    /// What writes its files.
    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// Which federation this is.
    pub fn federation(&self) -> Federation {
        self.state.read().federation
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
        self.refusal.lock().clone()
    }

    /// Whether its own membership has ended.
    pub fn is_expired(&self) -> bool {
        let state = self.state.read();
        let certificate = state.certificate.as_ref();
        certificate.is_some_and(|c| c.membership().expires <= unix_time())
    }

    /// Whether it left its federation since it started.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Whether it was let in, ever.
    pub fn is_member(&self) -> bool {
        self.state.read().certificate.is_some()
    }

    /// What it may do: by its certificate, or by its invite until it has one.
    pub fn own_rights(&self) -> Option<Rights> {
        let state = self.state.read();
        let certified = state.certificate.as_ref().map(|c| c.membership().rights);
        certified.or_else(|| state.token.as_ref().map(|t| t.invite().rights))
    }

    /// Whether it may invite.
    pub fn may_invite(&self) -> bool {
        self.state.read().secret.is_some()
    }

    /// Its certificate in bytes.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        let state = self.state.read();
        state.certificate.as_ref().map(Certificate::to_bytes)
    }

    /// Whether it should ask for a new certificate soon.
    pub fn wants_renewal(&self) -> bool {
        let now = unix_time();
        let state = self.state.read();
        let certificate = state.certificate.as_ref();
        state.next.is_some() || certificate.is_some_and(|c| is_worn(c, now))
    }

    /// How long its certificate is good from the first to the last moment.
    pub fn life(&self) -> Option<Duration> {
        let state = self.state.read();
        let membership = state.certificate.as_ref()?.membership();
        let seconds = membership.expires.saturating_sub(membership.issued);
        Some(Duration::from_secs(seconds))
    }

    /// Renews its own certificate, where it holds the secret.
    pub fn renew_own(&self) {
        let now = unix_time();
        let mut state = self.state.write();
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
        let state = self.state.read();
        let secret = state.secret.as_ref().ok_or(MemberError::NoSecret)?;
        let expires = unix_time().saturating_add(life.as_secs());
        Ok(secret.invite(chance, expires, rights, bootstrap))
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
        let known = self.known.read();
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
            let state = self.state.read();
            (state.federation, state.next)
        };
        match certificate.check(&federation, peer, now) {
            Ok(rights) => {
                remember(&mut self.known.write(), peer, certificate);
                Ok(rights)
            }
            Err(Refused::WrongFederation) => {
                let theirs = certificate.membership().federation;
                if let Some(next) = next.filter(|next| *next == theirs) {
                    let rights = certificate.check(&next, peer, now)?;
                    remember(&mut self.coming.write(), peer, certificate);
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
            let state = self.state.read();
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

    fn keep_certificate(&self, certificate: &Certificate) {
        self.keep("certificate", certificate.to_bytes(), "the membership");
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
            let saved = self.files.save_now(path.clone(), json(&departure));
            saved.map_err(|source| MemberError::File { path, source })?;
        }
        // What was asked for before must not bring any of them back.
        self.files.finish();
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
}

impl Drop for Member {
    /// Whoever opens the folder next finds all of it.
    fn drop(&mut self) {
        self.files.finish();
    }
}

/// Which federation a node is of: by its certificate, or by its invite until it
/// has one.
fn belongs_to(
    certificate: Option<&Certificate>,
    token: Option<&Token>,
    rotated: &Rotated,
    folder: &Path,
) -> Result<Federation, MemberError> {
    match (certificate, token) {
        (Some(certificate), told) => {
            let own = certificate.membership().federation;
            let invited = told.map_or(own, |token| token.invite().federation);
            if invited != own && !rotated.knows(&invited) {
                return Err(MemberError::Elsewhere { own, invited });
            }
            Ok(own)
        }
        (None, Some(token)) => {
            let federation = token.invite().federation;
            let departure = load_json::<Departure>(&folder.join("left"))?;
            let invite = STANDARD.encode(token.invite().id);
            if departure.is_some_and(|departure| departure.invite == invite) {
                return Err(MemberError::Left(federation));
            }
            let checked = token.check(&federation, unix_time());
            checked.map_err(MemberError::Token)?;
            Ok(federation)
        }
        (None, None) => unreachable!("a federation was founded"),
    }
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
