//! Calls and questions of other nodes: what this node gives them, and whose
//! turn it is.
//!
//! | file | what it is |
//! |---|---|
//! | `guests` | calls of other nodes' users that are here, and what they count |
//! | `standing` | what this node can do about a function of others |
//! | `questions` | questions of other nodes for places here |
//! | `turns` | whose turn it is at its free places |

mod guests;
mod questions;
mod standing;
mod turns;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use libp2p_identity::PeerId;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;
use weir_node::executor::{AnswerBody, Body};
use weir_node::id::FunctionName;
use weir_node::invocation::{Answer, Invocation, InvokeError, Refusal, Timing};
use weir_node::node::Declined;
use weir_node::panics::{self, Panicked};

pub(super) use self::guests::Guest;
use self::standing::BRINGS;
use self::turns::Taker;
use super::bodies::Kept;
use super::offer::to_relative;
use super::{Inner, Way};
use crate::answers::{self, Why};
use crate::policy::{ClassKey, Origin};
use crate::report::Role;
use crate::snapshot::Cost;
use crate::turns::{TURN_WAIT_MAX, Turn};
use crate::wire::{self, Arrived, LOOK, Reply, Travelling};
use weir_federation_core::patience;
use weir_federation_core::placement::HOPS_MAX;
use weir_federation_core::wanted::Wanted;

/// When a node that is to be asked again soon is asked again.
const SOON: Duration = Duration::from_millis(500);

/// What this node does for others.
pub(super) struct Serving {
    /// Calls that it holds of each node and function; no more than there are.
    held: Mutex<HashMap<(PeerId, FunctionName), u32>>,
    /// Those who wait for their turn; no more than [`crate::turns`] lets wait.
    takers: DashMap<Turn, Taker>,
    bringing: Semaphore,
}

impl Default for Serving {
    fn default() -> Serving {
        Serving {
            held: Mutex::default(),
            takers: DashMap::new(),
            bringing: Semaphore::new(BRINGS),
        }
    }
}

/// A call of another node, or a question about such calls.
struct Called {
    function: FunctionName,
    cost: Cost,
    /// By which it is placed here; `None` for a question.
    class: Option<ClassKey>,
}

/// Why a guest's call is not run.
struct Refused {
    error: InvokeError,
    /// The word for metrics.
    word: Option<&'static str>,
    why: Why,
    ready_in: Duration,
}

impl Refused {
    fn new(reason: Refusal, word: &'static str, why: Why) -> Refused {
        let error = InvokeError::Refused {
            reason,
            retry_after: Duration::from_secs(1),
        };
        Refused {
            error,
            word: Some(word),
            why,
            ready_in: Duration::ZERO,
        }
    }

    fn panicked(panicked: Panicked) -> Refused {
        Refused {
            error: InvokeError::from(panicked),
            word: None,
            why: Why::Other,
            ready_in: Duration::ZERO,
        }
    }

    fn malformed(text: &str) -> Refused {
        Refused {
            error: InvokeError::Body(text.into()),
            word: Some("malformed"),
            why: Why::Other,
            ready_in: Duration::ZERO,
        }
    }
}

impl Serving {
    fn held(&self) -> MutexGuard<'_, HashMap<(PeerId, FunctionName), u32>> {
        self.held.lock()
    }
}

impl Inner {
    /// What this node says of itself to a node that sent it a call, or asked.
    fn told(&self, to: &PeerId, called: Option<&Called>, streams: bool) -> Reply {
        let Some(called) = called else {
            return Reply {
                load: Some(self.federated.load(&self.node, Some(to))),
                ..Reply::default()
            };
        };
        let (capability, places) = self.node.capability_for(&called.function);
        let load = self.federated.load_by(&self.node, &capability, Some(to));
        let places = places.map(|places| answers::guest_room(Some(places), &load, called.cost));
        let room = places.unwrap_or(0);
        let level = called
            .class
            .and_then(|class| self.beside.tells(class, room));
        let key = (*to, called.function.clone());
        let held = self.serving.held().get(&key).copied().unwrap_or(0);
        Reply {
            load: Some(load),
            places,
            held: held.saturating_sub(u32::from(streams)),
            streams,
            why: None,
            ready_in: 0,
            level: level.map(u64::from),
        }
    }

