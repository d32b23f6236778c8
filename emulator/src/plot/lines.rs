//! Curves over a number or the time.

use std::fmt::Write as _;

use super::{MARGINS, Plot, WIDTH, colour, legend, picture, steps, word};
use crate::report::estimate::number;

/// Height of a picture.
const HEIGHT: f64 = 340.0;

/// A curve with a name.
pub(super) struct Curve {
    pub(super) name: String,
    /// In order of the first number.
    pub(super) points: Vec<(f64, f64)>,
}

/// Curves in one frame.
pub(super) struct Lines {
    pub(super) title: String,
    pub(super) across: String,
    pub(super) up: String,
    /// Whether tenfold steps are equally far apart, to the right.
    pub(super) is_logarithmic: bool,
    pub(super) curves: Vec<Curve>,
}

/// What is drawn where.
struct Frame {
    least: f64,
    most: f64,
    top: f64,
    is_logarithmic: bool,
}

impl Frame {
    fn scaled(&self, x: f64) -> f64 {
        match self.is_logarithmic {
            true => libm::log10(x.max(self.least)),
            false => x,
        }
    }

    fn x(&self, x: f64) -> f64 {
        let [x, least, most] = [x, self.least, self.most].map(|x| self.scaled(x));
        let part = (x - least) / (most - least).max(1e-12);
        MARGINS.0 + part * (WIDTH - MARGINS.0 - MARGINS.1)
    }

    fn y(&self, y: f64) -> f64 {
        HEIGHT - MARGINS.3 - y / self.top * (HEIGHT - MARGINS.2 - MARGINS.3)
    }
}

impl Lines {
    fn frame(&self) -> Frame {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let most = points().map(|(x, _)| *x).fold(0.0, f64::max);
        let highest = points().map(|(_, y)| *y).fold(0.0, f64::max);
        let top = steps(highest).last().copied().unwrap_or(1.0);
        if !self.is_logarithmic {
            let most = if most > 0.0 { most } else { 1.0 };
            return Frame {
                least: 0.0,
                most,
                top,
                is_logarithmic: false,
            };
        }
        let over = points().map(|(x, _)| *x).filter(|x| *x > 0.0);
        let least = over.fold(f64::INFINITY, f64::min);
        let least = if least.is_finite() { least } else { 1.0 };
        Frame {
            least: libm::pow(10.0, libm::log10(least).floor()),
            most: libm::pow(10.0, libm::log10(most.max(least)).floor() + 1.0),
            top,
            is_logarithmic: true,
        }
    }

    fn ticks(&self, frame: &Frame) -> Vec<f64> {
        if !self.is_logarithmic {
            let steps = steps(frame.most).into_iter();
            return steps.filter(|step| *step <= frame.most).collect();
        }
        let mut ticks = vec![frame.least];
        while let Some(last) = ticks.last().filter(|last| **last < frame.most * 0.99) {
            ticks.push(last * 10.0);
        }
        ticks
    }

    /// Draws them.
    pub(super) fn plot(&self, file: &str) -> Plot {
        let frame = self.frame();
        let mut drawn = String::new();
        self.axes(&frame, &mut drawn);
        for (at, curve) in self.curves.iter().enumerate() {
            let mut points = String::new();
            for (x, y) in &curve.points {
                // Writing to a text never fails.
                let _ = write!(points, "{:.1},{:.1} ", frame.x(*x), frame.y(*y));
            }
            let _ = writeln!(
                drawn,
                "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\" points=\"{}\"/>",
                colour(at),
                points.trim_end()
            );
        }
        let names: Vec<&str> = self
            .curves
            .iter()
            .map(|curve| curve.name.as_str())
            .collect();
        legend(&mut drawn, &names);
        Plot {
            title: self.title.clone(),
            file: format!("{file}.svg"),
            svg: picture(&self.title, HEIGHT, &drawn),
        }
    }

    fn axes(&self, frame: &Frame, drawn: &mut String) {
        let (left, right) = (MARGINS.0, WIDTH - MARGINS.1);
        let (top, bottom) = (MARGINS.2, HEIGHT - MARGINS.3);
        for step in steps(frame.top) {
            let y = frame.y(step);
            let _ = writeln!(
                drawn,
                "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"
            );
            word(drawn, (left - 6.0, y + 4.0), "end", &number(step));
        }
        for tick in self.ticks(frame) {
            let x = frame.x(tick);
            let _ = writeln!(
                drawn,
                "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>"
            );
            word(drawn, (x, bottom + 16.0), "middle", &number(tick));
        }
        let middle = f64::midpoint(left, right);
        word(drawn, (middle, bottom + 36.0), "middle", &self.across);
        word(drawn, (left, top - 6.0), "start", &self.up);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_stay_within_the_frame_even_of_nothing() {
        for points in [vec![], vec![(0.0, 0.0)], vec![(3.0, 0.1), (4_000.0, 1.0)]] {
            for is_logarithmic in [false, true] {
                let lines = Lines {
                    title: "a & b".to_owned(),
                    across: String::new(),
                    up: String::new(),
                    is_logarithmic,
                    curves: vec![Curve {
                        name: "one".to_owned(),
                        points: points.clone(),
                    }],
                };
                let svg = lines.plot("file").svg;
                assert!(
                    svg.contains("a &amp; b") && svg.contains("<polyline"),
                    "{svg}"
                );
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }
}
