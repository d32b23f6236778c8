//! Ours: a call goes where it is expected to be done first, by what this node
//! learned itself of each function at each peer, and by what the peer says of
//! itself as far as that is young.
//!
//! For each peer that could take the call now, and for this node:
//!
//! ```text
//! predicted = way + bytes x time of a byte + beside + service
//! way       = measured round trip, towards the learned time on the way
//! beside    = usual + (told - usual) x e^(-age / believe)
//! service   = prior + (learned - prior) x e^(-silence / forget)
//! score     = predicted
//!           + refused x (way + usual time of a call)
//!           + failed x loss
//!           + deadline-weight x late x loss
//!           + cloud-cost, in a region
//!           + energy x predicted, where nothing runs
//! ```
//!
//! * `beside` is what a call spends there before it runs: code fetched, a start,
//!   a queue. *Told* is what follows from the peer's newest word, *usual* is
//!   what calls from here met: the state of others is aged towards what is usual,
//!   instead of believed (load-balancing.md, B.1; M. Mitzenmacher, "How useful is
//!   old information?", IEEE TPDS 11(1), 2000). Our own calls that are out count
//!   in the peer's room ([`crate::snapshot::Window`]), and so does the load in
//!   answers.
//! * `service` is learned by function and peer. The *prior* of one that was not
//!   tried is what the peer says, but no less than an eighth of what is usual:
//!   who lies is found out by the first calls, not believed.
//! * `refused` and `failed` are shares of calls, which fade with `recover`. Only
//!   failures count that are more than twice as many as those of the function
//!   anywhere, and a tenth of calls. *Loss* is the rest of the deadline, at most
//!   10 s.
//! * `late` is at most the variance of past predictions divided by itself and the
//!   square of the time that would be left: Cantelli's inequality (F. P. Cantelli,
//!   "Sui confini della probabilità", 1928).
//!
//! All candidates of a small pool are looked at, of a large one 16 draws and the
//! one that was chosen last ([`Case::best_of`]). Scores that differ by less than
//! measurements are worth are alike, and chance decides.
//!
//! Exploration is bounded: what was not tried for long is taken to be as its prior
//! has it, by one call at a time. A peer that says nothing while it has no room is
//! asked how it is, at most four every quarter of a second.
//!
//! Published weaknesses that it does not have, each a test: nobody herds to the
//! fastest node, no black hole (what fails at once looks fast), new nodes do not
//! starve, one error does not empty a table, reaction within seconds, run time
//! and distance count, a liar gains a few calls at most.

mod chances;
mod learn;

use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::id::FunctionName;
use weir_node_core::time::Time;

use self::chances::{doubt, explain, late};
use super::servers::{self, faded, fresh, in_ms};
use super::{
    Candidate, Case, Cell, ClassKey, Decision, Field, Key, Kind, Malformed, Memory, Origin,
    Outcome, Parameters, Policy, Range, Reach, Reaches, Reason, Terms, Which, Wishes,
};
use crate::snapshot::{Cost, Here};

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "runs a call where it is expected to be done first, by what was learned of each function at each peer",
    keys: &[
        Key {
            name: "believe",
            about: "after how long what a peer says of its load counts for a third, beside what is usual there",
            unit: "",
            range: time(10, 60_000),
            default: "1s",
        },
        Key {
            name: "forget",
            about: "after how long without a call what was learned of run times counts for a third",
            unit: "",
            range: time(100, 3_600_000),
            default: "30s",
        },
        Key {
            name: "recover",
            about: "after how long without a call refusals and failures count for a third",
            unit: "",
            range: time(100, 600_000),
            default: "2s",
        },
        Key {
            name: "share",
            about: "weight of a new measurement in averages",
            unit: "",
            range: Range::Number {
                least: 0.01,
                most: 1.0,
            },
            default: "0.2",
        },
        Key {
            name: "deadline-weight",
            about: "what a late call costs, as a multiple of the time that its deadline leaves",
            unit: "",
            range: Range::Number {
                least: 0.0,
                most: 100.0,
            },
            default: "1",
        },
        Key {
            name: "cloud-cost",
            about: "how much sooner a region must be done than the edge, for what a call costs there",
            unit: "",
            range: time(0, 3_600_000),
            default: "0s",
        },
        Key {
            name: "energy",
            about: "by which part of its time a call is to be sooner done where nothing runs, so that idle nodes may sleep",
            unit: "",
            range: Range::Number {
                least: 0.0,
                most: 10.0,
            },
            default: "0",
        },
    ],
    build: |parameters| Arc::new(Adaptive::new(parameters)),
};

