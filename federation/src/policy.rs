//! Where a call goes: policies, and what they decide about.
//!
//! A policy sees a [`Request`] and a [`Snapshot`] and nothing else, and cannot
//! fail. The list of policies is [`all`]; adding one touches its own file and
//! that list.

mod cloud_only;
mod edge_cloud;
mod edge_only;
mod local_only;
mod spill;

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p_identity::PeerId;
use weir_node::id::FunctionName;
use weir_node::time::Time;

use crate::explain::{Verdict, Weighed, Witness};
use crate::snapshot::{Draws, Here, PeerView, Pool, Snapshot};

/// Most peers that one decision draws from a pool to find two that fit.
/// Bounded, so that a decision costs the same in a federation of any size.
const DRAWS: usize = 8;

/// What a start is expected to take where nobody has measured one.
const UNKNOWN_START: Duration = Duration::from_millis(300);

/// How a call that is decided about came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a user.
    Here,
    /// From a neighbour.
    Neighbour,
    /// From outside of this node's region, or from a member of it.
    Region {
        /// Whether its sender is a member of the same region.
        inside: bool,
    },
}

/// What a function needs of a node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs<'a> {
    /// Processor that its code is made for; `None` for any.
    pub architecture: Option<&'a str>,
    /// Executor that runs it; `None` for any.
    pub executor: Option<&'a str>,
    /// Labels that the node must have.
    pub constraints: Option<&'a BTreeMap<String, String>>,
}

/// A call to be decided about.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Which function.
    pub function: &'a FunctionName,
    /// What it needs of a node.
    pub needs: Needs<'a>,
    /// How it came here.
    pub origin: Origin,
    /// Nodes that it visited, and peers that were tried for it in vain.
    pub avoid: &'a [PeerId],
    /// How many more nodes it may visit.
    pub hops: u8,
    /// When its answer is of no more use.
    pub deadline: Time,
}

/// Which way an offloaded call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// To a neighbour of the zone, or within a region.
    Horizontal,
    /// To a cloud region.
    Vertical,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There is no room here, and the policy asks nobody else.
    NoRoom,
    /// Nobody that may be asked has room.
    NobodyHasRoom,
    /// The policy wants a place that there is not: no neighbour, no region.
    NoSuchPlace,
    /// It could not be answered before its deadline.
    TooLate,
}

/// What to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Run it here, warm or cold.
    Run,
    /// Let it wait here, at the longest until then.
    Enqueue {
        /// When its place in the queue is given up.
        until: Time,
    },
    /// Send it to a peer.
    Offload {
        /// Its place in [`crate::snapshot::View::peers`].
        to: usize,
        /// Which way that is.
        reach: Reach,
    },
    /// Refuse it.
    Reject(Reason),
}

/// A way to decide.
pub trait Policy: Send + Sync {
    /// Its name in configuration, metrics and explanations.
    fn name(&self) -> &'static str;

    /// Decides about a call of this node's own users.
    fn decide(&self, case: &mut Case<'_>) -> Decision;

    /// Decides about a call that a peer sent. Unless a policy says otherwise,
    /// it is taken or refused, save that a region balances once inside.
    fn receive(&self, case: &mut Case<'_>) -> Decision {
        case.run_here()
            .or_else(|| case.balance())
            .unwrap_or(Decision::Reject(Reason::NoRoom))
    }
}

/// The list of policies; the first is the default.
pub fn all() -> [&'static dyn Policy; 5] {
    [
        &spill::Spill,
        &local_only::LocalOnly,
        &cloud_only::CloudOnly,
        &edge_only::EdgeOnly,
        &edge_cloud::EdgeCloud,
    ]
}

/// The policy of this name.
pub fn named(name: &str) -> Option<&'static dyn Policy> {
    all().into_iter().find(|policy| policy.name() == name)
}

/// Decides about one call; tells `witness` what was weighed.
pub fn decide(
    policy: &dyn Policy,
    request: &Request<'_>,
    snapshot: &Snapshot<'_>,
    witness: &mut dyn Witness,
) -> Decision {
    let mut case = Case {
        request,
        snapshot,
        draws: Draws::new(snapshot.chance),
        witness,
    };
    match request.origin {
        Origin::Here => policy.decide(&mut case),
        Origin::Neighbour | Origin::Region { .. } => policy.receive(&mut case),
    }
}

