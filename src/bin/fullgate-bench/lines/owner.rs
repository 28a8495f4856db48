//! Whose an address is: what the traced process says of its memory, and what
//! addr2line and nm know of the files that are mapped there.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::trace::{LINE_SHIFT, Sites};

/// Instructions that are named of all that touched a line.
const SITES: usize = 6;

/// One line of `/proc/PID/maps`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mapping {
    start: u64,
    end: u64,
    /// A file, what the kernel says in brackets, or nothing.
    what: String,
}

impl Mapping {
    fn is_file(&self) -> bool {
        self.what.starts_with('/')
    }
}

/// The memory of the traced process.
#[derive(Default, Debug)]
pub struct Memory {
    maps: Vec<Mapping>,
    /// DPDK's, by address: length and name.
    zones: BTreeMap<u64, (u64, String)>,
}

impl Memory {
    /// Takes in a line that [`describe`] printed; whether it was one.
    pub fn note(&mut self, line: &str) -> bool {
        if let Some(line) = line.strip_prefix("map ") {
            self.maps.extend(mapping(line));
            return true;
        }
        if let Some(line) = line.strip_prefix("zone ") {
            self.zones.extend(zone(line));
            return true;
        }
        false
    }

    fn mapping(&self, address: u64) -> Option<&Mapping> {
        self.maps
            .iter()
            .find(|map| (map.start..map.end).contains(&address))
    }

    /// The file whose data an address is of, and how far it is from the file's
    /// first byte in memory. What follows a file's last mapping without a gap
    /// and without a name are its variables that begin as zero.
    fn in_file(&self, address: u64) -> Option<(&Path, u64)> {
        let mut map = self.mapping(address)?;
        if map.what.is_empty() {
            map = self.maps.iter().find(|other| other.end == map.start)?;
        }
        let first = self.maps.iter().find(|other| other.what == map.what)?;
        map.is_file()
            .then(|| (Path::new(&map.what), address - first.start))
    }

    /// Whose a cache line is, as far as can be told.
    pub fn owner(&self, line: u64) -> String {
        let address = line << LINE_SHIFT;
        let zone = self.zones.range(..=address).next_back();
        if let Some((start, (len, name))) = zone
            && address < start + len
        {
            return format!("DPDK's memory {name}, byte {}", address - start);
        }
        if let Some((file, offset)) = self.in_file(address) {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let found = symbols(file, offset, offset + (1 << LINE_SHIFT));
            return match found.is_empty() {
                true => format!("data of {name}, byte {offset:#x}"),
                false => format!("{} of {name}", found.join(", ")),
            };
        }
        match self.mapping(address) {
            Some(map) if map.what.is_empty() => "heap, stack or other anonymous memory".into(),
            Some(map) => map.what.clone(),
            None => "memory that is not mapped any more".into(),
        }
    }

    /// Where the instructions are that most often touched a line: function,
    /// source and how often.
    pub fn places(&self, sites: &Sites) -> Vec<String> {
        let mut sites = sites.0.clone();
        sites.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let rest = sites.len().saturating_sub(SITES);
        sites.truncate(SITES);
        let mut places: Vec<String> = sites
            .into_iter()
            .map(|(at, count)| format!("{} times at {}", count, self.code(at)))
            .collect();
        if rest > 0 {
            places.push(format!("and at {rest} other instructions"));
        }
        places
    }

    /// Function and source line of an instruction, as far as its file has them.
    fn code(&self, at: u64) -> String {
        let Some((file, offset)) = self.in_file(at) else {
            return format!("{at:#x}");
        };
        let found = Command::new("addr2line")
            .args(["-C", "-f", "-i", "-e"])
            .arg(file)
            .arg(format!("{offset:#x}"))
            .output();
        let text = found.map(|found| found.stdout).unwrap_or_default();
        frames(&String::from_utf8_lossy(&text)).unwrap_or_else(|| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            format!("{name}+{offset:#x}")
        })
    }
}

/// `START-END PERMS OFFSET DEV INODE   PATH`.
fn mapping(line: &str) -> Option<Mapping> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        what: rest
            .splitn(4, ' ')
            .nth(3)
            .and_then(|rest| rest.trim_start().split_once(' '))
            .map_or("", |(_, what)| what.trim())
            .to_owned(),
    })
}

/// `START LEN NAME`.
fn zone(line: &str) -> Option<(u64, (u64, String))> {
    let mut words = line.splitn(3, ' ');
    let (start, len) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((start, (len, words.next()?.to_owned())))
}

/// Prints what [`Memory::note`] takes in.
pub fn describe(eal: &fullgate::dpdk::Eal) -> std::io::Result<()> {
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        println!("map {line}");
    }
    for zone in eal.zones() {
        println!("zone {} {} {}", zone.address, zone.len, zone.name);
    }
    Ok(())
}

