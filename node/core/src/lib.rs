//! Every rule by which one machine decides: who is admitted, who waits and in
//! which order, who is woken, evicted and started, and what is learned of it.
//!
//! Nothing here reads a clock, draws chance, opens anything or waits: time is an
//! argument, and what must be done is a list of actions. The node of production
//! and the node of a simulation are shells around the same state.
//!
//! | file | what it is |
//! |---|---|
//! | `id` | names of functions, namespaces, secrets, images; ids of calls; digests |
//! | `function` | what a function is: its code, its needs, its limits |
//! | `resources` | processors and memory |
//! | `time` | moments, as numbers |
//! | `words` | phases, refusals and times of a call |
//! | `class` | QoS classes |
//! | `profile` | what a function needs, as admission accounts it |
//! | `ledger` | what is promised of the machine's resources |
//! | `slab` | places that are numbered and used again |
//! | `pool` | instances: starting, warm, busy, leaving |
//! | `queue` | who waits, by class, namespace and function |
//! | `admission` | pool and queue as one state machine: events in, actions out |
//! | `scheduler` | all of it: admission, estimates, rates, the start gate; what a shell holds |
//! | `computer` | simulated processors, and tasks that share them |
//! | `estimate` | how long calls of a function run, and how long one waits |
//! | `need` | what calls need that declare nothing, learned from their use |
//! | `rate` | calls in a second, bounded |
//!
//! Invariants: what is held never exceeds what there is; each call that arrives
//! is answered for exactly once; nobody waits who could run.
//!
//! ```
//! use std::time::Duration;
//! use weir_node_core::admission::{Action, Admission, Arrival, Kind, Pace, Verdict};
//! use weir_node_core::class::ClassConfig;
//! use weir_node_core::profile::Profile;
//! use weir_node_core::resources::{Cpu, Memory, Resources};
//! use weir_node_core::time::Time;
//!
//! let machine = Resources { cpu: Cpu::cores(2), memory: Memory::mebibytes(512) };
//! let mut admission: Admission<&str> = Admission::new(machine, &[ClassConfig::default()], 100);
//! let profile = Profile {
//!     instance: Resources { cpu: Cpu::ZERO, memory: Memory::mebibytes(128) },
//!     call: Resources { cpu: Cpu::cores(1), memory: Memory::ZERO },
//!     calls_per_instance: 1,
//!     max_instances: 4,
//!     min_instances: 0,
//!     keep_alive: Duration::from_secs(60),
//!     keeping: weir_node_core::keep::Keeping::Fixed,
//! };
//! let (mut actions, now) = (Vec::new(), Time::ZERO);
//! let function = admission.add("shop", profile, now, &mut actions).expect("it fits");
//! let arrival = Arrival {
//!     function,
//!     class: 0,
//!     kind: Kind::Awaited,
//!     patient: true,
//!     arrived: now,
//!     leave: Time::NEVER,
//!     end: Time::NEVER,
//!     pace: Pace::default(),
//! };
//! // Nothing is warm: the call waits for the start that the shell is asked for.
//! let verdict = admission.arrive(arrival, || "the call", now, &mut actions);
//! assert!(matches!(verdict, Verdict::Wait(_)));
//! let Some(Action::Start { instance, .. }) = actions.pop() else { panic!("a start") };
//! let now = now + Duration::from_millis(80);
//! admission.started(instance, now, &mut actions);
//! let Some(Action::Run { token, slot }) = actions.pop() else { panic!("a run") };
//! assert_eq!(token, "the call");
//! admission.finish(slot, now + Duration::from_millis(20), &mut actions);
//! ```

// Any duration may come from outside: see .clippy.toml.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

pub mod admission;
pub mod class;
pub mod computer;
pub mod estimate;
pub mod function;
pub mod id;
pub mod keep;
pub mod ledger;
pub mod need;
pub mod pool;
pub mod profile;
pub mod queue;
pub mod rate;
pub mod resources;
pub mod scheduler;
mod slab;
pub mod time;
pub mod words;
