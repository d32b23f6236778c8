//! Tables of a report, as text, Markdown and HTML.

use std::fmt::Write as _;

use crate::scenario::draw::escaped;

/// A table with its title; the first column names the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sheet {
    /// What it is about.
    pub title: String,
    /// Names of the columns.
    pub head: Vec<String>,
    /// Rows, each as long as the head.
    pub rows: Vec<Vec<String>>,
}

impl Sheet {
    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.head).chain(&self.rows)
    }

    /// For a terminal: columns aligned, the first to the left.
    pub fn text(&self) -> String {
        let mut widths = vec![0; self.head.len()];
        for line in self.lines() {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for line in self.lines() {
            let mut row = String::new();
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                // Writing to a text never fails.
                let _ = match column {
                    0 => write!(row, "{cell:<width$}"),
                    _ => write!(row, "  {cell:>width$}"),
                };
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.title);
        for (number, line) in self.lines().enumerate() {
            let cells: Vec<String> = line.iter().map(|cell| cell.replace('|', "\\|")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if number == 0 {
                let _ = writeln!(
                    text,
                    "|---|{}",
                    "---:|".repeat(line.len().saturating_sub(1))
                );
            }
        }
        text.push('\n');
        text
    }

    /// As HTML.
    pub fn html(&self) -> String {
        let mut text = format!("<h2>{}</h2>\n<table>\n", escaped(&self.title));
        for (number, line) in self.lines().enumerate() {
            let tag = if number == 0 { "th" } else { "td" };
            text.push_str("<tr>");
            for cell in line {
                let _ = write!(text, "<{tag}>{}</{tag}>", escaped(cell));
            }
            text.push_str("</tr>\n");
        }
        text.push_str("</table>\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_escaped() {
        let sheet = Sheet {
            title: "A < B".to_owned(),
            head: vec!["name".to_owned(), "n".to_owned()],
            rows: vec![vec!["a|b".to_owned(), "12".to_owned()]],
        };
        assert_eq!(sheet.text(), "name   n\na|b   12\n");
        assert_eq!(
            sheet.markdown(),
            "## A < B\n\n| name | n |\n|---|---:|\n| a\\|b | 12 |\n\n"
        );
        assert!(sheet.html().starts_with("<h2>A &lt; B</h2>"));
    }
}
