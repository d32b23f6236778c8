//! Peers that are drawn in proportion to what they have, sorted by what they
//! can run.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::report::Report;
use crate::slots::{Places, Slots};
use crate::snapshot::{PeerView, PeerViews};

/// Peers that are drawn in proportion to what they have.
#[derive(Debug, Default, Clone)]
pub struct Pool {
    /// Places in [`View::peers`].
    members: Arc<[u32]>,
    /// What each of them has, where that is the same.
    even: Option<u64>,
    /// The sum of weights up to each, where they differ.
    sums: Vec<u64>,
    /// The first member whose sum is above each multiple of `1 << shift`: what
    /// is drawn is near it. H.-C. Chen, Y. Asau, "On generating random variates
    /// from an empirical distribution", AIIE Transactions 6(2), 1974.
    guide: Vec<u32>,
    shift: u32,
    /// The same members.
    places: Places,
    /// The same by what they can run, where they differ in that.
    kinds: Vec<Pool>,
    /// The kind of each member, where they differ in that.
    kind_of: Vec<u8>,
    /// Whether there are more than [`KINDS`] kinds, so that they are not sorted.
    has_many_kinds: bool,
}

/// Kinds of members by which a pool is sorted: as many as one number has bits.
const KINDS: usize = 64;

/// Which kinds of a pool's members can run something.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kinds {
    /// Those whose bit is set.
    Told(u64),
    /// The members are of too many kinds: each has to be looked at.
    Untold,
}

impl Kinds {
    /// Whether members of a kind can; `None` when nobody knows.
    pub(crate) fn has(self, kind: u8) -> Option<bool> {
        match self {
            Kinds::Told(mask) => Some(mask >> kind & 1 != 0),
            Kinds::Untold => None,
        }
    }

    /// Whether that is known.
    pub(crate) fn are_told(self) -> bool {
        matches!(self, Kinds::Told(_))
    }
}

/// The members of a pool that can run something, unless that is all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fitting<'a> {
    parts: &'a [Pool],
    /// Which of them.
    mask: u64,
    /// The sum of their weights.
    total: u64,
}

impl<'a> Fitting<'a> {
    fn parts(&self) -> impl Iterator<Item = &'a Pool> + use<'a> {
        let mask = self.mask;
        let parts = self.parts.iter().enumerate();
        parts.filter_map(move |(at, part)| (mask & (1 << at) != 0).then_some(part))
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.parts().map(Pool::len).sum()
    }

    /// The sum of what they have.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// All of them, as places in [`View::peers`].
    pub(crate) fn members(&self) -> impl Iterator<Item = usize> + use<'a> {
        self.parts().flat_map(Pool::members)
    }

    /// Whether somebody is one of them.
    pub(crate) fn contains(&self, place: usize) -> bool {
        self.parts().any(|part| part.contains(place))
    }

    /// One of them, for a number in `0.0..1.0`.
    pub(crate) fn draw(&self, chance: f64) -> Option<usize> {
        let mut at = scaled(chance, self.total);
        let mut last = None;
        for part in self.parts() {
            let total = part.total();
            if at < total {
                return part.draw_at(at);
            }
            at -= total;
            last = Some(part);
        }
        last?.draw_at(u64::MAX)
    }
}

fn scaled(chance: f64, total: u64) -> u64 {
    // A weight is far below 2^53, where this would lose whole numbers.
    (chance.clamp(0.0, 1.0) * total as f64) as u64
}

/// By what kinds of peers are told apart.
fn abilities_of(report: &Report) -> (&String, &Vec<String>, &BTreeMap<String, String>) {
    (&report.architecture, &report.executors, &report.labels)
}

impl Pool {
    /// Members by place, sorted by what they can run.
    pub(crate) fn sorted(slots: &Slots, places: &Arc<[u32]>) -> Pool {
        let weight = |place| u64::from(slots[place].cpu_total);
        let mut kinds: BTreeMap<_, Vec<u32>> = BTreeMap::new();
        for place in places.iter() {
            let can = abilities_of(&slots[*place].report);
            kinds.entry(can).or_default().push(*place);
            if kinds.len() > KINDS {
                break;
            }
        }
        let mut pool = Pool::new(places.clone(), weight);
        if kinds.len() > KINDS {
            pool.has_many_kinds = true;
            return pool;
        }
        if kinds.len() > 1 {
            let names: Vec<_> = kinds.keys().copied().collect();
            let kind = |place: &u32| {
                let at = names.binary_search(&abilities_of(&slots[*place].report));
                at.ok().and_then(|at| u8::try_from(at).ok()).unwrap_or(0)
            };
            pool.kind_of = places.iter().map(kind).collect();
            let kinds = kinds.into_values();
            pool.kinds = kinds.map(|of| Pool::new(of.into(), weight)).collect();
        }
        pool
    }

    /// Which kinds of members can run something; one of each is looked at.
    pub(crate) fn kinds_that(&self, can: impl Fn(&PeerView) -> bool, peers: &PeerViews) -> Kinds {
        if self.has_many_kinds {
            return Kinds::Untold;
        }
        let all = std::slice::from_ref(self);
        let kinds = if self.kinds.is_empty() {
            all
        } else {
            &self.kinds
        };
        let mut mask = 0;
        for (kind, of) in kinds.iter().enumerate() {
            if of.members().next().is_some_and(|place| can(&peers[place])) {
                mask |= 1 << kind;
            }
        }
        Kinds::Told(mask)
    }

