//! Functions, classes, who calls what, and by which policy.

use std::ops::Range;
use std::time::Duration;

use weir_federation_core::policy::{Choice, Wrong};
use weir_node_core::class::ClassConfig;
use weir_node_core::keep::Keeping;
use weir_node_core::resources::{Cpu, Memory};

use super::arrivals::Arrivals;
use super::check::{numbered, numbers};
use super::field::{At, Field, Free, Key, Reading, Section, Share, Whole, key, needed, wrong};
use super::law::{Service, Size};
use super::tree::{Mistakes, Origin, Tree, Value};
use super::world::Selector;

/// How far from the node where it was deployed a function may run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scope(pub weir_federation_core::policy::Bounds);

/// Scopes by their names.
const SCOPES: [(&str, weir_federation_core::policy::Bounds); 3] = [
    ("node", weir_federation_core::policy::Bounds::Node),
    ("zone", weir_federation_core::policy::Bounds::Zone),
    (
        "federation",
        weir_federation_core::policy::Bounds::Federation,
    ),
];

impl Field for Scope {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        let Value::Text(text) = &tree.value else {
            return wrong(tree, "node, zone or federation", &tree.value, reading);
        };
        match SCOPES.iter().find(|(name, _)| name == text) {
            Some((_, bounds)) => self.0 = *bounds,
            None => {
                let message = format!("{text:?} is none of node, zone, federation");
                reading.mistakes.add(&tree.at, message);
            }
        }
    }

    fn takes(&self) -> String {
        "node, zone or federation".to_owned()
    }

    fn show(&self) -> Option<String> {
        let name = SCOPES.iter().find(|(_, bounds)| *bounds == self.0);
        name.map(|(name, _)| (*name).to_owned())
    }
}

/// By which rule idle instances stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepAlive(pub Keeping);

impl Field for KeepAlive {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        let Value::Text(text) = &tree.value else {
            return wrong(tree, &self.takes(), &tree.value, reading);
        };
        match text.parse() {
            Ok(keeping) => self.0 = keeping,
            Err(message) => reading.mistakes.add(&tree.at, message),
        }
    }

    fn takes(&self) -> String {
        "fixed, greedy-dual or histogram".to_owned()
    }

    fn show(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// A function.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: At<String>,
    /// What an instance holds.
    pub memory: Memory,
    /// How many functions are alike.
    pub count: Whole<1, 10_000>,
    /// Processors of a call.
    pub cpu: Cpu,
    /// How long a call runs on a node of speed 1.
    pub service: Service,
    /// How long an instance takes to start.
    pub start: Service,
    /// Bytes of its code.
    pub code: Memory,
    /// Bytes of an answer.
    pub answer: Size,
    /// Part of calls that fail.
    pub fails: Share,
    /// Calls that one instance runs at once.
    pub concurrency: Whole<1, 10_000>,
    /// Most instances of a node.
    pub most: Whole<1, 100_000>,
    /// Instances that are kept.
    pub least: Whole<0, 100_000>,
    /// How long an idle instance stays.
    pub keep_alive: Duration,
    /// By which rule it stays.
    pub keeping: KeepAlive,
    /// How long a call may run.
    pub timeout: Duration,
    /// Whether a call may be run again.
    pub idempotent: bool,
    /// Where it may run.
    pub scope: Scope,
    /// Nodes that have its code to begin with; all by default.
    pub at: Vec<At<Selector>>,
}

impl Default for Function {
    fn default() -> Function {
        Function {
            name: At::default(),
            memory: Memory::mebibytes(128),
            count: Whole(1),
            cpu: Cpu::cores(1),
            service: Service::default(),
            start: Service::default(),
            code: Memory::mebibytes(1),
            answer: Size::default(),
            fails: super::field::Real(0.0),
            concurrency: Whole(1),
            most: Whole(1_000),
            least: Whole(0),
            keep_alive: Duration::from_secs(600),
            keeping: KeepAlive::default(),
            timeout: Duration::from_secs(60),
            idempotent: false,
            scope: Scope::default(),
            at: Vec::new(),
        }
    }
}