const fn time(least: u64, most: u64) -> Range {
    Range::Time {
        least: Duration::from_millis(least),
        most: Duration::from_millis(most),
    }
}

const NAME: &str = "adaptive";

/// Pairs of function and peer that are remembered, about.
const ROWS: usize = 2_048;

/// Part of what is usual that a peer is taken to need at the least, before it was
/// tried.
const PRIOR_LEAST: f64 = 0.125;

/// Most that a failure or a late call counts, in milliseconds.
const LOSS_MAX: f64 = 10_000.0;

/// Bodies and answers of fewer bytes together take no time of their own.
const BULK_BYTES: u64 = 32 << 10;

/// Scores that differ by less are alike, in milliseconds, or as a part of the
/// run time.
const ALIKE_MS: f64 = 1.0;
const ALIKE_SHARE: f64 = 16.0;

/// Weight of a new failure, and of a refusal, in its share. A failure is rare, and
/// means little alone; refusals come in rows.
const FAILURE_SHARE: f64 = 0.05;
const REFUSAL_SHARE: f64 = 0.2;

/// The same of a failure in those of the function anywhere, so that one peer that
/// fails all is not what is usual.
const USUAL_SHARE: f64 = 0.01;

/// Failures that mean nothing: a part of calls, and so many times those of the
/// function anywhere.
const FAILED_USUALLY: f64 = 0.1;
const FAILED_MORE: f64 = 2.0;

/// What is left of a share when it is taken to be over, for a call that tries.
const FADED: f64 = 0.25;

/// How often peers that say nothing are asked.
const ASK_INTERVAL: Duration = Duration::from_millis(250);

/// Peers that are asked then, at most, and those that are looked at for it.
const ASKED_MAX: usize = 4;
const LOOKED_AT_TO_ASK: usize = 64;

/// Nobody is asked this long after the last call.
const ACTIVE: Duration = Duration::from_secs(5);

/// Rank of a peer to which the way is congested: the last.
const CONGESTED: u64 = u64::MAX - 1;

/// What a row of the table holds of a function at a destination, in milliseconds
/// but where it says otherwise.
mod at {
    /// Run time.
    pub(super) const SERVICE: usize = 0;
    /// Code fetched, start, queue.
    pub(super) const BESIDE: usize = 1;
    /// There and back. Of the row of a function alone: a whole call.
    pub(super) const WAY: usize = 2;
    /// Square of the error of predictions.
    pub(super) const VARIANCE: usize = 3;
    /// Share of calls that failed, were lost or late.
    pub(super) const FAILED: usize = 4;
    /// Share of calls that were refused.
    pub(super) const REFUSED: usize = 5;
    /// When the last call ended, in seconds.
    pub(super) const SEEN: usize = 6;
    /// Nanoseconds for a byte, of the row of a peer; bytes of an answer, of the
    /// row of a function.
    pub(super) const BYTES: usize = 7;
    /// How many there are.
    pub(super) const CELLS: usize = 8;
}

type Row = [Cell; at::CELLS];

/// Learns how soon each function is done at each peer.
struct Adaptive {
    known: Memory<{ at::CELLS }>,
    /// When a call ended last, in seconds.
    active: Cell,
    believe: Duration,
    forget: f64,
    recover: f64,
    share: f64,
    deadline_weight: f64,
    cloud_cost: f64,
    energy: f64,
}

