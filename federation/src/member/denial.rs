//! Who is denied: by this node, or by the federation.

use parking_lot::RwLockWriteGuard;

use super::*;

/// One who is denied.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Denied {
    /// Since when.
    pub(super) at: UnixTime,
    /// The federation's own word of it; `None` when only this node says so.
    #[serde(default)]
    pub(super) statement: Option<String>,
    /// Whether the federation took it back since.
    #[serde(default)]
    pub(super) lifted: bool,
}

impl Member {
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
        let mut state = self.state.write();
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
        self.keep_denied(state)?;
        Ok(statement)
    }

    /// When something is said that counts after all that was said of a member.
    pub(super) fn later_than_said(&self, state: &State, peer: &PeerId) -> UnixTime {
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
        let mut state = self.state.write();
        let known = state.denied.get(&peer.to_string());
        let known = known.filter(|denied| !denied.lifted);
        let by_all = known.is_some_and(|denied| denied.statement.is_some());
        if !everywhere && by_all {
            return Err(MemberError::DeniedByAll(peer));
        }
        if !everywhere {
            let gone = known.is_some();
            state.denied.remove(&peer.to_string());
            self.keep_denied(state)?;
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
        self.keep_denied(state)?;
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
        let mut state = self.state.write();
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
        self.keep("denied", json(&state.denied), "a denial");
        Ok(Some(peer))
    }

    /// All denials that the federation made, to be passed on.
    pub fn denials(&self) -> Vec<Vec<u8>> {
        let state = self.state.read();
        let statements = state.denied.values().filter_map(|d| d.statement.as_ref());
        statements
            .filter_map(|text| STANDARD.decode(text).ok())
            .filter(|bytes| Denial::from_bytes(bytes, &state.federation).is_ok())
            .collect()
    }

    /// Whether nobody was ever denied.
    pub fn denies_nobody(&self) -> bool {
        self.state.read().denied.is_empty()
    }

    /// Whether somebody is denied now, by the certificate that was shown.
    pub fn is_denied(&self, peer: &PeerId) -> bool {
        let state = self.state.read();
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
            || self
                .known
                .read()
                .get(peer)
                .is_none_or(|c| c.membership().issued <= denied.at)
    }

    /// Writes down who is denied, and waits for that when the state is open to
    /// others again.
    fn keep_denied(&self, state: RwLockWriteGuard<'_, State>) -> Result<(), MemberError> {
        let path = self.folder.join("denied");
        let saving = self.files.saving(path.clone(), json(&state.denied));
        drop(state);
        let failed = |source| MemberError::File { path, source };
        saving.wait().map_err(failed)
    }
}