/// One call, what is known, and the steps that policies are made of. Each is
/// `None` where it cannot be taken.
pub struct Case<'a> {
    /// The call.
    pub request: &'a Request<'a>,
    /// What is known.
    pub snapshot: &'a Snapshot<'a>,
    draws: Draws,
    witness: &'a mut dyn Witness,
}

impl Case<'_> {
    /// Runs the call here if that can be done at once.
    fn run_here(&self) -> Option<Decision> {
        match self.snapshot.local.here {
            Here::Warm | Here::Startable => Some(Decision::Run),
            Here::Full | Here::Unable => None,
        }
    }

    /// Lets the call wait here if there is a place and it would be in time.
    fn queue(&self) -> Result<Decision, Reason> {
        let local = &self.snapshot.local;
        let wait = match (local.here, local.queue) {
            (Here::Unable, _) | (_, None) => return Err(Reason::NoRoom),
            (Here::Warm | Here::Startable | Here::Full, Some(wait)) => wait,
        };
        match self.snapshot.now + wait < self.request.deadline {
            true => Ok(Decision::Enqueue {
                until: self.request.deadline,
            }),
            false => Err(Reason::TooLate),
        }
    }

    /// The better of two neighbours that fit, drawn in proportion to their room.
    fn neighbour(&mut self) -> Option<Decision> {
        let pool = self.snapshot.view.neighbours(self.request.function)?;
        self.offload(pool, Reach::Horizontal)
    }

    /// The better of two members of the first region that has one that fits.
    fn cloud(&mut self) -> Option<Decision> {
        let Snapshot { local, view, .. } = self.snapshot;
        let pools = local.regions.iter().filter_map(|name| view.region(name));
        pools
            .filter_map(|pool| self.offload(pool, Reach::Vertical))
            .next()
    }

    /// For a node of a region that got a call from outside of it: another
    /// member with room.
    fn balance(&mut self) -> Option<Decision> {
        if self.request.origin != (Origin::Region { inside: false }) {
            return None;
        }
        let own = self.snapshot.local.regions.first()?;
        let pool = self.snapshot.view.region(own)?;
        self.offload(pool, Reach::Horizontal)
    }

    fn offload(&mut self, pool: &Pool, reach: Reach) -> Option<Decision> {
        let to = pick(
            pool,
            self.request,
            self.snapshot,
            &mut self.draws,
            self.witness,
        )?;
        Some(Decision::Offload { to, reach })
    }
}

/// The better of the first two that fit among a bounded number of draws:
/// M. Mitzenmacher, "The power of two choices in randomized load balancing",
/// IEEE TPDS 12(10), 2001, with draws weighted by room.
fn pick(
    pool: &Pool,
    request: &Request<'_>,
    snapshot: &Snapshot<'_>,
    draws: &mut Draws,
    witness: &mut dyn Witness,
) -> Option<usize> {
    if request.hops == 0 {
        return None;
    }
    let mut best: Option<(usize, Duration)> = None;
    let mut fitting = 0;
    let mut last = None;
    for _ in 0..DRAWS {
        let place = pool.draw(draws.next()?)?;
        if last.replace(place) == Some(place) {
            continue;
        }
        let peer = &snapshot.view.peers[place];
        let verdict = weigh(peer, request, snapshot);
        witness.weighed(Weighed {
            peer: peer.id,
            age: snapshot.now.since(peer.loaded),
            room: peer.window.room(),
            round_trip: peer.round_trip,
            verdict,
        });
        let Verdict::Fits { delay } = verdict else {
            continue;
        };
        if best.is_none_or(|(_, least)| delay < least) {
            best = Some((place, delay));
        }
        fitting += 1;
        if fitting == 2 {
            break;
        }
    }
    best.map(|(place, _)| place)
}

