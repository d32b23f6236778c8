//! Calls as a scenario describes them: when they come, how large they are and
//! how long they run, drawn from streams of chance.
//!
//! | file | what it is |
//! |---|---|
//! | `chance` | streams of chance, one for each purpose |
//! | `law` | times and sizes |
//! | `picks` | which of functions that are alike |
//! | `process` | moments of arrival |
//!
//! Nothing here knows where a call is run, so that two policies see the same
//! calls. Each stream has a name and depends on that and the seed alone: a node
//! more shifts the draws of none. Logarithms, exponentials and sines are those
//! of the `libm` package, not of the system, so that all machines draw alike.
//!
//! ```
//! use weir_emulator::scenario::arrivals::{Arrivals, Poisson};
//! use weir_emulator::scenario::field::Real;
//! use weir_emulator::workload::chance::Stream;
//! use weir_emulator::workload::process::Process;
//!
//! let arrivals = Arrivals::Poisson(Poisson { rate: Real(50.0) });
//! let mut chance = Stream::new(1, "edge-1/arrivals/0");
//! let mut process = Process::new(&arrivals, &mut chance);
//! let first = process.next(&mut chance).unwrap();
//! let second = process.next(&mut chance).unwrap();
//! assert!(first.at < second.at);
//! ```

pub mod chance;
pub mod law;
pub mod picks;
pub mod process;

#[cfg(test)]
mod tests;
