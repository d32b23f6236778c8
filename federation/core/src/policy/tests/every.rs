//! What holds for each policy of the list, whatever it has learned: a policy that is
//! added is tried with all others.

use super::*;
use crate::congestion::Congestion;
use crate::samples::numbered;
use crate::snapshot::Reserved;
use weir_node_core::words::Timing;

/// A peer, as it may be.
#[derive(Debug, Clone)]
struct One {
    peer: Peer,
    /// Whether it lacks what the function needs.
    is_unfit: bool,
    /// Whether it has left, is denied or dead: it is not among those of the view.
    is_gone: bool,
    /// Whether nothing was heard of the function there.
    is_unheard_of: bool,
    /// Whether the call was there already.
    is_visited: bool,
}

fn one() -> impl Strategy<Value = One> {
    let odds = || prop::bool::weighted(0.15);
    (any_peer(), odds(), odds(), odds(), odds()).prop_map(
        |(peer, is_unfit, is_gone, is_unheard_of, is_visited)| {
            let peer = match is_unfit {
                true => peer.change(|report| report.architecture = "none".to_owned()),
                false => peer,
            };
            let peer = match is_unheard_of {
                true => peer.idle(),
                false => peer,
            };
            One {
                peer,
                is_unfit,
                is_gone,
                is_unheard_of,
                is_visited,
            }
        },
    )
}

/// One act of a node's life.
#[derive(Debug, Clone, Copy)]
struct Act {
    here: Here,
    origin: Origin,
    hops: u8,
    bounds: Bounds,
    queue: Option<Duration>,
    within: u64,
    chance: u64,
    ending: Ending,
    took: u64,
    passes: u64,
    /// Who comes or goes after it.
    changes: prop::sample::Index,
}

fn act() -> impl Strategy<Value = Act> {
    let here = vec![Here::Warm, Here::Startable, Here::Full, Here::Unable];
    let origin = vec![
        Origin::Here,
        Origin::Here,
        Origin::Neighbour,
        INSIDE,
        OUTSIDE,
    ];
    let bounds = vec![
        Bounds::Federation,
        Bounds::Federation,
        Bounds::Zone,
        Bounds::Node,
    ];
    let endings = vec![
        Ending::Answered,
        Ending::Answered,
        Ending::Failed,
        Ending::Refused,
        Ending::Lost,
        Ending::Late,
    ];
    let select = (
        prop::sample::select(here),
        prop::sample::select(origin),
        prop::sample::select(bounds),
        prop::sample::select(endings),
    );
    let numbers = (
        0..3_u8,
        prop::option::of(0..100_u64),
        1..300_u64,
        any::<u64>(),
        0..400_u64,
        0..3_000_u64,
        any::<prop::sample::Index>(),
    );
    (select, numbers).prop_map(
        |((here, origin, bounds, ending), (hops, queue, within, chance, took, passes, changes))| {
            Act {
                here,
                origin,
                hops,
                bounds,
                queue: queue.map(Duration::from_millis),
                within,
                chance,
                ending,
                took,
                passes,
                changes,
            }
        },
    )
}

/// A node that lives by one policy.
struct Life<'a> {
    policy: Arc<dyn Policy>,
    peers: &'a [One],
    gone: Vec<bool>,
    congestion: Congestion,
    now: Time,
    held: Vec<Reserved>,
}

