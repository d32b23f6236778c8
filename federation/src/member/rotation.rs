//! The federation's secret is changed: what the old one says of the new one,
//! and how members come to be certified by it.
//!
//! Whoever holds the secret makes a new one, certifies with it everybody that
//! it knows as a member, and says so under the old one. A member goes over once
//! it holds its own new certificate; until then it keeps to the old ones, and
//! believes the new ones too. One that was away is handed its certificate when
//! it links to somebody that has it: always whoever changed the secret.

use super::*;
use crate::membership::Succession;
use crate::message::Handover;

/// Changes of the secret that are remembered: one who missed more joins anew.
const SUCCESSIONS: usize = 8;

/// The new secret with all that must not be lost without it, in one file.
#[derive(Serialize, Deserialize)]
struct Rotation {
    /// Base64, as everything here.
    secret: String,
    successions: Vec<String>,
    certificates: Vec<String>,
}

/// What an earlier run knew of changes.
#[derive(Default)]
pub(super) struct Rotated {
    pub(super) successions: Vec<Vec<u8>>,
    /// Who was certified when this node changed the secret.
    pub(super) certified: HashMap<PeerId, Certificate>,
}

impl Rotated {
    /// Whether a secret is the old one of a node that was taken over.
    pub(super) fn replaced(&self, secret: &RootSecret) -> bool {
        let federation = secret.federation();
        read_all(&self.successions).any(|s| s.predecessor() == federation)
    }

    /// Whether a federation is one of those that this node's was, or becomes.
    pub(super) fn knows(&self, federation: &Federation) -> bool {
        read_all(&self.successions)
            .any(|s| s.predecessor() == *federation || s.successor() == *federation)
    }

    /// What follows `federation`, as far as it is known.
    pub(super) fn next(&self, federation: Federation) -> Option<Federation> {
        let mut known = read_all(&self.successions);
        let next = known.find(|s| s.predecessor() == federation)?;
        Some(next.successor())
    }
}

fn read_all(successions: &[Vec<u8>]) -> impl Iterator<Item = Succession> {
    let read = successions.iter();
    read.filter_map(|bytes| Succession::from_bytes(bytes).ok())
}

/// The secret, and what is known of changes.
pub(super) fn load(folder: &Path) -> Result<(Option<RootSecret>, Rotated), MemberError> {
    let as_secret = |bytes: Vec<u8>, path: &Path| match <[u8; 32]>::try_from(bytes) {
        Ok(bytes) => Ok(RootSecret::new(bytes)),
        Err(_) => Err(MemberError::Malformed { path: path.into() }),
    };
    let path = folder.join("successions");
    let malformed = |path: &Path| MemberError::Malformed { path: path.into() };
    let texts: Vec<String> = match super::load(&path)? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|_| malformed(&path))?,
        None => Vec::new(),
    };
    let mut rotated = Rotated {
        successions: decoded(&texts).ok_or_else(|| malformed(&path))?,
        certified: HashMap::new(),
    };
    let plain = folder.join("secret");
    let secret = super::load(&plain)?;
    let secret = secret.map(|bytes| as_secret(bytes, &plain)).transpose()?;
    let path = folder.join("rotation");
    let Some(bytes) = super::load(&path)? else {
        return Ok((secret, rotated));
    };
    let kept: Rotation = serde_json::from_slice(&bytes).map_err(|_| malformed(&path))?;
    let (Some(new), Some(successions), Some(certificates)) = (
        STANDARD.decode(&kept.secret).ok(),
        decoded(&kept.successions),
        decoded(&kept.certificates),
    ) else {
        return Err(malformed(&path));
    };
    let new = as_secret(new, &path)?;
    // Written first: a crash right after it must not bring the old one back.
    let last = read_all(&successions).last();
    let replaces = |secret: &RootSecret| {
        let federation = secret.federation();
        last.as_ref().is_some_and(|s| s.predecessor() == federation)
    };
    let secret = match secret {
        Some(secret) if !replaces(&secret) => Some(secret),
        Some(_) | None => Some(new),
    };
    let certificates = certificates
        .iter()
        .filter_map(|bytes| Certificate::from_bytes(bytes).ok());
    rotated.certified = certificates
        .filter_map(|certificate| Some((certificate.membership().member()?, certificate)))
        .collect();
    if rotated.successions.len() < successions.len() {
        rotated.successions = successions;
    }
    Ok((secret, rotated))
}

fn decoded(texts: &[String]) -> Option<Vec<Vec<u8>>> {
    let bytes = texts.iter().map(|text| STANDARD.decode(text).ok());
    bytes.collect()
}