    /// Runs a call that a member sent, or sends it on, or refuses it before its
    /// body is read.
    pub(super) async fn receive(
        self: &Arc<Self>,
        from: PeerId,
        request: Request<Body>,
    ) -> Response<AnswerBody> {
        if request.headers().contains_key(LOOK) {
            return self.serve_look(from, request).await;
        }
        let mut called = None;
        let guest = panics::contain(self.guest(from, request, &mut called));
        let outcome = Box::pin(guest).await;
        let outcome = outcome.unwrap_or_else(|panicked| Err(Refused::panicked(panicked)));
        match outcome {
            Ok(answer) => {
                self.count_guest("answered");
                let streams = matches!(answer.response.body(), AnswerBody::Stream(_));
                let told = self.told(&from, called.as_ref(), streams);
                let arrived = Arrived::answer(&answer, told);
                let mut response = answer.response;
                wire::put(response.headers_mut(), &arrived);
                response
            }
            Err(refused) => self.refuse(&from, called.as_ref(), &refused),
        }
    }

    /// Says why a call is not run.
    fn refuse(
        &self,
        from: &PeerId,
        called: Option<&Called>,
        refused: &Refused,
    ) -> Response<AnswerBody> {
        let error = &refused.error;
        self.count_guest(refused.word.unwrap_or(error.word()));
        let mut told = self.told(from, called, false);
        told.why = Some(refused.why.as_str().to_owned());
        told.ready_in = u64::try_from(refused.ready_in.as_millis()).unwrap_or(u64::MAX);
        let arrived = Arrived::without(error, told);
        let mut response = Response::new(AnswerBody::Whole(Bytes::from(error.to_string())));
        *response.status_mut() =
            StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_GATEWAY);
        wire::put(response.headers_mut(), &arrived);
        response
    }

    /// Whether a call is taken that a node sends and that visited those.
    fn may_come(&self, from: &PeerId, visited: &[PeerId]) -> Result<(), Refused> {
        let own = self.federated.shared.id;
        if *from == own || visited.contains(&own) {
            return Err(Refused::new(Refusal::NoRoom, "visited", Why::Other));
        }
        if !self.federated.admits(from) {
            return Err(Refused::new(Refusal::NoRoom, "not-a-member", Why::Other));
        }
        if self.federated.is_draining() {
            return Err(Refused::new(Refusal::Draining, "draining", Why::Other));
        }
        Ok(())
    }

    /// What a call is here that a node sends on with this region.
    fn origin(&self, region: Option<&String>) -> Origin {
        match self.federated.role() {
            Role::Edge => Origin::Neighbour,
            Role::Cloud => Origin::Region {
                inside: region.is_some()
                    && region == self.federated.settings().own_region().as_ref(),
            },
        }
    }

    /// Takes a guest's call in.
    async fn guest(
        self: &Arc<Self>,
        from: PeerId,
        mut request: Request<Body>,
        called: &mut Option<Called>,
    ) -> Result<Answer, Refused> {
        let travelling: Travelling = wire::take(request.headers_mut())
            .ok_or_else(|| Refused::malformed("a call without the words that carry it"))?;
        let (Some(name), Some(id), Some(mut visited)) =
            (travelling.name(), travelling.id(), travelling.path())
        else {
            let text = "a call whose function, id or path cannot be read";
            return Err(Refused::malformed(text));
        };
        let cost = self.guest_cost(&name, travelling.service);
        let class = self.guest_class(travelling.class);
        *called = Some(Called {
            function: name.clone(),
            cost,
            class: Some(ClassKey::of(class.as_deref())),
        });
        self.may_come(&from, &visited)?;
        self.check_standing(&from, &name, travelling.version)
            .await?;
        visited.push(from);
        to_relative(&mut request);
        let now = self.node.clock().now();
        let left = travelling.left.map(Duration::from_millis);
        let invocation = Invocation {
            id,
            function: name.clone(),
            request,
            class,
            deadline: left.map(|left| now + left),
            persists_until: None,
        };
        let wait = Duration::from_millis(travelling.wait);
        let granted = patience::says_promised(wait)
            && self.federated.turns().is_promised(&from, cost.cpu, now);
        let guest = Arc::new(Guest::new(self, from, name.clone(), cost));
        let way = Way {
            origin: self.origin(travelling.region.as_ref()),
            visited,
            hops: travelling.hops.min(HOPS_MAX.saturating_sub(1)),
            guest: Some(guest.clone()),
        };
        if !wait.is_zero() && !granted && !self.has_guest_room(&guest) {
            self.wait_as_guest(&guest, wait).await;
        }
        let answer = match granted {
            true => self.keep_promise(invocation).await,
            false => self.place(invocation, way, None).await,
        };
        let mut answer = answer.map_err(|error| self.refusal(error, &name, cost))?;
        answer.response = answer.response.map(|body| match body {
            AnswerBody::Whole(bytes) => AnswerBody::Whole(bytes),
            AnswerBody::Stream(body) => AnswerBody::Stream(Kept::new(body, guest).boxed_unsync()),
        });
        Ok(answer)
    }

    /// Runs a guest's call that was promised a place: as one of this node's own users.
    async fn keep_promise(&self, invocation: Invocation) -> Result<Answer, InvokeError> {
        let class = ClassKey::of(invocation.class.as_deref());
        match self.node.wait(invocation, None, None).await {
            Ok(answer) => {
                let Timing { queued, ran, .. } = answer.timing;
                let now = self.node.clock().now();
                self.beside.ran_here(class, queued, Some(ran), now);
                Ok(answer)
            }
            Err(Declined::Failed(error)) => Err(error),
            Err(Declined::NoRoom(_) | Declined::Left(..)) => Err(self.no_room()),
        }
    }

    /// Waits for a guest's turn.
    async fn wait_as_guest(&self, guest: &Guest, wait: Duration) {
        let (from, name, cost) = guest.asks();
        // What waits takes nothing yet: it would keep others, and itself, out.
        guest.leaves();
        self.wait_for_turn(from, (name, cost, 1), wait.min(TURN_WAIT_MAX))
            .await;
        guest.comes();
    }

    /// What it means to the sender that its call was not run here.
    fn refusal(&self, error: InvokeError, name: &FunctionName, cost: Cost) -> Refused {
        let why = match &error {
            InvokeError::CannotRun { .. } => Why::Unable,
            InvokeError::Refused { .. } => {
                let (capability, places) = self.node.capability_for(name);
                let load = self.federated.load_by(&self.node, &capability, None);
                Why::full(places, load.cpu_free, cost)
            }
            InvokeError::Unknown(_)
            | InvokeError::Class(_)
            | InvokeError::Late { .. }
            | InvokeError::Failed(_)
            | InvokeError::PeerLost(_)
            | InvokeError::Body(_)
            | InvokeError::Unfit(_)
            | InvokeError::Internal(_) => Why::Other,
        };
        Refused {
            error,
            word: None,
            why,
            ready_in: Duration::ZERO,
        }
    }

    fn guest_cost(&self, name: &FunctionName, service_micros: u64) -> Cost {
        let spec = self.node.spec(name);
        let spec = spec.or_else(|| self.federated.entry(name)?.spec);
        let wanted = spec.map(|spec| Wanted::by(&spec, None)).unwrap_or_default();
        let theirs = (service_micros > 0).then(|| Duration::from_micros(service_micros));
        wanted.cost(self.service(name).or(theirs))
    }

    /// A guest's class where this node has one of that name; else its default.
    fn guest_class(&self, class: Option<String>) -> Option<String> {
        let classes = &self.node.config().classes;
        class.filter(|name| classes.iter().any(|class| class.name == *name))
    }
}