/// What speaks for and against a peer.
fn weigh(peer: &PeerView, request: &Request<'_>, snapshot: &Snapshot<'_>) -> Verdict {
    if request.avoid.contains(&peer.id) {
        return Verdict::Visited;
    }
    if !fits(&request.needs, peer) {
        return Verdict::Unfit;
    }
    if peer.window.room() == 0 || (peer.probing && peer.window.held() > 0) {
        return Verdict::NoRoom;
    }
    let Some(offer) = peer.offers.get(request.function) else {
        return Verdict::NoFunction;
    };
    if offer.warm == 0 && offer.startable == 0 {
        return Verdict::NoRoom;
    }
    let start = match (offer.warm, offer.start_micros) {
        (1.., _) => Duration::ZERO,
        (0, 0) => UNKNOWN_START,
        (0, known) => Duration::from_micros(known),
    };
    // Calls that wait there are before this one on the cores that it has.
    let cores = u64::from((peer.load.cpu_total / 1_000).max(1));
    let ahead = u64::from(peer.load.waiting).saturating_mul(offer.service_micros) / cores;
    let delay = peer.round_trip.saturating_add(start);
    let delay = delay.saturating_add(Duration::from_micros(ahead));
    match snapshot.now + delay < request.deadline {
        true => Verdict::Fits { delay },
        false => Verdict::TooFar { delay },
    }
}

