//! Who belongs to a federation: invites, certificates and denials.
//!
//! A federation is a key. Whoever holds its secret may invite; an invite is
//! traded once for a certificate, which a member shows on every connection and
//! with what it signs, so that members who never met it can check it too.
//! Nothing here reads a clock or draws chance; which invites were used is the
//! caller's to keep.
//!
//! Every signature is over a word that says what is signed, so that one kind of
//! statement is never taken for another.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libp2p_identity::{Keypair, PeerId, PublicKey, ed25519};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::report::Role;

#[cfg(test)]
mod tests;

/// Largest signed statement in bytes.
const STATEMENT_BYTES: usize = 4 << 10;

/// Addresses that an invite names.
const BOOTSTRAP: usize = 16;

/// What an invite begins with, so that people and programs know one.
const PREFIX: &str = "weir1-";

/// What the clocks of two honest nodes may differ by, in seconds.
pub(crate) const CLOCK_SKEW: u64 = 300;

pub use weir_federation_core::catalogue::UnixTime;

/// The secret of a federation: 256 random bits. Only nodes that may invite
/// hold it.
#[derive(Clone)]
pub struct RootSecret(Keypair);

impl fmt::Debug for RootSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootSecret(of {})", self.federation())
    }
}

/// Which federation: its public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Federation(#[serde(with = "serde_bytes")] [u8; 32]);

impl Federation {
    fn key(&self) -> Option<PublicKey> {
        ed25519::PublicKey::try_from_bytes(&self.0)
            .ok()
            .map(PublicKey::from)
    }
}

impl fmt::Display for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// What was signed, and by what right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Signed {
    /// CBOR, as it was signed.
    #[serde(with = "serde_bytes")]
    statement: Vec<u8>,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// What it is for.
    pub role: Role,
    /// Whether functions that it deploys are run by others.
    pub deploy: bool,
}

/// An invitation, as whoever holds the secret makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invite {
    /// Into which federation.
    pub federation: Federation,
    /// Random; what marks it as used.
    #[serde(with = "serde_bytes")]
    pub id: [u8; 16],
    /// When it is void.
    pub expires: UnixTime,
    /// What whoever joins by it may do.
    pub rights: Rights,
    /// Where members can be reached; at most 16 multiaddresses.
    pub bootstrap: Vec<String>,
}

/// An invite in the form that is passed on: text without blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    invite: Invite,
    signed: Signed,
}

/// The proof that a node is a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Of which federation.
    pub federation: Federation,
    /// Who, as the bytes of its PeerId.
    #[serde(with = "serde_bytes")]
    member: Vec<u8>,
    /// What it may do.
    pub rights: Rights,
    /// Since when.
    pub issued: UnixTime,
    /// Until when.
    pub expires: UnixTime,
}

/// A membership with the federation's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    membership: Membership,
    signed: Signed,
}

/// The federation's word that a node is no member any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    federation: Federation,
    #[serde(with = "serde_bytes")]
    member: Vec<u8>,
    /// Since when; certificates that were issued later hold again.
    pub at: UnixTime,
    /// Whether it takes an earlier denial back. Not in its bytes: the word under
    /// the signature says it.
    #[serde(skip)]
    pub lifted: bool,
}

/// The federation's word that a denial is taken back.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Allowance(Denial);

/// The federation's word that its secret was changed: members of the old one
/// are members of the new one, as far as that certifies them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    federation: Federation,
    successor: Federation,
    /// Since when.
    pub at: UnixTime,
}

/// Why a statement is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It cannot be read.
    #[error("it is not what Weir writes")]
    Malformed,
    /// It is of another federation.
    #[error("it is of another federation")]
    WrongFederation,
    /// The signature does not hold.
    #[error("its signature does not hold")]
    Forged,
    /// Its time is over.
    #[error("it has expired: ask for a new one")]
    Expired,
    /// It is dated after now.
    #[error("it is dated in the future: check the clocks")]
    Early,
    /// It is somebody else's.
    #[error("it belongs to another node")]
    WrongMember,
    /// It was traded before.
    #[error("it was used before: ask for a new one")]
    Used,
    /// Its certificate does not let it deploy.
    #[error("its certificate does not let it deploy for others")]
    MayNotDeploy,
    /// The secret that signed it was changed since.
    #[error(
        "the federation's secret was changed since: link to the node that changed it, or join \
         with a new token"
    )]
    Superseded,
}

