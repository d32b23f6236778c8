//! When a peer is reached over the overlay though it names an address.

use std::time::{Duration, Instant};

/// How long a peer that could not be dialled is reached over the overlay
/// without another try.
const DETOUR: Duration = Duration::from_secs(10);

/// How often a broken connection is excused, and how long its calls may take to
/// notice.
const EXCUSE: Duration = Duration::from_secs(60);
const TOGETHER: Duration = Duration::from_secs(1);

/// When a peer is reached over the overlay though it names an address.
#[derive(Default)]
pub(super) struct Detour {
    /// Until when nobody tries to dial.
    until: Option<Instant>,
    /// When a connection broke that was excused.
    broke: Option<Instant>,
}

impl Detour {
    /// Whether nobody tries to dial at `now`.
    pub(super) fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// It could not be dialled at `now`, and was reached over the overlay.
    pub(super) fn begins(&mut self, now: Instant) {
        self.until = Some(now + DETOUR);
    }

    /// A direct connection broke: whether that is excused. Calls that were on
    /// it end together, and count once.
    pub(super) fn broke(&mut self, now: Instant) -> bool {
        self.begins(now);
        match self.broke {
            Some(at) if now < at + TOGETHER => true,
            Some(at) if now < at + EXCUSE => false,
            Some(_) | None => {
                self.broke = Some(now);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_breaks_is_excused_once_in_a_while() {
        let mut detour = Detour::default();
        let began = Instant::now();
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        assert!(detour.broke(at(0)));
        // The other calls that it carried.
        assert!(detour.broke(at(900)));
        assert!(!detour.broke(at(12_000)));
        assert!(!detour.broke(at(59_000)));
        assert!(detour.broke(at(61_000)));
        assert!(detour.is_on(at(70_999)));
        assert!(!detour.is_on(at(71_000)));
    }
}
