//! One call of a node: does the steps of its placement, and says what came of
//! them.

mod ending;
mod learning;
mod waits;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Request;
use http_body::Body as _;
use libp2p_identity::PeerId;
use weir_federation_core::placement::{
    Arrival, Came, Decided, End, Outlook, Placement, Step, Window,
};
use weir_federation_core::wanted::Wanted;
use weir_node::admission::Seat;
use weir_node::executor::Body;
use weir_node::function::FunctionSpec;
use weir_node::id::FunctionName;
use weir_node::invocation::{Answer, Invocation, InvokeError};
use weir_node::node::{Declined, Found, Reservation, Wants};
use weir_node::replay::Replay;
use weir_node::time::Time;

use super::explained::{Explanation, step};
use super::offer::{self, Errand, Offered, Seized};
use super::policies::Chosen;
use super::serving::Guest;
use super::{Inner, Way, this_machine};
use crate::explain::Account;
use crate::policy::{self, ClassKey, Ending, Policy};
use crate::snapshot::{Local, Snapshot, View};

/// One call, from its arrival to its answer.
pub(super) struct Course<'a> {
    inner: &'a Arc<Inner>,
    placement: Placement<Chosen<'a>>,
    guest: Option<Arc<Guest>>,
    spec: Option<Arc<FunctionSpec>>,
    /// Its function as it was found here when the call came; looked up again for
    /// each decision after the first.
    found: Option<Found>,
    /// Whether the function is not deployed here.
    absent: bool,
    /// Its request, should it be sent again.
    again: Option<Replay>,
    /// Why the last peer did not take it.
    declined: String,
    fetched: Duration,
    /// Where it stood in the queue, when it has left that.
    seat: Option<Seat>,
    /// Bytes of its body; `None` where nobody knows yet.
    body_bytes: Option<u64>,
}

/// What this node sees of itself when it decides about a call.
struct Seen {
    /// What it could do.
    window: Window,
    /// How long the function runs here; `None` before it has.
    service: Option<Duration>,
    /// How long a start of it takes here; `None` before one was measured.
    start: Option<Duration>,
    /// The place that is kept for the call where it would run at once.
    place: Option<Box<Reservation>>,
}

/// How far a call goes on from a peer, and how long its answer is waited for.
#[derive(Debug, Clone, Copy)]
struct Onward {
    /// How many more nodes it may visit.
    hops: u8,
    /// Until when.
    until: Time,
}

/// What became of a step.
pub(super) enum Turned {
    Ended(Result<Answer, InvokeError>),
    /// It is to be decided about again.
    Again(Invocation),
}

/// A step that is to be done, with what that takes.
enum Todo {
    /// Where a place was kept for it, if one was.
    Run(Option<Box<Reservation>>),
    Wait {
        leaves: bool,
        /// When it is decided about again.
        until: Time,
        /// How long each call that waits here makes the next one wait.
        turn: Option<Duration>,
    },
    /// To the place that was taken at a peer; `None` where another call was
    /// quicker.
    Go(Option<Box<(Seized, Onward)>>),
    Bring,
    WaitElsewhere(Duration),
    Again,
    End(End),
}

/// Writes into an explanation what came of its last step.
fn note(explain: Option<&mut Explanation>, result: &str) {
    if let Some(step) = explain.and_then(|explain| explain.steps.last_mut()) {
        result.clone_into(&mut step.result);
    }
}

