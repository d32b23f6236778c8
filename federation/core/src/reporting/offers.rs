//! Of which functions a node tells, and what: of those that have instances or
//! calls there, or no place left, the ones called most.

use std::time::Duration;

use weir_node_core::admission::Places;

use crate::report::{OFFERS, Offer, Report};

/// A function as a node knows it of which it tells.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// Room for calls.
    pub places: Places,
    /// Whether its own bound leaves no place.
    pub full: bool,
    /// Calls that run.
    pub running: u32,
    /// How long a call runs; zero before the first.
    pub service: Duration,
    /// How long a start takes; zero before the first.
    pub start: Duration,
}

/// Leaves of all functions those of which a report tells, in the order of their
/// names: at most [`OFFERS`], those called most, of equal ones those that come
/// first. What is deployed for this node alone is not among `functions`.
pub fn choose<T, N: Ord>(
    functions: &mut Vec<T>,
    calls: impl Fn(&T) -> u64,
    name: impl Fn(&T) -> &N,
) {
    if functions.len() > OFFERS {
        functions.sort_by_key(|function| std::cmp::Reverse(calls(function)));
        functions.truncate(OFFERS);
    }
    functions.sort_by(|one, other| name(one).cmp(name(other)));
}

impl Offer {
    /// What is said of a function of this name, as `name.namespace`.
    pub fn of(function: String, told: &Told) -> Offer {
        let mut offer = Offer {
            function,
            warm: 0,
            startable: 0,
            full: false,
            running: 0,
            service_micros: 0,
            start_micros: 0,
        };
        offer.says(told);
        offer
    }

    /// Says that of the same function.
    pub fn says(&mut self, told: &Told) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.warm = told.places.warm;
        self.startable = told.places.startable;
        self.full = told.full;
        self.running = told.running;
        self.service_micros = micros(told.service);
        self.start_micros = micros(told.start);
    }
}

impl Report {
    /// The short form, for those of other zones and regions.
    pub fn in_brief(&self) -> Report {
        Report {
            brief: true,
            offers: Vec::new(),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::report;

    #[test]
    fn those_called_most_are_told_of_in_the_order_of_their_names() {
        let chosen = |calls: &[u64]| {
            let mut functions: Vec<(usize, u64)> = calls.iter().copied().enumerate().collect();
            functions.reverse();
            choose(&mut functions, |(_, calls)| *calls, |(name, _)| name);
            functions.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        };
        assert_eq!(chosen(&[]), [0_usize; 0]);
        assert_eq!(chosen(&[5, 0, 9]), [0, 1, 2], "few are all told of");
        let mut calls = vec![1; OFFERS];
        calls.extend([7, 0]);
        let many = chosen(&calls);
        assert_eq!(many.len(), OFFERS);
        assert!(many.contains(&OFFERS), "it is called most");
        assert!(!many.contains(&(OFFERS + 1)), "nobody calls it");
        assert!(many.is_sorted());
    }

    #[test]
    fn what_is_said_of_a_function_is_in_microseconds() {
        let told = Told {
            places: Places {
                warm: 2,
                startable: 3,
                ..Places::default()
            },
            full: true,
            running: 4,
            service: Duration::from_millis(5),
            start: Duration::MAX,
        };
        let offer = Offer::of("shout.lab".to_owned(), &told);
        let said = (offer.warm, offer.startable, offer.full, offer.running);
        assert_eq!(said, (2, 3, true, 4));
        assert_eq!(
            (offer.service_micros, offer.start_micros),
            (5_000, u64::MAX)
        );
    }

    #[test]
    fn the_short_form_leaves_out_what_it_can_run() {
        let whole = report();
        let brief = whole.in_brief();
        assert!(brief.brief && brief.offers.is_empty());
        assert_eq!(brief.load, whole.load);
    }
}
