//! One call of a node: does the steps of its placement, and says what came of
//! them.

mod learning;
mod waits;

use std::collections::BTreeMap;
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
use weir_node::node::Declined;
use weir_node::replay::Replay;
use weir_node::time::Time;

use super::explained::{Explanation, step};
use super::offer::{self, Errand, Offered, Seized};
use super::policies::Chosen;
use super::serving::Guest;
use super::{Inner, Way, this_machine};
use crate::explain::Account;
use crate::policy::{self, ClassKey, Ending, Policy};
use crate::report::Report;
use crate::snapshot::{Local, Snapshot, View};

/// One call, from its arrival to its answer.
pub(super) struct Course<'a> {
    inner: &'a Arc<Inner>,
    placement: Placement<Chosen<'a>>,
    guest: Option<Arc<Guest>>,
    spec: Option<Arc<FunctionSpec>>,
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
    Run,
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
        let arrived = inner.node.clock().now();
        let class = invocation.class.as_deref();
        if invocation.deadline.is_none() {
            let by_class = inner.node.default_deadline(&invocation.function, class);
            invocation.deadline = by_class.map(|deadline| arrived + deadline);
        }
        let here = inner.node.spec(&invocation.function);
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
        });
        Course {
            inner,
            placement,
            guest: way.guest,
            spec,
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
    fn window(&self, invocation: &Invocation) -> Result<Window, InvokeError> {
        let inner = self.inner;
        let outlook = inner.node.prospect(invocation)?.map(|outlook| Outlook {
            prospect: outlook.prospect,
            wait: outlook.wait,
            works: outlook.works,
        });
        let guest = self.guest.as_ref();
        let closed = guest.is_some_and(|guest| !inner.has_guest_room(guest));
        let drains = inner.federated.is_draining();
        let elsewhere = || {
            let spec = self.spec.as_deref();
            spec.is_some_and(|spec| inner.runs_elsewhere(spec).is_some())
        };
        Ok(self.placement.window(outlook, closed, drains, elsewhere))
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
            Todo::Run => {
                let function = invocation.function.clone();
                match self.inner.node.invoke_now(invocation).await {
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
        let window = self.window(invocation)?;
        let view = inner.federated.shared.view.load();
        let decided = self.decide(&window, &view, invocation, explain);
        self.placement.take(decided.step, self.now());
        if let Some(peer) = decided.asks.map(|place| &view.peers[place]) {
            inner.introduce(peer.id, &invocation.function, self.wanted());
        }
        if decided.step != Step::End(End::Unknown) {
            inner.count_decision(decided.decision, window.here);
        }
        Ok(match decided.step {
            Step::Run => Todo::Run,
            Step::Wait { leaves, until } => Todo::Wait {
                leaves,
                until,
                turn: window.turn,
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
        window: &Window,
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
        let service = inner.service(function);
        // A call that runs here at once looks at nobody.
        let drains = inner.federated.is_draining();
        let alone = explain.is_none() && self.placement.is_alone(window, blamed, drains);
        let mut request = self.placement.request(function, &failing, service);
        request.more = self.more(request.more, invocation, alone);
        let (abilities, start) = match alone {
            true => (Arc::default(), None),
            false => (
                inner.federated.abilities().of(function),
                inner.node.start_time(function),
            ),
        };
        let regions = inner.federated.shared.regions.load();
        let congestion = inner.policies.congestion.load();
        let remembered = inner.remembered.load();
        let snapshot = Snapshot {
            local: Local {
                here: window.here,
                queue: window.queue,
                service,
                start,
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
        let away = || self.is_away();
        let Some(explain) = explain else {
            return self
                .placement
                .decide(window, &request, &snapshot, away, &mut ());
        };
        let mut account = Account::default();
        let decided = self
            .placement
            .decide(window, &request, &snapshot, away, &mut account);
        let step = step(&request, &snapshot, &account, decided.decision);
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

    /// Ends a call without an answer.
    fn end(&self, end: End, invocation: &Invocation, explain: Option<&mut Explanation>) -> Turned {
        let error = match end {
            End::Unknown => InvokeError::Unknown(invocation.function.clone()),
            End::Refused { reason, wait } => self.inner.node.refused(reason, wait),
            End::Nowhere => InvokeError::CannotRun {
                function: invocation.function.clone(),
                reason: match self.declined.is_empty() {
                    true => self.nowhere(),
                    false => format!("no peer took it; the last one: {}", self.declined),
                },
            },
            End::Late { phase, after } => InvokeError::Late { phase, after },
            End::Lost => InvokeError::PeerLost(format!(
                "the node that had the call was lost ({}); it may have run there, and is not run \
                 again because {} is not declared idempotent",
                self.declined, invocation.function
            )),
        };
        note(explain, &error.to_string());
        Turned::Ended(Err(error))
    }

    /// Why nobody can run it, by what each lacks.
    fn nowhere(&self) -> String {
        let federated = &self.inner.federated;
        let needs = self.wanted().needs();
        let lack = |report: &Report| policy::lacks(&needs, report).map(|lack| lack.to_string());
        let here = match lack(&federated.own()) {
            Some(lack) => format!("this node lacks {lack}"),
            None => "it is not ready on this node".to_owned(),
        };
        if self.policy().reaches() == policy::Reaches::default() {
            let policy = self.policy().name();
            return format!("{here}, and its policy {policy} asks no other");
        }
        let view = federated.shared.view.load();
        let reports = view.peers.iter().map(|peer| &peer.report);
        let mut reasons = BTreeMap::<String, usize>::new();
        for report in reports.chain(view.away().map(|peer| &peer.report)) {
            let reason = match lack(report) {
                Some(lack) => format!("without {lack}"),
                None => format!(
                    "that policy {} or scope does not let be asked, or that do not have it",
                    self.policy().name()
                ),
            };
            *reasons.entry(reason).or_default() += 1;
        }
        if reasons.is_empty() {
            return format!("{here}, and it knows of no peer");
        }
        let reasons = reasons.iter().map(|(why, count)| format!("{count} {why}"));
        let reasons: Vec<_> = reasons.collect();
        format!("no node can run it: {here}; peers: {}", reasons.join(", "))
    }

    /// Whether somebody could run the function who takes no calls now, and is
    /// not gone.
    fn is_away(&self) -> bool {
        let shared = &self.inner.federated.shared;
        let view = shared.view.load();
        let needs = self.wanted().needs();
        let mut away = view.away();
        self.wanted().bounds != policy::Bounds::Node
            && self.policy().reaches() != policy::Reaches::default()
            && away.any(|peer| policy::fits(&needs, &peer.report) && shared.is_near(&peer.report))
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
        inner.counters.retries.fetch_add(1, Ordering::Relaxed);
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
