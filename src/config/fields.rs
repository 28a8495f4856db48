//! The checks of single values that every part of the file uses.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::problem::{Place, Problem, nearest};

/// A value that must be given.
pub(super) fn required<'a, T>(
    place: &Place<'_>,
    value: Option<&'a T>,
    right: &str,
) -> Result<&'a T, Problem> {
    value.ok_or_else(|| place.problem(format!("is missing; give {right}")))
}

/// A number in `range`, or `default` where none is given.
pub(super) fn number<T>(
    place: &Place<'_>,
    value: Option<i64>,
    default: T,
    range: RangeInclusive<T>,
) -> Result<T, Problem>
where
    T: Copy + PartialOrd + Display + TryFrom<i64>,
{
    let Some(value) = value else {
        return Ok(default);
    };
    T::try_from(value)
        .ok()
        .filter(|value| range.contains(value))
        .ok_or_else(|| {
            place.problem(format!(
                "is {value}; give {} to {}",
                range.start(),
                range.end()
            ))
        })
}

/// A text parsed by one of the parsers of `units`.
pub(super) fn parsed<T>(
    place: &Place<'_>,
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Problem> {
    parse(text).map_err(|wrong| place.problem(wrong))
}

/// One of a few words, or the first of them where none is given.
pub(super) fn choice<T: Copy>(
    place: &Place<'_>,
    value: Option<&str>,
    choices: &[(&str, T)],
) -> Result<T, Problem> {
    let Some(value) = value else {
        return Ok(choices[0].1);
    };
    if let Some((_, chosen)) = choices.iter().find(|(name, _)| *name == value) {
        return Ok(*chosen);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let right = match nearest(value, &names) {
        Some(near) => format!("did you mean {near:?}?"),
        None => {
            let quoted: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
            format!("give {}", quoted.join(" or "))
        }
    };
    Err(place.problem(format!("{value:?} is not known; {right}")))
}

/// A name that people type and listings show.
pub(super) fn name<'a>(place: &Place<'_>, value: &'a str) -> Result<&'a str, Problem> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
    if (1..=63).contains(&value.len()) && value.bytes().all(allowed) {
        return Ok(value);
    }
    Err(place.problem(format!(
        "{value:?} is no name; give 1 to 63 letters, digits, dots, colons, hyphens or underscores"
    )))
}

/// Finds values given twice.
pub(super) struct Unique<K>(HashMap<K, String>);

impl<K: Eq + std::hash::Hash> Unique<K> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Notes that `owner` has `value`, which nobody may have had before.
    pub(super) fn claim(
        &mut self,
        place: &Place<'_>,
        value: K,
        shown: &dyn Display,
        owner: &str,
    ) -> Result<(), Problem> {
        match self.0.entry(value) {
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(owner.to_owned());
                Ok(())
            }
            std::collections::hash_map::Entry::Occupied(taken) => Err(place.problem(format!(
                "{shown} is already that of {}; give each its own",
                taken.get()
            ))),
        }
    }
}

/// `value` for the file, unless it is the default anyway.
pub(super) fn unless<T: PartialEq, R>(value: T, default: T, to_raw: impl Fn(T) -> R) -> Option<R> {
    (value != default).then(|| to_raw(value))
}

/// The word for `value`, unless it is the first and so the default.
pub(super) fn word<T: Copy + PartialEq>(value: T, words: &[(&str, T)]) -> Option<String> {
    let index = words
        .iter()
        .position(|(_, candidate)| *candidate == value)?;
    (index > 0).then(|| words[index].0.to_owned())
}
