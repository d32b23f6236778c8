//! A scenario played in virtual time.
//!
//! | file | what it is |
//! |---|---|
//! | `world` | the scenario with its names as numbers |
//! | `events` | what happens when, in order |
//! | `calls` | calls that are under way |
//! | `node` | one virtual node: the scheduler of production, and what a member knows |
//! | `engine` | the loop: calls that come, run and end |
//! | `placing` | the steps of placement, done |
//! | `retries` | users who call again |
//! | `travel` | calls, answers and code between nodes |
//! | `turns` | who waits for a place at a peer, in turn |
//! | `waiting` | calls that wait, and go elsewhere |
//! | `gossip` | reports and questions |
//! | `learning` | what policies learn, and do between decisions |
//! | `patience` | calls that wait no longer, in a queue or for a peer |
//! | `travelling` | reports on their way |
//! | `faults` | what goes wrong |
//! | `shell` | stand-ins for rules that only production's shells have |
//! | `tally`, `series`, `report` | what is counted, and told |
//!
//! Every rule is that of production, by its very code: `weir_node_core::scheduler`
//! on each node, `weir_federation_core`'s placement, policies, peers, abilities,
//! reporting, guests and turns between them; `shell` lists what is not reachable
//! there. Modelled, and not real, are: how long calls run and starts take; links
//! (delay, jitter, rate, each message alone: they do not queue); gossip (a tree of
//! `fan-out`, with a delay for each hop); how code travels (from the nearest node
//! that has it); that a slow node slows what begins after it became slow; that
//! all who are alive suspect a dead node at the same moment.
//!
//! Time is in whole nanoseconds. What happens at the same moment happens in the
//! order in which it was planned. The same scenario, seed and version give the
//! same report, byte for byte.
//!
//! ```
//! use weir_emulator::scenario::{Scenario, Texts};
//! use weir_emulator::simulate::simulate;
//!
//! let text = r#"
//!     scenario = { duration = "10s" }
//!     node = { name = "edge", count = 3, zone = "north", cores = 2 }
//!     function = { name = "thumb", service = "80ms" }
//!     [[workload]]
//!     function = "thumb"
//!     at = "edge-1"
//!     arrivals = { poisson = { rate = 40 } }
//! "#;
//! let files = Texts::from([("a.toml".into(), text.to_owned())]);
//! let scenario = Scenario::read(&files, "a.toml", &[]).unwrap();
//! let report = simulate(&scenario, 1, None);
//! assert!(report.all.elsewhere > 0);
//! assert_eq!(report.json(), simulate(&scenario, 1, None).json());
//! ```

mod calls;
mod engine;
mod events;
mod faults;
mod gossip;
mod learning;
mod node;
mod patience;
mod placing;
pub mod report;
mod retries;
pub mod series;
mod shell;
pub mod tally;
mod travel;
mod travelling;
mod turns;
mod waiting;
mod world;

use weir_federation_core::policy::Choice;

use self::engine::Engine;
use self::report::Report;
use self::world::World;
use crate::scenario::Scenario;

/// Plays a scenario to its end. `policy` stands in for those that it names.
pub fn simulate(scenario: &Scenario, seed: u64, policy: Option<&Choice>) -> Report {
    let world = World::new(scenario, policy);
    let mut engine = Engine::new(&world, scenario, seed);
    let events = engine.run();
    let policy = policy.map(Choice::to_string);
    Report::of(&engine, policy.as_deref(), events)
}

#[cfg(test)]
mod tests;
