//! What a node says of itself with each answer, and what follows from what a
//! peer said with one.

use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node_core::admission::Places;
use weir_node_core::id::FunctionName;
use weir_node_core::resources::Resources;
use weir_node_core::time::Time;

use crate::abilities::{Abilities, Ability, Able, AtPeers};
use crate::beside::LEVEL_MAX;
use crate::guests::{self, Processors};
use crate::peers::{Fault, Met};
use crate::placement::Came;
use crate::report::Load;
use crate::snapshot::{Cost, PeerView, Reserved, Word};

/// How long a peer is taken to need for code that it brings, whatever it says:
/// at the least and at the most.
pub const BRINGING: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(30));

/// Why a node takes no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It has no room for any such call.
    NodeFull,
    /// The function's own bound there leaves no place.
    FunctionFull,
    /// It cannot run the function.
    Unable,
    /// It brings the code.
    Bringing,
    /// Something else, that says nothing of its room.
    Other,
}

impl Why {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::NodeFull => "node-full",
            Why::FunctionFull => "function-full",
            Why::Unable => "unable",
            Why::Bringing => "bringing",
            Why::Other => "other",
        }
    }

    /// What a word on the wire means; a word of another version means nothing
    /// of the node's room.
    pub fn named(word: Option<&str>) -> Why {
        let all = [Why::NodeFull, Why::FunctionFull, Why::Unable, Why::Bringing];
        let named = all.into_iter().find(|why| Some(why.as_str()) == word);
        named.unwrap_or(Why::Other)
    }

    /// Why a call of this cost finds no room, at a node with so many places for
    /// its function and so many processors free, in thousandths of a core.
    pub fn full(places: Option<Places>, cpu_free: u32, cost: Cost) -> Why {
        let none = places.is_some_and(|places| places.warm == 0 && places.startable == 0);
        match none && cpu_free >= cost.cpu {
            true => Why::FunctionFull,
            false => Why::NodeFull,
        }
    }
}

/// What a node has, and what of it is held.
#[derive(Debug, Clone, Copy)]
pub struct Holdings {
    /// All of it.
    pub capacity: Resources,
    /// What calls hold.
    pub held: Resources,
    /// Calls that run.
    pub running: usize,
    /// Calls that wait.
    pub waiting: usize,
    /// Processors that calls of other nodes' users hold, short ones and long
    /// ones, in thousandths of a core.
    pub guest_cpu: [u32; 2],
    /// Bytes of code that it can take in.
    pub disk_free: u64,
    /// Whether others are asked in: not while a call of its own users lacks what
    /// a guest would take, nor while it drains.
    pub is_open: bool,
}

impl Holdings {
    /// How loaded the node is, as somebody is to hear it to whom `promised`
    /// thousandths of a core are not free, for they are promised to others. Long
    /// guests may have `share` of it (in `0.0..=1.0`).
    pub fn load(&self, share: f64, promised: u32) -> Load {
        let free = self.capacity.checked_sub(self.held).unwrap_or_default();
        let [short, long] = self.guest_cpu;
        let guests = short.saturating_add(long);
        let processors = Processors {
            total: self.capacity.cpu.as_millicores(),
            free: free.cpu.as_millicores(),
            guests,
            guests_long: long,
            promised,
        };
        let [guest_cpu, guest_cpu_long] = match self.is_open {
            true => guests::room(processors, share),
            false => [0, 0],
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Load {
            cpu_total: processors.total,
            cpu_free: processors.free,
            memory_total: self.capacity.memory.as_bytes(),
            memory_free: free.memory.as_bytes(),
            running: count(self.running),
            waiting: count(self.waiting),
            guest_cpu,
            guest_cpu_long,
            disk_free: self.disk_free,
        }
    }
}

/// Calls of a function that somebody may send now who hears this load, to a node
/// with so many places for it; 0 where it is not deployed.
pub fn guest_room(places: Option<Places>, load: &Load, cost: Cost) -> u32 {
    let free = places.map_or(0, |places| places.warm.saturating_add(places.startable));
    free.min(cost.of(load.guest_cpu, load.guest_cpu_long))
}

/// What a peer said with an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Told {
    /// How loaded it is, where that can be believed.
    pub load: Option<Load>,
    /// Calls of the function that may be sent there.
    pub places: Option<u32>,
    /// Calls of the function that it holds of this node's, beside the one that it
    /// answers.
    pub held: u32,
    /// After how long it has the code, where it brings it.
    pub ready_in: Duration,
    /// Which calls of the class of the one that it answers it admits, of
    /// [`LEVEL_MAX`](crate::beside::LEVEL_MAX); `None` for all.
    pub level: Option<u8>,
}

