//! What is wrong with a configuration, in one line: `FILE:LINE: KEY: what is
//! wrong; what would be right`.
//!
//! Checks run on plain values and name the place of a value by its path. The
//! line is looked up in the file's text only when a problem is to be shown.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One problem. `Display` is the whole line, without a newline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    file: Option<String>,
    line: Option<usize>,
    steps: Vec<Step>,
    text: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Key(String),
    /// Index from 0, and the element's name where it has one.
    Item(usize, String),
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        let key = self.key();
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.text)
    }
}

impl Problem {
    /// A problem of no particular key.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            file: None,
            line: None,
            steps: Vec::new(),
            text: text.into(),
        }
    }

    /// What is wrong, and what would be right, without file, line and key.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The key it is about, such as `service[web].vip`; empty where the
    /// problem is the file as such.
    pub fn key(&self) -> String {
        let mut key = String::new();
        for step in &self.steps {
            match step {
                Step::Key(name) if key.is_empty() => push_name(&mut key, name),
                Step::Key(name) => {
                    key.push('.');
                    push_name(&mut key, name);
                }
                Step::Item(index, name) if name.is_empty() => {
                    key.push_str(&format!("[#{}]", index + 1));
                }
                Step::Item(_, name) => {
                    key.push('[');
                    push_name(&mut key, name);
                    key.push(']');
                }
            }
        }
        key
    }

    /// Says in which file, and on which line of its `text`, the problem is.
    pub(super) fn located(mut self, file: &str, text: &str) -> Self {
        Self::locate(std::slice::from_mut(&mut self), file, text);
        self
    }

    /// The same for many: the text is read once.
    pub(super) fn locate(problems: &mut [Self], file: &str, text: &str) {
        let wants_line = |problem: &Self| problem.line.is_none() && !problem.steps.is_empty();
        let table = problems
            .iter()
            .any(wants_line)
            .then(|| DeTable::parse(text).ok())
            .flatten();
        let mut offsets: Vec<(usize, &mut Self)> = Vec::new();
        for problem in problems {
            problem.file = Some(file.to_owned());
            let found = table.as_ref().filter(|_| wants_line(problem));
            if let Some(offset) = found.and_then(|table| offset_of(table, &problem.steps)) {
                offsets.push((offset, problem));
            }
        }
        offsets.sort_by_key(|(offset, _)| *offset);
        let (mut line, mut from) = (1, 0);
        for (offset, problem) in offsets {
            line += line_at(text.get(from..).unwrap_or_default(), offset - from) - 1;
            from = offset;
            problem.line = Some(line);
        }
    }

    /// What the TOML reader says about `text`, as one line.
    pub(super) fn from_toml(error: &toml::de::Error, text: &str) -> Self {
        let span = error.span();
        let table = DeTable::parse(text).ok();
        let steps = match (&table, &span) {
            (Some(table), Some(span)) => steps_at(table, span),
            _ => Vec::new(),
        };
        // With a table, the syntax is right and a value is of the wrong kind.
        let said = error.message().trim();
        let text_of = if table.is_some() {
            plain(said)
        } else {
            format!("not TOML: {}", said.lines().collect::<Vec<_>>().join(", "))
        };
        Self {
            line: span.map(|span| line_at(text, span.start)),
            steps,
            ..Self::new(text_of)
        }
    }

    /// What the JSON reader says about an admin request, as one line.
    pub(super) fn from_json(error: &serde_json::Error) -> Self {
        Self::new(plain(&error.to_string()))
    }
}

/// Appends a name as the file has it; a problem stays one line whatever that is.
fn push_name(key: &mut String, name: &str) {
    for letter in name.chars() {
        if letter.is_control() {
            key.extend(letter.escape_default());
        } else {
            key.push(letter);
        }
    }
}