/// What addr2line says of an instruction: a line with a function, one with its
/// place, innermost first. Of the functions inlined there, the innermost and
/// the first that is the project's own.
fn frames(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let frames: Vec<(&str, &str)> = lines
        .chunks_exact(2)
        .map(|pair| (pair[0], place(pair[1])))
        .filter(|(_, place)| !place.starts_with("??"))
        .collect();
    let foreign = |place: &str| place.starts_with('/');
    let (function, inner) = frames.first()?;
    let mut said = format!("{function} ({inner})");
    if foreign(inner)
        && let Some((function, place)) = frames.iter().find(|(_, place)| !foreign(place))
    {
        said += &format!(", inlined into {function} ({place})");
    }
    Some(said)
}

/// A source file and line, without where the project lies.
fn place(text: &str) -> &str {
    let own = text.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/"));
    let text = own.unwrap_or(text);
    text.split_once(" (").map_or(text, |(text, _)| text)
}

/// Names of a file's variables that have a byte between two addresses.
fn symbols(file: &Path, from: u64, to: u64) -> Vec<String> {
    let nm = |kind: &[&str]| {
        let found = Command::new("nm")
            .args(["-C", "-S", "--defined-only"])
            .args(kind)
            .arg(file)
            .output();
        let text = found.map(|found| found.stdout).unwrap_or_default();
        symbols_in(&String::from_utf8_lossy(&text), from, to)
    };
    let found = nm(&[]);
    // Stripped, a library still has the names of what it exports.
    if found.is_empty() { nm(&["-D"]) } else { found }
}

/// The same in what nm prints: `ADDRESS SIZE TYPE NAME`.
fn symbols_in(text: &str, from: u64, to: u64) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.splitn(4, ' ');
            let start = u64::from_str_radix(words.next()?, 16).ok()?;
            let size = u64::from_str_radix(words.next()?, 16).ok()?;
            let name = words.nth(1)?;
            (start < to && from < start + size).then(|| name.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(lines: &[&str]) -> Memory {
        let mut memory = Memory::default();
        for line in lines {
            assert!(memory.note(line), "{line}");
        }
        memory
    }

    #[test]
    fn an_address_is_of_a_zone_a_file_or_anonymous() {
        let memory = memory(&[
            "map 00108000-00109000 r--p 00000000 fe:00 77     /no/such program",
            "map 00109000-0010a000 r-xp 00001000 fe:00 77     /no/such program",
            "map 0010a000-0010b000 rw-p 00000000 00:00 0 ",
            "map 04000000-04001000 rw-p 00000000 00:00 0 ",
            "map 1ffe000000-1ffe001000 rw-p 00000000 00:00 0          [stack]",
            "map 100000000-108000000 rw-p 00000000 00:00 0 ",
            "zone 4295000064 384 RG_MP_packets",
        ]);
        let owner = |address: u64| memory.owner(address >> LINE_SHIFT);
        assert_eq!(owner(0x10_9040), "data of such program, byte 0x1040");
        // Variables that begin as zero follow the file.
        assert_eq!(owner(0x10_a000), "data of such program, byte 0x2000");
        assert_eq!(owner(0x400_0040), "heap, stack or other anonymous memory");
        assert_eq!(owner(0x1f_fe00_0000), "[stack]");
        assert_eq!(
            owner(4_295_000_064 + 256),
            "DPDK's memory RG_MP_packets, byte 256"
        );
        assert_eq!(
            owner(4_295_000_064 + 384),
            "heap, stack or other anonymous memory"
        );
        assert_eq!(owner(0x5000_0000), "memory that is not mapped any more");
        assert_eq!(memory.code(0x10_9751), "such program+0x1751");
    }

    #[test]
    fn other_lines_are_not_taken_in() {
        assert!(!Memory::default().note("worker 0: dropped 5 neighbor-unreachable"));
    }

    #[test]
    fn the_innermost_function_is_named_and_the_first_of_our_own() {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/src/worker/path.rs:12");
        let text = format!(
            "core::sync::atomic::AtomicU64::load\n/rustc/59/library/core/src/sync/atomic.rs:9\n\
             fullgate::worker::poll\n{own} (discriminator 3)\n\
             fullgate_bench::work\n{own}\n"
        );
        assert_eq!(
            frames(&text).as_deref(),
            Some(
                "core::sync::atomic::AtomicU64::load (/rustc/59/library/core/src/sync/atomic.rs:9), \
                 inlined into fullgate::worker::poll (src/worker/path.rs:12)"
            )
        );
        assert_eq!(frames("??\n??:0\n"), None);
        assert_eq!(frames(""), None);
    }

    #[test]
    fn variables_of_a_line_are_named() {
        let text = "0000000000002000 0000000000000008 B before\n\
                    000000000000203c 0000000000000008 b across\n\
                    0000000000002048 0000000000000001 D fullgate::a variable\n\
                    0000000000002080 0000000000000008 D after\n\
                    0000000000002050 T no_size\n";
        assert_eq!(
            symbols_in(text, 0x2040, 0x2080),
            ["across", "fullgate::a variable"]
        );
    }

    #[test]
    fn the_most_frequent_instructions_are_named() {
        let sites = Sites((0..8).map(|at| (at, at)).collect());
        let places = Memory::default().places(&sites);
        assert_eq!(places[0], "7 times at 0x7");
        assert_eq!(places.len(), SITES + 1);
        assert_eq!(places[SITES], "and at 2 other instructions");
    }
}
