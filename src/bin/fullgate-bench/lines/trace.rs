//! What lackey tells of memory accesses, collected by worker and cache line.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, OnceLock};

pub const WORKERS: usize = 2;
pub const LINE_SHIFT: u32 = 6;

/// Stores to these addresses say whose turn it is.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    /// The worker of this number begins.
    pub begin: [u64; WORKERS],
    /// It is done.
    pub end: u64,
}

/// Instructions, and how often each touched a line.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Sites(pub Vec<(u64, u64)>);

impl Sites {
    fn note(&mut self, at: u64) {
        match self.0.iter_mut().find(|(site, _)| *site == at) {
            Some((_, count)) => *count += 1,
            None => self.0.push((at, 1)),
        }
    }

    pub fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }
}

/// What one worker did to a line.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Touch {
    pub reads: Sites,
    pub writes: Sites,
}

/// The lines that each worker touched while it was polled.
#[derive(Default)]
pub struct Trace {
    marks: Arc<OnceLock<Marks>>,
    pub lines: [HashMap<u64, Touch>; WORKERS],
    turn: Option<usize>,
    /// The instruction under way.
    at: u64,
    pub accesses: u64,
    /// The last line that is no access.
    pub last: String,
}

impl Trace {
    /// A trace whose marks become known while it is read.
    pub fn new(marks: Arc<OnceLock<Marks>>) -> Self {
        Self {
            marks,
            ..Self::default()
        }
    }

    pub fn read(mut self, trace: impl Read) -> std::io::Result<Self> {
        let mut trace = BufReader::with_capacity(1 << 20, trace);
        let mut line = Vec::new();
        loop {
            line.clear();
            if trace.read_until(b'\n', &mut line)? == 0 {
                return Ok(self);
            }
            self.access(&line);
        }
    }

    /// One line of the trace: ` S 1ffe8,8`; I is an instruction, L a load, S a
    /// store, M both.
    fn access(&mut self, line: &[u8]) {
        let Some((kind, address, size)) = parse(line) else {
            if !line.starts_with(b"==") {
                self.last = String::from_utf8_lossy(line).trim().to_owned();
            }
            return;
        };
        if kind == b'I' {
            self.at = address;
            return;
        }
        if kind == b'S'
            && let Some(marks) = self.marks.get()
        {
            let begins = marks.begin.iter().position(|&mark| mark == address);
            if begins.is_some() || address == marks.end {
                self.turn = begins;
                return;
            }
        }
        let Some(turn) = self.turn else { return };
        self.accesses += 1;
        for number in address >> LINE_SHIFT..=(address + size - 1) >> LINE_SHIFT {
            let touch = self.lines[turn].entry(number).or_default();
            if kind != b'S' {
                touch.reads.note(self.at);
            }
            if kind != b'L' {
                touch.writes.note(self.at);
            }
        }
    }

    /// The lines that both touched and nobody wrote: how many.
    pub fn read_by_both(&self) -> usize {
        self.both().filter(|pair| !is_written(pair)).count()
    }

    /// The lines that one wrote and the other touched, by their number.
    pub fn shared(&self) -> Vec<(u64, [&Touch; WORKERS])> {
        let mut shared: Vec<_> = self.both().filter(is_written).collect();
        shared.sort_by_key(|(line, _)| *line);
        shared
    }

    fn both(&self) -> impl Iterator<Item = (u64, [&Touch; WORKERS])> {
        let [one, other] = &self.lines;
        one.iter()
            .filter_map(move |(line, touch)| Some((*line, [touch, other.get(line)?])))
    }
}

/// Whether somebody wrote the line.
fn is_written((_, touches): &(u64, [&Touch; WORKERS])) -> bool {
    touches.iter().any(|touch| touch.writes.count() > 0)
}

/// Kind, address and size of an access.
fn parse(line: &[u8]) -> Option<(u8, u64, u64)> {
    let text = std::str::from_utf8(line).ok()?.trim_end();
    let (kind, rest) = text.trim_start().split_once(' ')?;
    let (&[kind @ (b'I' | b'L' | b'S' | b'M')], (address, size)) =
        (kind.as_bytes(), rest.trim_start().split_once(',')?)
    else {
        return None;
    };
    Some((
        kind,
        u64::from_str_radix(address, 16).ok()?,
        size.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_trace_are_read() {
        assert_eq!(parse(b"I  0401ab90,3\n"), Some((b'I', 0x0401_ab90, 3)));
        assert_eq!(parse(b" S 1ffefff568,8\n"), Some((b'S', 0x1f_feff_f568, 8)));
        assert_eq!(parse(b" M 00c0ffee,4\n"), Some((b'M', 0x00c0_ffee, 4)));
        assert_eq!(parse(b"==17== Lackey\n"), None);
        assert_eq!(parse(b"\n"), None);
    }

    /// Worker 0 begins by a store to 0x1000, worker 1 by one to 0x1040; both are
    /// done by one to 0x1080.
    fn trace(text: &str) -> Trace {
        let marks = Arc::new(OnceLock::new());
        let known = Marks {
            begin: [0x1000, 0x1040],
            end: 0x1080,
        };
        marks.set(known).expect("set once");
        Trace::new(marks).read(text.as_bytes()).expect("a text")
    }

    #[test]
    fn a_line_written_by_one_and_read_by_the_other_is_shared() {
        let trace = trace(
            "I  a0,4\n S 2000,8\n\
             I  a4,4\n S 1000,8\n\
             I  a8,4\n S 2008,8\nI  ac,4\n M 2010,8\nI  ac,4\n M 2010,8\n L 3000,8\n\
             I  b0,4\n S 1080,8\nI  b4,4\n S 3000,8\n\
             I  b8,4\n S 1040,8\n\
             I  bc,4\n L 203f,1\n L 3008,8\n S 4000,8\n\
             I  c0,4\n S 1080,8\n",
        );
        assert_eq!(trace.accesses, 7);
        // What happens outside of turns does not count: nobody wrote 0x3000.
        assert_eq!(trace.read_by_both(), 1);
        let shared = trace.shared();
        let [(line, [one, other])] = shared.as_slice() else {
            panic!("{shared:?}");
        };
        assert_eq!(line << LINE_SHIFT, 0x2000);
        assert_eq!(one.writes, Sites(vec![(0xa8, 1), (0xac, 2)]));
        assert_eq!(one.reads, Sites(vec![(0xac, 2)]));
        assert_eq!(other.reads, Sites(vec![(0xbc, 1)]));
        assert_eq!(other.writes, Sites::default());
    }

    #[test]
    fn an_access_over_the_end_of_a_line_touches_two() {
        let trace =
            trace("I  a0,4\n S 1000,8\n S 203c,8\n S 1080,8\n S 1040,8\n L 2040,1\n S 1080,8\n");
        let lines: Vec<_> = trace.shared().iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [0x2040 >> LINE_SHIFT]);
    }
}