impl Life<'_> {
    fn view(&self) -> View {
        let own = report();
        let peers = self.peers.iter().map(|one| one.peer.0.clone()).collect();
        let gone = |id: &PeerId| {
            let at = self.peers.iter().position(|one| one.peer.0.id == *id);
            at.is_some_and(|at| self.gone[at])
        };
        View::new(&own, peers).without(&own, gone)
    }

    /// Decides once, holds that against the rules, and tells the policy of an end.
    fn lives(&mut self, act: &Act) {
        let view = self.view();
        let function: FunctionName = "shout".parse().expect("a name");
        let regions = ["near".to_owned(), "away".to_owned()];
        let avoid: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|one| one.is_visited)
            .map(|one| one.peer.0.id)
            .chain([numbered(u32::MAX)])
            .collect();
        let snapshot = Snapshot {
            local: Local {
                here: act.here,
                queue: act.queue,
                service: None,
                start: None,
                blamed: act.chance.is_multiple_of(5),
                role: Role::Edge,
                regions: &regions,
            },
            view: &view,
            abilities: &AtPeers::default(),
            remembered: self.peers.first().map(|one| one.peer.0.id),
            congestion: Some(&self.congestion),
            now: self.now,
            chance: act.chance,
        };
        let request = Request {
            needs: Needs {
                architecture: Some("x86_64"),
                ..Needs::default()
            },
            bounds: act.bounds,
            origin: act.origin,
            avoid: &avoid,
            hops: act.hops,
            deadline: self.now + Duration::from_millis(act.within),
            ..request_of(&function)
        };
        let would = would_decide(&*self.policy, &request, &snapshot);
        let mut weighed = Vec::new();
        let decision = decide(&*self.policy, &request, &snapshot, &mut weighed);
        let name = self.policy.name();
        assert_eq!(decision, would, "{name}: a trial is the same, and no act");
        let to = self.check(&decision, (act, &request, &snapshot), &weighed);
        self.end(act, &decision, to);
    }

    /// Holds a decision against the rules; where it sends the call.
    fn check(
        &self,
        decision: &Decision,
        (act, request, snapshot): (&Act, &Request<'_>, &Snapshot<'_>),
        weighed: &[Weighed],
    ) -> Option<usize> {
        let name = self.policy.name();
        assert!(weighed.len() <= 4 * (LOOKED_AT + 9), "{name}");
        match *decision {
            Decision::Run => {
                assert!(matches!(act.here, Here::Warm | Here::Startable), "{name}");
            }
            Decision::Enqueue { until } => {
                assert!(act.queue.is_some() && act.here != Here::Unable, "{name}");
                assert!(until <= request.deadline, "{name}");
            }
            Decision::Offload {
                to,
                reach,
                hops,
                until,
            } => {
                assert!(act.hops > 0, "{name}: no hops are left");
                assert!(hops < act.hops && until <= request.deadline, "{name}");
                assert!(act.bounds != Bounds::Node, "{name}: it stays at its node");
                let chosen = &snapshot.view.peers[to];
                let one = &self.peers[to];
                assert_eq!(chosen.id, one.peer.0.id);
                assert!(!request.avoid.contains(&chosen.id), "{name}: visited");
                let mut known = snapshot.view.peers.iter();
                assert!(known.any(|peer| peer.id == chosen.id), "{name}: gone");
                assert!(!one.is_unfit, "{name}: it lacks what it needs");
                assert!(!one.is_unheard_of, "{name}: nobody asked it");
                let is_congested = self.congestion.is_congested(&chosen.id, self.now);
                assert!(!is_congested, "{name}: it is congested");
                assert!(chosen.room_for(COST) > 0, "{name}: it has no room");
                assert!(weighed.iter().any(|seen| seen.peer == chosen.id), "{name}");
                if reach == Reach::Vertical {
                    assert_eq!(chosen.report.role, Role::Cloud, "{name}");
                    assert_eq!(act.bounds, Bounds::Federation, "{name}");
                }
                return Some(to);
            }
            Decision::Ask => assert_eq!(act.origin, Origin::Here, "{name}"),
            Decision::Reject(_) => {}
        }
        None
    }

    fn end(&mut self, act: &Act, decision: &Decision, to: Option<usize>) {
        if to.is_some() || *decision == Decision::Run {
            let peer = to.map(|to| &self.peers[to].peer.0);
            if let Some(window) = peer.and_then(|peer| peer.window())
                && let Some(reserved) = window.reserve(None, COST, self.now)
                && act.chance.is_multiple_of(3)
            {
                self.held.push(reserved);
            }
            let began = self.now;
            self.now = self.now + Duration::from_millis(act.took);
            self.policy.observe(&Outcome {
                function: &"shout".parse().expect("a name"),
                class: ClassKey::NONE,
                origin: act.origin,
                from: None,
                to: peer.map(|peer| peer.id),
                reach: peer.map(|_| Reach::Horizontal),
                ending: act.ending,
                timing: Timing::default(),
                began,
                ended: self.now,
                sent_bytes: act.within,
                answer_bytes: 0,
            });
        }
        self.now = self.now + Duration::from_millis(act.passes);
        if !self.gone.is_empty() && act.chance.is_multiple_of(4) {
            let at = act.changes.index(self.gone.len());
            self.gone[at] = !self.gone[at];
        }
        if act.chance.is_multiple_of(7) {
            self.tick(act.chance);
        }
    }

    fn tick(&self, chance: u64) {
        let view = self.view();
        let mut wishes = Wishes::default();
        let field = Field {
            own: numbered(u32::MAX),
            role: Role::Edge,
            architecture: "x86_64",
            load: report().load,
            regions: &["near".to_owned()],
            view: &view,
            congestion: &self.congestion,
            now: self.now,
            chance,
        };
        let next = self.policy.tick(&field, &mut wishes);
        assert!(next > self.now, "{}", self.policy.name());
        for peer in wishes.probes() {
            assert!(view.peer(peer).is_some(), "{}", self.policy.name());
            let load = (!chance.is_multiple_of(3)).then(|| report().load);
            self.policy.probed(&Probed {
                peer: *peer,
                load,
                took: Duration::from_millis(2),
                now: self.now,
            });
        }
        if let Some(note) = wishes.note() {
            assert!(note.len() <= NOTE_BYTES_MAX);
            assert_eq!(self.policy.hear(id(200), note, self.now), Ok(()));
        }
    }
}

