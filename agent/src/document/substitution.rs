//! `${NAME}` and what a shell makes of it, as envsubst has it.

/// Expansions inside each other, at most.
const DEPTH_MAX: usize = 16;

/// Bytes that one text may grow to.
const EXPANDED_BYTES_MAX: usize = 1 << 20;

/// Replaces `${NAME}` in `text` by what `variable` says of NAME; `$${` stands
/// for a literal `${`.
///
/// | form | stands for |
/// |---|---|
/// | `${A:-x}`, `${A:=x}` | A, or `x` where it is unset or empty |
/// | `${A-x}`, `${A=x}` | A, or `x` where it is unset |
/// | `${A:+x}`, `${A+x}` | `x` where A is set (and not empty), or nothing |
/// | `${A:?why}`, `${A?why}` | A, or an error that says why |
/// | `${A^}`, `${A^^}`, `${A,}`, `${A,,}` | A with its first or all letters large or small |
/// | `${A:2}`, `${A:2:3}`, `${A: -2}` | part of A: from where, how long |
/// | `${#A}` | the number of its characters |
/// | `${A#p}`, `${A##p}`, `${A%p}`, `${A%%p}` | A without the shortest or longest beginning or end that is like `p` (`*`, `?`) |
/// | `${A/x/y}`, `${A//x/y}`, `${A/#x/y}`, `${A/%x/y}` | A with the first `x`, all, or that at its beginning or end replaced |
///
/// `x`, `y`, `p` and `why` may hold further `${...}`. The error says what is
/// wrong and what to write.
pub(super) fn expand(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, String> {
    let mut rest = text;
    let mut expanded = String::with_capacity(text.len());
    expand_until(&mut rest, &mut expanded, &[], variable, text, 0)?;
    Ok(expanded)
}

type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands `rest` into `expanded` up to one of `ends`, which stays in `rest`;
/// without ends, to its end.
fn expand_until(
    rest: &mut &str,
    expanded: &mut String,
    ends: &[char],
    variable: Variable<'_>,
    whole: &str,
    depth: usize,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!(
            "{whole:?} has more than {DEPTH_MAX} ${{...}} inside each other"
        ));
    }
    while let Some(next) = rest.chars().next() {
        if ends.contains(&next) {
            return Ok(());
        }
        if let Some(after) = rest.strip_prefix("$${") {
            expanded.push_str("${");
            *rest = after;
        } else if let Some(inside) = rest.strip_prefix("${") {
            *rest = inside;
            let value = parameter(rest, variable, whole, depth)?;
            expanded.push_str(&value);
        } else {
            expanded.push(next);
            *rest = &rest[next.len_utf8()..];
        }
        if expanded.len() > EXPANDED_BYTES_MAX {
            return Err(format!(
                "becomes longer than {EXPANDED_BYTES_MAX} bytes when its variables are put in"
            ));
        }
    }
    if ends.is_empty() {
        Ok(())
    } else {
        Err(format!("{whole:?} has a ${{ without its }}"))
    }
}

/// What stands for a parameter; `rest` begins behind its `${` and is left
/// behind its `}`.
fn parameter(
    rest: &mut &str,
    variable: Variable<'_>,
    whole: &str,
    depth: usize,
) -> Result<String, String> {
    let counts = rest.starts_with('#');
    if counts {
        *rest = &rest[1..];
    }
    let name_end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let (name, after) = rest.split_at(name_end.unwrap_or(rest.len()));
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!(
            "{whole:?} has a ${{ without the name of a variable; write $${{ where none is meant"
        ));
    }
    *rest = after;
    let value = variable(name);
    let unset =
        || format!("${{{name}}} is not set in the environment; set it, or write ${{{name}:-}}");
    if counts {
        close(rest, whole)?;
        return Ok(value.ok_or_else(unset)?.chars().count().to_string());
    }
    const OPERATORS: &[&str] = &[
        ":-", ":=", ":+", ":?", "-", "=", "+", "?", "^^", "^", ",,", ",", "##", "#", "%%", "%",
        "//", "/#", "/%", "/", ":",
    ];
    let operator = OPERATORS
        .iter()
        .find(|operator| rest.starts_with(**operator));
    let Some(operator) = operator.copied() else {
        close(rest, whole)?;
        return value.ok_or_else(unset);
    };
    *rest = &rest[operator.len()..];
    let mut words = Words {
        rest,
        variable,
        whole,
        depth: depth + 1,
    };
    let expanded = words.applied(operator, name, value)?;
    close(rest, whole)?;
    expanded.ok_or_else(unset)
}

/// What follows an operator.
struct Words<'a, 'b> {
    rest: &'a mut &'b str,
    variable: Variable<'a>,
    whole: &'a str,
    depth: usize,
}

