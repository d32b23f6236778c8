//! The parameters that all of these policies have.

use super::{Key, Range};

/// The published behaviour, for comparison.
pub(in crate::policy) const FAITHFUL: Key = Key {
    name: "faithful",
    about: "behave as published, with its known weaknesses, for comparison",
    unit: "",
    range: Range::Flag,
    default: "false",
};

/// Which destinations may send a call on.
pub(in crate::policy) const ROUTING: Key = Key {
    name: "routing",
    about: "whether members of a region may dispatch a call once more (two-tier), or each destination runs what it gets (flat)",
    unit: "",
    range: Range::Word(&["two-tier", "flat"]),
    default: "two-tier",
};

/// When regions are destinations.
pub(in crate::policy) const CLOUD: Key = Key {
    name: "cloud",
    about: "when members of regions are destinations: beside all others, when no other has room, or never",
    unit: "",
    range: Range::Word(&["equal", "last", "never"]),
    default: "last",
};

/// When regions are destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cloud {
    Equal,
    Last,
    Never,
}
