//! `auction`: nodes with room ask a price, those without bid for it, and what does not
//! fit here goes by what was granted.
//!
//! MADeA of DFaaSOptimizer's comparison (reference, section 10), which follows D.
//! Bertsekas, "The auction algorithm: a distributed relaxation method for the
//! assignment problem", Annals of Operations Research 14, 1988. What is traded is
//! processors.
//!
//! Formula, each round, with values and prices in thousandths of a second:
//!
//! * what a seller is worth to a buyer: `score = worth - latency-weight x round trip -
//!   fairness-weight x how often it served, as a share`, and it must be above the
//!   seller's price less `reject-cost`;
//! * a buyer asks sellers in the order of `score - price` for what it lacks, and bids
//!   `price + epsilon`;
//! * a seller grants by bid while it has room; its price is then the lowest bid that it
//!   took plus `eta x (use - 0.9)`, or `(1 - zeta)` times itself where nobody bid.
//!
//! Mended: a call that came between two rounds found no grant and was lost: here it
//! goes to the best of `score - price` among those with room. Rounds until agreement
//! were a period's work of a coordinator that all waited for: here each second has one
//! round, by notes, and prices carry over. A seller's word was for ever: it ages.
//! Grants are to processors, and what a seller granted to others is not offered twice.

use std::sync::Arc;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::time::Time;

use super::area::{
    FAITHFUL, PERIOD, Place, Shares, around, beyond, highest_first, others, period, read_key,
    read_number, receive, seconds, written,
};
use super::learning::{Malformed, NOTE_BYTES_MAX};
use super::{
    Candidate, Case, Cell, Decision, Ending, Field, Key, Kind, Memory, Outcome, Plan, Policy,
    Range, Reach, Reaches, Reason, Terms, Which, Wishes,
};
use crate::facts::PeerKey;

/// As the list has it.
pub(super) const KIND: Kind = Kind {
    name: NAME,
    about: "has nodes with room ask a price and those without bid for it, and sends what does not fit here by what was granted",
    keys: &[
        weight("worth", "what a call that runs is worth", "ms", "1000"),
        weight(
            "latency-weight",
            "what a round trip costs, for each of its time",
            "",
            "1",
        ),
        weight(
            "fairness-weight",
            "what it costs that a seller served all calls of late",
            "ms",
            "10",
        ),
        weight(
            "reject-cost",
            "what a call that nobody runs costs",
            "ms",
            "1000",
        ),
        weight("epsilon", "what a bid is above the price", "ms", "1"),
        weight(
            "eta",
            "how much a price grows with the seller's use above nine tenths",
            "ms",
            "50",
        ),
        Key {
            name: "zeta",
            about: "which part of a price is lost in a round without bids",
            unit: "",
            range: Range::Number {
                least: 0.0,
                most: 1.0,
            },
            default: "0.1",
        },
        PERIOD,
        FAITHFUL,
    ],
    build: |parameters| {
        let faithful = parameters.flag("faithful");
        Arc::new(Auction {
            terms: Weights {
                worth: parameters.number("worth"),
                latency: parameters.number("latency-weight"),
                fairness: parameters.number("fairness-weight"),
                reject: parameters.number("reject-cost"),
                epsilon: parameters.number("epsilon"),
                eta: parameters.number("eta"),
                zeta: parameters.number("zeta"),
            },
            period: period(parameters.time("period"), faithful, PUBLISHED),
            faithful,
            peers: Memory::new(PEERS_KNOWN),
            price: Cell::default(),
            lacking: Cell::default(),
            wanted: Cell::default(),
            service: Cell::default(),
            own: Cell::default(),
            ticked: Cell::default(),
            granted: Plan::default(),
        })
    },
};

const NAME: &str = "auction";

const fn weight(
    name: &'static str,
    about: &'static str,
    unit: &'static str,
    default: &'static str,
) -> Key {
    Key {
        name,
        about,
        unit,
        range: Range::Number {
            least: 0.0,
            most: 1e6,
        },
        default,
    }
}

/// The period of DFaaSOptimizer's models.
const PUBLISHED: Duration = Duration::from_secs(60);

/// Peers whose word is remembered.
const PEERS_KNOWN: usize = 8 << 10;

/// Periods after which what was told is nothing any more.
const PERIODS_KEPT: f64 = 3.0;

/// What the newest period counts in what is lacking.
const NEWEST: f64 = 0.5;

/// The use of a seller from which its price grows.
const USE_USUAL: f64 = 0.9;

