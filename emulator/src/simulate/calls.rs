//! Calls that are under way.

use std::sync::Arc;

use libp2p_identity::PeerId;
use std::time::Duration;
use weir_federation_core::endings::How;
use weir_federation_core::policy::Policy;

use weir_federation_core::placement::{End, Placement};
use weir_federation_core::report::Load;
use weir_federation_core::snapshot::{Cost, Reserved};
use weir_federation_core::waiting::Number;
use weir_node_core::admission::{Seat, Slot, Ticket};
use weir_node_core::time::Time;
use weir_node_core::words::{Phase, Timing};

use super::shell::Why;

/// A call that is under way, or was: its place is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CallId {
    pub(super) place: u32,
    life: u32,
}

/// One call.
pub(super) struct Call {
    pub(super) function: u32,
    pub(super) class: u32,
    /// Whether its user names that class; else it has it by default.
    pub(super) names_class: bool,
    /// Which node its user is at.
    pub(super) origin: u32,
    /// How often the user calls again if it is not answered, and after how long.
    pub(super) retries: (u32, Duration),
    pub(super) arrived: Time,
    pub(super) input_bytes: u64,
    pub(super) answer_bytes: u64,
    /// How long it runs on a node of speed 1, in nanoseconds.
    pub(super) service: u64,
    pub(super) fails: bool,
    /// Where it is, and was on the way there; the last is where it is.
    pub(super) legs: Vec<Leg>,
    /// Peers where its function failed when it began to wait.
    pub(super) failing: Vec<PeerId>,
    /// Its place among those that run, since when it does, and how it will end.
    pub(super) running: Option<(Slot, Time, Ended)>,
    /// How long it waited and was started for, where it ran.
    pub(super) waited: Duration,
    /// Where its time went, where it ran.
    pub(super) timing: Timing,
    /// Whether it waited for a start.
    pub(super) is_cold: bool,
    /// Where it ran last.
    pub(super) ran_at: u32,
    /// The answer that travels back.
    pub(super) reply: Option<Reply>,
    /// Whether its own node died: nobody waits for it any more.
    pub(super) is_orphan: bool,
}

/// A call at one node.
pub(super) struct Leg {
    pub(super) node: u32,
    /// Which life of the node.
    pub(super) life: u32,
    pub(super) placement: Placement<Arc<dyn Policy>>,
    /// What it counts as a guest; `None` for an own one.
    pub(super) guest: Option<Guest>,
    /// The place that it has at the next node.
    pub(super) reserved: Option<Reserved>,
    /// How many thousandths of a place here that is.
    pub(super) serves: u32,
    pub(super) seat: Option<Seat>,
    /// Its place in the queue, where that is bounded in time.
    pub(super) ticket: Option<Ticket>,
    /// Until when it waits in the queue, or for a peer's answer; never where
    /// nobody looks.
    pub(super) until: Time,
    /// Whether its policy waits no longer for a peer's answer than that; else
    /// nobody does.
    pub(super) is_impatient: bool,
    /// How long its code was on its way here, and since when it is.
    pub(super) fetched: Duration,
    pub(super) began_fetching: Time,
    /// Since when it waits at this node, and in which way.
    pub(super) stay: Stay,
}

impl Leg {
    /// A call that is about to be decided about at a node.
    pub(super) fn new(node: u32, life: u32, placement: Placement<Arc<dyn Policy>>) -> Leg {
        Leg {
            node,
            life,
            placement,
            guest: None,
            reserved: None,
            serves: 0,
            seat: None,
            ticket: None,
            until: Time::NEVER,
            is_impatient: false,
            fetched: Duration::ZERO,
            began_fetching: Time::ZERO,
            stay: Stay::Under,
        }
    }
}

/// A call of another node's user.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guest {
    pub(super) cost: Cost,
    /// Whether it counts against the room for guests: it does not once it has
    /// gone on.
    pub(super) counts: bool,
}

/// How a call is at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    /// It is decided about, runs, is under way, or waits for a start.
    Under,
    /// It waits in the queue; the how many-th it is, where it may leave.
    Queued {
        leaves: Option<Number>,
        turn: Option<Duration>,
    },
    /// It waits for a place elsewhere.
    Elsewhere(Number),
    /// It waits for code.
    Code,
    /// It was sent ahead, and waits for its turn at a place.
    Turn,
}