/// Those with `faithful` behave as published too.
fn choices() -> impl Iterator<Item = Choice> {
    KINDS.iter().flat_map(|kind| {
        let usual = Choice::of(kind);
        let has = kind.keys.iter().any(|key| key.name == "faithful");
        let published = has.then(|| format!("{}:faithful=true", kind.name));
        let published = published.map(|text| text.parse().expect("a choice"));
        [usual].into_iter().chain(published)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_policy_of_the_list_breaks_the_rules(
        few in prop::collection::vec(one(), 0..10),
        many in prop::option::weighted(0.3, prop::collection::vec(one(), 20..40)),
        acts in prop::collection::vec(act(), 1..16),
        congested in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let mut peers = many.unwrap_or(few);
        // One id, one peer.
        for (number, one) in (100..).zip(&mut peers) {
            let facts = Facts::new(id(number), (*one.peer.0.report).clone());
            let heard = one.peer.0.heard;
            let room = one.peer.0.room_for(COST);
            let far = one.peer.0.round_trip();
            one.peer.0 = PeerView::new(Arc::new(facts), heard);
            one.peer.0.set_round_trip(far);
            one.peer.0.allow(16);
            one.peer.0.open().renew(&word(room));
        }
        for choice in choices() {
            let mut congestion = Congestion::default();
            for index in congested.iter().filter(|_| !peers.is_empty()) {
                let peer = peers[index.index(peers.len())].peer.0.id;
                congestion.notice(peer, Time::NEVER, Time::ZERO);
            }
            let mut life = Life {
                policy: choice.build(),
                gone: peers.iter().map(|one| one.is_gone).collect(),
                peers: &peers,
                congestion,
                now: Time::ZERO,
                held: Vec::new(),
            };
            life.tick(1);
            for act in &acts {
                life.lives(act);
            }
            if let Some(saved) = life.policy.save() {
                prop_assert!(saved.len() <= SAVED_BYTES_MAX);
                let again = choice.build();
                prop_assert_eq!(again.restore(&saved, Time::ZERO), Ok(()));
                life.policy = again;
                for act in &acts {
                    life.lives(act);
                }
            }
        }
    }
}
