//! Whether a host is ready for a configuration: what is wrong with it, and the
//! command that mends it. Reads below a root directory, which is `/` but in
//! tests; changes nothing. Called by `fullgate preflight`, and by the start for
//! what would end it half-way.

mod cores;
mod host;
mod memory;
mod ports;

use std::fmt;
use std::path::Path;

use self::host::Host;
use crate::config::Config;

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    Ok,
    /// Works, but slower or less evenly than it could.
    Advice,
    /// Does not work.
    Wrong,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Advice => "advice",
            Self::Wrong => "wrong",
        }
    }
}

struct Finding {
    level: Level,
    topic: &'static str,
    text: String,
    /// The command or change that mends it; empty where it is right.
    remedy: String,
}

/// What was found. `Display` is the text for people.
#[derive(Default)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn ok(&mut self, topic: &'static str, text: impl Into<String>) {
        self.add(Level::Ok, topic, text.into(), String::new());
    }

    fn advice(&mut self, topic: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Advice, topic, text.into(), remedy.into());
    }

    fn wrong(&mut self, topic: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Level::Wrong, topic, text.into(), remedy.into());
    }

    fn add(&mut self, level: Level, topic: &'static str, text: String, remedy: String) {
        self.findings.push(Finding {
            level,
            topic,
            text,
            remedy,
        });
    }

    fn count(&self, level: Level) -> usize {
        let of_level = |finding: &&Finding| finding.level == level;
        self.findings.iter().filter(of_level).count()
    }

    /// Whether nothing keeps the gateway from running.
    pub fn is_ready(&self) -> bool {
        self.count(Level::Wrong) == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let Finding {
                level,
                topic,
                text,
                remedy,
            } = finding;
            writeln!(f, "{:<7} {topic:<10} {text}", level.name())?;
            if !remedy.is_empty() {
                writeln!(f, "{:>19}{remedy}", "-> ")?;
            }
        }
        let (wrong, advice) = (self.count(Level::Wrong), self.count(Level::Advice));
        let verdict = if self.is_ready() {
            "ready"
        } else {
            "not ready"
        };
        writeln!(f, "{verdict}: {wrong} wrong, {advice} could be better")
    }
}

/// Looks at the host whose file systems are mounted below `root`.
pub fn preflight(root: &Path, config: &Config) -> Report {
    let host = Host::new(root);
    let mut report = Report::default();
    memory::hugepages(&mut report, &host, config);
    memory::ordinary(&mut report, &host, config);
    memory::locking(&mut report, &host, config);
    ports::ports(&mut report, &host, config);
    cores::cores(&mut report, &host, config);
    cores::tsc(&mut report, &host);
    report
}

/// Why the host has too little memory for a configuration, in one line; asked
/// before a start touches anything.
pub fn shortage(root: &Path, config: &Config) -> Option<String> {
    memory::shortage(&Host::new(root), config)
}

#[cfg(test)]
mod tests;
