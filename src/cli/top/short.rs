//! Numbers and names in few columns.

pub(super) fn percent(share: f64) -> String {
    // All but some is not all.
    let percent = match share * 100.0 {
        nearly if nearly > 99.0 && nearly < 100.0 => 99.0,
        little if little > 0.0 && little < 1.0 => 1.0,
        percent => percent.round(),
    };
    format!("{percent:.0} %")
}

/// A number in at most five characters, below 1000 T.
pub(super) fn si(value: f64) -> String {
    si_unit(value).replace(' ', "")
}

/// The same before a unit: "98.2 M", "7 ".
pub(super) fn si_unit(value: f64) -> String {
    let mut scaled = value.max(0.0);
    let mut prefix = "";
    for larger in ["k", "M", "G", "T"] {
        if scaled < 999.5 {
            break;
        }
        scaled /= 1000.0;
        prefix = larger;
    }
    let decimals = match scaled {
        _ if prefix.is_empty() && (scaled >= 9.95 || scaled.fract() == 0.0) => 0,
        small if small < 9.995 && !prefix.is_empty() => 2,
        small if small < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$} {prefix}")
}

pub(super) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match days {
        0 => format!("{hours:02}:{minutes:02}:{seconds:02}"),
        days => format!("{days}d {hours:02}:{minutes:02}:{seconds:02}"),
    }
}

/// Cut to so many columns.
pub(super) fn cut(text: String, width: usize) -> String {
    match text.chars().count() > width {
        true => text
            .chars()
            .take(width.saturating_sub(1))
            .chain("…".chars())
            .collect(),
        false => text,
    }
}
