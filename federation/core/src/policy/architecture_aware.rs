//! `architecture-aware`: which processor suits a function is found out, then the ring
//! of the nodes that have it says where.
//!
//! Serverledge, area load balancer (reference, section 9): a ring for each processor;
//! the processor is the only one that the function can run on, else that of a bandit,
//! of turns, or of chance; then the first node of its ring that has room; the other
//! ring where nobody of it has.
//!
//! Formula: `argmax mean(a) + c sqrt(ln t / n(a))` (by=ucb1) or
//! `argmax x theta(a) + alpha sqrt(x A(a)^-1 x)` (by=linucb) over the processors a,
//! for each function.
//!
//! Mended: as the bandits (`ucb1`, `linucb`) and the rings (`hash-ring`); an area
//! without nodes of one processor counted as in use a hundred times over: here it is
//! no choice; processors are those that nodes report, not two that are written down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_node_core::time::Time;

use super::area::{FAITHFUL, around, beyond, is_spread, others, receive};
use super::bandit::{AGE_INTERVAL, Arm, Bandit, Tried};
use super::hash_ring::REPLICAS;
use super::hashing::{self, Member, Ring, point_of};
use super::learning::Malformed;
use super::linucb::{ALPHA, LAMBDA};
use super::ucb1::{C, HALF_LIFE};
use super::{
    Case, Cell, ClassKey, Decision, Field, Key, Kind, Origin, Outcome, Plan, Policy, Range, Reach,
    Reaches, Reason, Which, Wishes,
};
use crate::facts::PeerKey;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "finds out which processor suits a function, and runs it at the nodes that have it",
    keys: &[
        Key {
            name: "by",
            about: "how the processor is chosen of a function that can run on several",
            unit: "",
            range: Range::Word(&["ucb1", "linucb", "turns", "chance"]),
            default: "ucb1",
        },
        C,
        ALPHA,
        LAMBDA,
        HALF_LIFE,
        REPLICAS,
        FAITHFUL,
    ],
    build: |parameters| {
        let faithful = parameters.flag("faithful");
        let by = match parameters.word("by") {
            "turns" => By::Turns(AtomicU64::new(0)),
            "chance" => By::Chance,
            word => By::Bandit(Tried {
                bandit: match word {
                    "linucb" => {
                        Bandit::linear(parameters.number("alpha"), parameters.number("lambda"))
                    }
                    _ => Bandit::ucb1(parameters.number("c")),
                },
                faithful,
                half_life: parameters.time("half-life"),
            }),
        };
        Arc::new(ArchitectureAware {
            by,
            replicas: parameters.whole("replicas"),
            faithful,
            plan: Plan::default(),
            used: Default::default(),
        })
    },
};

const NAME: &str = "architecture-aware";

/// Processors that are told apart; of more, those that most nodes have.
const ARCHITECTURES_MAX: usize = 4;

/// How a processor is chosen.
enum By {
    Bandit(Tried),
    Turns(AtomicU64),
    Chance,
}

/// The nodes of one processor.
struct Architecture {
    name: String,
    /// What stands for it in the bandit's rows.
    key: ClassKey,
    ring: Ring,
    cores: f64,
}

/// The rings of an area.
struct Rings {
    mark: u64,
    architectures: Vec<Architecture>,
    /// Which of them each peer has, in the order of their keys.
    whose: Vec<(u64, usize)>,
    /// Which of them this node has.
    own: Option<usize>,
}

/// Chooses a processor, then walks its ring.
struct ArchitectureAware {
    by: By,
    replicas: u64,
    faithful: bool,
    plan: Plan<Rings>,
    /// The share of each processor's nodes that is in use.
    used: [Cell; ARCHITECTURES_MAX],
}

impl ArchitectureAware {
    fn spread(&self, case: &mut Case<'_>) -> Option<Decision> {
        let rings = self.plan.current();
        let Some(rings) = rings.as_deref() else {
            let pool = around(case)?;
            let here = case.run_well_here();
            return here.or_else(|| case.best_of(pool, Reach::Horizontal, |one, _| one.rank()));
        };
        let point = point_of(case.request.function);
        let mut left = self.scores(case, rings);
        for _ in 0..rings.architectures.len() {
            let (at, score) = best(&left)?;
            left[at] = None;
            let architecture = &rings.architectures[at];
            case.own_terms().put("processor_score", score);
            let found = hashing::first(case, &architecture.ring, point);
            if found.is_some() {
                self.went(case, architecture, at);
            }
            match found {
                Some(Ok(())) => return Some(Decision::Run),
                Some(Err(place)) => return Some(case.send(place, Reach::Horizontal)),
                None => {}
            }
        }
        None
    }

    /// How good each processor is for the call; `None` where it cannot run there.
    fn scores(&self, case: &mut Case<'_>, rings: &Rings) -> [Option<f64>; ARCHITECTURES_MAX] {
        let needed = case.request.needs.architecture;
        let fits =
            |architecture: &Architecture| needed.is_none_or(|needed| needed == architecture.name);
        let count = rings.architectures.len() as u64;
        let turn = match &self.by {
            By::Turns(turns) if case.is_trial() => turns.load(Ordering::Relaxed),
            By::Turns(turns) => turns.fetch_add(1, Ordering::Relaxed),
            By::Chance | By::Bandit(_) => 0,
        };
        let of = case.function();
        let all = match &self.by {
            By::Bandit(tried) => tried.turn(of),
            By::Turns(_) | By::Chance => 0.0,
        };
        let mut scores = [None; ARCHITECTURES_MAX];
        for (at, architecture) in rings.architectures.iter().enumerate() {
            if !fits(architecture) {
                continue;
            }
            scores[at] = Some(match &self.by {
                By::Chance => case.chance(),
                By::Turns(_) => {
                    let after = (at as u64 + count).saturating_sub(turn % count.max(1));
                    -((after % count.max(1)) as f64)
                }
                By::Bandit(tried) => {
                    let arm = Arm {
                        which: of.class(architecture.key),
                        expected: None,
                        pending: 0.0,
                        cores: architecture.cores,
                        usage: self.used[at].get().unwrap_or(0.0),
                    };
                    tried.score(&arm, all)
                }
            });
        }
        scores
    }

