//! The two text formats of metrics: Prometheus 0.0.4 and OpenMetrics 1.0.
//!
//! Written here because the libraries speak only one of them each, and none
//! writes names that OpenFaaS dashboards read; what is needed of the formats
//! is this file.

use std::fmt::{Display, Write as _};

use http::HeaderValue;

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format that an `Accept` header prefers, by type and weight.
    pub fn negotiate(accept: Option<&str>) -> Format {
        let mut best = (Format::Prometheus, 0.0);
        for part in accept.unwrap_or_default().split(',') {
            let mut fields = part.split(';').map(str::trim);
            let kind = fields.next().unwrap_or_default();
            let (mut weight, mut version) = (1.0, None);
            for field in fields {
                match field.split_once('=') {
                    Some(("q", value)) => weight = value.trim().parse().unwrap_or(0.0),
                    Some(("version", value)) => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            let format = match (kind.to_ascii_lowercase().as_str(), version) {
                ("application/openmetrics-text", None | Some("1.0.0")) => Format::OpenMetrics,
                ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => Format::Prometheus,
                _ => continue,
            };
            if weight > best.1 {
                best = (format, weight);
            }
        }
        best.0
    }

    /// Its `Content-Type`.
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        })
    }
}

/// What a family of metrics is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name, given without, is written with `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound.
    Histogram,
    /// A name that breaks the rules and is kept for others.
    Unknown,
}

/// Labels of a sample.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A family of metrics, whose samples are taken from an `S`.
pub struct Family<S> {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it counts.
    pub help: &'static str,
    /// Writes its samples.
    pub samples: fn(&S, &mut Page),
}

/// A page of metrics being written.
#[derive(Debug)]
pub struct Page {
    format: Format,
    text: String,
    name: &'static str,
    kind: Kind,
}

impl Page {
    /// An empty page.
    pub fn new(format: Format) -> Self {
        Page {
            format,
            text: String::with_capacity(16 << 10),
            name: "",
            kind: Kind::Unknown,
        }
    }

    /// Writes families one after the other.
    pub fn families<S>(&mut self, families: &[Family<S>], source: &S) {
        for family in families {
            self.family(family.name, family.kind, family.help);
            (family.samples)(source, self);
        }
    }

    /// Begins the family `name`; its samples follow.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        (self.name, self.kind) = (name, kind);
        let open = self.format == Format::OpenMetrics;
        let suffix = if kind == Kind::Counter && !open {
            "_total"
        } else {
            ""
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Unknown if open => "unknown",
            Kind::Unknown => "untyped",
        };
        // Writing into a String cannot fail; so below.
        let _ = writeln!(
            self.text,
            "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}"
        );
        let unit = ["seconds", "bytes"].into_iter().find(|unit| {
            name.strip_suffix(unit)
                .is_some_and(|rest| rest.ends_with('_'))
        });
        if let (true, Some(unit)) = (open, unit) {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
    }

    /// One value of the family.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        let suffix = if self.kind == Kind::Counter {
            "_total"
        } else {
            ""
        };
        self.line(suffix, labels, None, value);
    }

    /// One histogram of the family: upper bounds, the count in each bucket
    /// (one more than bounds), and the sum of all values.
    pub fn histogram(&mut self, labels: Labels<'_>, bounds: &[f64], buckets: &[u64], sum: f64) {
        let mut count = 0;
        for (index, bucket) in buckets.iter().enumerate() {
            count += bucket;
            // OpenMetrics wants canonical floats: 1.0, not 1.
            let bound = bounds
                .get(index)
                .map_or("+Inf".to_owned(), |bound| format!("{bound:?}"));
            self.line("_bucket", labels, Some(("le", &bound)), count);
        }
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, count);
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: Labels<'_>,
        last: Option<(&str, &str)>,
        value: impl Display,
    ) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut separator = '{';
        for (name, value) in labels.iter().copied().chain(last) {
            self.text.push(separator);
            self.text.push_str(name);
            self.text.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// The whole page.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_is_chosen_by_type_and_weight() {
        let check =
            |accept, expected| assert_eq!(Format::negotiate(accept), expected, "{accept:?}");
        check(None, Format::Prometheus);
        check(Some("*/*"), Format::Prometheus);
        check(Some("application/openmetrics-text"), Format::OpenMetrics);
        let prometheus = "application/openmetrics-text;version=1.0.0,\
                          application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        check(Some(prometheus), Format::OpenMetrics);
        check(
            Some("application/openmetrics-text;q=0.1, text/plain"),
            Format::Prometheus,
        );
        check(
            Some("application/openmetrics-text;version=9.0.0"),
            Format::Prometheus,
        );
        check(
            Some("application/openmetrics-text;q=broken"),
            Format::Prometheus,
        );
    }

    fn page(format: Format) -> String {
        let mut page = Page::new(format);
        page.family("weir_calls", Kind::Counter, "Calls.");
        page.sample(&[("name", "a\"b\\")], 3);
        page.family("weir_wait_seconds", Kind::Histogram, "Waiting.");
        page.histogram(&[], &[0.5, 1.0], &[1, 0, 2], 4.5);
        page.family("old_count", Kind::Unknown, "Kept.");
        page.sample(&[], 1);
        page.finish()
    }

    #[test]
    fn prometheus_names_counters_in_full() {
        let expected = "\
# HELP weir_calls_total Calls.
# TYPE weir_calls_total counter
weir_calls_total{name=\"a\\\"b\\\\\"} 3
# HELP weir_wait_seconds Waiting.
# TYPE weir_wait_seconds histogram
weir_wait_seconds_bucket{le=\"0.5\"} 1
weir_wait_seconds_bucket{le=\"1.0\"} 1
weir_wait_seconds_bucket{le=\"+Inf\"} 3
weir_wait_seconds_sum 4.5
weir_wait_seconds_count 3
# HELP old_count Kept.
# TYPE old_count untyped
old_count 1
";
        assert_eq!(page(Format::Prometheus), expected);
    }

    #[test]
    fn open_metrics_has_units_and_an_end() {
        let page = page(Format::OpenMetrics);
        for expected in [
            "# TYPE weir_calls counter\nweir_calls_total{",
            "# UNIT weir_wait_seconds seconds\n",
            "# TYPE old_count unknown\n",
        ] {
            assert!(page.contains(expected), "{expected:?} in\n{page}");
        }
        assert!(page.ends_with("\n# EOF\n"));
    }
}