/// What is the same for all candidates of a decision. Times in milliseconds.
struct Look {
    function: Which,
    now: f64,
    /// What the deadline leaves; infinite for none.
    left: f64,
    /// What a failure costs.
    loss: f64,
    /// Run time here, or wherever it was seen.
    service: Option<f64>,
    /// A whole call, wherever it ran.
    call: f64,
    /// Share of calls whose failure means nothing.
    failed: f64,
    /// Bytes that travel, where they are many.
    bulk: f64,
    /// Scores that differ by less are alike.
    alike: f64,
    chance_of_late: bool,
}

/// How soon a call is expected to be done somewhere, and what speaks against that.
#[derive(Debug, Clone, Copy, Default)]
struct Prediction {
    way: f64,
    beside: f64,
    service: f64,
    variance: f64,
    refused: f64,
    failed: f64,
}

impl Prediction {
    fn total(&self) -> f64 {
        self.way + self.beside + self.service
    }
}

fn seconds(now: Time) -> f64 {
    now.since(Time::ZERO).as_secs_f64()
}

fn read(row: Option<&Row>, cell: usize) -> Option<f64> {
    row?[cell].get()
}

/// Moves from one number to another.
fn between(from: f64, to: Option<f64>, part: f64) -> f64 {
    to.map_or(from, |to| from + (to - from) * part)
}

impl Adaptive {
    fn new(parameters: &Parameters) -> Adaptive {
        let seconds = |key| parameters.time(key).as_secs_f64();
        Adaptive {
            known: Memory::new(ROWS),
            active: Cell::default(),
            believe: parameters.time("believe"),
            forget: seconds("forget"),
            recover: seconds("recover"),
            share: parameters.number("share"),
            deadline_weight: parameters.number("deadline-weight"),
            cloud_cost: seconds("cloud-cost") * 1e3,
            energy: parameters.number("energy"),
        }
    }

    fn look(&self, case: &Case<'_>) -> Look {
        let (request, snapshot) = (case.request, case.snapshot);
        let function = case.function();
        let usual = self.known.find(function);
        let service = snapshot.local.service.map(in_ms);
        let service = service.or_else(|| read(usual, at::SERVICE));
        let left = match request.deadline {
            Time::NEVER => f64::INFINITY,
            deadline => in_ms(deadline.since(snapshot.now)),
        };
        let bytes = request.more.body_bytes.unwrap_or(0) as f64
            + read(usual, at::BYTES).unwrap_or_default();
        Look {
            function,
            now: seconds(snapshot.now),
            left,
            loss: left.min(LOSS_MAX),
            service,
            call: read(usual, at::WAY).or(service).unwrap_or_default(),
            failed: FAILED_USUALLY + FAILED_MORE * read(usual, at::FAILED).unwrap_or_default(),
            bulk: if bytes < BULK_BYTES as f64 {
                0.0
            } else {
                bytes
            },
            alike: (service.unwrap_or_default() / ALIKE_SHARE).max(ALIKE_MS),
            chance_of_late: left.is_finite() && self.deadline_weight > 0.0,
        }
    }