/// Whether a node has what a function needs of it, whatever its load.
pub fn fits(needs: &Needs<'_>, peer: &PeerView) -> bool {
    let report = &peer.report;
    let architecture = needs.architecture.is_none_or(|a| a == report.architecture);
    let executor = needs
        .executor
        .is_none_or(|wanted| report.executors.iter().any(|name| name == wanted));
    let labels = needs.constraints.is_none_or(|constraints| {
        let has = |(name, value): (&String, &String)| report.labels.get(name) == Some(value);
        constraints.iter().all(has)
    });
    architecture && executor && labels
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::report::tests::{id, report};
    use crate::report::{Offer, Report, Role};
    use crate::snapshot::{Local, View, Window, offers};

    /// A peer, built by what is unusual about it.
    #[derive(Debug, Clone)]
    struct Peer(PeerView);

    fn peer(number: u8) -> Peer {
        let report = report();
        Peer(PeerView {
            id: id(number),
            load: report.load,
            offers: Arc::new(offers(&report)),
            carriage: Arc::new([]),
            report: Arc::new(report),
            loaded: Time::ZERO,
            probing: false,
            round_trip: Duration::from_millis(1),
            window: Arc::new(Window::new(16, 16)),
        })
    }

    impl Peer {
        fn change(mut self, change: impl FnOnce(&mut Report)) -> Peer {
            let mut report = (*self.0.report).clone();
            change(&mut report);
            self.0.load = report.load;
            self.0.offers = Arc::new(offers(&report));
            self.0.report = Arc::new(report);
            self
        }

        fn cloud(self, region: &str) -> Peer {
            let region = region.to_owned();
            self.change(|report| {
                report.role = Role::Cloud;
                report.zone = None;
                report.region = Some(region);
            })
        }

        fn full(self) -> Peer {
            self.0.window.renew(0);
            self
        }

        fn far(mut self, milliseconds: u64) -> Peer {
            self.0.round_trip = Duration::from_millis(milliseconds);
            self
        }

        fn cold(self) -> Peer {
            self.change(|report| report.offers[0].warm = 0)
        }
    }

    struct Given {
        here: Here,
        queue: Option<Duration>,
        role: Role,
        origin: Origin,
        hops: u8,
        avoid: Vec<PeerId>,
        deadline: Time,
    }

    fn case(here: Here) -> Given {
        Given {
            here,
            queue: None,
            role: Role::Edge,
            origin: Origin::Here,
            hops: 3,
            avoid: Vec::new(),
            deadline: Time::NEVER,
        }
    }

    impl Given {
        fn from(self, origin: Origin) -> Given {
            Given { origin, ..self }
        }

        fn queue(self, milliseconds: u64) -> Given {
            Given {
                queue: Some(Duration::from_millis(milliseconds)),
                ..self
            }
        }

        fn cloud(self) -> Given {
            Given {
                role: Role::Cloud,
                ..self
            }
        }

        fn within(self, milliseconds: u64) -> Given {
            Given {
                deadline: Time::ZERO + Duration::from_millis(milliseconds),
                ..self
            }
        }

        fn decide(&self, policy: &str, peers: &[Peer], chance: u64) -> (Decision, Vec<Weighed>) {
            let own = report();
            let view = View::new(&own, peers.iter().map(|peer| peer.0.clone()).collect());
            let function = "shout".parse().expect("a name");
            let regions = ["near".to_owned(), "away".to_owned()];
            let snapshot = Snapshot {
                local: Local {
                    here: self.here,
                    queue: self.queue,
                    role: self.role,
                    regions: &regions,
                },
                view: &view,
                now: Time::ZERO,
                chance,
            };
            let request = Request {
                function: &function,
                needs: Needs::default(),
                origin: self.origin,
                avoid: &self.avoid,
                hops: self.hops,
                deadline: self.deadline,
            };
            let policy = named(policy).expect("it is in the list");
            let mut weighed = Vec::new();
            let decision = decide(policy, &request, &snapshot, &mut weighed);
            (decision, weighed)
        }
    }

    #[track_caller]
    fn check(policy: &str, case: Given, peers: &[Peer], expected: Decision) {
        for chance in 0..20 {
            let (decision, weighed) = case.decide(policy, peers, chance);
            assert_eq!(decision, expected, "{policy}, chance {chance}: {weighed:?}");
        }
    }

    fn to(place: usize) -> Decision {
        Decision::Offload {
            to: place,
            reach: Reach::Horizontal,
        }
    }

    fn up(place: usize) -> Decision {
        Decision::Offload {
            to: place,
            reach: Reach::Vertical,
        }
    }

    fn wait() -> Decision {
        Decision::Enqueue { until: Time::NEVER }
    }

    const RUN: Decision = Decision::Run;
    const INSIDE: Origin = Origin::Region { inside: true };
    const OUTSIDE: Origin = Origin::Region { inside: false };

    fn reject(reason: Reason) -> Decision {
        Decision::Reject(reason)
    }

    #[test]
    fn names_are_those_of_the_configuration() {
        let names = all().map(Policy::name);
        let expected = [
            "spill",
            "local-only",
            "cloud-only",
            "edge-only",
            "edge-cloud",
        ];
        assert_eq!(names, expected);
        assert!(named("spil").is_none());
    }

    #[test]
    fn spill_runs_here_then_near_then_up_then_waits() {
        let (near, cloud) = (peer(1), peer(2).cloud("near"));
        let peers = [near.clone(), cloud.clone()];
        check("spill", case(Here::Warm), &peers, RUN);
        check("spill", case(Here::Startable), &peers, RUN);
        check("spill", case(Here::Full), &peers, to(0));
        check("spill", case(Here::Unable), &peers, to(0));
        check("spill", case(Here::Full), &[peer(1).full(), cloud], up(1));
        check(
            "spill",
            case(Here::Full).queue(5),
            &[peer(1).full()],
            wait(),
        );
        let nobody = reject(Reason::NobodyHasRoom);
        check("spill", case(Here::Full), &[peer(1).full()], nobody);
        check("spill", case(Here::Unable).queue(5), &[], nobody);
    }

    #[test]
    fn spill_prefers_the_region_that_comes_first() {
        let peers = [peer(1).cloud("away"), peer(2).cloud("near")];
        check("spill", case(Here::Full), &peers, up(1));
        let peers = [peer(1).cloud("away"), peer(2).cloud("near").full()];
        check("spill", case(Here::Full), &peers, up(0));
        // A region that this node does not spill to is none.
        let strangers = [peer(1).cloud("elsewhere")];
        let nobody = reject(Reason::NobodyHasRoom);
        check("spill", case(Here::Full), &strangers, nobody);
    }

    #[test]
    fn spill_passes_on_what_a_neighbour_sent_and_refuses_rather_than_queues() {
        let from = |here| case(here).queue(5).from(Origin::Neighbour);
        check("spill", from(Here::Full), &[peer(1)], to(0));
        check("spill", from(Here::Full), &[peer(1).cloud("near")], up(0));
        check(
            "spill",
            from(Here::Full),
            &[],
            reject(Reason::NobodyHasRoom),
        );
    }

    #[test]
    fn a_deadline_that_cannot_be_kept_is_no_reason_to_wait() {
        let late = reject(Reason::TooLate);
        check("spill", case(Here::Full).queue(50).within(20), &[], late);
        check(
            "local-only",
            case(Here::Full).queue(50).within(20),
            &[],
            late,
        );
        let far = [peer(1).far(40)];
        check("spill", case(Here::Full).queue(50).within(30), &far, late);
        check("spill", case(Here::Full).queue(50).within(45), &far, to(0));
    }

    #[test]
    fn the_nearer_and_the_warmer_is_chosen() {
        // Of three, whichever two are drawn, the worst is never the choice.
        for worst in [peer(3).far(80), peer(3).cold()] {
            let peers = [peer(1), peer(2), worst];
            for chance in 0..200 {
                let (decision, _) = case(Here::Full).decide("spill", &peers, chance);
                assert!(
                    matches!(decision, Decision::Offload { to: 0 | 1, .. }),
                    "{decision:?}"
                );
            }
        }
    }

    #[test]
    fn load_is_spread_over_neighbours() {
        let peers = [peer(1), peer(2), peer(3), peer(4)];
        let mut counts = [0; 4];
        for chance in 0..4_000 {
            if let (Decision::Offload { to, .. }, _) =
                case(Here::Full).decide("spill", &peers, chance)
            {
                counts[to] += 1;
            }
        }
        assert!(counts.iter().all(|count| *count > 600), "{counts:?}");
    }

    #[test]
    fn local_only_asks_nobody() {
        let peers = [peer(1), peer(2).cloud("near")];
        check("local-only", case(Here::Warm), &peers, RUN);
        check("local-only", case(Here::Full).queue(5), &peers, wait());
        check(
            "local-only",
            case(Here::Full),
            &peers,
            reject(Reason::NoRoom),
        );
    }

    #[test]
    fn cloud_only_runs_nothing_at_the_edge() {
        let peers = [peer(1), peer(2).cloud("near")];
        check("cloud-only", case(Here::Warm), &peers, up(1));
        let nowhere = reject(Reason::NoSuchPlace);
        check("cloud-only", case(Here::Warm).queue(5), &[peer(1)], nowhere);
        check("cloud-only", case(Here::Warm).cloud(), &peers, RUN);
        check(
            "cloud-only",
            case(Here::Warm).from(Origin::Neighbour),
            &peers,
            RUN,
        );
    }

    #[test]
    fn edge_only_asks_neighbours_first() {
        let peers = [peer(1), peer(2).cloud("near")];
        check("edge-only", case(Here::Warm), &peers, to(0));
        check("edge-only", case(Here::Warm), &peers[1..], RUN);
        let nobody = reject(Reason::NobodyHasRoom);
        check("edge-only", case(Here::Full).queue(5), &peers[1..], nobody);
    }

    #[test]
    fn edge_cloud_asks_the_cloud_and_no_neighbour() {
        let peers = [peer(1), peer(2).cloud("near")];
        check("edge-cloud", case(Here::Warm), &peers, RUN);
        check("edge-cloud", case(Here::Full).queue(5), &peers, up(1));
        let nobody = reject(Reason::NobodyHasRoom);
        check("edge-cloud", case(Here::Full).queue(5), &peers[..1], nobody);
    }

    #[test]
    fn policies_of_one_hop_take_what_arrives_or_refuse_it() {
        let peers = [peer(1), peer(2).cloud("near")];
        for policy in ["local-only", "cloud-only", "edge-only", "edge-cloud"] {
            let from = |here, origin| case(here).queue(5).from(origin);
            check(policy, from(Here::Warm, Origin::Neighbour), &peers, RUN);
            let full = reject(Reason::NoRoom);
            check(policy, from(Here::Full, Origin::Neighbour), &peers, full);
            // Save that a region balances once inside.
            check(policy, from(Here::Full, OUTSIDE).cloud(), &peers, to(1));
            check(policy, from(Here::Full, INSIDE).cloud(), &peers, full);
        }
        check(
            "spill",
            case(Here::Full).from(INSIDE).cloud(),
            &peers,
            reject(Reason::NobodyHasRoom),
        );
    }

    #[test]
    fn who_lacks_what_a_function_needs_is_no_candidate() {
        let own = report();
        let function = "shout".parse().expect("a name");
        let constraints = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
        let needs = Needs {
            architecture: Some("x86_64"),
            executor: Some("wasm"),
            constraints: Some(&constraints),
        };
        let verdict = |peer: Peer| {
            let view = View::new(&own, vec![peer.0.clone()]);
            let snapshot = Snapshot {
                local: Local {
                    here: Here::Full,
                    queue: None,
                    role: Role::Edge,
                    regions: &[],
                },
                view: &view,
                now: Time::ZERO,
                chance: 1,
            };
            let request = Request {
                function: &function,
                needs,
                origin: Origin::Here,
                avoid: &[id(9)],
                hops: 1,
                deadline: Time::NEVER,
            };
            weigh(&peer.0, &request, &snapshot).as_str()
        };
        assert_eq!(verdict(peer(1)), "fits");
        assert_eq!(
            verdict(peer(1).change(|r| r.architecture = "aarch64".to_owned())),
            "unfit"
        );
        assert_eq!(verdict(peer(1).change(|r| r.executors.clear())), "unfit");
        assert_eq!(verdict(peer(1).change(|r| r.labels.clear())), "unfit");
        assert_eq!(verdict(peer(1).change(|r| r.offers.clear())), "no function");
        assert_eq!(verdict(peer(1).full()), "no room");
        assert_eq!(verdict(peer(9)), "visited");
    }

    #[test]
    fn one_call_at_a_time_finds_out_whether_a_peer_is_well_again() {
        let mut probed = peer(1);
        probed.0.probing = true;
        check("spill", case(Here::Full), &[probed.clone()], to(0));
        let _held = probed.0.window.reserve().expect("room");
        check(
            "spill",
            case(Here::Full),
            &[probed],
            reject(Reason::NobodyHasRoom),
        );
    }

    fn any_peer() -> impl Strategy<Value = Peer> {
        (
            1..30_u8,
            any::<bool>(),
            any::<bool>(),
            0..20_u32,
            0..200_u64,
            0..3_u32,
        )
            .prop_map(|(number, is_cloud, near, room, milliseconds, warm)| {
                let known = peer(number).far(milliseconds).change(|report| {
                    report.offers = vec![Offer {
                        warm,
                        ..report.offers[0].clone()
                    }];
                });
                known.0.window.renew(room);
                match is_cloud {
                    true => known.cloud(if near { "near" } else { "away" }),
                    false => known,
                }
            })
    }

    proptest! {
        #[test]
        fn no_policy_breaks_the_rules(
            peers in prop::collection::vec(any_peer(), 0..12),
            here in prop::sample::select(vec![Here::Warm, Here::Startable, Here::Full, Here::Unable]),
            origin in prop::sample::select(vec![Origin::Here, Origin::Neighbour, INSIDE, OUTSIDE]),
            hops in 0..3_u8,
            avoid in prop::collection::vec(1..30_u8, 0..6),
            queue in prop::option::of(0..100_u64),
            within in 1..300_u64,
            chance in any::<u64>(),
            index in 0..5_usize,
        ) {
            let case = Given {
                here,
                queue: queue.map(Duration::from_millis),
                role: Role::Edge,
                origin,
                hops,
                avoid: avoid.into_iter().map(id).collect(),
                deadline: Time::ZERO + Duration::from_millis(within),
            };
            let policy = all()[index].name();
            let (decision, weighed) = case.decide(policy, &peers, chance);
            // The same question has the same answer.
            prop_assert_eq!(decision, case.decide(policy, &peers, chance).0);
            match decision {
                Decision::Run => prop_assert!(matches!(here, Here::Warm | Here::Startable)),
                Decision::Enqueue { until } => {
                    prop_assert!(queue.is_some() && here != Here::Unable && until == case.deadline);
                    prop_assert_eq!(origin, Origin::Here);
                }
                Decision::Offload { to, reach } => {
                    prop_assert!(hops > 0);
                    let chosen = &peers[to].0;
                    prop_assert!(!case.avoid.contains(&chosen.id));
                    prop_assert!(chosen.window.room() > 0);
                    prop_assert!(weighed.iter().any(|seen| seen.peer == chosen.id));
                    if reach == Reach::Vertical {
                        prop_assert_eq!(chosen.report.role, Role::Cloud);
                    }
                }
                Decision::Reject(_) => {}
            }
            prop_assert!(weighed.len() <= 3 * DRAWS);
        }
    }
}
