//! `weir logs`: what a function wrote to its standard error.

use anyhow::Context as _;
use clap::Args;
use http::Method;
use jiff::Timestamp;
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use super::Global;
use crate::output;
use crate::setting::duration;

/// Longest line that is put together from pieces; the rest is another line.
const LINE_BYTES: usize = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct LogsArguments {
    /// Name of the function
    name: String,
    /// Stay and print new lines as they come
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
    /// Only lines since then: a time (RFC 3339) or how long ago (10m)
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
}

fn since(text: &str) -> Result<Timestamp, String> {
    moment(text, Timestamp::now())
}

fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let wrong =
        || format!("{text:?} is neither a time (2026-01-31T12:00:00Z) nor how long ago (10m)");
    let ago = duration(text).map_err(|_| wrong())?;
    now.checked_sub(ago).map_err(|_| wrong())
}

/// The parts of a log line that are shown.
#[derive(Debug, Deserialize)]
struct Line {
    timestamp: String,
    text: String,
}

pub(super) async fn logs(global: &Global, arguments: &LogsArguments) -> anyhow::Result<()> {
    let client = global.client()?;
    let name = global.function(&arguments.name)?;
    let mut query = vec![
        ("name", name.name().to_owned()),
        ("namespace", name.namespace.to_string()),
        ("follow", arguments.follow.to_string()),
    ];
    query.extend(arguments.tail.map(|lines| ("tail", lines.to_string())));
    query.extend(arguments.since.map(|moment| ("since", moment.to_string())));
    let encoded = Url::parse_with_params("http://query", &query).context("encode the query")?;
    let path = format!("/system/logs?{}", encoded.query().unwrap_or_default());
    let what = format!("read the log of {name}");
    let mut response = client
        .ask(&what, client.request(Method::GET, &path))
        .await?;
    // A log that ends is one document; one that goes on is a line for each.
    if global.json() && !arguments.follow {
        let text = client.whole(&what, response).await?;
        let lines = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
        let lines: Vec<_> = lines.collect::<Result<_, _>>().context(what)?;
        return Ok(output::json(&Value::Array(lines))?);
    }
    let mut buffer = Vec::new();
    while let Some(piece) = client.chunk(&mut response).await? {
        buffer.extend_from_slice(&piece);
        while let Some(line) = next_line(&mut buffer) {
            print(global, &line)?;
        }
    }
    if !buffer.is_empty() {
        print(global, &buffer)?;
    }
    Ok(())
}

/// Takes the first whole line out of `buffer`, without its end.
fn next_line(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = buffer.iter().position(|byte| *byte == b'\n');
    let end = end.or_else(|| (buffer.len() > LINE_BYTES).then_some(LINE_BYTES))?;
    let mut line: Vec<u8> = buffer.drain(..=end).collect();
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    Some(line)
}

fn print(global: &Global, line: &[u8]) -> anyhow::Result<()> {
    if line.is_empty() {
        return Ok(());
    }
    let text = match serde_json::from_slice::<Line>(line) {
        Ok(parsed) if !global.json() => {
            format!(
                "{} {}",
                output::printable(&parsed.timestamp),
                output::printable(&parsed.text)
            )
        }
        // What is not a log line of ours is shown as it came.
        Ok(_) | Err(_) => output::printable(&String::from_utf8_lossy(line)),
    };
    Ok(output::line(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().expect("a time");
        let check = |text: &str, expected: &str| {
            assert_eq!(moment(text, now).expect("valid").to_string(), expected);
        };
        check("10m", "2026-01-31T11:50:00Z");
        check("2026-01-01T00:00:00+01:00", "2025-12-31T23:00:00Z");
        assert!(moment("yesterday", now).is_err());
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut buffer = b"{\"a\":".to_vec();
        assert_eq!(next_line(&mut buffer), None);
        buffer.extend_from_slice(b"1}\nrest");
        assert_eq!(next_line(&mut buffer), Some(b"{\"a\":1}".to_vec()));
        assert_eq!(buffer, b"rest");
        assert_eq!(next_line(&mut Vec::new()), None);
    }

    #[test]
    fn endless_line_is_cut() {
        let mut buffer = vec![b'x'; LINE_BYTES + 1];
        assert_eq!(
            next_line(&mut buffer).map(|line| line.len()),
            Some(LINE_BYTES + 1)
        );
        assert!(buffer.is_empty());
    }
}