impl<'a> Course<'a> {
    /// Begins the course of a call, and fixes the moment of its deadline.
    pub(super) fn new(inner: &'a Arc<Inner>, way: Way, invocation: &mut Invocation) -> Course<'a> {
        let node = &inner.node;
        let arrived = node.clock().now();
        let class = invocation.class.as_deref();
        let found = node.find(&invocation.function);
        if invocation.deadline.is_none() {
            let by_class = match (&found, class) {
                (Some(found), _) => node.deadline_of(found, class),
                (None, Some(_)) => node.class_deadline(class),
                (None, None) => None,
            };
            invocation.deadline = by_class.map(|deadline| arrived + deadline);
        }
        let here = found.as_ref().map(Found::spec);
        let absent = here.is_none();
        let entry = inner.federated.entry(&invocation.function);
        let spec = here.or_else(|| entry.as_ref()?.spec.clone());
        let wanted = spec.as_ref();
        let wanted = wanted.map(|spec| Wanted::by(spec, entry.as_ref()));
        let wanted = wanted.unwrap_or_default();
        let body_bytes = invocation.request.body().size_hint().exact();
        let placement = Placement::new(Arrival {
            origin: way.origin,
            visited: way.visited,
            hops: way.hops,
            arrived,
            deadline: invocation.deadline.unwrap_or(Time::NEVER),
            known: spec.is_some(),
            fits_here: wanted.fits(&this_machine(&inner.federated.settings().labels)),
            wanted: Arc::new(wanted),
            class: ClassKey::of(invocation.class.as_deref()),
            policy: inner
                .policies
                .of(spec.as_deref(), invocation.class.as_deref(), arrived),
        })
        .beside(inner.beside.clone());
        Course {
            inner,
            placement,
            guest: way.guest,
            spec,
            found,
            absent,
            again: None,
            declined: String::new(),
            fetched: Duration::ZERO,
            seat: None,
            body_bytes,
        }
    }

    pub(super) fn policy(&self) -> &dyn Policy {
        &*self.placement.arrival().policy
    }

    fn wanted(&self) -> &Arc<Wanted> {
        &self.placement.arrival().wanted
    }

    fn deadline(&self) -> Time {
        self.placement.arrival().deadline
    }

    fn now(&self) -> Time {
        self.inner.node.clock().now()
    }

    /// What this node could do with the call itself.
    fn window(&mut self, invocation: &Invocation) -> Result<Seen, InvokeError> {
        let inner = self.inner;
        let drains = inner.federated.is_draining();
        let arrival = self.placement.arrival();
        let wants = Wants {
            // For others it might be kept in vain, and missed by another call.
            place: !drains && arrival.fits_here && arrival.policy.runs_here_first(arrival.origin),
            room: self.guest.is_some(),
        };
        let found = self.found.take();
        let found = found.or_else(|| inner.node.find(&invocation.function));
        let look = match found {
            Some(found) => inner.node.look(&found, invocation, wants)?,
            None => None,
        };
        let room = look.as_ref().and_then(|look| look.room);
        // A guest of a function that is not here has none.
        let closed = self.guest.as_ref().is_some_and(|guest| {
            !room.is_some_and(|(capability, places)| {
                inner.has_guest_room_in(guest, (&capability, Some(places)))
            })
        });
        let outlook = look.as_ref().map(|look| Outlook {
            prospect: look.outlook.prospect,
            wait: look.outlook.wait,
            works: look.works,
        });
        let elsewhere = || {
            let spec = self.spec.as_deref();
            spec.is_some_and(|spec| inner.runs_elsewhere(spec).is_some())
        };
        let window = self.placement.window(outlook, closed, drains, elsewhere);
        let known = look.as_ref().map(|look| look.outlook);
        let service = known.map(|known| known.service);
        Ok(Seen {
            window,
            service: service
                .filter(|service| service.samples > 0)
                .map(|service| service.mean),
            start: known
                .map(|known| known.start)
                .filter(|start| !start.is_zero()),
            place: look.and_then(|look| look.place),
        })
    }

    /// Looks, decides and acts once.
    pub(super) async fn step(
        &mut self,
        invocation: Invocation,
        mut explain: Option<&mut Explanation>,
    ) -> Turned {
        let todo = match self.look(&invocation, explain.as_deref_mut()) {
            Ok(todo) => todo,
            Err(error) => return Turned::Ended(Err(error)),
        };
        match todo {
            Todo::Run(place) => {
                let function = invocation.function.clone();
                let node = &self.inner.node;
                let ran = match place {
                    Some(place) => node.invoke_at(invocation, place).await,
                    None => node.invoke_now(invocation).await,
                };
                match ran {
                    Ok(answer) => {
                        note(explain, "ran here");
                        self.ended_here(&function, Ok(answer))
                    }
                    Err(Declined::Failed(error)) => {
                        note(explain, &error.to_string());
                        self.ended_here(&function, Err(error))
                    }
                    Err(Declined::NoRoom(back) | Declined::Left(back, _)) => {
                        note(explain, "another call took the place");
                        self.came(Came::PlaceTaken, *back)
                    }
                }
            }
            Todo::Wait {
                leaves,
                until,
                turn,
            } => Box::pin(self.wait_here(invocation, (leaves, until), turn, explain)).await,
            Todo::Go(None) => {
                note(explain, "its last place went to another call");
                self.came(Came::PlaceTaken, invocation)
            }
            Todo::Go(Some(to)) => {
                let (seized, onward) = *to;
                Box::pin(self.go((seized, onward), invocation, explain)).await
            }
            Todo::Bring => Box::pin(self.bring(invocation, explain)).await,
            Todo::WaitElsewhere(limit) => {
                Box::pin(self.wait_elsewhere(invocation, limit, explain)).await
            }
            Todo::Again => Turned::Again(invocation),
            Todo::End(end) => self.end(end, &invocation, explain),
        }
    }

    /// Decides once, and takes the place at a peer where the call is to go.
    fn look(
        &mut self,
        invocation: &Invocation,
        explain: Option<&mut Explanation>,
    ) -> Result<Todo, InvokeError> {
        let inner = self.inner;
        let seen = self.window(invocation)?;
        let view = inner.federated.shared.view.load();
        let decided = self.decide(&seen, &view, invocation, explain);
        self.placement.take(decided.step, self.now());
        if let Some(peer) = decided.asks.map(|place| &view.peers[place]) {
            inner.introduce(peer.id, &invocation.function, self.wanted());
        }
        if decided.step != Step::End(End::Unknown) {
            inner.count_decision(decided.decision, seen.window.here);
            for held in decided.held.iter() {
                inner.counters.held_back.count(held.as_str());
            }
        }
        Ok(match decided.step {
            Step::Run => Todo::Run(seen.place),
            Step::Wait { leaves, until } => Todo::Wait {
                leaves,
                until,
                turn: seen.window.turn,
            },
            Step::Offer {
                to, hops, until, ..
            } => {
                let peer = &view.peers[to];
                let seized = inner.seize(peer, &invocation.function, self.wanted());
                if seized.is_some() && inner.remembered.load().as_deref() != Some(&peer.id) {
                    inner.remembered.store(Some(Arc::new(peer.id)));
                }
                Todo::Go(seized.map(|seized| Box::new((seized, Onward { hops, until }))))
            }
            Step::Bring => Todo::Bring,
            Step::WaitElsewhere { limit } => Todo::WaitElsewhere(limit),
            Step::LookWider => Todo::Again,
            Step::End(end) => Todo::End(end),
        })
    }

    /// Decides with what is known at this moment.
    fn decide(
        &self,
        seen: &Seen,
        view: &View,
        invocation: &Invocation,
        explain: Option<&mut Explanation>,
    ) -> Decided {
        let inner = self.inner;
        let function = &invocation.function;
        let failing = match self.placement.is_own() {
            true => inner.failing(function),
            false => Vec::new(),
        };
        let blamed = failing.contains(&None);
        let failing: Vec<PeerId> = failing.into_iter().flatten().collect();
        // A call that runs here at once looks at nobody.
        let drains = inner.federated.is_draining();
        let alone = explain.is_none() && self.placement.is_alone(&seen.window, blamed, drains);
        let mut request = self.placement.request(function, &failing, seen.service);
        request.more = self.more(request.more, invocation, alone);
        let abilities = match alone {
            true => Arc::default(),
            false => inner.federated.abilities().of(function),
        };
        let regions = inner.federated.shared.regions.load();
        let congestion = inner.policies.congestion.load();
        let remembered = inner.remembered.load();
        let snapshot = Snapshot {
            local: Local {
                here: seen.window.here,
                queue: seen.window.queue,
                service: seen.service,
                start: seen.start.filter(|_| !alone),
                blamed,
                role: inner.federated.role(),
                regions: &regions,
            },
            view,
            abilities: &abilities,
            remembered: remembered.as_deref().copied(),
            congestion: congestion.as_deref(),
            now: self.now(),
            chance: rand::random(),
        };
        self.decide_with(&seen.window, &request, &snapshot, explain)
    }

    fn decide_with(
        &self,
        window: &Window,
        request: &policy::Request<'_>,
        snapshot: &Snapshot<'_>,
        explain: Option<&mut Explanation>,
    ) -> Decided {
        let (placement, away) = (&self.placement, || self.is_away());
        let Some(explain) = explain else {
            return placement.decide(window, request, snapshot, away, &mut ());
        };
        let mut account = Account::default();
        let decided = placement.decide(window, request, snapshot, away, &mut account);
        let step = step(request, snapshot, &account, &decided);
        explain.steps.push(step);
        decided
    }

    /// Tells the placement what came of a step.
    fn came(&mut self, came: Came, invocation: Invocation) -> Turned {
        match self.placement.came(came, self.now()) {
            None => Turned::Again(invocation),
            Some(end) => self.end(end, &invocation, None),
        }
    }

    fn ended_here(
        &mut self,
        function: &FunctionName,
        outcome: Result<Answer, InvokeError>,
    ) -> Turned {
        self.attempted(function, &outcome);
        if self.placement.is_own() {
            self.inner.note_outcome(function, None, &outcome);
        }
        Turned::Ended(outcome.map(|mut answer| {
            answer.timing.fetched = self.fetched;
            answer
        }))
    }

    /// As far, and for as long, as the call itself allows.
    fn usual_onward(&self) -> Onward {
        let arrival = self.placement.arrival();
        Onward {
            hops: arrival.hops.saturating_sub(1),
            until: arrival.deadline,
        }
    }

    /// Keeps the request of a call, should it be sent again; once.
    fn keep_request(&mut self, invocation: &mut Invocation) {
        if self.again.is_none() && !offer::is_sent_once(&invocation.request) {
            let kept = self.inner.node.kept();
            self.again = Some(Replay::keep(&mut invocation.request, kept));
        }
    }

    /// Sends the call to a peer where it has taken a place.
    async fn go(
        &mut self,
        (to, onward): (Seized, Onward),
        mut invocation: Invocation,
        explain: Option<&mut Explanation>,
    ) -> Turned {
        let inner = self.inner;
        self.keep_request(&mut invocation);
        self.placement.goes(to.peer, to.reach, self.now());
        if let Some(guest) = &self.guest {
            guest.leaves();
        }
        let peer = to.peer;
        let request = std::mem::replace(&mut invocation.request, Request::new(Body::default()));
        let errand = Errand {
            function: &invocation.function,
            wanted: self.wanted(),
            spec: self.spec.as_deref(),
            class: self.placement.arrival().class,
            hops: onward.hops,
            deadline: onward.until,
            is_impatient: onward.until < self.deadline(),
        };
        // Boxed, so that calls which run here do not carry its room.
        let travelling = inner.travelling(&invocation, &self.placement.arrival().visited, &errand);
        let offer = inner.offer(to, request, (travelling, &errand));
        let (offered, unsent) = Box::pin(offer).await;
        let (reason, came, ending) = match offered {
            Offered::Answer(answer) => {
                note(explain, "answered");
                let arrival = self.placement.arrival();
                if self.absent && self.placement.is_own() && arrival.fits_here {
                    inner.replication.called_elsewhere(&invocation.function);
                }
                return self.ended_at(peer, &invocation.function, Ok(answer));
            }
            Offered::Failed(error) => {
                note(explain, &error.to_string());
                return self.ended_at(peer, &invocation.function, Err(error));
            }
            Offered::Full(reason) => (reason, Came::Full(peer), Ending::Refused),
            Offered::Declined(reason) => (reason, Came::Declined(peer), Ending::Refused),
            Offered::Unreached(reason) => (reason, Came::Unreached(peer), Ending::Refused),
            Offered::Lost(reason) => (reason, Came::Lost(peer), Ending::Lost),
            Offered::GaveUp(reason) => (reason, Came::Lost(peer), Ending::Late),
        };
        note(explain, &reason);
        self.in_vain(&invocation.function, ending);
        if let Some(end) = self.placement.came(came, self.now()) {
            self.declined = format!("{peer}: {reason}");
            return self.end(end, &invocation, None);
        }
        tracing::debug!(function = %invocation.function, %peer, reason, "a peer did not take a call");
        self.goes_again(invocation, (peer, reason), unsent)
    }

    /// Takes note that a peer did not take the call, for a reason: it is decided about
    /// again, if its request can be sent again.
    fn goes_again(
        &mut self,
        mut invocation: Invocation,
        (peer, reason): (PeerId, String),
        unsent: Option<Request<Body>>,
    ) -> Turned {
        let whole = unsent.or_else(|| self.again.as_ref().and_then(Replay::request));
        let Some(request) = whole else {
            let text = format!(
                "the node {peer} did not take the call ({reason}), and its body is too long to be \
                 sent again"
            );
            return Turned::Ended(Err(InvokeError::PeerLost(text)));
        };
        self.declined = reason;
        invocation.request = request;
        self.inner.counters.retries.fetch_add(1, Ordering::Relaxed);
        Turned::Again(invocation)
    }

    fn ended_at(
        &mut self,
        peer: PeerId,
        function: &FunctionName,
        outcome: Result<Answer, InvokeError>,
    ) -> Turned {
        self.attempted(function, &outcome);
        if self.placement.is_own() {
            self.inner.note_outcome(function, Some(peer), &outcome);
        }
        Turned::Ended(outcome)
    }

    /// Brings the code of the function here.
    async fn bring(
        &mut self,
        invocation: Invocation,
        mut explain: Option<&mut Explanation>,
    ) -> Turned {
        let inner = self.inner;
        let (began, deadline) = (self.now(), self.deadline());
        let adopting = Box::pin(inner.replication.adopt(&invocation.function, false));
        let adopted = match deadline == Time::NEVER {
            true => Ok(adopting.await),
            false => tokio::time::timeout(deadline.since(began), adopting).await,
        };
        self.fetched = self.now().since(began);
        match adopted {
            Ok(Ok(())) => note(explain.as_deref_mut(), "its code was brought here"),
            Ok(Err(error)) => {
                note(explain.as_deref_mut(), &error.to_string());
                self.declined = error.to_string();
            }
            Err(_) => {
                note(explain, "its code did not come in time");
                return self.came(Came::BroughtTooLate, invocation);
            }
        }
        self.came(Came::Brought, invocation)
    }
}
