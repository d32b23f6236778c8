//! What would become of a call, for those who decide where it runs, and the place
//! that is kept for it until then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::functions::Function;
use super::instances::Held;
use super::status::Capability;
use super::version::Version;
use super::{Inner, Node};
use crate::admission::Places;
use crate::function::FunctionSpec;
use crate::id::FunctionName;
use crate::invocation::{Invocation, InvokeError};
use crate::scheduler::{Outlook, Request, Reserved};
use crate::time::Time;

/// A function that is deployed here, found once for all that a call wants of it.
#[derive(Clone)]
pub struct Found(Arc<Function>);

impl Found {
    /// As it is deployed.
    pub fn spec(&self) -> Arc<FunctionSpec> {
        self.0.current.load().spec.clone()
    }
}

/// What a node sees that is to decide about a call.
pub struct Look {
    /// What would become of the call if it came now.
    pub outlook: Outlook,
    /// Whether what starts its function works, as far as is known.
    pub works: bool,
    /// What the node can do, and for how many calls of the function there is room,
    /// itself not counted; `None` where that was not wanted.
    pub room: Option<(Capability, Places)>,
    /// Where it would run at once; `None` where it would not, or that was not
    /// wanted.
    pub place: Option<Box<Reservation>>,
}

/// What is wanted of a [look](Node::look) beside what would become of a call.
#[derive(Debug, Default, Clone, Copy)]
pub struct Wants {
    /// That the place is kept for it where it would run at once on a warm
    /// instance.
    pub place: bool,
    /// How much room there is.
    pub room: bool,
}

/// A place that is kept for a call until it is decided where that runs; given
/// back when dropped.
pub struct Reservation {
    inner: Arc<Inner>,
    function: Arc<Function>,
    asks: Request,
    /// `None` once its call has it.
    reserved: Option<Reserved>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(reserved) = self.reserved.take() else {
            return;
        };
        let mut actions = Vec::new();
        let now = self.inner.clock.now();
        self.inner.scheduler().release(reserved, now, &mut actions);
        self.inner.was_freed(actions);
    }
}

impl Reservation {
    /// Which function, and what its call asks for.
    pub(super) fn asks(&self) -> (Arc<Function>, Request) {
        (self.function.clone(), self.asks)
    }

    /// Hands the place to its call.
    pub(super) fn take(mut self) -> Held {
        let reserved = self.reserved.take().expect("only taken here");
        // It was taken under the lock, and nothing was asked for.
        self.inner.perform(Vec::new(), None);
        Held::new(self.inner.clone(), reserved.run())
    }
}

impl Node {
    /// A function by its name; `None` when it is not deployed here.
    pub fn find(&self, name: &FunctionName) -> Option<Found> {
        let function = self.inner.functions.get(name)?;
        Some(Found(function.clone()))
    }

    /// The default deadline of the class of that name, or of the first class of a
    /// function.
    pub fn deadline_of(&self, found: &Found, class: Option<&str>) -> Option<Duration> {
        if class.is_some() {
            return self.class_deadline(class);
        }
        let first = found.0.current.load().classes[0];
        self.inner.config.classes[first].deadline
    }

    /// What would become of a call that arrived now, with what else of the
    /// scheduler is wanted, under its lock once; `None` when its function was
    /// removed.
    ///
    /// # Errors
    /// When callers of the function may not name its class.
    pub fn look(
        &self,
        found: &Found,
        invocation: &Invocation,
        wants: Wants,
    ) -> Result<Option<Look>, InvokeError> {
        let (inner, function) = (&self.inner, &found.0);
        let now = inner.clock.now();
        let asks = inner.request(function, invocation, now)?;
        let (room, seen) = {
            let mut scheduler = inner.scheduler();
            // Before its own place is taken.
            let room = wants.room.then(|| {
                let admission = scheduler.admission();
                let places = admission.places(function.key);
                (Capability::of(admission), places.unwrap_or_default())
            });
            let seen = match wants.place {
                true => scheduler.reserve(&asks, now),
                false => scheduler.prospect(&asks, now).map(|seen| (seen, None)),
            };
            (room, seen)
        };
        Ok(seen.map(|(outlook, reserved)| Look {
            outlook,
            works: function.current.load().executor.works(),
            room,
            place: reserved.map(|reserved| {
                Box::new(Reservation {
                    inner: inner.clone(),
                    function: function.clone(),
                    asks,
                    reserved: Some(reserved),
                })
            }),
        }))
    }
}

impl Inner {
    /// How the scheduler sees a call that came at `arrived`.
    pub(super) fn request(
        &self,
        function: &Function,
        invocation: &Invocation,
        arrived: Time,
    ) -> Result<Request, InvokeError> {
        let version = function.current.load();
        let class = self.class(&version, invocation.class.as_deref())?;
        let persists_until = invocation.persists_until;
        let of_class = &self.config.classes[class];
        Ok(Request {
            function: function.key,
            class,
            patient: true,
            arrived,
            deadline: of_class.deadline_of(arrived, invocation.deadline, persists_until.is_some()),
            persists_until,
            timeout: version.spec.timeout,
            per_second: version.max_rate,
            elsewhere: self.elsewhere.load(Ordering::Relaxed),
        })
    }

    fn class(&self, version: &Version, asked: Option<&str>) -> Result<usize, InvokeError> {
        let Some(asked) = asked else {
            return Ok(version.classes[0]);
        };
        let name = |class: &usize| self.config.classes[*class].name.as_str();
        version
            .classes
            .iter()
            .copied()
            .find(|class| name(class) == asked)
            .ok_or_else(|| {
                let allowed: Vec<&str> = version.classes.iter().map(name).collect();
                InvokeError::Class(format!(
                    "QoS class {asked:?} is not open to callers of {}; they may name: {}",
                    version.spec.name,
                    allowed.join(", ")
                ))
            })
    }
}