/// Where a value stands. Lives on the stack; costs nothing unless a problem is
/// made of it.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Root,
    Key(&'a Place<'a>, &'static str),
    Item(&'a Place<'a>, usize, &'a str),
}

impl<'a> Place<'a> {
    pub(super) fn key(&'a self, name: &'static str) -> Self {
        Self::Key(self, name)
    }

    /// An element of a list, with its name (empty where it has none).
    pub(super) fn item(&'a self, index: usize, name: &'a str) -> Self {
        Self::Item(self, index, name)
    }

    fn steps(&self) -> Vec<Step> {
        match self {
            Self::Root => Vec::new(),
            Self::Key(up, name) => {
                let mut steps = up.steps();
                steps.push(Step::Key((*name).to_owned()));
                steps
            }
            Self::Item(up, index, name) => {
                let mut steps = up.steps();
                steps.push(Step::Item(*index, (*name).to_owned()));
                steps
            }
        }
    }

    /// A problem here.
    pub(super) fn problem(&self, text: impl Into<String>) -> Problem {
        Problem {
            steps: self.steps(),
            ..Problem::new(text)
        }
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
}

/// Where the value at `steps` begins, or the innermost table or list on the
/// way to it that exists.
fn offset_of(root: &Spanned<DeTable<'_>>, steps: &[Step]) -> Option<usize> {
    let mut offset = None;
    let mut at: Option<&Spanned<DeValue<'_>>> = None;
    for step in steps {
        let next = match (step, at) {
            (Step::Key(name), None) => root.get_ref().get(name.as_str()),
            (Step::Key(name), Some(value)) => value
                .get_ref()
                .as_table()
                .and_then(|table| table.get(name.as_str())),
            (Step::Item(index, _), Some(value)) => value
                .get_ref()
                .as_array()
                .and_then(|array| array.get(*index)),
            (Step::Item(..), None) => None,
        };
        let Some(next) = next else { break };
        offset = Some(next.span().start);
        at = Some(next);
    }
    offset
}

/// The path to the key or plain value in which `span` begins.
fn steps_at(root: &Spanned<DeTable<'_>>, span: &Range<usize>) -> Vec<Step> {
    let mut steps = Vec::new();
    if find_in_table(root.get_ref(), span.start, &mut steps) {
        steps
    } else {
        Vec::new()
    }
}

fn find_in_table(table: &DeTable<'_>, offset: usize, steps: &mut Vec<Step>) -> bool {
    for (key, value) in table {
        steps.push(Step::Key(key.get_ref().to_string()));
        if key.span().contains(&offset) || find_in_value(value, offset, steps) {
            return true;
        }
        steps.pop();
    }
    false
}

fn find_in_value(value: &Spanned<DeValue<'_>>, offset: usize, steps: &mut Vec<Step>) -> bool {
    match value.get_ref() {
        DeValue::Table(table) => find_in_table(table, offset, steps),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let name = item
                    .get_ref()
                    .as_table()
                    .and_then(|table| table.get("name"))
                    .and_then(|name| name.get_ref().as_str())
                    .unwrap_or_default();
                steps.push(Step::Item(index, name.to_owned()));
                if find_in_value(item, offset, steps) {
                    return true;
                }
                steps.pop();
            }
            value.span().contains(&offset)
        }
        _ => value.span().contains(&offset),
    }
}

/// Serde's words for a wrong key or a value of the wrong kind, in ours.
fn plain(message: &str) -> String {
    // serde_json appends where in the request it was, which is one line.
    let message = message.split(" at line ").next().unwrap_or(message);
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let mut quoted = rest.split('`').step_by(2);
        let unknown = quoted.next().unwrap_or_default();
        let known: Vec<&str> = rest.split('`').skip(2).step_by(2).collect();
        return match nearest(unknown, &known) {
            Some(near) => format!("unknown key; did you mean {near}?"),
            None => format!("unknown key; known here are {}", known.join(", ")),
        };
    }
    if let Some((found, expected)) = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .and_then(|rest| rest.rsplit_once(", expected "))
    {
        let right = match expected {
            "a string" => "a text in double quotes",
            "a boolean" => "true or false",
            "a sequence" => "a list in [ ]",
            "i64" => "a whole number",
            _ if expected.starts_with("struct") => "a table of keys",
            other => other,
        };
        let wrong = match found.split_once(' ') {
            Some(("integer" | "floating", value)) => value.trim_start_matches("point "),
            Some((_, value)) if value.starts_with(['"', '`']) => value,
            _ => found,
        };
        return format!("is {}; give {right}", wrong.replace('`', ""));
    }
    message.lines().collect::<Vec<_>>().join(", ")
}

/// The known name that `given` most probably stands for.
pub(super) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, name) = known
        .iter()
        .map(|name| (edits(given, name), *name))
        .min_by_key(|(edits, _)| *edits)?;
    (distance <= 1 + name.len() / 4).then_some(name)
}

/// Insertions, deletions and replacements that turn `a` into `b` (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replace = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
