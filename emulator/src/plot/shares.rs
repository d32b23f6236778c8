//! Bars for each node, a matrix of places, boxes over seeds.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{MARGINS, Plot, WIDTH, colour, legend, picture, steps, word};
use crate::report::estimate::number;
use crate::report::{Column, moved, places as places_of};
use crate::simulate::report::Report;

/// Nodes that are drawn; the first by name.
const NODES_DRAWN: usize = 60;

/// Classes of nodes of either side that are drawn.
const PLACES_DRAWN: usize = 24;

/// Thickness of a bar, and of a box.
const BAR: f64 = 12.0;

/// Height of a row of the matrix, and of boxes.
const ROW: f64 = 34.0;

fn right() -> f64 {
    WIDTH - MARGINS.1
}

/// Draws the scale of numbers from 0 to the right, and gives what maps them.
fn scale(drawn: &mut String, most: f64, bottom: f64, left: f64) -> impl Fn(f64) -> f64 + use<> {
    let steps = steps(most);
    let top = steps.last().copied().unwrap_or(1.0);
    let x = move |number: f64| left + number / top * (right() - left);
    for step in steps {
        // Writing to a text never fails.
        let _ = writeln!(
            drawn,
            "<line x1=\"{0:.1}\" y1=\"{1}\" x2=\"{0:.1}\" y2=\"{bottom:.1}\" stroke=\"#ddd\"/>",
            x(step),
            MARGINS.2
        );
        word(drawn, (x(step), bottom + 16.0), "middle", &number(step));
    }
    x
}

/// The part of answered calls that each node ran, by policy; means over seeds.
pub(super) fn nodes(columns: &[Column<'_>]) -> Plot {
    let title = "Share of answered calls by node, %";
    let names = columns.iter().flat_map(|column| column.runs);
    let names: BTreeSet<&str> = names
        .flat_map(|run| run.nodes.keys().map(String::as_str))
        .collect();
    let names: Vec<&str> = names.into_iter().take(NODES_DRAWN).collect();
    let share = |column: &Column<'_>, name: &str| {
        let part = |run: &Report| {
            let all: u64 = run.nodes.values().map(|node| node.ran).sum();
            let ran = run.nodes.get(name).map_or(0, |node| node.ran);
            100.0 * ran as f64 / all.max(1) as f64
        };
        column.runs.iter().map(part).sum::<f64>() / column.runs.len().max(1) as f64
    };
    let shares = columns
        .iter()
        .flat_map(|column| names.iter().map(|name| share(column, name)));
    let most = shares.fold(0.0, f64::max);
    let high = columns.len() as f64 * BAR + 8.0;
    let bottom = MARGINS.2 + names.len() as f64 * high;
    let left = MARGINS.0 + 50.0;
    let mut drawn = String::new();
    let x = scale(&mut drawn, most, bottom, left);
    for (row, name) in names.iter().enumerate() {
        let top = MARGINS.2 + row as f64 * high + 4.0;
        word(&mut drawn, (left - 6.0, top + high / 2.0), "end", name);
        for (at, column) in columns.iter().enumerate() {
            let _ = writeln!(
                drawn,
                "<rect x=\"{left}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"/>",
                top + at as f64 * BAR,
                x(share(column, name)) - left,
                BAR - 2.0,
                colour(at)
            );
        }
    }
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    legend(&mut drawn, &names);
    Plot {
        title: title.to_owned(),
        file: "shares.svg".to_owned(),
        svg: picture(title, (bottom + MARGINS.3).max(160.0), &drawn),
    }
}

