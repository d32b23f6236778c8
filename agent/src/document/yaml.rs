//! YAML, with each value as the text that stands in the file.
//!
//! YAML types what is not quoted: `1.10` is a number, `yes` a truth value. The
//! field that a value is meant for knows better, so nothing is typed here.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, Span, Tag};

use super::{Table, Tree, Value};
use crate::setting::{Mistake, Origin};

/// Values inside each other, at most, aliases counted in.
const DEPTH_MAX: usize = 64;

/// Bytes that all aliases together may repeat: a short file could otherwise
/// ask for more memory than there is.
const REPEATED_BYTES_MAX: usize = 4 << 20;

/// What a value costs beside its text when an alias repeats it.
const VALUE_BYTES: usize = 64;

/// A key that stands for the entries of another table.
const MERGE: &str = "<<";

/// What a YAML file holds.
#[derive(Debug)]
pub struct Yaml {
    /// The values of its first document.
    pub table: Table,
    /// Whether more documents follow.
    pub more: bool,
}

/// Reads the first document of a YAML file; `path` is what mistakes call it.
pub fn from_yaml(path: &str, text: &str) -> Result<Yaml, Vec<Mistake>> {
    let mut reader = Reader {
        path,
        // A mark of the byte order is no content.
        parser: Parser::new_from_str_with_options(
            text.strip_prefix('\u{feff}').unwrap_or(text),
            granit_parser::options! {
                emit_comments: false,
                flow_nesting_limit: DEPTH_MAX,
                block_nesting_limit: DEPTH_MAX,
            },
        ),
        anchors: HashMap::new(),
        repeated_bytes: 0,
    };
    reader.file().map_err(|mistake| vec![mistake])
}

/// A value that an alias may repeat, with what that costs.
struct Anchored {
    tree: Tree,
    bytes: usize,
    depth: usize,
}

struct Reader<'a> {
    path: &'a str,
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Anchored>,
    repeated_bytes: usize,
}

impl<'a> Reader<'a> {
    fn file(&mut self) -> Result<Yaml, Mistake> {
        let mut table = None;
        loop {
            let Some((event, _)) = self.next()? else {
                let missing = || self.wrong_at(None, "expects a table, not an empty file");
                let table = table.ok_or_else(missing)?;
                return Ok(Yaml { table, more: false });
            };
            match event {
                Event::DocumentStart(..) => match table {
                    Some(table) => return Ok(Yaml { table, more: true }),
                    None => {
                        let Some((event, span)) = self.next()? else {
                            continue;
                        };
                        let tree = self.value(event, span, 0)?;
                        table = match tree.value {
                            Value::Table(table) => Some(table),
                            // `---` before a file that begins with its own.
                            Value::Empty => None,
                            other => {
                                let message = format!("expects a table, not a {}", other.kind());
                                return Err(self.wrong(span, &message));
                            }
                        };
                    }
                },
                _ => continue,
            }
        }
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Mistake> {
        match self.parser.next() {
            None => Ok(None),
            Some(Ok(next)) => Ok(Some(next)),
            Some(Err(error)) => Err(self.wrong_at(Some(error.marker().line()), &error.info())),
        }
    }

    fn origin(&self, line: Option<usize>) -> Origin {
        Origin::File {
            path: self.path.to_owned(),
            line,
        }
    }

    fn wrong_at(&self, line: Option<usize>, message: &str) -> Mistake {
        Mistake {
            origin: self.origin(line),
            message: message.to_owned(),
        }
    }

    fn wrong(&self, span: Span, message: &str) -> Mistake {
        self.wrong_at(Some(span.start.line()), message)
    }

    /// The value that begins with `event`, inside `depth` others.
    fn value(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Tree, Mistake> {
        if depth > DEPTH_MAX {
            let message = format!("has more than {DEPTH_MAX} values inside each other");
            return Err(self.wrong(span, &message));
        }
        let origin = self.origin(Some(span.start.line()));
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                if tag.as_deref().is_some_and(is_binary) {
                    return Err(self.wrong(span, "!!binary is not read: write it as text"));
                }
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let value = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Empty,
                    _ => Value::Text(text.into_owned()),
                };
                (value, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.table(depth)?, anchor),
            Event::Alias(anchor) => return self.repeat(anchor, span, depth),
            // The parser reports its errors before it comes to this.
            _ => return Err(self.wrong(span, "expects a value")),
        };
        let tree = Tree { origin, value };
        if anchor != 0 {
            let (bytes, depth) = size(&tree);
            let tree = tree.clone();
            self.anchors.insert(anchor, Anchored { tree, bytes, depth });
        }
        Ok(tree)
    }

