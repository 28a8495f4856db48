//! Three rings: rows of segments with what each must do, random segments
//! against a model written another way, and two real endpoints whose segments
//! are duplicated and reordered around the tracker.

mod endpoints;
mod model;
mod rows;

use super::*;

/// Numberings in which every test runs: client's ISN, server's ISN, delta.
const NUMBERINGS: [(u32, u32, u32); 4] = [
    (0, 0, 0),
    (1_000, 70_000, 0),
    (u32::MAX - 1, u32::MAX - 3, 77),
    (0x7fff_fffe, 0x8000_0000, 0xdead_beef),
];

/// An entry as the worker hands it to [`open`].
fn fresh(seq_delta: u32) -> Entry {
    let mut entry = Entry::FREE;
    entry.seq_delta = seq_delta;
    if seq_delta != 0 {
        entry.flags |= flag::TRANSLATE_SEQ;
    }
    entry
}

/// The flags that the letters of `FSRPA` name.
fn flags(letters: &str) -> Flags {
    letters.chars().fold(Flags(0), |flags, letter| {
        flags
            | match letter {
                'F' => Flags::FIN,
                'S' => Flags::SYN,
                'R' => Flags::RST,
                'P' => Flags::PSH,
                'A' => Flags::ACK,
                other => panic!("no flag {other}"),
            }
    })
}
