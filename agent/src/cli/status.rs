//! `weir status`: how a node is.

use http::Method;
use serde_json::Value;

use super::Global;
use crate::output;

pub(super) async fn status(global: &Global) -> anyhow::Result<()> {
    let client = global.client()?;
    let request = client.request(Method::GET, "/weir/v1/status");
    let status: Value = client.ask_json("read the node's status", request).await?;
    if global.json() {
        return Ok(output::json(&status)?);
    }
    let mut status = status;
    // First what needs somebody.
    let problems = status["problems"].take();
    let problems = problems.as_array().into_iter().flatten();
    let mut rows: Vec<_> = problems
        .filter_map(Value::as_str)
        .map(|problem| ["PROBLEM".to_owned(), problem.to_owned()])
        .collect();
    rows.extend(flat(&status));
    Ok(output::line(&output::table(["field", "value"], &rows))?)
}

/// The leaves of `value` with their path, in order.
pub(super) fn flat(value: &Value) -> Vec<[String; 2]> {
    let mut rows = Vec::new();
    flatten("", value, &mut rows);
    rows
}

fn flatten(path: &str, value: &Value, rows: &mut Vec<[String; 2]>) {
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(&below(name), value, rows);
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{at}]"), item, rows);
            }
        }
        Value::Null => {}
        Value::String(text) => rows.push([path.to_owned(), text.clone()]),
        other @ (Value::Bool(_) | Value::Number(_)) => {
            rows.push([path.to_owned(), other.to_string()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn leaves_are_listed_with_their_path() {
        let value = json!({ "a": { "b": 1, "c": null }, "d": ["x", { "e": true }] });
        let expected = [["a.b", "1"], ["d[0]", "x"], ["d[1].e", "true"]];
        assert_eq!(flat(&value), expected.map(|row| row.map(str::to_owned)));
    }
}
