//! A scenario as a picture: classes of nodes by zone and region, and the links
//! between them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Scenario;
use super::world::{Nodes, Selector};

/// Width and height of the box of a class, and the space around it.
const BOX: (f64, f64, f64) = (190.0, 64.0, 40.0);

/// Room above the boxes, for the names of places.
const HEAD: f64 = 60.0;

/// A text as it may stand in XML.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Other control characters may not stand in XML at all.
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

fn place_of(class: &Nodes) -> String {
    match (&class.zone, &class.region) {
        (_, Some(region)) => format!("region {region}"),
        (Some(zone), None) => format!("zone {zone}"),
        (None, None) => "no zone".to_owned(),
    }
}

/// Draws it as SVG: a column for each zone and region.
pub fn svg(scenario: &Scenario) -> String {
    let (wide, high, space) = BOX;
    let mut columns: BTreeMap<String, Vec<&Nodes>> = BTreeMap::new();
    for class in &scenario.nodes.0 {
        let class = &class.value;
        columns.entry(place_of(class)).or_default().push(class);
    }
    let rows = columns.values().map(Vec::len).max().unwrap_or(0);
    let width = columns.len() as f64 * (wide + space) + space;
    let height = HEAD + rows as f64 * (high + space) + space;
    let mut boxes = String::new();
    let mut middles: Vec<(&Nodes, f64, f64)> = Vec::new();
    for (column, (place, classes)) in columns.iter().enumerate() {
        let left = space + column as f64 * (wide + space);
        let middle = left + wide / 2.0;
        // Writing to a text never fails.
        let _ = writeln!(
            boxes,
            "<text x=\"{middle}\" y=\"30\" text-anchor=\"middle\" font-weight=\"bold\">{}</text>",
            escaped(place)
        );
        for (row, class) in classes.iter().enumerate() {
            let top = HEAD + row as f64 * (high + space);
            middles.push((class, middle, top + high / 2.0));
            let name = format!("{} \u{d7} {}", class.count.0, class.name.value);
            let size = format!(
                "{} cores, {}, speed {}",
                class.cores.0, class.memory, class.speed.0
            );
            let _ = writeln!(
                boxes,
                "<rect x=\"{left}\" y=\"{top}\" width=\"{wide}\" height=\"{high}\" rx=\"6\" \
                 fill=\"#eef4fb\" stroke=\"#28527a\"/>\n\
                 <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n\
                 <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\">{}</text>",
                top + 26.0,
                escaped(&name),
                top + 46.0,
                escaped(&size)
            );
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"14\">\n<title>{}</title>\n{}{boxes}</svg>\n",
        escaped(&scenario.head.0.name),
        lines(scenario, &middles)
    )
}

/// The links that are written one by one, each from the middle of one end to that
/// of the other; one within a single place is a loop, and is left out.
fn lines(scenario: &Scenario, middles: &[(&Nodes, f64, f64)]) -> String {
    let mut lines = String::new();
    let topology = scenario.topology.iter().flat_map(|of| &of.0.file.0);
    let links = scenario.links.0.iter().map(|link| &link.value);
    for link in topology.chain(links) {
        let [one, other] = &*link.between else {
            continue;
        };
        let ends = [&one.value, &other.value].map(|end| middle(end, middles));
        let [Some((x1, y1)), Some((x2, y2))] = ends else {
            continue;
        };
        if (x1, y1) == (x2, y2) {
            continue;
        }
        let label = humantime::format_duration(link.round_trip);
        let _ = writeln!(
            lines,
            "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" stroke=\"#999\"/>\n\
             <text x=\"{}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\">{label}</text>",
            (x1 + x2) / 2.0,
            (y1 + y2) / 2.0 - 4.0,
        );
    }
    lines
}

/// The middle of all boxes that a selector means.
fn middle(end: &Selector, middles: &[(&Nodes, f64, f64)]) -> Option<(f64, f64)> {
    let is_meant = |class: &Nodes| match end {
        Selector::All => true,
        Selector::Zone(zone) => class.zone.as_ref() == Some(zone),
        Selector::Region(region) => class.region.as_ref() == Some(region),
        Selector::Name(name) => class.numbers(name).is_some(),
    };
    let meant = middles.iter().filter(|(class, ..)| is_meant(class));
    let (mut x, mut y, mut count) = (0.0, 0.0, 0.0);
    for (_, one, other) in meant {
        x += one;
        y += other;
        count += 1.0;
    }
    (count > 0.0).then(|| (x / count, y / count))
}
