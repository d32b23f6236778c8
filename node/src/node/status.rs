//! The node as others see it: for listings, and for those who decide where calls
//! run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::Node;
use super::functions::Function;
use crate::admission::{Admission, FunctionKey, Places};
use crate::estimate::Estimate;
use crate::function::FunctionSpec;
use crate::id::FunctionName;
use crate::resources::{Cpu, Resources};

/// Where a deployed function's code stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FunctionState {
    /// Its code is being made ready; calls wait.
    Preparing,
    /// The node cannot start it now, for a reason of its own; says what is
    /// missing. It is tried again, by itself and for each call.
    Waiting(String),
    /// It can be called.
    Ready,
    /// Its code cannot be made ready; calls get a 503 with this reason.
    Failed(String),
}

/// A deployed function, as listings show it.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionStatus {
    /// As deployed.
    pub spec: Arc<FunctionSpec>,
    /// Counts up with each deployment of the name.
    pub version: u64,
    /// When this version was deployed.
    pub created_at: jiff::Timestamp,
    /// Where its code stands.
    pub state: FunctionState,
    /// A newer version, until it is in place.
    pub next: Option<NextStatus>,
    /// The version that served before.
    pub previous: Option<u64>,
    /// Calls answered since the node started.
    pub invocations: u64,
    /// Instances that are wanted or there.
    pub replicas: u32,
    /// Instances that can take calls.
    pub available_replicas: u32,
    /// Calls running now.
    pub running: u32,
    /// Calls waiting now.
    pub waiting: u32,
    /// What a call holds of processors: what was declared, learned or guessed.
    pub call_cpu: Cpu,
    /// Processor time used since the node started, as far as the executor measures it.
    pub cpu: Duration,
}

/// A version that is not in place yet, as listings show it.
#[derive(Debug, Clone, Serialize)]
pub struct NextStatus {
    /// As deployed.
    pub spec: Arc<FunctionSpec>,
    /// Its number.
    pub version: u64,
    /// Where its code stands.
    pub state: FunctionState,
}

/// One QoS class, as `weir status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ClassStatus {
    /// Its name.
    pub name: String,
    /// Calls waiting now.
    pub waiting: usize,
    /// Most calls that may wait.
    pub bound: usize,
}

/// The whole node at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct NodeStatus {
    /// Its id.
    pub node: String,
    /// Version of the program.
    pub version: &'static str,
    /// Processor architecture of its executors.
    pub architecture: &'static str,
    /// What functions may hold together.
    pub capacity: Resources,
    /// What they hold now.
    pub held: Resources,
    /// Calls running now.
    pub running: usize,
    /// Most calls running or waiting.
    pub max_calls: usize,
    /// Queues by class.
    pub classes: Vec<ClassStatus>,
    /// Functions deployed.
    pub functions: usize,
    /// Asynchronous calls accepted and not done.
    pub backlog: usize,
    /// Most of them.
    pub max_backlog: usize,
    /// Results kept.
    pub results: usize,
    /// Bytes of artifacts on disk.
    pub artifact_bytes: u64,
    /// Each executor's own words.
    pub executors: BTreeMap<&'static str, serde_json::Value>,
    /// Whether the node is shutting down.
    pub draining: bool,
}

/// What a node can do now, for those who decide where calls run.
#[derive(Debug, Clone, Copy)]
pub struct Capability {
    /// What functions may hold together.
    pub capacity: Resources,
    /// What they hold.
    pub held: Resources,
    /// Calls that run.
    pub running: usize,
    /// Calls that wait.
    pub waiting: usize,
    /// Queues of functions that lack resources which others hold; not those
    /// that wait for their own function's maximum or for a start.
    pub contending: usize,
}

impl Capability {
    pub(super) fn of<T>(admission: &Admission<T>) -> Capability {
        Capability {
            capacity: admission.capacity(),
            held: admission.held(),
            running: admission.running(),
            waiting: admission.waiting(),
            contending: admission.contending(),
        }
    }
}

/// A function that has instances or calls here.
#[derive(Clone)]
pub struct BusyFunction {
    /// As deployed.
    pub spec: Arc<FunctionSpec>,
    /// Calls answered since the node started.
    pub invocations: u64,
    function: Arc<Function>,
}

/// What a node can do with one function at one moment.
#[derive(Debug, Clone, Copy)]
pub struct FunctionCapability {
    /// Room for calls.
    pub places: Places,
    /// Calls that run.
    pub running: u32,
    /// How long a call runs.
    pub service: Estimate,
    /// Whether every instance that it may have is there, and none has a free
    /// place.
    pub full: bool,
    /// How long a start takes, smoothed; zero before the first.
    pub start: Duration,
}

impl Node {
    /// The node at this moment.
    pub fn status(&self) -> NodeStatus {
        let inner = &self.inner;
        let (held, running, waiting) = {
            let scheduler = inner.scheduler();
            let admission = scheduler.admission();
            let classes = inner
                .config
                .classes
                .iter()
                .enumerate()
                .map(|(at, class)| ClassStatus {
                    name: class.name.clone(),
                    waiting: admission.class_waiting(at),
                    bound: class.queue,
                });
            (admission.held(), admission.running(), classes.collect())
        };
        NodeStatus {
            node: inner.id.clone(),
            version: env!("CARGO_PKG_VERSION"),
            architecture: std::env::consts::ARCH,
            capacity: inner.config.capacity,
            held,
            running,
            max_calls: inner.config.max_calls,
            classes: waiting,
            functions: inner.functions.len(),
            backlog: inner.backlog.len(),
            max_backlog: inner.config.asynchronous.backlog,
            results: inner.backlog.results(),
            artifact_bytes: inner.artifacts.stored_bytes(),
            executors: inner
                .executors
                .iter()
                .map(|e| (e.name(), e.describe()))
                .collect(),
            draining: inner.stop.is_cancelled(),
        }
    }

