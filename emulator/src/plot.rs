//! Pictures of runs side by side, as SVG.
//!
//! | file | what it is |
//! |---|---|
//! | `lines` | curves over a number or the time |
//! | `shares` | bars for each node, a matrix of places, boxes over seeds |

mod lines;
mod shares;

use std::fmt::Write as _;

use self::lines::{Curve, Lines};
use crate::report::{Column, Comparison};
use crate::scenario::draw::escaped;
use crate::simulate::report::Report;
use crate::simulate::series::Series;

/// What stands at the head of a picture in a file of its own.
pub(crate) const NAMESPACE: &str = " xmlns=\"http://www.w3.org/2000/svg\"";

/// Colours of policies, in their order; that many can be told apart (P. Tol,
/// "Colour Schemes", bright).
const COLOURS: [&str; 7] = [
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777",
];

/// Width of a picture.
const WIDTH: f64 = 760.0;

/// Left, right, top and bottom room around what is drawn.
const MARGINS: (f64, f64, f64, f64) = (70.0, 150.0, 40.0, 50.0);

/// A picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// The name of its file.
    pub file: String,
    /// The file.
    pub svg: String,
}

fn colour(at: usize) -> &'static str {
    COLOURS[at % COLOURS.len()]
}

/// A picture of that height around what was drawn.
fn picture(title: &str, height: f64, drawn: &str) -> String {
    let title = escaped(title);
    format!(
        "<svg{NAMESPACE} viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{height}\" \
         fill=\"#fff\"/>\n<text x=\"{}\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{title}\
         </text>\n{drawn}</svg>\n",
        MARGINS.0
    )
}

/// A text; `anchor` is start, middle or end.
fn word(drawn: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    // Writing to a text never fails.
    let _ = writeln!(
        drawn,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escaped(text)
    );
}

/// Which colour is which policy, to the right.
fn legend(drawn: &mut String, names: &[&str]) {
    let left = WIDTH - MARGINS.1 + 12.0;
    for (at, name) in names.iter().enumerate() {
        let y = MARGINS.2 + 8.0 + at as f64 * 18.0;
        let _ = writeln!(
            drawn,
            "<rect x=\"{left}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{}\"/>",
            y - 10.0,
            colour(at)
        );
        word(drawn, (left + 18.0, y), "start", name);
    }
}

/// Round steps that divide 0 to `most` in about five.
fn steps(most: f64) -> Vec<f64> {
    if !(most > 0.0 && most.is_finite()) {
        return vec![0.0, 1.0];
    }
    let rough = most / 5.0;
    let mut decade = 1.0;
    while decade > rough {
        decade /= 10.0;
    }
    while decade * 10.0 <= rough {
        decade *= 10.0;
    }
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * decade)
        .find(|step| *step >= rough)
        .unwrap_or(decade * 10.0);
    let mut steps = vec![0.0];
    while let Some(last) = steps.last().filter(|last| **last < most) {
        // As whole times of the step, lest errors add up.
        let next = (last / step).round() + 1.0;
        steps.push(next * step);
    }
    steps
}

/// All pictures of a comparison.
pub fn all(comparison: &Comparison) -> Vec<Plot> {
    let columns = comparison.columns();
    let mut plots = vec![latency(&columns)];
    plots.extend(times(&columns));
    plots.push(shares::nodes(&columns));
    for (at, column) in columns.iter().enumerate() {
        plots.push(shares::places(column, at));
    }
    plots.push(shares::boxes(
        "99th percentile of latency by seed, ms",
        "p99-by-seed",
        &columns,
        |run| run.all.latency.p99,
    ));
    plots.push(shares::boxes(
        "Answered calls by seed, %",
        "answered-by-seed",
        &columns,
        |run| {
            let answered = run.all.outcomes.get("answered").copied().unwrap_or(0);
            100.0 * answered as f64 / run.all.calls.max(1) as f64
        },
    ));
    plots
}

/// The distribution of latencies: of each policy its first seed.
fn latency(columns: &[Column<'_>]) -> Plot {
    let curve = |column: &Column<'_>| Curve {
        name: column.name.to_owned(),
        points: column
            .runs
            .first()
            .map_or_else(Vec::new, |run| run.distribution.clone()),
    };
    Lines {
        title: "Latency of answered calls, first seed".to_owned(),
        across: "milliseconds".to_owned(),
        up: "part that is no longer".to_owned(),
        is_logarithmic: true,
        curves: columns.iter().map(curve).collect(),
    }
    .plot("latency")
}

/// Rates and queues over time, means over seeds.
fn times(columns: &[Column<'_>]) -> [Plot; 4] {
    /// Title, what is drawn, file, and a part's number.
    type Kind = (
        &'static str,
        &'static str,
        &'static str,
        fn(&Series, usize) -> f64,
    );
    let kinds: [Kind; 4] = [
        ("Calls that came", "calls a second", "rate", |of, at| {
            of.came[at] as f64 / of.seconds()
        }),
        (
            "Calls that were answered",
            "calls a second",
            "answered",
            |of, at| of.answered[at] as f64 / of.seconds(),
        ),
        (
            "Calls that were refused, lost or late",
            "calls a second",
            "rejects",
            |of, at| of.unanswered[at] as f64 / of.seconds(),
        ),
        // J. Little's law, with the waits of those that came in each part.
        ("Calls that wait, on average", "calls", "queue", |of, at| {
            of.waited[at] as f64 / of.nanos as f64
        }),
    ];
    kinds.map(|(title, up, file, number)| {
        let curve = |column: &Column<'_>| Curve {
            name: column.name.to_owned(),
            points: over_time(column.runs, number),
        };
        Lines {
            title: title.to_owned(),
            across: "seconds".to_owned(),
            up: up.to_owned(),
            is_logarithmic: false,
            curves: columns.iter().map(curve).collect(),
        }
        .plot(file)
    })
}

fn over_time(runs: &[Report], number: fn(&Series, usize) -> f64) -> Vec<(f64, f64)> {
    let Some(first) = runs.first() else {
        return Vec::new();
    };
    let mean = |at: usize| {
        let sum: f64 = runs.iter().map(|run| number(&run.series, at)).sum();
        let middle = (at as f64 + 0.5) * first.series.seconds();
        (middle, sum / runs.len() as f64)
    };
    (0..first.series.came.len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_reach_the_most() {
        assert_eq!(steps(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(steps(0.0), [0.0, 1.0]);
        assert_eq!(steps(1_234.0), [0.0, 500.0, 1_000.0, 1_500.0]);
        assert_eq!(steps(f64::INFINITY), [0.0, 1.0]);
        assert!(steps(0.003).last().is_some_and(|last| *last >= 0.003));
    }
}