/// What a call takes of which nothing is known, in seconds.
const SERVICE_UNKNOWN: f64 = 0.1;

/// The first byte of a note.
const FORMAT: u8 = 1;

/// Bytes of a note before its lists: format, room, price, and how many grants there
/// are.
const HEAD_BYTES: usize = 10;

/// Bytes of a grant: to whom and how much. A bid has a price beside that.
const GRANT_BYTES: usize = 12;
const BID_BYTES: usize = 16;

/// Grants, and bids, of one note.
const GRANTS_MAX: usize = 32;
const BIDS_MAX: usize = 32;

const _: () = assert!(
    HEAD_BYTES + GRANTS_MAX * GRANT_BYTES + BIDS_MAX * BID_BYTES <= NOTE_BYTES_MAX,
    "a note holds all"
);

// Numbers of a peer.
/// Processors that it sells, and at what price.
const ROOM: usize = 0;
const PRICE: usize = 1;
const HEARD: usize = 2;
/// What it granted this node.
const GRANTED: usize = 3;
/// What it bids here, and for how much.
const BID: usize = 4;
const BID_FOR: usize = 5;
/// How often it served of late.
const SERVED: usize = 6;

/// What things cost.
struct Weights {
    worth: f64,
    latency: f64,
    fairness: f64,
    reject: f64,
    epsilon: f64,
    eta: f64,
    zeta: f64,
}

/// Buys and sells.
struct Auction {
    terms: Weights,
    period: Duration,
    faithful: bool,
    peers: Memory<7>,
    /// What this node asks.
    price: Cell,
    /// Seconds of a processor that calls without room here wanted since the last
    /// round, and smoothed, as processors.
    lacking: Cell,
    wanted: Cell,
    /// How long calls run, in seconds.
    service: Cell,
    /// What stands for this node's id ([`half_of`]).
    own: Cell,
    ticked: Cell,
    granted: Plan<Shares<Place>>,
}

/// A seller, in a round.
struct Seller {
    key: PeerKey,
    room: f64,
    price: f64,
    net: f64,
}

/// What a note says.
#[derive(Debug, Default, PartialEq)]
struct Note {
    room: f64,
    price: f64,
    /// To whom, and how much.
    grants: Vec<(u64, f64)>,
    /// Whom, what is bid, and for how much.
    bids: Vec<(u64, f64, f64)>,
}

impl Note {
    fn write(&self) -> Vec<u8> {
        let mut note = vec![FORMAT];
        note.extend(written(self.room));
        note.extend(written(self.price));
        note.push(u8::try_from(self.grants.len()).unwrap_or(u8::MAX));
        for (to, much) in &self.grants {
            note.extend(to.to_le_bytes());
            note.extend(written(*much));
        }
        for (whom, bid, much) in &self.bids {
            note.extend(whom.to_le_bytes());
            note.extend(written(*bid));
            note.extend(written(*much));
        }
        note
    }

    fn read(note: &[u8]) -> Option<Note> {
        let (head, rest) = note.split_at_checked(HEAD_BYTES)?;
        if head[0] != FORMAT {
            return None;
        }
        let count = usize::from(head[9]);
        let (grants, bids) = rest.split_at_checked(count * GRANT_BYTES)?;
        let (bids, left) = bids.as_chunks::<BID_BYTES>();
        if !left.is_empty() || count > GRANTS_MAX || bids.len() > BIDS_MAX {
            return None;
        }
        let grant = |bytes: &[u8]| Some((read_key(bytes)?, read_number(&bytes[8..])?));
        let bid = |bytes: &[u8; BID_BYTES]| {
            let (bid, much) = (read_number(&bytes[8..])?, read_number(&bytes[12..])?);
            Some((read_key(bytes)?, bid, much))
        };
        let grants = grants.chunks_exact(GRANT_BYTES).map(grant);
        Some(Note {
            room: read_number(&head[1..])?,
            price: read_number(&head[5..])?,
            grants: grants.collect::<Option<_>>()?,
            bids: bids.iter().map(bid).collect::<Option<_>>()?,
        })
    }
}

impl Auction {
    fn is_fresh(&self, cells: &[Cell; 7], now: f64) -> bool {
        let heard = cells[HEARD].get().unwrap_or(f64::NEG_INFINITY);
        now - heard <= PERIODS_KEPT * self.period.as_secs_f64()
    }

    /// What a seller is worth.
    fn score(&self, round_trip: Duration, served: f64) -> f64 {
        let terms = &self.terms;
        let far = terms.latency * round_trip.as_secs_f64() * 1e3;
        terms.worth - far - terms.fairness * served
    }

