//! A comparison as one HTML page, which needs nothing beside it.

use super::Comparison;
use crate::plot::{NAMESPACE, Plot};
use crate::scenario::draw::escaped;

/// How it looks.
const STYLE: &str = "body{font-family:sans-serif;max-width:62em;margin:2em auto;padding:0 1em}\
table{border-collapse:collapse}th,td{border:1px solid #ccc;padding:.2em .6em;text-align:right}\
th:first-child,td:first-child{text-align:left}svg{max-width:100%;margin:.5em 0}";

/// The page. It refers to nothing outside and runs no script.
pub fn html(comparison: &Comparison, plots: &[Plot]) -> String {
    let title = escaped(comparison.scenario());
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <p>{}</p>\n",
        escaped(&comparison.about())
    );
    let mut sheets = comparison.sheets().into_iter();
    if let Some(overview) = sheets.next() {
        page.push_str(&overview.html());
    }
    page.push_str("<h2>Plots</h2>\n");
    for plot in plots {
        // Within HTML the name space is known.
        page.push_str(&plot.svg.replacen(NAMESPACE, "", 1));
    }
    sheets.for_each(|sheet| page.push_str(&sheet.html()));
    page.push_str(&format!(
        "<p>digest <code>{}</code></p>\n</body>\n</html>\n",
        comparison.digest()
    ));
    page
}
