//! Regions that a node follows which names none: the nearest that it hears of.

use std::collections::BTreeMap;
use std::time::Duration;

/// Regions that are followed; each costs a topic that the node hears, and two
/// links.
pub const FOLLOWED: usize = 4;

/// The region of a cloud node that names none.
pub const DEFAULT: &str = "default";

/// What is written for no region at all.
pub const NONE: &str = "none";

/// A region that is followed is left for another one only when that is nearer
/// by this factor: distances are measured, and never twice alike.
const NEARER: f64 = 0.8;

/// The regions to follow, the nearest first, out of those of which somebody is
/// heard, by the expected round trip to the nearest member of each; `followed`
/// are those until now.
pub fn nearest(heard: &BTreeMap<String, Duration>, followed: &[String]) -> Vec<String> {
    let mut regions: Vec<(f64, &String)> = heard
        .iter()
        .map(|(region, away)| {
            let kept = followed.contains(region);
            let weight = if kept { NEARER } else { 1.0 };
            (away.as_secs_f64() * weight, region)
        })
        .collect();
    regions.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
    let nearest = regions.into_iter().take(FOLLOWED);
    nearest.map(|(_, region)| region.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(regions: &[(&str, u64)]) -> BTreeMap<String, Duration> {
        let regions = regions.iter();
        let away = |milliseconds: &u64| Duration::from_millis(*milliseconds);
        regions
            .map(|(name, milliseconds)| ((*name).to_owned(), away(milliseconds)))
            .collect()
    }

    #[test]
    fn the_nearest_four_are_followed_as_they_come_and_go() {
        let none: Vec<String> = Vec::new();
        assert_eq!(nearest(&heard(&[]), &none), none);
        let all = heard(&[("a", 50), ("b", 10), ("c", 30), ("d", 40), ("e", 20)]);
        assert_eq!(nearest(&all, &none), ["b", "e", "c", "d"]);
        let fewer = heard(&[("a", 50), ("c", 30)]);
        let followed = nearest(&all, &none);
        assert_eq!(nearest(&fewer, &followed), ["c", "a"]);
    }

    #[test]
    fn what_is_a_little_nearer_changes_nothing() {
        let all = heard(&[("a", 10), ("b", 11), ("c", 12), ("d", 14), ("e", 13)]);
        let followed = ["a", "b", "c", "d"].map(str::to_owned);
        assert_eq!(nearest(&all, &followed), followed);
        let nearer = heard(&[("a", 10), ("b", 11), ("c", 12), ("d", 14), ("e", 9)]);
        assert!(nearest(&nearer, &followed).contains(&"e".to_owned()));
    }
}