    /// How often a peer served, as a share of all that did.
    fn share_served(&self, cells: &[Cell; 7], all: f64) -> f64 {
        cells[SERVED].get().unwrap_or(0.0) / all.max(1.0)
    }

    /// By what was granted.
    fn by_grants(&self, case: &mut Case<'_>) -> Option<Decision> {
        let granted = self.granted.current();
        let (place, share) = granted.as_deref()?.draw(case.chance())?;
        let candidate = place.candidate(case)?;
        case.terms(&candidate).put("granted_share", share);
        Some(case.send(candidate.place, Reach::Horizontal))
    }

    /// To the best of those with room, by what they are worth less what they ask.
    fn by_price(&self, case: &mut Case<'_>) -> Option<Decision> {
        let pool = around(case)?;
        let now = seconds(case.snapshot.now);
        let mut best = f64::NEG_INFINITY;
        let rank = |candidate: &Candidate<'_>, terms: &mut Terms<'_>| {
            let cells = self.peers.find(Which::NODE.to_peer(candidate.peer.key));
            let cells = cells.filter(|cells| self.is_fresh(cells, now));
            let price = cells.and_then(|cells| cells[PRICE].get()).unwrap_or(0.0);
            let score = self.score(candidate.peer.round_trip(), 0.0);
            // Our calls that it holds are before the next.
            let pending = self.terms.epsilon * f64::from(candidate.held());
            let net = score - price - pending;
            terms.put("score_ms", score);
            terms.put("price_ms", price);
            best = best.max(net);
            highest_first(net)
        };
        let decision = case.best_of(pool, Reach::Horizontal, rank);
        decision.filter(|_| best > -self.terms.reject)
    }

    fn spread(&self, case: &mut Case<'_>) -> Option<Decision> {
        if let Some(decision) = case.run_well_here() {
            return Some(decision);
        }
        if !case.is_trial() {
            let cores = f64::from(case.request.cost.cpu) / 1e3;
            let service = case.snapshot.local.service.map(|time| time.as_secs_f64());
            let service = service.or_else(|| self.service.get());
            self.lacking.add(cores * service.unwrap_or(SERVICE_UNKNOWN));
        }
        let granted = self.by_grants(case);
        if granted.is_some() || self.faithful {
            return granted;
        }
        self.by_price(case)
    }

    /// As a seller: grants room to those who bid most, and sets the price.
    fn sell(&self, field: &Field<'_>, now: f64) -> (f64, f64, Vec<(u64, f64)>) {
        let room = f64::from(field.load.guest_cpu) / 1e3;
        let total = f64::from(field.load.cpu_total) / 1e3;
        let pool = others(field.role, field.regions, field.view);
        let mut bids = Vec::new();
        for at in pool.into_iter().flat_map(|pool| pool.members()) {
            let key = field.view.peers[at].key;
            let Some(cells) = self.peers.find(Which::NODE.to_peer(key)) else {
                continue;
            };
            let much = cells[BID_FOR].get().unwrap_or(0.0);
            if much > 0.0 && self.is_fresh(cells, now) {
                bids.push((cells[BID].get().unwrap_or(0.0), much, key.as_u64()));
            }
        }
        bids.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.2.cmp(&other.2)));
        let (mut left, mut lowest, mut grants) = (room, None, Vec::new());
        for (bid, much, key) in bids {
            let granted = much.min(left);
            if granted <= 0.0 || grants.len() == GRANTS_MAX {
                break;
            }
            left -= granted;
            lowest = Some(bid);
            grants.push((key, granted));
        }
        let before = self.price.get().unwrap_or(0.0);
        let used = 1.0 - left / total.max(1e-3);
        let price = match lowest {
            Some(lowest) => lowest + self.terms.eta * (used - USE_USUAL),
            None => before * (1.0 - self.terms.zeta),
        };
        let price = price.max(0.0);
        self.price.set(price);
        (left, price, grants)
    }

    /// As a buyer: bids for what is lacking, at the best sellers first.
    fn buy(&self, field: &Field<'_>, now: f64, wanted: f64) -> Vec<(u64, f64, f64)> {
        let pool = others(field.role, field.regions, field.view);
        let (mut sellers, mut all) = (Vec::new(), 0.0);
        for at in pool.into_iter().flat_map(|pool| pool.members()) {
            let peer = &field.view.peers[at];
            if let Some(cells) = self.peers.find(Which::NODE.to_peer(peer.key))
                && self.is_fresh(cells, now)
            {
                all += cells[SERVED].get().unwrap_or(0.0);
                sellers.push((peer, cells));
            }
        }
        let seller = |(peer, cells): (&crate::snapshot::PeerView, &[Cell; 7])| {
            let price = cells[PRICE].get().unwrap_or(0.0);
            let score = self.score(peer.round_trip(), self.share_served(cells, all));
            // What it granted this node is asked for again.
            let granted = cells[GRANTED].get().unwrap_or(0.0);
            cells[SERVED].change(|served| served.unwrap_or(0.0) * NEWEST);
            Seller {
                key: peer.key,
                room: cells[ROOM].get().unwrap_or(0.0) + granted,
                price,
                net: score - price,
            }
        };
        let mut sellers: Vec<Seller> = sellers.into_iter().map(seller).collect();
        sellers.retain(|seller| seller.room > 0.0 && seller.net > -self.terms.reject);
        sellers.sort_by(|one, other| {
            let order = other.net.total_cmp(&one.net);
            order.then(one.key.cmp(&other.key))
        });
        let (mut left, mut bids) = (wanted, Vec::new());
        for seller in sellers.into_iter().take(BIDS_MAX) {
            let much = seller.room.min(left);
            if much <= 1e-6 {
                break;
            }
            left -= much;
            bids.push((seller.key.as_u64(), seller.price + self.terms.epsilon, much));
        }
        bids
    }
}