impl Refused {
    /// The word for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Refused::Malformed => "malformed",
            Refused::WrongFederation => "wrong-federation",
            Refused::Forged => "forged",
            Refused::Expired => "expired",
            Refused::Early => "early",
            Refused::WrongMember => "wrong-member",
            Refused::Used => "used",
            Refused::Superseded => "superseded",
            Refused::MayNotDeploy => "may-not-deploy",
        }
    }
}

/// What kinds of statements there are; the word goes under the signature.
trait Statement: Serialize + DeserializeOwned {
    const WORD: &'static [u8];
    fn federation(&self) -> &Federation;
}

impl Statement for Invite {
    const WORD: &'static [u8] = b"weir invite 1\0";
    fn federation(&self) -> &Federation {
        &self.federation
    }
}

impl Statement for Membership {
    const WORD: &'static [u8] = b"weir membership 1\0";
    fn federation(&self) -> &Federation {
        &self.federation
    }
}

impl Statement for Denial {
    const WORD: &'static [u8] = b"weir denial 1\0";
    fn federation(&self) -> &Federation {
        &self.federation
    }
}

impl Statement for Allowance {
    const WORD: &'static [u8] = b"weir allowance 1\0";
    fn federation(&self) -> &Federation {
        &self.0.federation
    }
}

impl Statement for Succession {
    const WORD: &'static [u8] = b"weir succession 1\0";
    fn federation(&self) -> &Federation {
        &self.federation
    }
}

fn signed_bytes<T: Statement>(statement: &[u8]) -> Vec<u8> {
    [T::WORD, statement].concat()
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    cbor4ii::serde::to_vec(Vec::new(), value).expect("plain values can be encoded")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refused> {
    if bytes.len() > STATEMENT_BYTES {
        return Err(Refused::Malformed);
    }
    cbor4ii::serde::from_slice(bytes).map_err(|_| Refused::Malformed)
}

impl RootSecret {
    /// The secret of 32 random bytes.
    pub fn new(mut random: [u8; 32]) -> RootSecret {
        let key = Keypair::ed25519_from_bytes(&mut random);
        RootSecret(key.expect("any 32 bytes are an Ed25519 secret"))
    }

    /// The federation that it is the secret of.
    pub fn federation(&self) -> Federation {
        let key = self.0.public().try_into_ed25519();
        Federation(key.expect("it was made as one").to_bytes())
    }

    fn sign<T: Statement>(&self, statement: &T) -> Signed {
        let statement = encode(statement);
        let signature = self.0.sign(&signed_bytes::<T>(&statement));
        Signed {
            statement,
            signature: signature.expect("an Ed25519 key in memory signs"),
        }
    }

    /// Makes an invite. `id` is random.
    pub fn invite(
        &self,
        id: [u8; 16],
        expires: UnixTime,
        rights: Rights,
        mut bootstrap: Vec<String>,
    ) -> Token {
        bootstrap.truncate(BOOTSTRAP);
        let invite = Invite {
            federation: self.federation(),
            id,
            expires,
            rights,
            bootstrap,
        };
        Token {
            signed: self.sign(&invite),
            invite,
        }
    }

    /// Trades an invite for a certificate of `member`. Whoever calls this has
    /// `member`'s own proof that it is that, and remembers the invite's id
    /// until it expires; `used` says whether it was traded before.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(
        &self,
        token: &Token,
        member: PeerId,
        used: bool,
        now: UnixTime,
        expires: UnixTime,
    ) -> Result<Certificate, Refused> {
        token.check(&self.federation(), now)?;
        match used {
            true => Err(Refused::Used),
            false => Ok(self.certify(member, token.invite.rights, now, expires)),
        }
    }

    /// Certifies a member, anew or again.
    pub fn certify(
        &self,
        member: PeerId,
        rights: Rights,
        issued: UnixTime,
        expires: UnixTime,
    ) -> Certificate {
        let membership = Membership {
            federation: self.federation(),
            member: member.to_bytes(),
            rights,
            issued,
            expires,
        };
        Certificate {
            signed: self.sign(&membership),
            membership,
        }
    }

    /// Hands the federation over to another secret, as bytes for everybody.
    pub fn hand_over(&self, successor: Federation, at: UnixTime) -> Vec<u8> {
        encode(&self.sign(&Succession {
            federation: self.federation(),
            successor,
            at,
        }))
    }

    /// Denies a member, as bytes for everybody.
    pub fn deny(&self, member: PeerId, at: UnixTime) -> Vec<u8> {
        encode(&self.sign(&self.denial(member, at)))
    }

    /// Takes a denial back, as bytes for everybody.
    pub fn allow(&self, member: PeerId, at: UnixTime) -> Vec<u8> {
        encode(&self.sign(&Allowance(self.denial(member, at))))
    }

    fn denial(&self, member: PeerId, at: UnixTime) -> Denial {
        Denial {
            federation: self.federation(),
            member: member.to_bytes(),
            at,
            lifted: false,
        }
    }
}