    /// What is expected of a peer.
    #[inline]
    fn predict(&self, look: &Look, candidate: &Candidate<'_>) -> Prediction {
        let peer = candidate.peer;
        let row = self.known.find(look.function.to_peer(peer.key));
        let told = candidate.told_service().map(in_ms);
        let prior = match (told, look.service) {
            (Some(told), Some(usual)) => told.max(usual * PRIOR_LEAST),
            (Some(told), None) => told,
            (None, usual) => usual.unwrap_or_default(),
        };
        let round_trip = peer.round_trip_nanos as f64 / 1e6;
        // What a start and a queue take by its newest word: the core's own
        // estimate, less the rest of it.
        let core = candidate.seen_service().map(in_ms).or(told);
        let core = core.or(look.service).unwrap_or_default();
        let said = (in_ms(candidate.delay()) - round_trip - core).max(0.0);
        let bulk = match look.bulk > 0.0 {
            true => self.of_bytes(peer.key, look.bulk),
            false => 0.0,
        };
        let Some(row) = row else {
            return Prediction {
                way: round_trip + bulk,
                beside: said,
                service: prior,
                variance: prior * prior / 4.0,
                ..Prediction::default()
            };
        };
        let silence = (look.now - row[at::SEEN].get().unwrap_or_default()).max(0.0);
        // One call at a time finds out whether what was learned long ago is so
        // still.
        let tries = peer.held() > 0;
        let learned = match faded(silence / self.forget) {
            learned if learned < 0.5 && tries => 1.0,
            learned => learned,
        };
        let recent = match faded(silence / self.recover) {
            recent if recent < FADED => f64::from(u8::from(tries)),
            recent => recent,
        };
        let believed = fresh(candidate.age(), self.believe);
        let usual = between(said, row[at::BESIDE].get(), learned);
        let share = |cell: usize| row[cell].get().unwrap_or_default() * recent;
        Prediction {
            way: between(round_trip, row[at::WAY].get(), learned) + bulk,
            beside: usual + (said - usual) * believed,
            service: between(prior, row[at::SERVICE].get(), learned),
            variance: row[at::VARIANCE].get().unwrap_or(prior * prior / 4.0),
            // A young word that it has room halves the doubt at the most, and none
            // of it where it always refuses.
            refused: doubt(share(at::REFUSED), believed),
            failed: (share(at::FAILED) - look.failed).max(0.0),
        }
    }

    /// How long so many bytes take to a peer.
    #[cold]
    fn of_bytes(&self, peer: crate::facts::PeerKey, bytes: f64) -> f64 {
        let row = self.known.find(Which::NODE.to_peer(peer));
        read(row, at::BYTES).unwrap_or_default() * bytes / 1e6
    }

    /// What is expected of this node, after a wait.
    fn here(&self, look: &Look, case: &Case<'_>, wait: Duration) -> Prediction {
        let local = &case.snapshot.local;
        let start = match local.here {
            Here::Startable => local.start.map(in_ms).unwrap_or_default(),
            Here::Warm | Here::Full | Here::Unable => 0.0,
        };
        let service = look.service.unwrap_or_default();
        let variance = match look.chance_of_late {
            true => read(self.known.find(look.function.at(None)), at::VARIANCE),
            false => None,
        };
        Prediction {
            beside: in_ms(wait) + start,
            service,
            variance: variance.unwrap_or(service * service / 4.0),
            ..Prediction::default()
        }
    }

    #[inline]
    fn score(&self, look: &Look, of: &Prediction) -> f64 {
        let total = of.total();
        let mut score = total + of.refused * (of.way + look.call) + of.failed * look.loss;
        if look.chance_of_late {
            score += self.deadline_weight * late(look.left - total, of.variance) * look.loss;
        }
        score
    }

    fn rank(&self, look: &Look, score: f64) -> u64 {
        (score / look.alike) as u64
    }

    fn rank_of(
        &self,
        look: &Look,
        reach: Reach,
        candidate: &Candidate<'_>,
        terms: &mut Terms<'_>,
    ) -> u64 {
        let predicted = self.predict(look, candidate);
        let mut score = self.score(look, &predicted);
        if reach == Reach::Vertical {
            score += self.cloud_cost;
        }
        if self.energy > 0.0 && candidate.peer.load().running == 0 {
            score += self.energy * predicted.total();
        }
        if terms.is_watched() {
            explain(terms, look, &predicted, score);
        }
        match candidate.is_congested() {
            true => CONGESTED,
            false => self.rank(look, score),
        }
    }

    /// The best of all that may take the call, with its rank.
    fn best(&self, look: &Look, case: &mut Case<'_>) -> Option<(u64, Decision)> {
        let mut least = [u64::MAX; 2];
        let [near_least, up_least] = &mut least;
        let view = case.snapshot.view;
        let reach = Reach::Horizontal;
        let near = case.best_of(view.neighbours(), reach, |candidate, terms| {
            let rank = self.rank_of(look, reach, candidate, terms);
            *near_least = (*near_least).min(rank);
            rank
        });
        let up = servers::cloud(case, |candidate, terms| {
            let rank = self.rank_of(look, Reach::Vertical, candidate, terms);
            *up_least = (*up_least).min(rank);
            rank
        });
        let near = near.map(|near| (least[0], near));
        let up = up.map(|up| (least[1], up));
        match (near, up) {
            (Some(near), Some(up)) if up.0 < near.0 => Some(up),
            (Some(near), _) => Some(near),
            (None, up) => up,
        }
    }
}