impl Policy for Auction {
    fn name(&self) -> &'static str {
        NAME
    }

    fn reaches(&self) -> Reaches {
        Reaches {
            horizontal: true,
            vertical: !self.faithful,
        }
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
        if outcome.ending != Ending::Answered {
            return;
        }
        self.service.blend(outcome.timing.ran.as_secs_f64(), 0.1);
        if let Some(peer) = &outcome.to
            && outcome.reach == Some(Reach::Horizontal)
        {
            let cells = self.peers.entry(Which::NODE.at(Some(peer)), outcome.ended);
            cells[SERVED].add(1.0);
        }
    }

    fn tick(&self, field: &Field<'_>, wishes: &mut Wishes) -> Time {
        let (now, next) = (seconds(field.now), field.now + self.period);
        self.own.set(half_of(PeerKey::of(&field.own).as_u64()));
        let before = self.ticked.get();
        self.ticked.set(now);
        let elapsed = before.map_or(self.period.as_secs_f64(), |before| now - before);
        let lacking = self.lacking.get().unwrap_or(0.0);
        self.lacking.add(-lacking);
        let wanted = self.wanted.blend(lacking / elapsed.max(1e-3), NEWEST);
        let (room, price, grants) = self.sell(field, now);
        let bids = self.buy(field, now, wanted);
        wishes.tell(
            Note {
                room,
                price,
                grants,
                bids,
            }
            .write(),
        );
        let pool = others(field.role, field.regions, field.view);
        let places = pool.into_iter().flat_map(|pool| pool.members());
        let granted = places.filter_map(|at| {
            let place = Place::of(at, field.view);
            let cells = self.peers.find(Which::NODE.to_peer(place.key))?;
            let granted = cells[GRANTED].get().filter(|_| self.is_fresh(cells, now))?;
            Some((place, granted))
        });
        self.granted.publish(Shares::new(granted));
        next
    }

    fn hear(&self, from: PeerId, note: &[u8], now: Time) -> Result<(), Malformed> {
        let note = Note::read(note).ok_or(Malformed)?;
        let own = self.own.get();
        let is_own = |key: &u64| own.is_some_and(|own| own.to_bits() == half_of(*key).to_bits());
        let granted = note.grants.iter().find(|(to, _)| is_own(to));
        let bid = note.bids.iter().find(|(whom, _, _)| is_own(whom));
        let cells = self.peers.entry(Which::NODE.at(Some(&from)), now);
        cells[ROOM].set(note.room);
        cells[PRICE].set(note.price);
        cells[HEARD].set(seconds(now));
        cells[GRANTED].set(granted.map_or(0.0, |(_, much)| *much));
        cells[BID].set(bid.map_or(0.0, |(_, bid, _)| *bid));
        cells[BID_FOR].set(bid.map_or(0.0, |(_, _, much)| *much));
        Ok(())
    }
}

/// As much of a key as a number holds without loss: two are taken for one as seldom
/// as one time in 2^53.
fn half_of(key: u64) -> f64 {
    (key >> 11) as f64
}

#[cfg(test)]
mod tests;
