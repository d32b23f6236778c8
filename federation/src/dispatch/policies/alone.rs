//! The policies of a node that is in no federation: it runs all calls itself, and
//! what is set on it holds from the moment when it is in one.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::by_hand::{ByHand, Calls};
use super::managing::{InForce, Unchanged, rows};
use super::{BY_HAND_FILE, Rules};
use crate::policy::Choice;

/// The policies by which a node would place calls, if it had peers.
pub struct Alone {
    rules: Rules,
    by_hand: Mutex<ByHand>,
    path: PathBuf,
}

impl Alone {
    /// Those of the configuration, and those that were set by hand and written
    /// down in the federation's `folder`.
    pub fn load(rules: Rules, folder: &Path) -> Alone {
        let path = folder.join(BY_HAND_FILE);
        Alone {
            rules,
            by_hand: Mutex::new(ByHand::load(&path)),
            path,
        }
    }

    /// As [`super::Dispatch::policies`]; labels of functions are not looked at.
    pub fn policies(&self) -> Vec<InForce> {
        rows(self.rules.written(), Some(&*self.by_hand.lock()))
    }

    /// As [`super::Dispatch::set_policy`]. Blocks on the disk.
    ///
    /// # Errors
    /// Why everything is as it was.
    pub fn set_policy(&self, calls: &Calls, choice: Option<Choice>) -> Result<bool, Unchanged> {
        let mut by_hand = self.by_hand.lock();
        let Some((next, had)) = by_hand.with(calls, choice)? else {
            return Ok(false);
        };
        let folder = self.path.parent().unwrap_or(&self.path);
        let written = std::fs::create_dir_all(folder)
            .and_then(|()| crate::member::save(&self.path, &next.written()));
        written.map_err(|error| Unchanged::Disk(error.to_string()))?;
        *by_hand = next;
        Ok(had)
    }
}