fn encoded<'a>(parts: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<String> {
    let texts = parts.into_iter().map(|bytes| STANDARD.encode(bytes));
    texts.collect()
}

/// A change of the secret that this node makes.
struct Change {
    succession: Vec<u8>,
    /// All that are known, this one the last.
    successions: Vec<Vec<u8>>,
    certified: HashMap<PeerId, Certificate>,
}

impl Change {
    fn made(
        member: &Member,
        state: &State,
        old: &RootSecret,
        new: &RootSecret,
        now: UnixTime,
    ) -> Change {
        let expires = now + member.life.as_secs();
        let succession = old.hand_over(new.federation(), now);
        let mut successions = state.successions.clone();
        push(&mut successions, succession.clone());
        let denied = |peer: &PeerId| {
            let denied = state.denied.get(&peer.to_string());
            denied.is_some_and(|denied| !denied.lifted)
        };
        let known = member.known.read().clone().into_iter();
        let certified = known.filter_map(|(peer, certificate)| {
            let rights = certificate.check(&state.federation, peer, now).ok()?;
            let new = new.certify(peer, rights, now, expires);
            // Its own it hears from others too.
            let handed_over = peer != member.id && !denied(&peer);
            handed_over.then_some((peer, new))
        });
        Change {
            succession,
            successions,
            certified: certified.collect(),
        }
    }

    fn certificates(&self) -> Vec<Vec<u8>> {
        self.certified.values().map(Certificate::to_bytes).collect()
    }

    fn kept(&self, secret: [u8; 32]) -> Rotation {
        Rotation {
            secret: STANDARD.encode(secret),
            successions: encoded(&self.successions),
            certificates: encoded(&self.certificates()),
        }
    }

    fn handovers(&self) -> Vec<Handover> {
        let handover = |certificate| Handover {
            succession: self.succession.clone(),
            certificate,
        };
        self.certificates().into_iter().map(handover).collect()
    }
}

impl Member {
    /// Changes the federation's secret to one made of `chance`, 32 random
    /// bytes: what each member that this node knows is to be told. Invites of
    /// the old secret are void.
    ///
    /// # Errors
    /// When this node holds no secret, or cannot write.
    pub fn rotate(&self, chance: [u8; 32]) -> Result<Vec<Handover>, MemberError> {
        let _one = self.rotating.lock();
        let now = unix_time();
        let new = RootSecret::new(chance);
        let (old, change) = {
            let state = self.state.read();
            let old = state.secret.clone().ok_or(MemberError::NoSecret)?;
            let change = Change::made(self, &state, &old, &new, now);
            (old, change)
        };
        // Written first, while all others go on: a crash right after it must not
        // bring the old one back.
        let path = self.folder.join("rotation");
        let kept = change.kept(chance);
        let failed = |source| MemberError::File {
            path: path.clone(),
            source,
        };
        let saved = self.files.save_now(path.clone(), json(&kept));
        saved.map_err(failed)?;
        let mut state = self.state.write();
        let current = state.secret.as_ref().map(RootSecret::federation);
        if current != Some(old.federation()) {
            drop(state);
            // Another one who may changed it meanwhile.
            fs::remove_file(&path).map_err(failed)?;
            return Err(MemberError::NoSecret);
        }
        // Some may have been let in since.
        let change = Change::made(self, &state, &old, &new, now);
        let secret = "the changed secret";
        self.keep("rotation", json(&change.kept(chance)), secret);
        self.keep("secret", chance.to_vec(), secret);
        let successions = encoded(&change.successions);
        self.keep("successions", json(&successions), secret);
        let rights = state.certificate.as_ref().map(|c| c.membership().rights);
        if let Some(rights) = rights {
            let own = new.certify(self.id, rights, now, now + self.life.as_secs());
            self.keep_certificate(&own);
            state.certificate = Some(own);
        }
        for (peer, denied) in &mut state.denied {
            if let (Some(_), Ok(peer)) = (&denied.statement, peer.parse()) {
                let statement = match denied.lifted {
                    true => new.allow(peer, denied.at),
                    false => new.deny(peer, denied.at),
                };
                denied.statement = Some(STANDARD.encode(statement));
            }
        }
        self.keep("denied", json(&state.denied), "a denial");
        (state.federation, state.next) = (new.federation(), None);
        state.successions.clone_from(&change.successions);
        state.secret = Some(new);
        *self.known.write() = change.certified.clone();
        drop(state);
        self.files.finish();
        Ok(change.handovers())
    }