impl Policy for Adaptive {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: true,
        }
    }

    fn runs_here_first(&self, origin: Origin) -> bool {
        origin != Origin::Here
    }

    fn shares_out(&self) -> bool {
        // Only for calls that would wait: an idle peer is no sooner done than here.
        false
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        let look = self.look(case);
        let local = case.snapshot.local;
        let at_once = case.run_well_here();
        let wait = match (at_once, local.here, local.queue) {
            (Some(_), _, _) => Some(Duration::ZERO),
            (None, Here::Full, wait) => wait,
            (None, Here::Warm | Here::Startable | Here::Unable, _) => None,
        };
        let own = wait.map(|wait| {
            let here = self.here(&look, case, wait);
            let score = self.score(&look, &here);
            if case.own_terms().is_watched() {
                explain(&mut case.own_terms(), &look, &here, score);
            }
            self.rank(&look, score)
        });
        let best = self.best(&look, case);
        match (best, own) {
            (Some((rank, _)), Some(own)) if own <= rank => {}
            (Some((_, best)), _) => return best,
            (None, _) => {}
        }
        at_once.unwrap_or_else(|| servers::otherwise(case))
    }

    fn receive(&self, case: &mut Case<'_>) -> Decision {
        let decision = case.run_here();
        let decision = decision.or_else(|| match case.request.origin {
            Origin::Here | Origin::Neighbour => {
                let look = self.look(case);
                self.best(&look, case).map(|(_, decision)| decision)
            }
            Origin::Region { .. } => case.balance(),
        });
        decision.unwrap_or(Decision::Reject(Reason::NobodyHasRoom))
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        self.active.set(seconds(outcome.ended));
        self.learn(outcome);
    }

    fn tick(&self, field: &Field<'_>, wishes: &mut Wishes) -> Time {
        let next = field.now + ASK_INTERVAL;
        let active = self.active.get().map(|active| seconds(field.now) - active);
        if active.is_none_or(|silence| silence > ACTIVE.as_secs_f64()) {
            return next;
        }
        let pool = field.view.neighbours();
        let draws = crate::snapshot::Draws::new(field.chance);
        let one = Cost {
            cpu: 1,
            long: false,
        };
        for chance in draws.take(LOOKED_AT_TO_ASK.min(pool.len().saturating_mul(4))) {
            let Some(place) = pool.draw(chance) else {
                break;
            };
            let peer = &field.view.peers[place];
            let is_old = field.now.since(peer.loaded()) > self.believe;
            if is_old && peer.room_for(one) == 0 {
                wishes.probe(peer.id);
            }
            if wishes.probes().len() == ASKED_MAX {
                break;
            }
        }
        next
    }

    fn weight(&self, function: &FunctionName, _: ClassKey, to: Option<&PeerId>) -> Option<f64> {
        let row = self.known.find(Which::of(function).at(to))?;
        let service = row[at::SERVICE].get()?;
        let rest = [at::BESIDE, at::WAY].map(|cell| row[cell].get());
        Some(service + rest.into_iter().flatten().sum::<f64>())
    }

    fn save(&self) -> Option<Vec<u8>> {
        self.known.save()
    }

    fn restore(&self, saved: &[u8], now: Time) -> Result<(), Malformed> {
        self.known.restore(saved, now)?;
        // Run times stay true over a restart; who failed may be well again.
        for (_, row) in self.known.rows() {
            if row[at::SEEN].get().is_some() {
                row[at::SEEN].set(seconds(now));
            }
            row[at::FAILED].clear();
            row[at::REFUSED].clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
