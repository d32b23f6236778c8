//! What a function needs, as admission accounts it.

use std::time::Duration;

use crate::keep::Keeping;
use crate::resources::Resources;

/// How admission accounts the instances of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// What an instance holds while it lives.
    pub instance: Resources,
    /// What a call holds while it runs.
    pub call: Resources,
    /// Calls that one instance runs at once; at least 1.
    pub calls_per_instance: u32,
    /// Most instances at once; at least 1.
    pub max_instances: u32,
    /// Instances kept warm even when idle; at most `max_instances`.
    pub min_instances: u32,
    /// How long an idle instance stays, by a rule that says nothing else.
    pub keep_alive: Duration,
    /// By which rule it stays.
    pub keeping: Keeping,
}