    /// All members with their kinds.
    pub(crate) fn by_kind(&self) -> impl Iterator<Item = (usize, u8)> + use<'_> {
        let kinds = self.kind_of.iter().copied().chain(std::iter::repeat(0));
        self.members().zip(kinds)
    }

    /// Members of the kinds that can run something.
    pub(crate) fn fitting(&self, kinds: Kinds) -> Fitting<'_> {
        let all = Fitting {
            parts: std::slice::from_ref(self),
            mask: 1,
            total: self.total(),
        };
        let Kinds::Told(mask) = kinds else {
            return all;
        };
        let some = Fitting {
            parts: &self.kinds,
            mask,
            total: 0,
        };
        let count = mask.count_ones() as usize;
        match count == self.kinds.len().max(1) {
            true => all,
            false => Fitting {
                total: some.parts().map(Pool::total).sum(),
                ..some
            },
        }
    }

    fn total(&self) -> u64 {
        match self.even {
            Some(weight) => weight.saturating_mul(self.members.len() as u64),
            None => self.sums.last().copied().unwrap_or(0),
        }
    }

    /// Members by place, with what each has.
    fn new(members: Arc<[u32]>, weight: impl Fn(u32) -> u64) -> Pool {
        let weight = |place: &u32| weight(*place).max(1);
        let even = members.first().map(weight);
        let mut pool = Pool {
            even: even.filter(|even| members.iter().all(|place| weight(place) == *even)),
            ..Pool::default()
        };
        for &place in &*members {
            pool.places.insert(place);
        }
        pool.members = members;
        if pool.even.is_none() {
            let members = pool.members.clone();
            pool.weigh(members.iter().map(weight));
        }
        pool
    }

    /// Prepares draws in proportion to these weights.
    fn weigh(&mut self, weights: impl Iterator<Item = u64>) {
        let mut total = 0_u64;
        self.sums = weights
            .map(|weight| {
                total = total.saturating_add(weight);
                total
            })
            .collect();
        while total >> self.shift > self.members.len() as u64 {
            self.shift += 1;
        }
        let mut member = 0;
        for mark in 0..=total >> self.shift {
            let below = |sum: &u64| *sum <= mark << self.shift;
            while self.sums.get(member).is_some_and(below) {
                member += 1;
            }
            self.guide.push(u32::try_from(member).unwrap_or(u32::MAX));
        }
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All of them, as places in [`View::peers`].
    pub fn members(&self) -> impl Iterator<Item = usize> + use<'_> {
        self.members.iter().map(|place| *place as usize)
    }

    /// One of them, by its number among them: each is as likely as another where
    /// numbers are.
    pub fn member(&self, number: usize) -> Option<usize> {
        Some(*self.members.get(number)? as usize)
    }

    /// Whether somebody is one of them.
    pub fn contains(&self, place: usize) -> bool {
        u32::try_from(place).is_ok_and(|place| self.places.contains(place))
    }

    /// One of them, for a number in `0.0..1.0`.
    pub fn draw(&self, chance: f64) -> Option<usize> {
        self.draw_at(scaled(chance, self.total()))
    }

    fn draw_at(&self, at: u64) -> Option<usize> {
        let last = self.members.len().checked_sub(1)?;
        if let Some(weight) = self.even {
            let at = usize::try_from(at / weight).unwrap_or(usize::MAX);
            return Some(self.members[at.min(last)] as usize);
        }
        let mark = (at >> self.shift) as usize;
        let from = self.guide.get(mark).map_or(last, |from| *from as usize);
        let to = self.guide.get(mark + 1).map_or(last, |to| *to as usize);
        let (from, to) = (from.min(last), to.min(last));
        let found = self.sums[from..=to].partition_point(|sum| *sum <= at);
        Some(self.members[(from + found).min(last)] as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Draws;

    /// Members of these weights, by their places.
    fn of(weights: &[u64]) -> Pool {
        let members = 0..u32::try_from(weights.len()).expect("few");
        Pool::new(members.collect(), |place| weights[place as usize])
    }

    #[test]
    fn draws_are_in_proportion_to_room() {
        assert_eq!(Pool::default().draw(0.5), None);
        let pool = of(&[1, 0, 8]);
        let mut counts = [0; 3];
        for chance in Draws::new(7).take(10_000) {
            counts[pool.draw(chance).expect("somebody")] += 1;
        }
        // One who says nothing of room may still be asked, seldom.
        assert!((700..1_300).contains(&counts[0]), "{counts:?}");
        assert!((700..1_300).contains(&counts[1]), "{counts:?}");
        assert!((7_600..8_400).contains(&counts[2]), "{counts:?}");
        assert_eq!((pool.draw(0.0), pool.draw(1.0)), (Some(0), Some(2)));
    }

    #[test]
    fn a_guided_draw_is_what_all_sums_say() {
        let mut weights = Draws::new(9);
        for count in [1, 2, 17, 300] {
            // Some are a thousand times as large as others.
            let large = |weight: f64| (weight * weight * weight * 16_000.0) as u64;
            let weights: Vec<u64> = weights.by_ref().take(count).map(large).collect();
            let pool = of(&weights);
            let total = pool.total();
            for chance in Draws::new(3).take(2_000).chain([0.0, 1.0]) {
                let at = (chance * total as f64) as u64;
                let found = pool.sums.partition_point(|sum| *sum <= at);
                let expected = found.min(count - 1);
                assert_eq!(pool.draw(chance), Some(expected));
            }
        }
    }

    #[test]
    fn a_draw_among_equals_is_what_all_sums_say() {
        for (count, weight) in [(1, 1), (3, 7), (300, 4_000)] {
            let pool = of(&vec![weight; count]);
            for chance in Draws::new(3).take(2_000).chain([0.0, 1.0]) {
                let at = (chance * (count as u64 * weight) as f64) as u64;
                let expected = (at / weight).min(count as u64 - 1);
                assert_eq!(pool.draw(chance), usize::try_from(expected).ok());
            }
        }
    }
}
