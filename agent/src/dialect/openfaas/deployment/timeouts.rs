//! Timeouts that others than Weir write down: watchdogs in the environment,
//! DFaaS in a label.

use std::time::Duration;

use weir_node::function::{FunctionSpec, MAX_RATE_LABEL};

use super::Mistakes;
use crate::deployment::options::count;

/// Timeouts of a watchdog in the environment, the first of which counts.
const WATCHDOG_TIMEOUTS: [&str; 3] = ["exec_timeout", "write_timeout", "read_timeout"];

/// DFaaS's label of a timeout, in milliseconds.
pub(super) const TIMEOUT_LABEL: &str = "dfaas.timeout_ms";

/// Reads the timeouts of a watchdog, so that a call may take as long as its
/// code was given. One of zero sets no limit there, and none here.
pub(super) fn watchdog(spec: &mut FunctionSpec, mistakes: &mut Mistakes) {
    for name in WATCHDOG_TIMEOUTS {
        let Some(text) = spec.env.get(name) else {
            continue;
        };
        match go_duration(text) {
            Some(Duration::ZERO) => {}
            Some(timeout) => {
                spec.timeout = timeout;
                return;
            }
            // The others are names that any program may have for something else.
            None if name == WATCHDOG_TIMEOUTS[0] => mistakes.0.push(format!(
                "envVars: {name}: {text:?} is not a duration: write 30s, 200ms or 1m30s"
            )),
            None => {}
        }
    }
}

/// A duration as Go writes it (`1h2m3.5s`), or whole seconds without a unit,
/// as watchdogs read them.
fn go_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// Reads DFaaS's labels; Weir's own setting of a timeout comes first.
pub(super) fn dfaas(spec: &mut FunctionSpec, timed: bool, mistakes: &mut Mistakes) {
    if let Some(text) = spec.labels.get(MAX_RATE_LABEL) {
        mistakes.take(MAX_RATE_LABEL, count(text));
    }
    if let Some(text) = spec.labels.get(TIMEOUT_LABEL) {
        match mistakes.take(TIMEOUT_LABEL, count(text)) {
            Some(0) => mistakes
                .0
                .push(format!("{TIMEOUT_LABEL}: no call can end in no time")),
            Some(milliseconds) if !timed => {
                spec.timeout = Duration::from_millis(milliseconds.into());
            }
            Some(_) | None => {}
        }
    }
}
