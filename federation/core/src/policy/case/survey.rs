//! Looking at many destinations at once, for policies that share calls out among
//! them by rules of their own.

use libp2p_identity::PeerId;

use super::{Candidate, Case, LOOKED_AT, Terms};
use crate::policy::weigh::fits;
use crate::snapshot::Pool;

/// Members of a pool that a policy may ask for by their places, beside those that
/// are drawn.
pub(in crate::policy) const ASKED_MAX: usize = 8;

impl<'a> Case<'a> {
    /// Looks at all members of a small pool; of a large one at those of `asked`
    /// that are members and at as many draws, in proportion to what they have, as
    /// [`Case::best_of`] makes. Each that could take the call is visited once, with
    /// how likely it was to be: 1 where that was certain.
    pub(in crate::policy) fn survey(
        &mut self,
        pool: &Pool,
        asked: impl IntoIterator<Item = usize>,
        mut visit: impl FnMut(&mut Case<'a>, &Candidate<'a>, f64),
    ) {
        if !self.may_leave() || pool.is_empty() {
            return;
        }
        let look = self.look();
        let peers = self.peers();
        let kinds = pool.kinds_that(|peer| fits(&self.request.needs, &peer.report), peers);
        if pool.len() <= LOOKED_AT {
            for (place, kind) in pool.by_kind() {
                let seen = look.at(&peers[place]);
                if let Some(candidate) = self.look_at(&look, place, seen, kinds.has(kind)) {
                    visit(self, &candidate, 1.0);
                }
            }
            return;
        }
        let pool = pool.fitting(kinds);
        let fit = kinds.are_told().then_some(true);
        if pool.len() <= LOOKED_AT {
            for place in pool.members() {
                let seen = look.at(&peers[place]);
                if let Some(candidate) = self.look_at(&look, place, seen, fit) {
                    visit(self, &candidate, 1.0);
                }
            }
            return;
        }
        let mut places = [None; ASKED_MAX + LOOKED_AT];
        let mut count = 0;
        for place in asked.into_iter().take(ASKED_MAX) {
            if pool.contains(place) && !places[..count].contains(&Some(place)) {
                places[count] = Some(place);
                count += 1;
            }
        }
        let drawn = count;
        for at in drawn..drawn + LOOKED_AT {
            let place = pool.draw(self.chance());
            places[at] = place.filter(|_| !places[..at].contains(&place));
        }
        let total = pool.total().max(1) as f64;
        for (at, found) in look.at_each(peers, places).into_iter().enumerate() {
            let Some((place, seen)) = found else { continue };
            let likely = match at < drawn {
                true => 1.0,
                false => {
                    let share = f64::from(seen.peer.cpu_total.max(1)) / total;
                    1.0 - (1.0 - share.min(1.0)).powi(LOOKED_AT as i32)
                }
            };
            if let Some(candidate) = self.look_at(&look, place, seen, fit) {
                visit(self, &candidate, likely);
            }
        }
    }

    /// Takes the numbers by which a destination is judged, `None` for here.
    pub(in crate::policy) fn terms_at(&mut self, place: Option<usize>) -> Terms<'_> {
        let peer: Option<PeerId> = place.map(|place| self.peers()[place].id);
        self.terms_of(peer)
    }

    /// Whether anybody wants to know how the decision falls.
    pub(in crate::policy) fn is_watched(&self) -> bool {
        self.is_watched
    }
}