    /// What `peer` is to be told, should it have missed that the secret was
    /// changed.
    pub(crate) fn handover_for(&self, peer: &PeerId) -> Option<Handover> {
        let state = self.state.read();
        let succession = state.successions.last()?.clone();
        let known = self.known.read();
        let certificate = known.get(peer)?;
        let current = certificate.membership().federation == state.federation;
        current.then(|| Handover {
            succession,
            certificate: certificate.to_bytes(),
        })
    }

    /// Hears that a member is taken over; `true` when that is news.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn hear_handover(&self, handover: &Handover) -> Result<bool, Refused> {
        self.hear_succession(&handover.succession)?;
        let certificate = Certificate::from_bytes(&handover.certificate)?;
        let member = certificate.membership().member();
        let member = member.ok_or(Refused::Malformed)?;
        if member == self.id {
            return self.take_over(&certificate);
        }
        let is_known =
            |known: &HashMap<PeerId, Certificate>| known.get(&member) == Some(&certificate);
        if is_known(&self.known.read()) || is_known(&self.coming.read()) {
            return Ok(false);
        }
        self.introduce(member, &handover.certificate).map(|_| true)
    }

    /// Hears what is told along with a proof; what is not believed is left out.
    pub(super) fn hear_successions(&self, successions: &[ByteBuf]) {
        for bytes in successions.iter().take(SUCCESSIONS) {
            let _ = self.hear_succession(bytes);
        }
    }

    fn hear_succession(&self, bytes: &[u8]) -> Result<(), Refused> {
        let succession = Succession::from_bytes(bytes)?;
        let mut state = self.state.write();
        if state.successions.iter().any(|known| known == bytes) {
            return Ok(());
        }
        // One step after the other; the first word of a secret is its last.
        let last = state.next.unwrap_or(state.federation);
        let mut known = read_all(&state.successions);
        if succession.predecessor() != last || known.any(|s| s.predecessor() == last) {
            return Err(Refused::WrongFederation);
        }
        drop(known);
        if state.next.is_some() {
            // It cannot be certified for the step between any more.
            self.coming.write().clear();
        }
        tracing::info!(to = %succession.successor(), "the federation's secret was changed");
        state.next = Some(succession.successor());
        state.secret = None;
        push(&mut state.successions, bytes.to_vec());
        let texts = encoded(&state.successions);
        let what = "that the secret was changed";
        self.keep("successions", json(&texts), what);
        Ok(())
    }

    /// Goes over to the federation that follows, with its own certificate of
    /// it; `false` when it is of none that follows.
    pub(super) fn take_over(&self, certificate: &Certificate) -> Result<bool, Refused> {
        let mut state = self.state.write();
        let Some(next) = state.next else {
            return Ok(false);
        };
        if certificate.membership().federation != next {
            return Ok(false);
        }
        certificate.check(&next, self.id, unix_time())?;
        self.keep_certificate(certificate);
        (state.federation, state.next) = (next, None);
        state.token = None;
        state.certificate = Some(certificate.clone());
        drop(state);
        let coming = std::mem::take(&mut *self.coming.write());
        self.known.write().extend(coming);
        tracing::info!(federation = %next, "went over to the changed secret");
        Ok(true)
    }

    /// Whether the secret that there is now came after that of `past`.
    pub(super) fn follows(&self, past: &Federation) -> bool {
        let state = self.state.read();
        read_all(&state.successions).any(|s| s.predecessor() == *past)
    }

    /// Whether a denial is by a secret that was changed since.
    pub(super) fn is_past(&self, denial: &[u8]) -> bool {
        let state = self.state.read();
        read_all(&state.successions).any(|s| Denial::from_bytes(denial, &s.predecessor()).is_ok())
    }

    /// Whether a denial that is kept is by the secret that there is now.
    pub(super) fn is_current(&self, federation: &Federation, statement: Option<&str>) -> bool {
        let bytes = statement.and_then(|text| STANDARD.decode(text).ok());
        bytes.is_some_and(|bytes| Denial::from_bytes(&bytes, federation).is_ok())
    }
}

