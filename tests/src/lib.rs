//! The whole program through its front doors.
//!
//! * [`guests`] builds the functions that the tests deploy, from C, Rust,
//!   Python and text, once per change of their source.
//! * [`node`] starts a real `weir run` on a free loopback port, restarts it,
//!   kills it, and stops it when the test ends, however it ends.
//! * [`engine`] has images for the container engine, and looks what runs there.
//! * [`etcd`] starts real servers of it.
//! * [`federation`] joins nodes, and looks what they know of each other.
//! * [`foreign`] is a member of another making: the wire as it is documented.
//! * [`network`] has hosts of the tests' own, and cuts and mends their links.
//! * [`placement`] tries where calls go, beside one ideal queue.
//! * [`client`] speaks HTTP to it, well and badly; [`tls`] has certificates.
//! * [`bench`] measures it beside other programs.
//!
//! The tests lie in `tests/`, one file per kind of promise. They assert facts
//! and bounds; nothing in them waits for time to pass, only for facts, with
//! [`PATIENCE`] as the limit. Figures belong to the benchmarks.
//!
//! ```no_run
//! # async fn example() {
//! use weir_tests::node::{Function, Node};
//!
//! let node = Node::start().await;
//! node.deploy(Function::new("hello", "echo")).await;
//! let reply = node.post("/function/hello").body("fact").send().await;
//! assert_eq!((reply.status, reply.text().as_str()), (200, "fact"));
//! # }
//! ```

pub mod bench;
pub mod client;
pub mod engine;
pub mod etcd;
pub mod federation;
pub mod foreign;
pub mod guests;
pub mod network;
pub mod node;
pub mod placement;
pub mod tls;

use std::time::Duration;

/// How long a test waits for a fact before it fails. Far beyond what any of
/// them takes on a loaded machine: it ends a hang, it measures nothing.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// How often a fact that cannot be waited for is looked up again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Asks `look` until it answers, and panics with `fact` when [`PATIENCE`] ends.
pub async fn eventually<T>(fact: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_every(LOOK_AGAIN, fact, look).await
}

/// The same with a pause of the caller's between two looks, for figures that
/// the usual one would be part of.
pub async fn eventually_every<T>(
    pause: Duration,
    fact: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(pause).await;
        }
    });
    match found.await {
        Ok(found) => found,
        Err(_) => panic!("not within {PATIENCE:?}: {fact}"),
    }
}

/// Lets time pass, where time itself is what is tested.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Waits for `future`, and panics with `fact` when [`PATIENCE`] ends.
pub async fn within<T>(fact: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {fact}"),
    }
}
