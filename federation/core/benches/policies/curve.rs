//! The curve: decisions a second by the number of destinations, both axes by powers
//! of ten.

use std::fmt::Write as _;

const SIZE: (f64, f64) = (720.0, 420.0);
/// Left, right, above and below the axes; names of lines are on the right.
const MARGIN: (f64, f64, f64, f64) = (70.0, 190.0, 48.0, 52.0);

/// Powers of ten that the axes begin and end with.
const DESTINATIONS: (f64, f64) = (0.0, 5.0);
const RATES: (f64, f64) = (3.0, 8.0);

/// What ServerlessOnEdge publishes of its dispatcher on a Raspberry Pi 3 with one
/// client, by entries of its table; that of an empty table stands at 1.
const PUBLISHED: [(f64, f64); 7] = [
    (1.0, 5_000.0),
    (1_000.0, 4_800.0),
    (2_000.0, 4_400.0),
    (4_000.0, 3_100.0),
    (6_000.0, 2_600.0),
    (8_000.0, 2_200.0),
    (10_000.0, 2_000.0),
];
const PUBLISHED_NAME: &str = "ServerlessOnEdge, RPi 3";

const COLOURS: [&str; 9] = [
    "#0b62a4", "#c0392b", "#27883e", "#8e5aa8", "#b8860b", "#16858c", "#d35490", "#5d6d1e",
    "#6b4a2b",
];

/// Pixels between the names of two lines.
const LINE: f64 = 15.0;

fn x(destinations: f64) -> f64 {
    let (low, high) = DESTINATIONS;
    let width = SIZE.0 - MARGIN.0 - MARGIN.1;
    MARGIN.0 + (destinations.log10() - low) / (high - low) * width
}

fn y(rate: f64) -> f64 {
    let (low, high) = RATES;
    let height = SIZE.1 - MARGIN.2 - MARGIN.3;
    SIZE.1 - MARGIN.3 - (rate.log10() - low) / (high - low) * height
}

/// An SVG of these lines, each of pairs of destinations and decisions a second.
pub(crate) fn draw(lines: &[(&str, Vec<(f64, f64)>)]) -> String {
    let mut svg = String::new();
    // Writing to a text never fails.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n<text x=\"{}\" y=\"26\" font-size=\"15\">decisions a second, by \
         destinations</text>",
        SIZE.0, SIZE.1, MARGIN.0,
    );
    axes(&mut svg);
    for ((name, points), colour) in lines.iter().zip(COLOURS) {
        line(&mut svg, points, colour, name, "");
    }
    let dashed = " stroke-dasharray=\"5 4\"";
    line(&mut svg, &PUBLISHED, "#555", PUBLISHED_NAME, dashed);
    let mut names: Vec<(f64, &str, &str)> = lines
        .iter()
        .zip(COLOURS)
        .filter_map(|((name, points), colour)| Some((y(points.last()?.1), *name, colour)))
        .collect();
    names.push((y(PUBLISHED[6].1), PUBLISHED_NAME, "#555"));
    names.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut free = 0.0_f64;
    for (at, name, colour) in names {
        let at = at.max(free);
        free = at + LINE;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            SIZE.0 - MARGIN.1 + 10.0,
            at + 4.0,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn axes(svg: &mut String) {
    let right = SIZE.0 - MARGIN.1;
    for power in RATES.0 as i32..=RATES.1 as i32 {
        let rate = 10_f64.powi(power);
        let at = y(rate);
        let _ = writeln!(
            svg,
            "<path d=\"M{} {at:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            MARGIN.0,
            MARGIN.0 - 8.0,
            at + 4.0,
            in_words(rate),
        );
    }
    for power in DESTINATIONS.0 as i32..=DESTINATIONS.1 as i32 {
        let count = 10_f64.powi(power);
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{count}</text>",
            x(count),
            SIZE.1 - MARGIN.3 + 20.0,
        );
    }
}

fn in_words(rate: f64) -> String {
    match rate {
        _ if rate >= 1e6 => format!("{} M", rate / 1e6),
        _ => format!("{} k", rate / 1e3),
    }
}

fn line(svg: &mut String, points: &[(f64, f64)], colour: &str, name: &str, style: &str) {
    let path: Vec<String> = points
        .iter()
        .map(|(count, rate)| format!("{:.1} {:.1}", x(*count), y(*rate)))
        .collect();
    let _ = writeln!(
        svg,
        "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{style}>\
         <title>{name}</title></path>",
        path.join("L"),
    );
    for (count, rate) in points {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\" fill=\"{colour}\"/>",
            x(*count),
            y(*rate),
        );
    }
}