    fn repeat(&mut self, anchor: usize, span: Span, depth: usize) -> Result<Tree, Mistake> {
        let Some(anchored) = self.anchors.get(&anchor) else {
            return Err(self.wrong(span, "is an alias of what it is part of"));
        };
        self.repeated_bytes = self.repeated_bytes.saturating_add(anchored.bytes);
        if self.repeated_bytes > REPEATED_BYTES_MAX {
            let message = format!("its aliases repeat more than {REPEATED_BYTES_MAX} bytes");
            return Err(self.wrong(span, &message));
        }
        if depth + anchored.depth > DEPTH_MAX {
            let message = format!("has more than {DEPTH_MAX} values inside each other");
            return Err(self.wrong(span, &message));
        }
        Ok(anchored.tree.clone())
    }

    fn list(&mut self, depth: usize) -> Result<Value, Mistake> {
        let mut items = Vec::new();
        while let Some((event, span)) = self.next()? {
            if matches!(event, Event::SequenceEnd) {
                break;
            }
            items.push(self.value(event, span, depth + 1)?);
        }
        Ok(Value::List(items))
    }

    fn table(&mut self, depth: usize) -> Result<Value, Mistake> {
        let mut table = Table::new();
        let mut merged = Vec::new();
        while let Some((event, key_span)) = self.next()? {
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let merges = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None)
                if text == MERGE);
            // An empty key, or one that looks like nothing, is a text too.
            let plain = match &event {
                Event::Scalar(text, ..) => Some(text.clone().into_owned()),
                _ => None,
            };
            let key = self.value(event, key_span, depth + 1)?;
            let key = match (plain, key.value) {
                (Some(text), _) | (None, Value::Text(text)) => text,
                (None, other) => {
                    let message = format!("a key must be a text, not a {}", other.kind());
                    return Err(self.wrong(key_span, &message));
                }
            };
            let Some((event, span)) = self.next()? else {
                break;
            };
            let mut tree = self.value(event, span, depth + 1)?;
            if merges {
                merged.push((tree, span));
                continue;
            }
            // Where its name stands: an alias or a list begins elsewhere.
            tree.origin = self.origin(Some(key_span.start.line()));
            if table.insert(key.clone(), tree).is_some() {
                return Err(self.wrong(key_span, &format!("{key} stands there twice")));
            }
        }
        for (tree, span) in merged {
            self.merge(&mut table, tree, span)?;
        }
        Ok(Value::Table(table))
    }

    /// Adds what `table` has not of its own; of several, the first counts.
    fn merge(&self, table: &mut Table, tree: Tree, span: Span) -> Result<(), Mistake> {
        match tree.value {
            Value::Table(more) => {
                for (key, tree) in more {
                    table.entry(key).or_insert(tree);
                }
                Ok(())
            }
            Value::List(items) => items.into_iter().try_for_each(|item| match item.value {
                Value::Table(_) => self.merge(table, item, span),
                other => {
                    let message = format!("<<: expects a table, not a {}", other.kind());
                    Err(self.wrong(span, &message))
                }
            }),
            other => {
                let message = format!("<<: expects a table, not a {}", other.kind());
                Err(self.wrong(span, &message))
            }
        }
    }
}

fn is_binary(tag: &Tag) -> bool {
    tag.suffix_in_namespace("tag:yaml.org,2002:")
        .is_some_and(|name| name == "binary")
}

