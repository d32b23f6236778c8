//! Means with the interval in which the true one is, 95 times of 100.

use serde::Serialize;

/// 0.975 quantiles of Student's t with 1, 2, 3, ... degrees of freedom.
/// R. A. Fisher, F. Yates, "Statistical Tables", table III.
const QUANTILES: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// The same with as many degrees of freedom or more, the most first.
const LARGE: [(usize, f64); 3] = [(120, 1.980), (60, 2.000), (40, 2.021)];

/// Of that many degrees of freedom; between two of the table the wider.
fn quantile(freedom: usize) -> f64 {
    let large = LARGE.iter().find(|(least, _)| freedom >= *least);
    match (large, QUANTILES.get(freedom.saturating_sub(1))) {
        (Some((_, quantile)), _) => *quantile,
        (None, Some(quantile)) => *quantile,
        (None, None) => QUANTILES[QUANTILES.len() - 1],
    }
}

/// A mean over runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half of the width of its 95 % confidence interval; `None` of one run,
    /// which says nothing of it.
    pub half_width: Option<f64>,
}

impl Estimate {
    /// Of one number for each run; 0 of none.
    pub fn of(numbers: &[f64]) -> Estimate {
        let count = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / count.max(1.0);
        let squares = numbers
            .iter()
            .map(|number| (number - mean) * (number - mean));
        let half_width = (numbers.len() > 1).then(|| {
            let freedom = numbers.len().saturating_sub(1);
            let variance = squares.sum::<f64>() / freedom as f64;
            quantile(freedom) * (variance / count).sqrt()
        });
        Estimate { mean, half_width }
    }

    /// With as many digits as can be read at a glance.
    pub fn text(&self) -> String {
        match self.half_width {
            Some(half) => format!("{} \u{b1} {}", number(self.mean), number(half)),
            None => number(self.mean),
        }
    }
}

/// A number to three significant digits or so.
pub fn number(number: f64) -> String {
    match number.abs() {
        0.0 => "0".to_owned(),
        size if size >= 99.95 => format!("{number:.0}"),
        size if size >= 9.995 => format!("{number:.1}"),
        size if size >= 0.001 => {
            let text = format!("{number:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{number:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_has_the_interval_of_students_t() {
        let estimate = Estimate::of(&[1.0, 2.0, 3.0]);
        assert_eq!(estimate.mean, 2.0);
        let expected = 4.303 / 3.0_f64.sqrt();
        assert!((estimate.half_width.expect("three runs") - expected).abs() < 1e-12);
        assert_eq!(Estimate::of(&[5.0]).half_width, None);
        assert_eq!(Estimate::of(&[]).mean, 0.0);
        let quantiles = [1, 2, 30, 31, 40, 59, 60, 1_000].map(quantile);
        let expected = [12.706, 4.303, 2.042, 2.042, 2.021, 2.021, 2.0, 1.98];
        assert_eq!(quantiles, expected);
    }

    #[test]
    fn numbers_are_short() {
        for (of, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.1234, "0.123"),
            (12.34, "12.3"),
            (1234.5, "1234"),
            (0.0001, "1.0e-4"),
        ] {
            assert_eq!(number(of), text);
        }
    }
}