/// How a call ended at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was answered there, having run so long.
    Answered { ran: Duration, failed: bool },
    /// It ended without one.
    Without(End),
    /// It ran out of its function's time.
    TimedOut,
    /// Its start did not come in time.
    NotStarted,
    /// It waited for so long in vain.
    Waited,
    /// The node is gone, with it.
    Gone,
    /// Nothing reaches that node.
    Unreachable,
}

impl Ended {
    /// What that says of where it was.
    pub(super) fn how(self) -> How {
        match self {
            Ended::Answered { failed, .. } => How::Answered { failed },
            Ended::Without(End::Late { phase, .. }) => How::Late(phase),
            Ended::TimedOut => How::Late(Phase::Run),
            Ended::NotStarted => How::Late(Phase::Start),
            Ended::Without(End::Nowhere) => How::CannotRun,
            Ended::Without(End::Refused { .. } | End::Unknown) | Ended::Waited => How::NotTaken,
            Ended::Without(End::Lost) | Ended::Gone | Ended::Unreachable => How::Lost,
        }
    }
}

/// What a node says to the one that sent it a call.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) ended: Ended,
    /// Why it was refused, where it was.
    pub(super) why: Option<Why>,
    pub(super) told: Option<Told>,
}

/// What a node says of itself to another.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) load: Load,
    /// Calls of the function that it would take; `None` when it lacks it.
    pub(super) places: Option<u32>,
    /// Calls of the function that it holds of the one who is told.
    pub(super) held: u32,
    /// Until the code is there, where it is brought.
    pub(super) ready_in: Duration,
    /// Which calls of the class it admits; `None` for all.
    pub(super) level: Option<u8>,
}

struct Place {
    life: u32,
    call: Option<Call>,
}

/// All calls that are under way.
#[derive(Default)]
pub(super) struct Calls {
    places: Vec<Place>,
    free: Vec<u32>,
    count: usize,
}

impl Calls {
    pub(super) fn add(&mut self, call: Call) -> CallId {
        self.count += 1;
        if let Some(place) = self.free.pop() {
            let entry = &mut self.places[place as usize];
            entry.call = Some(call);
            return CallId {
                place,
                life: entry.life,
            };
        }
        let place = u32::try_from(self.places.len()).expect("calls under way are few");
        let (life, call) = (0, Some(call));
        self.places.push(Place { life, call });
        CallId { place, life }
    }

    pub(super) fn get(&mut self, id: CallId) -> Option<&mut Call> {
        let entry = self.places.get_mut(id.place as usize)?;
        entry.call.as_mut().filter(|_| entry.life == id.life)
    }

    /// One that is known to be under way.
    pub(super) fn at(&mut self, id: CallId) -> &mut Call {
        self.get(id).expect("the call is under way")
    }

    pub(super) fn remove(&mut self, id: CallId) -> Option<Call> {
        let entry = self.places.get_mut(id.place as usize)?;
        if entry.life != id.life {
            return None;
        }
        let call = entry.call.take()?;
        entry.life = entry.life.wrapping_add(1);
        self.free.push(id.place);
        self.count -= 1;
        Some(call)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Calls for which somebody waits.
    pub(super) fn awaited(&self) -> usize {
        let calls = self.places.iter().flat_map(|place| &place.call);
        calls.filter(|call| !call.is_orphan).count()
    }

    /// Those that have a leg at a node, in the order of their places.
    pub(super) fn with_leg_at(&self, node: u32) -> Vec<CallId> {
        let places = (0_u32..).zip(&self.places);
        let there = places.filter(|(_, entry)| {
            let legs = entry.call.iter().flat_map(|call| &call.legs);
            legs.into_iter().any(|leg| leg.node == node)
        });
        let ids = there.map(|(place, entry)| CallId {
            place,
            life: entry.life,
        });
        ids.collect()
    }
}

impl Call {
    /// Where it is.
    pub(super) fn leg(&mut self) -> &mut Leg {
        self.legs.last_mut().expect("a call is somewhere")
    }

    /// The first of the nodes where it was that waits no longer for the next one.
    pub(super) fn gives_up(&self, now: Time) -> Option<usize> {
        let (_, before) = self.legs.split_last()?;
        before.iter().position(|leg| leg.until <= now)
    }

    /// The node where it is.
    pub(super) fn node(&self) -> u32 {
        self.legs.last().map_or(self.origin, |leg| leg.node)
    }
}