    fn went(&self, case: &Case<'_>, architecture: &Architecture, at: usize) {
        let By::Bandit(tried) = &self.by else { return };
        if !case.is_trial() {
            let arm = case.function().class(architecture.key);
            let used = self.used[at].get().unwrap_or(0.0);
            tried.send(arm, used, true, case.snapshot.now);
        }
    }

    /// The nodes of an area by their processors.
    fn rings(&self, field: &Field<'_>, members: &[Member], mark: u64) -> Rings {
        let mut sorted: Vec<(String, Vec<Member>)> = Vec::new();
        for member in members {
            let name = name_of(field, member);
            match sorted.iter_mut().find(|(of, _)| of == name) {
                Some((_, some)) => some.push(*member),
                None => sorted.push((name.to_owned(), vec![*member])),
            }
        }
        sorted.sort_by(|one, other| (other.1.len(), &one.0).cmp(&(one.1.len(), &other.0)));
        sorted.truncate(ARCHITECTURES_MAX);
        let mut rings = Rings {
            mark,
            architectures: Vec::new(),
            whose: Vec::new(),
            own: None,
        };
        for (at, (name, members)) in sorted.into_iter().enumerate() {
            for member in &members {
                match member.to {
                    Some(_) => rings.whose.push((member.key(), at)),
                    None => rings.own = Some(at),
                }
            }
            rings.architectures.push(Architecture {
                key: ClassKey::of(Some(&name)),
                name,
                ring: Ring::new(&members, self.replicas, self.faithful),
                cores: members.iter().map(Member::cores).sum(),
            });
        }
        rings.whose.sort_unstable();
        rings
    }

    /// Works out which share of each processor's nodes is in use.
    fn look_at_use(&self, field: &Field<'_>, rings: &Rings, tried: &Tried) {
        let mut sums = [(0.0, 0.0); ARCHITECTURES_MAX];
        let mut add = |at: usize, usage: f64| {
            sums[at].0 += usage;
            sums[at].1 += 1.0;
        };
        let pool = others(field.role, field.regions, field.view);
        for place in pool.into_iter().flat_map(|pool| pool.members()) {
            let peer = &field.view.peers[place];
            let found = rings.at(peer.key);
            if let Some(at) = found {
                add(at, tried.usage(&peer.load()));
            }
        }
        if let Some(own) = rings.own {
            add(own, tried.usage(&field.load));
        }
        for (cell, (sum, count)) in self.used.iter().zip(sums) {
            cell.set(if count > 0.0 { sum / count } else { 0.0 });
        }
    }
}

impl Rings {
    fn at(&self, peer: PeerKey) -> Option<usize> {
        let key = peer.as_u64();
        let found = self.whose.binary_search_by_key(&key, |(of, _)| *of);
        found.ok().map(|found| self.whose[found].1)
    }
}

/// The processor of a member.
fn name_of<'a>(field: &'a Field<'_>, member: &Member) -> &'a str {
    match member.to {
        Some(place) => &field.view.peers[place.at].report.architecture,
        None => field.architecture,
    }
}

/// The highest of some scores; of equals the first.
fn best(scores: &[Option<f64>; ARCHITECTURES_MAX]) -> Option<(usize, f64)> {
    let scores = scores.iter().enumerate();
    let scores = scores.filter_map(|(at, score)| Some((at, (*score)?)));
    scores.reduce(|best, other| if other.1 > best.1 { other } else { best })
}

impl Policy for ArchitectureAware {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: !self.faithful,
        }
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        !is_spread(origin)
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        match (self.spread(case), self.faithful) {
            (Some(decision), _) => decision,
            (None, true) => Decision::Reject(Reason::NoRoom),
            (None, false) => beyond(case),
        }
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        receive(case, |case| self.spread(case))
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        let rings = self.plan.current();
        let (By::Bandit(tried), Some(rings)) = (&self.by, rings.as_deref()) else {
            return;
        };
        let at = match &outcome.to {
            Some(peer) => rings.at(PeerKey::of(peer)),
            None => rings.own,
        };
        if let Some(at) = at {
            let of = Which::of(outcome.function);
            let arm = of.class(rings.architectures[at].key);
            tried.learn(of, arm, outcome);
        }
    }

    fn tick(&self, field: &Field<'_>, _: &mut Wishes) -> Time {
        let members = hashing::area(field);
        let mark = hashing::mark(&members);
        let is_same = |rings: &Rings| rings.mark == mark;
        if !self.plan.current().as_deref().is_some_and(is_same) {
            self.plan.publish(self.rings(field, &members, mark));
        }
        if let (By::Bandit(tried), Some(rings)) = (&self.by, self.plan.current().as_deref()) {
            self.look_at_use(field, rings, tried);
            tried.age();
        }
        field.now + AGE_INTERVAL
    }

    fn save(&self) -> Option<Vec<u8>> {
        match &self.by {
            By::Bandit(tried) => tried.save(),
            By::Turns(_) | By::Chance => None,
        }
    }

    fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        match &self.by {
            By::Bandit(tried) => tried.restore(saved, now),
            By::Turns(_) | By::Chance => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests;
