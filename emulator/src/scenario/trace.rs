//! Traces of real systems, in the shapes in which they were published:
//! M. Shahrad et al., "Serverless in the Wild", USENIX ATC 2020 (Azure Functions
//! 2019), and Y. Zhang et al., "Faster and Cheaper Serverless Computing on
//! Harvested Resources", SOSP 2021 (Azure Functions 2021).

use std::sync::Arc;
use std::time::Duration;

use super::field::TIME_MAX;

/// Rows of one trace that are read.
const ROWS_MAX: usize = 2_000_000;

/// A trace that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {message}")]
pub struct Malformed {
    /// In which line of its file, from 1.
    pub line: usize,
    /// Why.
    pub message: String,
}

/// Calls of a function by the minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minutes {
    /// Its hash.
    pub function: String,
    /// In each minute.
    pub counts: Vec<u32>,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// Of which function; its hash.
    pub function: Arc<str>,
    /// When it came, since the first of the trace.
    pub at: Duration,
    /// How long it ran.
    pub ran: Duration,
}

fn rows(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().zip(1..).map(|(line, at)| (at, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn malformed(line: usize, message: impl Into<String>) -> Malformed {
    Malformed {
        line,
        message: message.into(),
    }
}

fn bounded(line: usize, rows: usize) -> Result<(), Malformed> {
    match rows < ROWS_MAX {
        true => Ok(()),
        false => Err(malformed(line, format!("more than {ROWS_MAX} rows"))),
    }
}

fn seconds(line: usize, text: &str) -> Result<Duration, Malformed> {
    let number = text.trim().parse::<f64>();
    let time = number
        .ok()
        .and_then(|n| Duration::try_from_secs_f64(n).ok());
    time.filter(|time| *time <= TIME_MAX).ok_or_else(|| {
        let text: String = text.chars().take(40).collect();
        malformed(line, format!("{text:?} is no number of seconds"))
    })
}

/// Reads moments in seconds, each at the beginning of a line; what follows it
/// after a blank or comma is left.
///
/// # Errors
/// Names the first line that does not begin with a number.
pub fn timetable(text: &str) -> Result<Vec<Duration>, Malformed> {
    let mut moments = Vec::new();
    for (line, row) in rows(text) {
        bounded(line, moments.len())?;
        let first = row.split([' ', '\t', ',']).next().unwrap_or(row);
        moments.push(seconds(line, first)?);
    }
    Ok(moments)
}

/// Reads `HashOwner,HashApp,HashFunction,Trigger,1,2,...,1440`: how often each
/// function was called in each minute.
///
/// # Errors
/// Names the first line that is of another shape.
pub fn azure_2019(text: &str) -> Result<Vec<Minutes>, Malformed> {
    let mut rows = rows(text);
    let header = rows.next().map(|(_, header)| header).unwrap_or_default();
    if !header.starts_with("HashOwner,HashApp,HashFunction,Trigger,") {
        let message = "expected HashOwner,HashApp,HashFunction,Trigger,1,2,...";
        return Err(malformed(1, message));
    }
    let mut functions = Vec::new();
    for (line, row) in rows {
        bounded(line, functions.len())?;
        let mut cells = row.split(',').skip(2);
        let (Some(function), Some(_trigger)) = (cells.next(), cells.next()) else {
            return Err(malformed(
                line,
                "expected an owner, an app, a function and a trigger",
            ));
        };
        let mut counts = Vec::new();
        for cell in cells {
            let count = cell.trim().parse();
            counts.push(count.map_err(|_| malformed(line, format!("{cell:?} is no count")))?);
        }
        let function = function.to_owned();
        functions.push(Minutes { function, counts });
    }
    Ok(functions)
}

/// Reads `app,func,end_timestamp,duration`, both in seconds: one call in each
/// line.
///
/// # Errors
/// Names the first line that is of another shape.
pub fn azure_2021(text: &str) -> Result<Vec<Timed>, Malformed> {
    let mut rows = rows(text);
    let header = rows.next().map(|(_, header)| header).unwrap_or_default();
    if header != "app,func,end_timestamp,duration" {
        return Err(malformed(1, "expected app,func,end_timestamp,duration"));
    }
    let mut calls: Vec<Timed> = Vec::new();
    for (line, row) in rows {
        bounded(line, calls.len())?;
        let mut cells = row.split(',').skip(1);
        let (Some(function), Some(end), Some(ran)) = (cells.next(), cells.next(), cells.next())
        else {
            return Err(malformed(
                line,
                "expected an app, a function, an end and a duration",
            ));
        };
        let (end, ran) = (seconds(line, end)?, seconds(line, ran)?);
        let same = calls.last().filter(|last| *last.function == *function);
        calls.push(Timed {
            function: same.map_or_else(|| function.into(), |last| last.function.clone()),
            at: end.saturating_sub(ran),
            ran,
        });
    }
    calls.sort_by_key(|call| call.at);
    let first = calls.first().map_or(Duration::ZERO, |call| call.at);
    for call in &mut calls {
        call.at = call.at.saturating_sub(first);
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_the_minute_are_read() {
        let text = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\no,a,f1,http,0,5,2\n";
        let read = azure_2019(text).expect("of that shape");
        assert_eq!(read[0].function, "f1");
        assert_eq!(read[0].counts, [0, 5, 2]);
    }

    #[test]
    fn single_calls_begin_at_their_end_less_what_they_ran() {
        let text = "app,func,end_timestamp,duration\na,f,12.5,2.0\na,g,11,1.5\n";
        let read = azure_2021(text).expect("of that shape");
        assert_eq!(&*read[0].function, "g");
        assert_eq!(read[1].at, Duration::from_secs(1));
        assert_eq!(read[1].ran, Duration::from_secs(2));
    }

    #[test]
    fn what_is_of_another_shape_is_named_by_its_line() {
        let cases: [(&str, Result<(), Malformed>, usize); 4] = [
            ("header", azure_2019("a,b\n").map(drop), 1),
            (
                "count",
                azure_2019("HashOwner,HashApp,HashFunction,Trigger,1\no,a,f,t,x\n").map(drop),
                2,
            ),
            (
                "end",
                azure_2021("app,func,end_timestamp,duration\na,f,-1,1\n").map(drop),
                2,
            ),
            ("moment", timetable("1.5 x\n\nnow\n").map(drop), 3),
        ];
        for (name, read, line) in cases {
            assert_eq!(read.expect_err(name).line, line, "{name}");
        }
    }

    #[test]
    fn a_timetable_begins_each_line_with_a_moment() {
        let read = timetable("# time function\n0.5 thumb edge 100\n2,thumb\n").expect("two");
        assert_eq!(read, [Duration::from_millis(500), Duration::from_secs(2)]);
    }
}