impl Words<'_, '_> {
    /// The next word, up to one of `ends`.
    fn next(&mut self, ends: &[char]) -> Result<String, String> {
        self.next_with(ends, self.variable)
    }

    fn next_with(&mut self, ends: &[char], variable: Variable<'_>) -> Result<String, String> {
        let mut word = String::new();
        let (rest, whole) = (&mut *self.rest, self.whole);
        expand_until(rest, &mut word, ends, variable, whole, self.depth).map(|()| word)
    }

    /// A last word behind a separator, where there is that.
    fn last(&mut self, separator: char) -> Result<Option<String>, String> {
        let Some(after) = self.rest.strip_prefix(separator) else {
            return Ok(None);
        };
        *self.rest = after;
        self.next(&['}']).map(Some)
    }

    /// What an operator makes of a variable's value; `None` where that has none.
    fn applied(
        &mut self,
        operator: &str,
        name: &str,
        value: Option<String>,
    ) -> Result<Option<String>, String> {
        Ok(match operator {
            "^^" | "^" | ",," | "," => value.map(|value| cased(&value, operator)),
            "#" | "##" | "%" | "%%" => {
                let pattern = self.next(&['}'])?;
                value.map(|value| trimmed(&value, operator, &pattern))
            }
            "/" | "//" | "/#" | "/%" => {
                let from = self.next(&['/', '}'])?;
                let to = self.last('/')?.unwrap_or_default();
                value.map(|value| replaced(&value, operator, &from, &to))
            }
            ":" => {
                let from = self.next(&[':', '}'])?;
                let length = self.last(':')?;
                let part = |value: String| part(&value, &from, length.as_deref());
                let whole = self.whole;
                let wrong = || format!("{whole:?}: ${{{name}:FROM:LENGTH}} wants whole numbers");
                match value {
                    Some(value) => Some(part(value).ok_or_else(wrong)?),
                    None => None,
                }
            }
            _ => self.given(operator, name, value)?,
        })
    }

    /// The same of those that say what stands where a value is, or is not.
    fn given(
        &mut self,
        operator: &str,
        name: &str,
        value: Option<String>,
    ) -> Result<Option<String>, String> {
        let given = value.filter(|value| !operator.starts_with(':') || !value.is_empty());
        let kind = operator.trim_start_matches(':');
        // What is not needed is read over: its variables need not be set.
        let needed = given.is_some() == (kind == "+");
        let word = match needed {
            true => self.next(&['}'])?,
            false => self.next_with(&['}'], &|_: &str| Some(String::new()))?,
        };
        Ok(match (kind, given) {
            ("+", Some(_)) => Some(word),
            ("+", None) => Some(String::new()),
            (_, Some(value)) => Some(value),
            ("?", None) => {
                let why = if word.is_empty() { "is not set" } else { &word };
                return Err(format!("${{{name}}}: {why}"));
            }
            (_, None) => Some(word),
        })
    }
}

fn close(rest: &mut &str, whole: &str) -> Result<(), String> {
    match rest.strip_prefix('}') {
        Some(after) => {
            *rest = after;
            Ok(())
        }
        None if rest.is_empty() => Err(format!("{whole:?} has a ${{ without its }}")),
        None => Err(format!(
            "{whole:?} has a ${{...}} that is not understood at {:?}; write $${{ where no \
             variable is meant",
            rest.chars().take(20).collect::<String>()
        )),
    }
}

fn cased(value: &str, operator: &str) -> String {
    let mut characters = value.chars();
    match operator {
        "^^" => value.to_uppercase(),
        ",," => value.to_lowercase(),
        first => match characters.next() {
            Some(c) if first == "^" => c.to_uppercase().chain(characters).collect(),
            Some(c) => c.to_lowercase().chain(characters).collect(),
            None => String::new(),
        },
    }
}

/// Part of a text as a shell cuts it, by characters; `None` where a number is
/// none.
fn part(value: &str, from: &str, length: Option<&str>) -> Option<String> {
    let count = i64::try_from(value.chars().count()).ok()?;
    let number = |text: &str| text.trim().parse::<i64>().ok();
    let within = |position: i64| {
        if position < 0 {
            count + position
        } else {
            position
        }
    };
    let from = within(number(from)?).clamp(0, count);
    let to = match length {
        None => count,
        // A negative length is a place, counted from the end.
        Some(text) => match number(text)? {
            length if length < 0 => within(length),
            length => from.saturating_add(length),
        },
    };
    let length = usize::try_from(to.clamp(from, count) - from).ok()?;
    let from = usize::try_from(from).ok()?;
    Some(value.chars().skip(from).take(length).collect())
}