impl Function {
    /// The functions of this kind that a name means, by their numbers from 0;
    /// `None` for none.
    pub fn numbers(&self, name: &str) -> Option<Range<u64>> {
        numbers(&self.name.value, self.count.0, name)
    }

    /// The name of one of them, by its number from 0.
    pub fn function_name(&self, number: u64) -> String {
        numbered(&self.name.value, self.count.0, number)
    }
}

impl Section for Function {
    const KEYS: &'static [Key<Self>] = &[
        needed("name", |s| &mut s.name, "Its name."),
        key(
            "count",
            |s| &mut s.count,
            "How many are alike; of more than one, each has a number behind its name.",
        ),
        key("memory", |s| &mut s.memory, "Memory of an instance."),
        key("cpu", |s| &mut s.cpu, "Processors of a call."),
        needed(
            "service",
            |s| &mut s.service,
            "How long a call runs on a node of speed 1.",
        ),
        key(
            "start",
            |s| &mut s.start,
            "How long an instance takes to start; no time by default.",
        ),
        key(
            "code",
            |s| &mut s.code,
            "Size of its code, which travels to nodes without it.",
        ),
        key("answer", |s| &mut s.answer, "Size of an answer."),
        key("fails", |s| &mut s.fails, "Part of its calls that fail."),
        key(
            "concurrency",
            |s| &mut s.concurrency,
            "Calls that one instance runs at once.",
        ),
        key("max", |s| &mut s.most, "Most instances of a node."),
        key(
            "min",
            |s| &mut s.least,
            "Instances that a node keeps though they are idle.",
        ),
        key(
            "keep-alive",
            |s| &mut s.keep_alive,
            "How long an idle instance stays.",
        ),
        key(
            "keep-alive-policy",
            |s| &mut s.keeping,
            "By which rule it stays: for that time, until its room is wanted, or as pauses between \
             calls say.",
        ),
        key("timeout", |s| &mut s.timeout, "How long a call may run."),
        key(
            "idempotent",
            |s| &mut s.idempotent,
            "Whether a call may be run again.",
        ),
        key(
            "scope",
            |s| &mut s.scope,
            "How far it may go from where it was deployed.",
        ),
        key(
            "at",
            |s| &mut s.at,
            "Nodes that have its code to begin with; all by default.",
        ),
    ];

    fn check(&self, _at: &Origin, mistakes: &mut Mistakes) {
        if self.least.0 > self.most.0 {
            mistakes.add(&self.name.at, "min is more than max");
        }
        let name = self.function_name(self.count.0 - 1);
        if let Err(error) = name.parse::<weir_node_core::id::FunctionName>() {
            mistakes.add(&self.name.at, error.to_string());
        }
        if matches!(self.start, Service::BySize(_)) {
            mistakes.add(
                &self.name.at,
                "a start has no input: start cannot be by-size",
            );
        }
    }
}

/// A QoS class.
#[derive(Debug, Clone, PartialEq)]
pub struct Class {
    /// Its name.
    pub name: At<String>,
    /// Its weight among those who wait.
    pub priority: Whole<1, 1_000>,
    /// Longest wait.
    pub max_wait: Option<Duration>,
    /// Most calls that wait.
    pub queue: Whole<0, 10_000_000>,
    /// Deadline of calls that name none.
    pub deadline: Option<Duration>,
}

impl Default for Class {
    fn default() -> Class {
        Class {
            name: At::default(),
            priority: Whole(10),
            max_wait: None,
            queue: Whole(1_000),
            deadline: None,
        }
    }
}

impl Class {
    /// As a node is configured with it.
    pub fn config(&self) -> ClassConfig {
        ClassConfig {
            name: self.name.value.clone(),
            priority: u32::try_from(self.priority.0).unwrap_or(1_000),
            max_wait: self.max_wait,
            queue: usize::try_from(self.queue.0).unwrap_or(usize::MAX),
            deadline: self.deadline,
            policy: None,
        }
    }
}

impl Section for Class {
    const KEYS: &'static [Key<Self>] = &[
        needed("name", |s| &mut s.name, "Its name."),
        key(
            "priority",
            |s| &mut s.priority,
            "Its weight among classes that wait.",
        ),
        key(
            "max-wait",
            |s| &mut s.max_wait,
            "Longest wait; 5 s or twice the service by default.",
        ),
        key(
            "queue",
            |s| &mut s.queue,
            "Most calls of it that wait at a node.",
        ),
        key("deadline", |s| &mut s.deadline, "Deadline of its calls."),
    ];
}

