//! What commands print: results on standard output as a table or as JSON,
//! everything else on standard error.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How results are printed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// A result that could not be printed.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Whoever read standard output has seen enough; the command succeeded.
    #[error("standard output is closed")]
    Closed,
    /// Standard output failed.
    #[error("write to standard output")]
    Write(#[source] io::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => OutputError::Closed,
            _ => OutputError::Write(error),
        }
    }
}

/// Writes `bytes` to standard output and flushes.
pub fn write(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Writes `line` and a newline to standard output.
pub fn line(line: &str) -> Result<(), OutputError> {
    write(format!("{line}\n").as_bytes())
}

/// Writes `value` to standard output as indented JSON.
pub fn json(value: &serde_json::Value) -> Result<(), OutputError> {
    line(&format!("{value:#}"))
}

/// Lays `rows` out under `headers`, without lines, without trailing blanks.
pub fn table<const N: usize>(headers: [&str; N], rows: &[[String; N]]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(headers);
    for row in rows {
        table.add_row(row.each_ref().map(|cell| printable(cell)));
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    let text = table.to_string();
    text.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

/// `text` without what would make a terminal do things.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Tells the user something on standard error. Nobody is left to tell when
/// that fails.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// How often a bar tells the time that has passed.
const TICK: Duration = Duration::from_millis(250);

/// How much of long work is done: a bar on a terminal, one line elsewhere.
pub struct Progress(ProgressBar);

impl Progress {
    /// Starts an upload of `bytes` bytes that the user knows as `what`.
    pub fn upload(what: &str, bytes: u64) -> Self {
        if !io::stderr().is_terminal() {
            note(&format!("uploading {what} ({bytes} bytes)"));
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
        Progress(
            bar.with_style(style.expect("a valid template"))
                .with_message(what.to_owned()),
        )
    }

    /// Starts `count` runs of what the user knows as `what`, with the time that is
    /// left.
    pub fn runs(what: &str, count: u64) -> Self {
        if !io::stderr().is_terminal() {
            note(&format!("simulating {} ({count} runs)", printable(what)));
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template(
            "{msg} {wide_bar} {pos}/{len} runs, {elapsed} passed, {eta} left",
        );
        let bar = bar.with_style(style.expect("a valid template"));
        bar.enable_steady_tick(TICK);
        Progress(bar.with_message(printable(what)))
    }

    /// Adds `count` bytes or runs to what is done.
    pub fn add(&self, count: u64) {
        self.0.inc(count);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// `duration` to three significant digits or so, in its natural unit.
pub fn short_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", duration.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_aligned_without_trailing_blanks() {
        let rows = [
            ["echo".to_owned(), "1".to_owned()],
            ["a-longer-name".to_owned(), "2".to_owned()],
        ];
        let text = table(["name", "replicas"], &rows);
        let expected = "name           replicas\necho           1\na-longer-name  2";
        assert_eq!(text, expected);
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }

    #[test]
    fn closed_pipe_is_told_apart_from_a_failed_write() {
        let error = |kind| OutputError::from(io::Error::from(kind));
        assert!(matches!(
            error(io::ErrorKind::BrokenPipe),
            OutputError::Closed
        ));
        assert!(matches!(
            error(io::ErrorKind::StorageFull),
            OutputError::Write(_)
        ));
    }

    #[test]
    fn durations_have_their_natural_unit() {
        assert_eq!(short_duration(Duration::from_micros(12)), "12 us");
        assert_eq!(short_duration(Duration::from_micros(1500)), "1.5 ms");
        assert_eq!(short_duration(Duration::from_millis(1500)), "1.50 s");
    }
}