impl Signed {
    /// Reads a statement whose signature is that of its own federation.
    fn open<T: Statement>(&self) -> Result<T, Refused> {
        let statement: T = decode(&self.statement)?;
        let key = statement.federation().key().ok_or(Refused::Malformed)?;
        match key.verify(&signed_bytes::<T>(&self.statement), &self.signature) {
            true => Ok(statement),
            false => Err(Refused::Forged),
        }
    }
}

impl Token {
    /// What it says. Its signature holds; whether it is still good is
    /// [`Token::check`]'s.
    pub fn invite(&self) -> &Invite {
        &self.invite
    }

    /// Checks that it is an invite into `federation` and still good.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, federation: &Federation, now: UnixTime) -> Result<(), Refused> {
        if self.invite.federation != *federation {
            return Err(Refused::WrongFederation);
        }
        match now < self.invite.expires {
            true => Ok(()),
            false => Err(Refused::Expired),
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = URL_SAFE_NO_PAD.encode(encode(&self.signed));
        write!(f, "{PREFIX}{text}")
    }
}

impl FromStr for Token {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Token, Refused> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(Refused::Malformed)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| Refused::Malformed)?;
        let signed: Signed = decode(&bytes)?;
        let invite: Invite = signed.open()?;
        match invite.bootstrap.len() <= BOOTSTRAP {
            true => Ok(Token { invite, signed }),
            false => Err(Refused::Malformed),
        }
    }
}

impl Membership {
    /// Who; `None` when those bytes are no PeerId.
    pub fn member(&self) -> Option<PeerId> {
        PeerId::from_bytes(&self.member).ok()
    }
}

impl Certificate {
    /// What it says. Its signature holds.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The bytes that are shown to others.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&self.signed)
    }

    /// Reads what another showed; its signature holds then, and no more.
    ///
    /// # Errors
    /// When it cannot be read, or is forged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Certificate, Refused> {
        let signed: Signed = decode(bytes)?;
        let membership: Membership = signed.open()?;
        membership.member().ok_or(Refused::Malformed)?;
        Ok(Certificate { membership, signed })
    }

    /// Checks that it makes `peer` a member of `federation` now, denials aside.
    ///
    /// # Errors
    /// Why it does not.
    pub fn check(
        &self,
        federation: &Federation,
        peer: PeerId,
        now: UnixTime,
    ) -> Result<Rights, Refused> {
        let membership = &self.membership;
        if membership.federation != *federation {
            return Err(Refused::WrongFederation);
        }
        if membership.member() != Some(peer) {
            return Err(Refused::WrongMember);
        }
        if now >= membership.expires {
            return Err(Refused::Expired);
        }
        match membership.issued <= now + CLOCK_SKEW {
            true => Ok(membership.rights),
            false => Err(Refused::Early),
        }
    }

    /// Whether a denial concerns it.
    pub fn is_denied_by(&self, denial: &Denial) -> bool {
        let membership = &self.membership;
        !denial.lifted
            && denial.federation == membership.federation
            && denial.member == membership.member
            && membership.issued <= denial.at
    }
}

impl Denial {
    /// Reads what was passed on, a denial or that one is taken back; its
    /// signature holds then.
    ///
    /// # Errors
    /// When it cannot be read, is forged, or is of another federation.
    pub fn from_bytes(bytes: &[u8], federation: &Federation) -> Result<Denial, Refused> {
        let signed: Signed = decode(bytes)?;
        let denial = match signed.open::<Denial>() {
            // Nobody can make one of the other: the word is signed too.
            Err(Refused::Forged) => Denial {
                lifted: true,
                ..signed.open::<Allowance>()?.0
            },
            opened => opened?,
        };
        match denial.federation == *federation {
            true => Ok(denial),
            false => Err(Refused::WrongFederation),
        }
    }

    /// Who is denied; `None` when those bytes are no PeerId.
    pub fn member(&self) -> Option<PeerId> {
        PeerId::from_bytes(&self.member).ok()
    }
}

impl Succession {
    /// Reads what was passed on; the signature of the old secret holds then.
    ///
    /// # Errors
    /// When it cannot be read, or is forged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Succession, Refused> {
        let signed: Signed = decode(bytes)?;
        signed.open()
    }

    /// The federation that it ends.
    pub fn predecessor(&self) -> Federation {
        self.federation
    }

    /// The one that follows.
    pub fn successor(&self) -> Federation {
        self.successor
    }
}