    /// What it can do now.
    pub fn capability(&self) -> Capability {
        Capability::of(self.inner.scheduler().admission())
    }

    /// The same, with what [`Node::places`] says of a function, under the lock of
    /// the scheduler once.
    pub fn capability_for(&self, name: &FunctionName) -> (Capability, Option<Places>) {
        let key = self.inner.functions.get(name).map(|function| function.key);
        let scheduler = self.inner.scheduler();
        let admission = scheduler.admission();
        let places = key.and_then(|key| admission.places(key));
        (Capability::of(admission), places)
    }

    /// Functions of which there may be something to tell, for they have instances
    /// or calls here.
    pub fn busy_functions(&self) -> Vec<BusyFunction> {
        let busy: Vec<FunctionKey> = {
            let scheduler = self.inner.scheduler();
            scheduler.admission().busy_functions().collect()
        };
        let busy = busy.iter().filter_map(|key| self.inner.by_key.get(key));
        let busy = busy.filter(|function| !function.is_trial);
        let busy = busy.map(|function| function.value().clone());
        let busy = busy.filter_map(|function| {
            let version = function.current.load();
            let runs = version.state() == FunctionState::Ready && version.executor.works();
            runs.then(|| BusyFunction {
                spec: version.spec.clone(),
                invocations: function.invocations.load(Ordering::Relaxed),
                function: function.clone(),
            })
        });
        busy.collect()
    }

    /// What it can do with one of them; `None` when that was removed.
    pub fn function_capability(&self, busy: &BusyFunction) -> Option<FunctionCapability> {
        let function = &busy.function;
        let (places, gauges, full) = {
            let scheduler = self.inner.scheduler();
            let admission = scheduler.admission();
            let places = admission.places(function.key)?;
            let full = admission.is_full(function.key);
            (places, admission.gauges(function.key)?, full)
        };
        Some(FunctionCapability {
            places,
            running: gauges.running,
            service: function.known.service(),
            full,
            start: function.known.start(),
        })
    }

    /// For how many calls of a function there is room; `None` when it is not
    /// deployed here.
    pub fn places(&self, name: &FunctionName) -> Option<Places> {
        let key = self.inner.functions.get(name)?.key;
        self.inner.scheduler().admission().places(key)
    }

    /// How long calls of a function run here; `None` when it is not deployed
    /// here. Takes no lock.
    pub fn service(&self, name: &FunctionName) -> Option<Estimate> {
        let function = self.inner.functions.get(name)?;
        Some(function.known.service())
    }

    /// How long a start of a function takes here; `None` before one was measured.
    /// Takes no lock.
    pub fn start_time(&self, name: &FunctionName) -> Option<Duration> {
        let expected = self.inner.functions.get(name)?.known.start();
        (!expected.is_zero()).then_some(expected)
    }

    /// Whether any call waits for a place.
    pub fn has_waiting(&self) -> bool {
        self.inner.scheduler().admission().waiting() > 0
    }

    /// Whether a function has every instance here that it may have, and none
    /// has a free place; `None` when it is not deployed here.
    pub fn function_full(&self, name: &FunctionName) -> Option<bool> {
        let key = self.inner.functions.get(name)?.key;
        Some(self.inner.scheduler().admission().is_full(key))
    }

    /// The default deadline of a class: the one of that name, or the first.
    pub fn class_deadline(&self, class: Option<&str>) -> Option<Duration> {
        let mut classes = self.inner.config.classes.iter();
        let found = match class {
            Some(name) => classes.find(|class| class.name == name),
            None => classes.next(),
        };
        found?.deadline
    }

    /// The same for a call of a function, whose first class is meant when none
    /// is named; `None` also when it is not deployed here.
    pub fn default_deadline(&self, name: &FunctionName, class: Option<&str>) -> Option<Duration> {
        match class {
            Some(_) => self.class_deadline(class),
            None => self.deadline_of(&self.find(name)?, None),
        }
    }

    /// Calls of a function that were answered since the node started; `None` when
    /// it is not deployed here.
    pub fn calls_of(&self, name: &FunctionName) -> Option<u64> {
        let function = self.inner.functions.get(name)?;
        Some(function.invocations.load(Ordering::Relaxed))
    }

    /// How full it is of functions, or of their code, whichever is more: 1 when
    /// it takes no more.
    pub fn fullness(&self) -> f64 {
        let inner = &self.inner;
        let part = |of: u64, most: u64| of as f64 / most.max(1) as f64;
        let functions = part(
            inner.functions.len() as u64,
            inner.config.max_functions as u64,
        );
        let code = part(
            inner.artifacts.stored_bytes(),
            inner.config.artifacts.disk_bytes,
        );
        functions.max(code)
    }

    /// Names of its executors that work.
    pub fn executors(&self) -> Vec<&'static str> {
        let executors = self.inner.executors.iter();
        let working = executors.filter(|executor| executor.works());
        working.map(|executor| executor.name()).collect()
    }

    /// Whether an executor that works here runs such functions.
    pub fn has_executor_for(&self, spec: &FunctionSpec) -> bool {
        let executor = self.inner.executor_for(spec);
        executor.is_ok_and(|executor| executor.works())
    }
}