/// Where the calls of each class of nodes ran, in percent of its calls.
pub(super) fn places(column: &Column<'_>, at: usize) -> Plot {
    let title = format!("Where calls ran, % of each row: {}", column.name);
    let (mut from, mut to) = places_of(column);
    from.truncate(PLACES_DRAWN);
    to.truncate(PLACES_DRAWN);
    let left = MARGINS.0 + 50.0;
    let wide = ((right() - left) / to.len().max(1) as f64).min(120.0);
    let top = MARGINS.2 + 24.0;
    let mut drawn = String::new();
    for (place, name) in to.iter().enumerate() {
        let middle = left + (place as f64 + 0.5) * wide;
        word(&mut drawn, (middle, top - 6.0), "middle", name);
    }
    for (row, name) in from.iter().enumerate() {
        let y = top + row as f64 * ROW;
        word(&mut drawn, (left - 6.0, y + ROW / 2.0 + 4.0), "end", name);
        let all: f64 = to.iter().map(|to| moved(column, name, to)).sum();
        for (place, to) in to.iter().enumerate() {
            let part = moved(column, name, to) / all.max(1e-12);
            let x = left + place as f64 * wide;
            let _ = writeln!(
                drawn,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{ROW}\" \
                 fill=\"{}\" fill-opacity=\"{part:.3}\" stroke=\"#ccc\"/>",
                colour(at)
            );
            let middle = (x + wide / 2.0, y + ROW / 2.0 + 4.0);
            word(&mut drawn, middle, "middle", &number(100.0 * part));
        }
    }
    let bottom = top + from.len() as f64 * ROW;
    Plot {
        file: format!("where-{}.svg", file_name(column.name)),
        svg: picture(&title, bottom + 30.0, &drawn),
        title,
    }
}

/// A policy's name as part of a file's.
fn file_name(policy: &str) -> String {
    let may = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    policy.chars().map(may).collect()
}

/// A box for each policy: least, quarters, half and most over its seeds.
pub(super) fn boxes(
    title: &str,
    file: &str,
    columns: &[Column<'_>],
    of: fn(&Report) -> f64,
) -> Plot {
    let all = columns.iter().flat_map(|column| column.runs).map(of);
    let most = all.fold(0.0, f64::max);
    let bottom = MARGINS.2 + columns.len() as f64 * ROW;
    let left = MARGINS.0 + 50.0;
    let mut drawn = String::new();
    let x = scale(&mut drawn, most, bottom, left);
    for (at, column) in columns.iter().enumerate() {
        let mut numbers: Vec<f64> = column.runs.iter().map(of).collect();
        numbers.sort_by(f64::total_cmp);
        let [least, quarter, half, three, most] =
            [0.0, 0.25, 0.5, 0.75, 1.0].map(|part| x(quantile(&numbers, part)));
        let middle = MARGINS.2 + (at as f64 + 0.5) * ROW;
        let colour = colour(at);
        word(&mut drawn, (left - 6.0, middle + 4.0), "end", column.name);
        let _ = writeln!(
            drawn,
            "<line x1=\"{least:.1}\" y1=\"{middle}\" x2=\"{most:.1}\" y2=\"{middle}\" \
             stroke=\"{colour}\"/>\n<rect x=\"{quarter:.1}\" y=\"{}\" width=\"{:.1}\" \
             height=\"{BAR}\" fill=\"{colour}\" fill-opacity=\"0.3\" stroke=\"{colour}\"/>\n\
             <line x1=\"{half:.1}\" y1=\"{}\" x2=\"{half:.1}\" y2=\"{}\" stroke=\"{colour}\" \
             stroke-width=\"3\"/>",
            middle - BAR / 2.0,
            three - quarter,
            middle - BAR / 2.0,
            middle + BAR / 2.0
        );
        for number in numbers {
            let x = x(number);
            let _ = writeln!(
                drawn,
                "<circle cx=\"{x:.1}\" cy=\"{middle}\" r=\"2.5\" fill=\"{colour}\"/>"
            );
        }
    }
    Plot {
        title: title.to_owned(),
        file: format!("{file}.svg"),
        svg: picture(title, bottom + 30.0, &drawn),
    }
}

/// Between the two nearest of sorted numbers, in proportion; 0 of none.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * sorted.len().saturating_sub(1) as f64;
    let below = place.floor();
    let at = |place: f64| sorted.get(place as usize).copied();
    let low = at(below).unwrap_or(0.0);
    let high = at(below + 1.0).unwrap_or(low);
    low + (place - below) * (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_nearest() {
        let sorted = [1.0, 2.0, 4.0];
        let found = [0.0, 0.25, 0.5, 0.75, 1.0].map(|part| quantile(&sorted, part));
        assert_eq!(found, [1.0, 1.5, 2.0, 3.0, 4.0]);
        assert_eq!(quantile(&[], 0.5), 0.0);
        assert_eq!(quantile(&[7.0], 0.75), 7.0);
    }
}
