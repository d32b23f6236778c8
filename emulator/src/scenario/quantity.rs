//! Numbers within bounds, as keys take them.

use super::field::{Field, Reading, wrong};
use super::tree::{Tree, Value};

/// A number within bounds, both in thousandths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Real<const LEAST: i64, const MOST: i64>(pub f64);

impl<const LEAST: i64, const MOST: i64> Default for Real<LEAST, MOST> {
    fn default() -> Self {
        Real((1.0_f64).clamp(LEAST as f64 / 1e3, MOST as f64 / 1e3))
    }
}

/// Of something, from none to all.
pub type Share = Real<0, 1_000>;

/// How many times something, from a thousandth to a thousandfold.
pub type Times = Real<1, 1_000_000>;

/// A number above nothing.
pub type Positive = Real<1, 1_000_000_000_000>;

impl<const LEAST: i64, const MOST: i64> Field for Real<LEAST, MOST> {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        let Value::Number(text) = &tree.value else {
            return wrong(tree, "a number", &tree.value, reading);
        };
        let (least, most) = (LEAST as f64 / 1e3, MOST as f64 / 1e3);
        match text.parse::<f64>() {
            Ok(number) if (least..=most).contains(&number) => self.0 = number,
            Ok(_) | Err(_) => {
                let message = format!("{text} is not from {least} to {most}");
                reading.mistakes.add(&tree.at, message);
            }
        }
    }

    fn takes(&self) -> String {
        format!(
            "number from {} to {}",
            LEAST as f64 / 1e3,
            MOST as f64 / 1e3
        )
    }

    fn show(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// A whole number within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole<const LEAST: u64, const MOST: u64>(pub u64);

impl<const LEAST: u64, const MOST: u64> Default for Whole<LEAST, MOST> {
    fn default() -> Self {
        Whole(LEAST)
    }
}

impl<const LEAST: u64, const MOST: u64> Field for Whole<LEAST, MOST> {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        let Value::Number(text) = &tree.value else {
            return wrong(tree, "a whole number", &tree.value, reading);
        };
        match text.parse::<u64>() {
            Ok(number) if (LEAST..=MOST).contains(&number) => self.0 = number,
            Ok(_) | Err(_) => {
                let message = format!("{text} is no whole number from {LEAST} to {MOST}");
                reading.mistakes.add(&tree.at, message);
            }
        }
    }

    fn takes(&self) -> String {
        format!("whole number from {LEAST} to {MOST}")
    }

    fn show(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// How fast bits go, in bits a second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BitRate(pub f64);

/// Units of bit rates; the longest ending first.
const BIT_UNITS: [(&str, f64); 4] = [("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];

impl Field for BitRate {
    fn take(&mut self, tree: &Tree, reading: &mut Reading<'_>) {
        let Value::Text(text) = &tree.value else {
            return wrong(tree, "a rate such as 100Mbit", &tree.value, reading);
        };
        let unit = BIT_UNITS
            .iter()
            .find_map(|(unit, size)| Some((text.strip_suffix(unit)?, size)));
        let rate =
            unit.and_then(|(digits, size)| Some(digits.trim_end().parse::<f64>().ok()? * size));
        match rate {
            Some(rate) if (1.0..=1e15).contains(&rate) => self.0 = rate,
            Some(_) | None => {
                let message =
                    format!("{text:?} is no rate: write bits a second as 100Mbit or 1Gbit");
                reading.mistakes.add(&tree.at, message);
            }
        }
    }

    fn takes(&self) -> String {
        "bits a second (\"100Mbit\")".to_owned()
    }

    fn show(&self) -> Option<String> {
        (self.0 > 0.0).then(|| format!("{}bit", self.0))
    }
}