fn replaced(value: &str, operator: &str, from: &str, to: &str) -> String {
    let whole = || value.to_owned();
    match operator {
        _ if from.is_empty() => whole(),
        "//" => value.replace(from, to),
        "/#" => value
            .strip_prefix(from)
            .map_or_else(whole, |rest| format!("{to}{rest}")),
        "/%" => value
            .strip_suffix(from)
            .map_or_else(whole, |rest| format!("{rest}{to}")),
        _ => value.replacen(from, to, 1),
    }
}

fn trimmed(value: &str, operator: &str, pattern: &str) -> String {
    let places = value.char_indices().map(|(at, _)| at).chain([value.len()]);
    let mut places: Vec<usize> = places.collect();
    // Beginnings from the shortest, ends from the shortest; or the longest.
    let longest = operator.len() == 2;
    let suffix = operator.starts_with('%');
    if longest != suffix {
        places.reverse();
    }
    for at in places {
        let (before, after) = value.split_at(at);
        let (gone, kept) = if suffix {
            (after, before)
        } else {
            (before, after)
        };
        if is_like(gone, pattern) {
            return kept.to_owned();
        }
    }
    value.to_owned()
}

/// Whether all of `text` is like `pattern`: `*` stands for any text, `?` for
/// any character.
fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) =
        (text.chars().collect(), pattern.chars().collect());
    // Where to try again: behind the last star, one character further.
    let (mut at, mut wanted) = (0, 0);
    let mut star = None;
    while at < text.len() {
        match pattern.get(wanted) {
            Some('*') => {
                star = Some((wanted, at));
                wanted += 1;
            }
            Some(c) if *c == '?' || *c == text[at] => {
                at += 1;
                wanted += 1;
            }
            _ => match star {
                None => return false,
                Some((behind, from)) => {
                    star = Some((behind, from + 1));
                    at = from + 1;
                    wanted = behind + 1;
                }
            },
        }
    }
    pattern[wanted..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let variable = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "B" => Some("bee".to_owned()),
            "EMPTY" => Some(String::new()),
            "NAME" => Some("läden/app.tar.gz".to_owned()),
            "LONG" => Some("x".repeat(1 << 19)),
            _ => None,
        };
        expand(text, &variable)
    }

    #[test]
    fn variables_are_replaced_as_a_shell_does() {
        for (text, result) in [
            ("a ${SET} b", "a value b"),
            ("${NONE:-x}/${SET:-y}", "x/value"),
            ("${EMPTY:-x}${EMPTY}", "x"),
            ("${NONE:-}", ""),
            ("${NONE:=x}${NONE=y}", "xy"),
            ("${NONE-x}|${EMPTY-x}|${SET-x}", "x||value"),
            ("${NONE:-${B}}", "bee"),
            ("${NONE:-${NEITHER:-${B}s}}!", "bees!"),
            ("${NONE:-http://${B}:8080/}", "http://bee:8080/"),
            ("${SET:-${NONE}}", "value"),
            ("${SET:+on}${NONE:+on}${EMPTY+set}", "onset"),
            ("${SET^^} ${SET^} ${NAME,,}", "VALUE Value läden/app.tar.gz"),
            (
                "${SET:0:2}|${SET:2}|${SET: -2}|${SET:9}|${SET:1:-1}",
                "va|lue|ue||alu",
            ),
            ("${#SET} ${#NAME}", "5 16"),
            (
                "${NAME#*/}|${NAME##*.}|${NAME%.*}|${NAME%%.*}",
                "app.tar.gz|gz|läden/app.tar|läden/app",
            ),
            ("${SET#x}|${SET%?}", "value|valu"),
            (
                "${SET/a/o}|${NAME//a/o}|${SET/#v/V}|${SET/%e/E}|${SET/l}",
                "volue|läden/opp.tor.gz|Value|valuE|vaue",
            ),
            ("$${SET}", "${SET}"),
            ("plain $ text $SET $5 { }", "plain $ text $SET $5 { }"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(result), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_says_why() {
        for (text, told) in [
            ("${NONE}", "${NONE} is not set in the environment"),
            ("${NONE^^}", "not set"),
            ("${NONE:-${NEITHER}}", "${NEITHER} is not set"),
            ("${NONE:?ask the operator}", "ask the operator"),
            ("${SET", "without its }"),
            ("${SET:-x", "without its }"),
            ("${}", "without the name"),
            ("${1}", "without the name"),
            ("${SET!x}", "not understood"),
            ("${SET:a}", "whole numbers"),
            ("${LONG}${LONG}${LONG}", "longer than"),
        ] {
            let mistake = expanded(text).expect_err(text);
            assert!(mistake.contains(told), "{text}: {mistake}");
        }
        let deep = format!("{}x{}", "${NONE:-".repeat(40), "}".repeat(40));
        assert!(
            expanded(&deep)
                .expect_err("too deep")
                .contains("inside each other")
        );
    }
}