impl Told {
    /// A level as it comes from a peer: what is out of range says nothing, and none
    /// is so low that nothing would ever show that it rose.
    pub fn level_of(told: Option<u64>) -> Option<u8> {
        let level = u8::try_from(told?).ok()?.max(1);
        (level < LEVEL_MAX).then_some(level)
    }

    /// What that says of the peer's room, with so many of this node's thousandths
    /// of a core under way there.
    pub fn word(&self, under_way: u32) -> Option<Word> {
        let load = self.load?;
        Some(Word { load, under_way })
    }
}

/// What a refusal means for what is known of the peer, and for the call.
pub fn refusal(peer: PeerId, why: Why, told: &Told, word: Option<Word>) -> (Met, Came) {
    let claims = told.places.is_none_or(|places| places > 0);
    match why {
        Why::NodeFull => (Met::Full { word, claims }, Came::Full(peer)),
        Why::FunctionFull | Why::Bringing => (Met::Told(word), Came::Full(peer)),
        Why::Unable => (Met::Told(word), Came::Declined(peer)),
        Why::Other => {
            let claims = true;
            (Met::Full { word, claims }, Came::Declined(peer))
        }
    }
}

/// What came back of a call that was sent to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// The function's answer.
    Answered,
    /// It was not run there, and why.
    Refused(Why),
    /// It ended there without an answer, and whether it was too late then.
    Ended {
        /// That.
        late: bool,
    },
    /// The function's answer broke off; the peer is there itself.
    Cut,
    /// Not a byte of it reached the peer.
    Unreachable,
    /// The peer was lost with it; whether only its listener may be, for it is
    /// still heard.
    Lost {
        /// That.
        excused: bool,
    },
    /// Nothing, for as long as an answer may take.
    Nothing,
    /// What no member says.
    Malformed,
}

/// What a node makes of what came back of a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lesson {
    /// What that says of the peer; `None` for nothing.
    pub met: Option<Met>,
    /// What it means to the call; `None` where it ends with it.
    pub came: Option<Came>,
    /// Whether the place that it had there is free again though the peer said
    /// nothing of it.
    pub gives_back: bool,
    /// Whether the peer took the call, as far as that says something of its load:
    /// what it refuses for another reason than that it is full says nothing.
    pub took: Option<bool>,
}

/// What a node makes of what came back. `told` and `word` are what the peer said
/// of itself with it; `impatient` is whether the call's policy waits less long
/// than the call's own deadline allows, so that it may be tried elsewhere.
pub fn lesson(
    peer: PeerId,
    back: Back,
    told: &Told,
    word: Option<Word>,
    impatient: bool,
) -> Lesson {
    let failure = |fault| Some(Met::Failure(fault));
    let gave_up = impatient.then_some(Came::Lost(peer));
    let (met, came) = match back {
        Back::Answered | Back::Ended { late: false } => (Some(Met::Answer(word)), None),
        Back::Ended { late: true } => (Some(Met::Answer(word)), gave_up),
        Back::Refused(why) => {
            let (met, came) = refusal(peer, why, told, word);
            (Some(met), Some(came))
        }
        Back::Cut => (Some(Met::Answer(None)), None),
        Back::Unreachable => (failure(Fault::Unreachable), Some(Came::Unreached(peer))),
        // What comes now goes over its link.
        Back::Lost { excused: true } => (None, Some(Came::Lost(peer))),
        Back::Lost { excused: false } => (failure(Fault::Lost), Some(Came::Lost(peer))),
        // That its policy is in a hurry is not the peer's fault.
        Back::Nothing if impatient => (None, gave_up),
        Back::Nothing => (failure(Fault::Mute), None),
        Back::Malformed => (failure(Fault::Malformed), Some(Came::Lost(peer))),
    };
    let gives_back = matches!(back, Back::Unreachable | Back::Lost { .. } | Back::Cut);
    let took = match back {
        Back::Answered | Back::Ended { .. } | Back::Cut => Some(true),
        Back::Refused(Why::NodeFull) => Some(false),
        Back::Refused(Why::FunctionFull | Why::Unable | Why::Bringing | Why::Other)
        | Back::Unreachable
        | Back::Lost { .. }
        | Back::Nothing
        | Back::Malformed => None,
    };
    Lesson {
        met,
        came,
        gives_back,
        took,
    }
}