/// Who calls what.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Which function; of several that are alike, each call takes one of them.
    pub function: At<String>,
    /// How much more often the first of those is called than the others.
    pub zipf: super::field::Real<0, 10_000>,
    /// At which nodes: each has the whole of it, and chance of its own.
    pub at: At<Selector>,
    /// Of which class; the first by default.
    pub class: Option<At<String>>,
    /// Sizes of inputs.
    pub input: Size,
    /// When calls come.
    pub arrivals: Arrivals,
    /// When it begins.
    pub from: Duration,
    /// When it ends.
    pub until: Option<Duration>,
    /// How often a user calls again whose call was not answered.
    pub retries: Whole<0, 100>,
    /// After how long.
    pub retry_after: Duration,
}

impl Default for Workload {
    fn default() -> Workload {
        Workload {
            function: At::default(),
            zipf: super::field::Real(0.0),
            at: At::default(),
            class: None,
            input: Size::default(),
            arrivals: Arrivals::default(),
            from: Duration::ZERO,
            until: None,
            retries: Whole(0),
            retry_after: Duration::from_millis(100),
        }
    }
}

impl Section for Workload {
    const KEYS: &'static [Key<Self>] = &[
        needed("function", |s| &mut s.function, "Which function is called."),
        key(
            "zipf",
            |s| &mut s.zipf,
            "Of functions that are alike, the k-th is called in proportion to 1 / k^zipf.",
        ),
        needed(
            "at",
            |s| &mut s.at,
            "At which nodes; each has the whole of it, by chance of its own.",
        ),
        key(
            "class",
            |s| &mut s.class,
            "QoS class of the calls; the first by default.",
        ),
        key("input", |s| &mut s.input, "Size of an input."),
        needed("arrivals", |s| &mut s.arrivals, "When calls come."),
        key("from", |s| &mut s.from, "When it begins."),
        key(
            "until",
            |s| &mut s.until,
            "When it ends; with the scenario by default.",
        ),
        key(
            "retries",
            |s| &mut s.retries,
            "How often a user calls again who got no answer; all tries are one call.",
        ),
        key(
            "retry-after",
            |s| &mut s.retry_after,
            "How long after that a user calls again.",
        ),
    ];

    fn check(&self, at: &Origin, mistakes: &mut Mistakes) {
        if matches!(self.input, Size::OfInput(_)) {
            mistakes.add(at, "input cannot be of-input: that is for answers");
        }
        if self.until.is_some_and(|until| until <= self.from) {
            mistakes.add(at, "until is not after from");
        }
    }
}

/// By which policy some calls are placed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Placing {
    /// Its name.
    pub name: At<String>,
    /// At which nodes; all by default.
    pub at: At<Selector>,
    /// Of which function; all by default.
    pub function: Option<At<String>>,
    /// Of which class; all by default.
    pub class: Option<At<String>>,
    /// Its parameters.
    pub parameters: Free,
}

impl Placing {
    /// The policy with its parameters.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn choice(&self) -> Result<Choice, Wrong> {
        let parameters = self.parameters.0.iter();
        let written = parameters.map(|(name, value)| format!("{name}={}", value.value));
        let written: Vec<String> = written.collect();
        match written.is_empty() {
            true => self.name.value.parse(),
            false => format!("{}:{}", self.name.value, written.join(",")).parse(),
        }
    }
}

impl Section for Placing {
    const KEYS: &'static [Key<Self>] = &[
        needed(
            "name",
            |s| &mut s.name,
            "Name of the policy; the last one that fits a call counts.",
        ),
        key("at", |s| &mut s.at, "At which nodes; all by default."),
        key(
            "function",
            |s| &mut s.function,
            "For which function; all by default.",
        ),
        key(
            "class",
            |s| &mut s.class,
            "For which class; all by default.",
        ),
        key(
            "parameters",
            |s| &mut s.parameters,
            "What the policy takes, as { key = value }.",
        ),
    ];
}
