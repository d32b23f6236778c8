//! Which refused connections are worth a line in the log: somebody who is
//! refused comes again at once, and one line a minute says as much as all.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_node_core::time::Time;

/// Between two lines about the same refusal of the same node.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Refusals that are remembered. More at once are a flood, of which the counters
/// tell.
const REMEMBERED: usize = 256;

/// Refusals that were logged lately.
#[derive(Debug, Default)]
pub struct Refusals(BTreeMap<(&'static str, String), Time>);

impl Refusals {
    /// Whether a refusal is to be logged at `now`; `text` begins with the node
    /// that was refused.
    pub fn is_due(&mut self, reason: &'static str, text: &str, now: Time) -> bool {
        let whom = text.split(':').next().unwrap_or_default().to_owned();
        self.0
            .retain(|_, logged| now.since(*logged) < LINE_INTERVAL);
        if self.0.len() >= REMEMBERED || self.0.contains_key(&(reason, whom.clone())) {
            return false;
        }
        self.0.insert((reason, whom), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_each_node_is_a_line_a_minute() {
        let mut refusals = Refusals::default();
        let at = |seconds| Time::from_nanos(Duration::from_secs(seconds).as_nanos() as u64);
        assert!(refusals.is_due("denied", "a: it is denied", at(0)));
        assert!(!refusals.is_due("denied", "a: it is denied", at(59)));
        assert!(refusals.is_due("denied", "b: it is denied", at(59)));
        assert!(refusals.is_due("used", "a: its token", at(59)));
        assert!(refusals.is_due("denied", "a: it is denied", at(60)));
    }

    #[test]
    fn a_flood_of_nodes_is_no_flood_of_lines() {
        let mut refusals = Refusals::default();
        let now = Time::from_nanos(1);
        let logged = (0..10_000).filter(|n| refusals.is_due("denied", &format!("{n}: no"), now));
        assert_eq!(logged.count(), REMEMBERED);
    }
}