/// Adds a change; the oldest goes when there are too many.
fn push(successions: &mut Vec<Vec<u8>>, succession: Vec<u8>) {
    if successions.len() >= SUCCESSIONS {
        successions.remove(0);
    }
    successions.push(succession);
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BOTH, DAY, EDGE, Node, node, now};
    use super::super::trade::{Hello, VERSION, encode};
    use super::*;
    use weir_federation_core::samples::id;

    /// A founder, and members that know each other.
    fn three() -> [Node; 3] {
        let founder = node(1, None);
        let join = |number: u8| {
            let token = founder.member.invite([number; 16], DAY, EDGE, Vec::new());
            let node = node(number, token.ok());
            assert_eq!(node.meet(&founder), BOTH);
            node
        };
        let (second, third) = (join(2), join(3));
        assert_eq!(second.meet(&third), BOTH);
        [founder, second, third]
    }

    fn rotated(founder: &Node) -> Vec<Handover> {
        founder
            .member
            .rotate([77; 32])
            .expect("it holds the secret")
    }

    #[test]
    fn who_hears_of_it_goes_over_and_who_was_away_is_handed_over_later() {
        let [founder, second, third] = three();
        let old = founder.member.federation();
        let void = founder.token();
        let handovers = rotated(&founder);
        let new = founder.member.federation();
        assert_ne!(new, old);
        assert_eq!(handovers.len(), 2);
        for handover in &handovers {
            assert_eq!(second.member.hear_handover(handover), Ok(true));
            assert_eq!(second.member.hear_handover(handover), Ok(false));
        }
        assert_eq!(second.member.federation(), new);
        // Whoever was away hears of it from any member, whoever dials.
        let third = third.restart();
        assert_eq!(second.meet(&third), BOTH);
        assert_eq!(third.member.federation(), old);
        assert!(third.member.wants_renewal());
        assert_eq!(third.meet(&second), BOTH);
        assert_eq!(third.member.federation(), new);
        let third = third.restart();
        assert_eq!(third.meet(&founder), BOTH);
        // Tokens of the old secret are void.
        let refused = (Err("wrong-federation"), Err("refused-by-peer"));
        assert_eq!(node(4, Some(void)).meet(&founder), refused);
        assert_eq!(node(5, Some(founder.token())).meet(&founder), BOTH);
    }

    #[test]
    fn whoever_changed_it_remembers_that_over_a_restart() {
        let [founder, second, third] = three();
        rotated(&founder);
        let new = founder.member.federation();
        // As after a crash in the middle: all but the first file is lost.
        fs::write(founder.folder.path().join("secret"), [1; 32]).expect("written");
        fs::remove_file(founder.folder.path().join("successions")).expect("removed");
        let founder = founder.restart();
        assert_eq!(founder.member.federation(), new);
        assert!(founder.member.may_invite());
        for node in [second, third] {
            assert_eq!(node.meet(&founder), BOTH);
            assert_eq!(node.member.federation(), new);
        }
    }

    #[test]
    fn the_old_secret_makes_no_members_any_more() {
        let [founder, second, _third] = three();
        let stolen = RootSecret::new([1; 32]);
        assert_eq!(stolen.federation(), founder.member.federation());
        let at = unix_time();
        for handover in rotated(&founder) {
            let heard = second.member.hear_handover(&handover);
            assert_eq!(heard, Ok(true));
        }
        let forged = stolen.certify(id(9), EDGE, at, at + 1_000);
        let words = encode(&Hello {
            versions: vec![VERSION],
            certificate: Some(ByteBuf::from(forged.to_bytes())),
            token: None,
            successions: Vec::new(),
        });
        for node in [&founder, &second] {
            let answer = now(node.member.answer(id(9), &words));
            assert_eq!(answer.verdict.expect_err("a thief").reason, "superseded");
        }
        // Nor does a second word of it count.
        let other = RootSecret::new([78; 32]);
        let handover = Handover {
            succession: stolen.hand_over(other.federation(), at),
            certificate: other.certify(id(2), EDGE, at, at + 1_000).to_bytes(),
        };
        let heard = second.member.hear_handover(&handover);
        assert_eq!(heard, Err(Refused::WrongFederation));
        assert_eq!(second.meet(&founder), BOTH);
    }

    #[test]
    fn the_denied_are_not_handed_over() {
        let [founder, second, third] = three();
        founder
            .member
            .deny(id(3), true)
            .expect("it holds the secret");
        let handovers = rotated(&founder);
        assert_eq!(handovers.len(), 1);
        assert_eq!(third.meet(&founder).0, Err("denied"));
        for handover in &handovers {
            assert_eq!(second.member.hear_handover(handover), Ok(true));
        }
        // The new secret says so too.
        let denials = founder.member.denials();
        assert_eq!(denials.len(), 1);
        assert_eq!(second.member.hear_denial(&denials[0]), Ok(Some(id(3))));
        assert_eq!(second.member.hear_denial(&denials[0]), Ok(None));
        assert_eq!(third.meet(&second).0, Err("denied"));
    }
}
