//! What could be reached: one queue for all places, no way between them, and
//! nothing to find out.

use std::time::Duration;

use crate::bench::report::quantile;

/// How long each call takes from its arrival to its end in one queue, first
/// come, first served, before places of which each takes its own time for a
/// call. A call takes the place where it ends first, which for calls that are
/// all alike is the best that can be done.
///
/// # Panics
/// When there is no place.
pub fn queue(arrivals: &[Duration], places: &[Duration]) -> Vec<Duration> {
    let mut free = vec![Duration::ZERO; places.len()];
    let took = arrivals.iter().map(|arrival| {
        let ends = free.iter().zip(places);
        let ends = ends.map(|(free, service)| *free.max(arrival) + *service);
        let (place, end) = ends
            .enumerate()
            .min_by_key(|(_, end)| *end)
            .expect("there is a place");
        free[place] = end;
        end - *arrival
    });
    took.collect()
}

/// The time that this share of them does not exceed; zero of none.
pub fn percentile(times: &[Duration], share: f64) -> Duration {
    let seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    let found = quantile(&seconds, share);
    Duration::try_from_secs_f64(found).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(times: &[u64]) -> Vec<Duration> {
        times.iter().copied().map(Duration::from_millis).collect()
    }

    #[track_caller]
    fn check(arrivals: &[u64], places: &[u64], took: &[u64]) {
        let found = queue(&milliseconds(arrivals), &milliseconds(places));
        assert_eq!(found, milliseconds(took));
    }

    #[test]
    fn calls_that_find_a_place_take_as_long_as_they_run() {
        check(&[0, 10, 20], &[100, 100, 100], &[100, 100, 100]);
        check(&[0, 100, 200], &[100], &[100, 100, 100]);
    }

    #[test]
    fn calls_that_find_none_wait_for_the_first_that_is_free_in_their_order() {
        check(&[0, 10, 20], &[100], &[100, 190, 280]);
        check(&[0, 10, 20, 30], &[100, 100], &[100, 100, 180, 180]);
    }

    #[test]
    fn a_burst_before_unlike_places_ends_on_all_of_them_at_once() {
        let burst = vec![Duration::ZERO; 60];
        let places = milliseconds(&[400, 400, 400, 400, 100, 100, 100, 100]);
        let last = queue(&burst, &places).into_iter().max();
        assert_eq!(last, Some(Duration::from_millis(1_200)));
    }

    #[test]
    fn waiting_for_a_quick_place_beats_beginning_at_a_slow_one() {
        check(&[0, 0, 0], &[1_000, 100], &[100, 200, 300]);
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 0.5), Duration::from_millis(100));
        assert_eq!(percentile(&times, 0.99), Duration::from_millis(198));
        assert_eq!(percentile(&times, 1.0), Duration::from_millis(200));
        assert_eq!(percentile(&[], 0.99), Duration::ZERO);
    }
}