/// What repeating `tree` costs in bytes, and how deep it is.
fn size(tree: &Tree) -> (usize, usize) {
    let all = |trees: &mut dyn Iterator<Item = (usize, &Tree)>| {
        trees.fold((VALUE_BYTES, 1), |(bytes, depth), (name_bytes, tree)| {
            let (more, below) = size(tree);
            (bytes + name_bytes + more, depth.max(1 + below))
        })
    };
    match &tree.value {
        Value::Empty => (VALUE_BYTES, 1),
        Value::Text(text) => (VALUE_BYTES + text.len(), 1),
        Value::List(items) => all(&mut items.iter().map(|tree| (0, tree))),
        Value::Table(table) => all(&mut table.iter().map(|(name, tree)| (name.len(), tree))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Table {
        from_yaml("s.yaml", text).expect("valid").table
    }

    fn mistake(text: &str) -> String {
        from_yaml("s.yaml", text).expect_err("invalid")[0].to_string()
    }

    #[test]
    fn a_scalar_is_the_text_that_stands_there() {
        let texts = [
            "1.10",
            "007",
            "yes",
            "0x1F",
            "1e3",
            "1_000",
            "2024-01-02",
            "12:30:45",
            "True",
            ".5",
            "0o17",
            "+1",
            ".inf",
            "0.0000001",
            "123456789012345678901234567890",
        ];
        for text in texts {
            for written in [text.to_owned(), format!("\"{text}\""), format!("'{text}'")] {
                let table = read(&format!("a: {written}\n"));
                assert_eq!(table["a"].value, Value::Text(text.to_owned()), "{written}");
            }
        }
        let table =
            read("a:\nb: ~\nc: null\nd: \"\"\ne: \"null\"\nf: !!str null\ng: [yes, 1.0]\n7: x\n");
        let text = |text: &str| Value::Text(text.to_owned());
        for empty in ["a", "b", "c"] {
            assert_eq!(table[empty].value, Value::Empty, "{empty}");
        }
        assert_eq!(table["d"].value, text(""));
        assert_eq!(
            (&table["e"].value, &table["f"].value),
            (&text("null"), &text("null"))
        );
        assert_eq!(table["7"].value, text("x"));
        let Value::List(items) = &table["g"].value else {
            panic!("a list")
        };
        assert_eq!(
            (&items[0].value, &items[1].value),
            (&text("yes"), &text("1.0"))
        );
    }

    #[test]
    fn values_know_their_line() {
        let table = read("# first\na: 1\n\nb:\n  - x\nc:\n  d: |\n    long\n");
        let line = |tree: &Tree| tree.origin.to_string();
        assert_eq!(line(&table["a"]), "s.yaml:2");
        assert_eq!(line(&table["b"]), "s.yaml:4");
        let Value::Table(c) = &table["c"].value else {
            panic!("a table")
        };
        assert_eq!(line(&c["d"]), "s.yaml:7");
        assert_eq!(c["d"].value, Value::Text("long\n".to_owned()));
        assert!(
            mistake("a: [\n").starts_with("s.yaml:"),
            "{}",
            mistake("a: [\n")
        );
    }

    #[test]
    fn aliases_repeat_and_merge_and_own_keys_win() {
        let table = read(
            "x-base: &base {A: 1.0, B: two}\none: *base\ntwo:\n  <<: *base\n  B: own\n\
             three:\n  <<: [{A: first}, *base]\n",
        );
        let text = |name: &str, key: &str| match &table[name].value {
            Value::Table(inner) => match &inner[key].value {
                Value::Text(text) => text.clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        assert_eq!(text("one", "A"), "1.0");
        assert_eq!(
            (text("two", "A"), text("two", "B")),
            ("1.0".into(), "own".into())
        );
        assert_eq!(
            (text("three", "A"), text("three", "B")),
            ("first".into(), "two".into())
        );
    }

    #[test]
    fn aliases_are_bounded_in_bytes_and_depth() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let before = level - 1;
            let items = vec![format!("*a{before}"); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert!(
            mistake(&bomb).contains("aliases repeat more than"),
            "{}",
            mistake(&bomb)
        );
        let mut chain = "a0: &a0 [x]\n".to_owned();
        for level in 1..100 {
            chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        assert!(
            mistake(&chain).contains("inside each other"),
            "{}",
            mistake(&chain)
        );
        let deep = format!("a: {}x", "[".repeat(2_000));
        mistake(&deep);
        let itself = "a: &a [*a]\n";
        assert!(mistake(itself).contains("part of"), "{}", mistake(itself));
    }

    #[test]
    fn only_the_first_document_is_read() {
        let yaml = from_yaml("s.yaml", "---\na: 1\n---\nb: 2\n").expect("valid");
        assert!(yaml.more && yaml.table.contains_key("a") && !yaml.table.contains_key("b"));
        for one in ["a: 1\n", "---\na: 1\n", "a: 1\n...\n", "\u{feff}a: 1\n"] {
            assert!(!from_yaml("s.yaml", one).expect("valid").more, "{one:?}");
        }
    }

    #[test]
    fn what_is_no_table_is_refused() {
        for (text, told) in [
            ("[1, 2]", "expects a table, not a list"),
            ("", "expects a table"),
            ("word", "expects a table, not a text"),
            ("a: 1\na: 2\n", "s.yaml:2: a stands there twice"),
            ("a: !!binary aGk=\n", "!!binary"),
            ("? [a]\n: b\n", "a key must be a text"),
            ("a: *nowhere\n", "unknown anchor"),
        ] {
            assert!(mistake(text).contains(told), "{text:?}: {}", mistake(text));
        }
    }
}