impl Abilities {
    /// Takes note that a peer has a function, what it says of its room, and how
    /// long a call of it ran there, if one did.
    pub fn answered(
        &mut self,
        (function, version): (&FunctionName, u64),
        peer: PeerId,
        told: &Told,
        ran: Option<Duration>,
        now: Time,
    ) {
        let room = self.ready(function, peer, version);
        if let Some(ran) = ran {
            room.learn(ran);
            room.has_run();
        }
        let Some(places) = told.places else {
            return;
        };
        let under_way = room.held().saturating_sub(told.held.saturating_add(1));
        room.renew(places.saturating_sub(under_way), now);
        room.learn_capacity(places.saturating_add(told.held).saturating_add(1));
    }

    /// Takes note of why a peer did not take a call of a function, in its words,
    /// having counted so many changes of what it can run.
    pub fn refused(
        &mut self,
        (function, version): (&FunctionName, u64),
        peer: PeerId,
        told: &Told,
        (why, text, counted): (Why, &str, u64),
        now: Time,
    ) {
        match why {
            Why::Unable => self.unable(function, peer, version, (text, counted), now),
            Why::Bringing => {
                let (least, most) = BRINGING;
                let left = told.ready_in.clamp(least, most);
                self.bringing(function, peer, version, now + left);
            }
            Why::NodeFull | Why::FunctionFull => {
                let room = self.ready(function, peer, version);
                let places = told.places.filter(|_| why == Why::NodeFull);
                room.renew(places.unwrap_or(0), now);
            }
            Why::Other => {}
        }
    }
}

impl Abilities {
    /// Takes note of a peer's answer to a question for places of a function that
    /// takes `cpu` thousandths of a core, with why it has none, if it says so:
    /// what that says of the peer.
    pub fn questioned(
        &mut self,
        (function, version): (&FunctionName, u64),
        peer: PeerId,
        told: &Told,
        refused: Option<(Why, &str, u64)>,
        cpu: u32,
        now: Time,
    ) -> Met {
        let held = match self.of(function).get(&peer) {
            Some(Ability::Ready { room, .. }) => room.held(),
            Some(Ability::Bringing { .. } | Ability::Unable { .. }) | None => 0,
        };
        let under_way = held.saturating_sub(told.held).saturating_mul(cpu);
        match refused {
            None => {
                // As many as it holds of ours already, and this many more.
                let held = told.held.saturating_sub(1);
                let told = Told { held, ..*told };
                self.answered((function, version), peer, &told, None, now);
            }
            Some(why) => self.refused((function, version), peer, told, why, now),
        }
        Met::Told(told.word(under_way))
    }
}

/// Takes a place at a peer for a call of a function's version: one that it has,
/// or over a distance one that it will have when the call arrives. `None` when
/// there is none, or nobody has opened the peer's window.
pub fn seize(
    peer: &PeerView,
    known: &AtPeers,
    version: u64,
    cost: Cost,
    now: Time,
) -> Option<Reserved> {
    let able = known.get(&peer.id);
    let able = able.map(|known| known.able(version, peer.report.abilities, now));
    let room = match able {
        Some(Able::Ready(room)) => Some(room),
        Some(Able::Unasked | Able::Bringing(_) | Able::Unable(_)) | None => None,
    };
    let window = peer.window()?;
    window.reserve(room, cost, now).or_else(|| {
        let room = room?;
        window.reserve_ahead(room, room.ahead(peer.round_trip()), now)
    })
}

#[cfg(test)]
mod tests;
