//! A deployment's code on its way to those who are to keep it.

use libp2p_identity::PeerId;

use super::HOLDERS_MAX;
use super::holdings::keepers;
use crate::catalogue::Entry;
use crate::rendezvous::Members;

/// Who is asked to keep the code of a function that was deployed here: those
/// whose it is, and in place of each that cannot the next, as if it were not
/// there.
#[derive(Debug)]
pub struct Settling {
    own: PeerId,
    candidates: Members,
    asked: Vec<PeerId>,
    kept: usize,
    rounds: usize,
}

impl Settling {
    /// Begins; this node has the code.
    pub fn new(own: PeerId, candidates: Members) -> Settling {
        Settling {
            own,
            candidates,
            asked: Vec::new(),
            kept: 1,
            rounds: 0,
        }
    }

    /// Who is to be asked next, all at once; `None` when it is over.
    pub fn next(&mut self, entry: &Entry) -> Option<Vec<PeerId>> {
        if self.rounds >= HOLDERS_MAX {
            return None;
        }
        self.rounds += 1;
        let keepers = keepers(entry, &self.candidates);
        self.asked = keepers
            .into_iter()
            .filter(|keeper| *keeper != self.own)
            .collect();
        Some(self.asked.clone())
    }

    /// What became of that: who of them keeps the code now. Whether it is over.
    pub fn came(&mut self, answers: &[bool]) -> bool {
        self.kept = 1 + answers.iter().filter(|kept| **kept).count();
        let failed = self.asked.iter().zip(answers).filter(|(_, kept)| !**kept);
        let failed: Vec<PeerId> = failed.map(|(keeper, _)| *keeper).collect();
        self.candidates.leave_out(&failed);
        failed.is_empty()
    }

    /// How many members have the code, this node among them.
    pub fn kept(&self) -> usize {
        self.kept
    }
}
