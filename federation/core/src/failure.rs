//! Who this node is linked to, who is taken for dead, and whose word of that
//! counts.
//!
//! | file | what it is |
//! |---|---|
//! | `links` | which links are kept and dialled, and what their ends are evidence of |
//! | `address_book` | where members were: whom to try, and whom to forget |
//! | `backoff` | the pauses between two attempts |
//! | `heartbeat` | when a link is taken to be silent, however late this node is |
//! | `accusers` | how many suspicions of one member are heard, and what each does |
//! | `conduct` | what a link may bring in a second, and which one is cut |
//! | `shunned` | members that lied, with whom this node has nothing to do for a while |
//! | `handshakes` | how many connections may be in the making at once |
//!
//! * An unclean end of a link and a redial that fails are evidence of death
//!   together; silence on a link is. A clean end is none, nor is a redial that
//!   somebody answers, if only to refuse: who refuses lives. One that is taken
//!   and ended without a word, as a node with too many handshakes does, is tried
//!   [`REDIALS_MAX`] times before it counts.
//! * What follows from a suspicion (refuted by a later life, or death) is
//!   [`Peers`](crate::peers::Peers)' to say, and nobody else's.
//! * Time and chance are arguments. What is to be done is a [`Wish`]; the shell
//!   carries it out and tells what came of it as a [`Fact`].

pub mod accusers;
pub mod address_book;
pub mod backoff;
pub mod conduct;
pub mod handshakes;
pub mod heartbeat;
pub mod links;
pub mod shunned;
#[cfg(test)]
mod tests;

pub use links::{Around, DialEnd, Fact, Home, Link, Links, REDIALS_MAX, Wish};
