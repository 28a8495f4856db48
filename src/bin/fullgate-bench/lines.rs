//! Cache lines that one worker writes and another touches: none, if workers
//! share nothing.
//!
//! The program runs itself under valgrind's lackey, which tells every memory
//! access. Two workers of one gateway, on two threads as in production, take
//! turns; a store to a known address says whose turn begins and that it is
//! over, around the poll alone. What the trace shows between is collected by
//! cache line.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Barrier};

use clap::Parser;

use fullgate::dpdk::{RingEnd, spawn};
use fullgate::ids::WorkerIx;
use fullgate::snat::steering::Steering;

use super::Failure;
use super::args::{Args, Lines, Mode, Packets};
use super::gateway::{self, Plan, Seed};
use super::packets::open_all;
use super::report::drops;
use super::source::Source;
use super::wire::Wire;
use super::workers::flows_of;

const WORKERS: usize = 2;
const LINE_SHIFT: u32 = 6;
/// Shared lines that are shown.
const SHOWN: usize = 20;

/// A cache line of its own for each mark.
#[repr(align(64))]
struct Mark(AtomicU64);

/// That the worker of this number begins, and that it is done.
static BEGIN: [Mark; WORKERS] = [const { Mark(AtomicU64::new(0)) }; WORKERS];
static END: Mark = Mark(AtomicU64::new(0));

impl Mark {
    fn set(&self) {
        self.0.store(black_box(1), Relaxed);
    }

    fn address(&self) -> usize {
        (&raw const self.0).addr()
    }
}

pub fn run(args: &Lines) -> Result<(), Failure> {
    if args.traced {
        return traced(args);
    }
    let own = std::env::current_exe()?;
    let mut child = Command::new("valgrind")
        .args(["--tool=lackey", "--trace-mem=yes"])
        .arg(&own)
        .args(["lines", "--traced", "--flows", &args.flows.to_string()])
        .args(["--batches", &args.batches.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("valgrind: {error}; it is Debian's package of that name"))?;
    let (Some(trace), Some(said), Some(mut go)) =
        (child.stderr.take(), child.stdout.take(), child.stdin.take())
    else {
        return Err("no pipes".into());
    };
    // The program says where its marks are and waits; meanwhile somebody has to
    // read the trace.
    let reader = std::thread::spawn(move || Trace::default().read(trace));
    let mut said = BufReader::new(said);
    let mut line = String::new();
    said.read_line(&mut line)?;
    let numbers = line.split_whitespace().map(str::parse::<u64>);
    let numbers: Vec<u64> = numbers.collect::<Result<_, _>>()?;
    let marks = MARKS.get_or_init(|| numbers);
    if marks.len() != WORKERS + 2 {
        return Err("the traced program did not begin".into());
    }
    go.write_all(b"\n")?;
    drop(go);
    std::io::copy(&mut said, &mut std::io::stderr())?;
    let status = child.wait()?;
    let trace = reader.join().map_err(|_| "the trace's reader panicked")??;
    if !status.success() {
        return Err(format!("the traced program failed: {}", trace.last).into());
    }
    trace.report(args, &own)
}

/// Addresses of the marks, and where the program's code begins.
static MARKS: std::sync::OnceLock<Vec<u64>> = std::sync::OnceLock::new();

/// What one worker did to a line: the instructions that first read and wrote it.
#[derive(Clone, Copy, Default, Debug)]
struct Touch {
    read: Option<u64>,
    write: Option<u64>,
}

#[derive(Default)]
struct Trace {
    lines: [HashMap<u64, Touch>; WORKERS],
    turn: Option<usize>,
    /// The instruction under way.
    at: u64,
    accesses: u64,
    /// The last line that is no access.
    last: String,
}

impl Trace {
    fn read(mut self, trace: impl Read) -> std::io::Result<Self> {
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
            && let Some(marks) = MARKS.get()
            && let Some(mark) = marks[..=WORKERS].iter().position(|&mark| mark == address)
        {
            self.turn = (mark < WORKERS).then_some(mark);
            return;
        }
        let Some(turn) = self.turn else { return };
        self.accesses += 1;
        for number in address >> LINE_SHIFT..=(address + size - 1) >> LINE_SHIFT {
            let touch = self.lines[turn].entry(number).or_default();
            if kind != b'S' {
                touch.read.get_or_insert(self.at);
            }
            if kind != b'L' {
                touch.write.get_or_insert(self.at);
            }
        }
    }

    fn report(&self, args: &Lines, program: &std::path::Path) -> Result<(), Failure> {
        let packets = args.batches as usize * 512;
        println!(
            "2 workers, {packets} packets each, {} accesses",
            self.accesses
        );
        for (worker, lines) in self.lines.iter().enumerate() {
            let written = lines.values().filter(|touch| touch.write.is_some()).count();
            println!(
                "worker {worker}  {} lines touched, {written} of them written",
                lines.len()
            );
            if written == 0 {
                return Err("the trace shows no worker".into());
            }
        }
        let both = || {
            let [one, other] = &self.lines;
            one.iter()
                .filter_map(|(line, touch)| Some((*line, [*touch, *other.get(line)?])))
        };
        let mut shared: Vec<(u64, [Touch; WORKERS])> = both()
            .filter(|(_, touches)| touches.iter().any(|touch| touch.write.is_some()))
            .collect();
        println!(
            "shared    {} lines read by both and written by none, {} written",
            both().count() - shared.len(),
            shared.len(),
        );
        if shared.is_empty() {
            return Ok(());
        }
        shared.sort_by_key(|(line, _)| *line);
        for (line, touches) in shared.iter().take(SHOWN) {
            println!("line {:#x}", line << LINE_SHIFT);
            for (worker, touch) in touches.iter().enumerate() {
                for (what, at) in [("reads", touch.read), ("writes", touch.write)] {
                    if let Some(at) = at {
                        println!("  worker {worker} {what} it at {}", name(program, at));
                    }
                }
            }
        }
        Err("workers share cache lines that are written".into())
    }
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

/// Function and source line of an instruction, as far as it is the program's.
fn name(program: &std::path::Path, at: u64) -> String {
    let base = MARKS.get().and_then(|marks| marks.last()).copied();
    let offset = at.wrapping_sub(base.unwrap_or(0));
    let found = Command::new("addr2line")
        .args(["-Cfpe"])
        .arg(program)
        .arg(format!("{offset:#x}"))
        .output();
    match found {
        Ok(found) if found.status.success() && !found.stdout.starts_with(b"??") => {
            String::from_utf8_lossy(&found.stdout).trim().to_owned()
        }
        _ => format!("{at:#x}, outside the program"),
    }
}

/// The program that is traced.
fn traced(args: &Lines) -> Result<(), Failure> {
    let base = code_begins()?;
    let marks = BEGIN.iter().chain([&END]).map(|mark| mark.address() as u64);
    for number in marks.chain([base]) {
        print!("{number} ");
    }
    println!();
    std::io::stdin().read_exact(&mut [0])?;

    let packets = packets(args)?;
    let plan = Plan {
        common: &packets.common,
        proto: packets.proto,
        connections: 16_384,
        time_wait_ms: 100,
        workers: WORKERS as u8,
    };
    let eal = gateway::eal(&packets.common)?;
    let (world, seeds) = gateway::plant(&eal, &plan)?;
    let barrier = Arc::new(Barrier::new(WORKERS));
    let packets = Arc::new(packets);
    let mut threads = Vec::new();
    for (me, seed) in seeds.into_iter().enumerate() {
        let (barrier, packets) = (Arc::clone(&barrier), Arc::clone(&packets));
        let (steering, batches) = (Arc::clone(&world.steering), args.batches);
        let body = move || work(me, seed, &packets, &steering, batches, &barrier);
        threads.push(spawn(&eal, &format!("worker-{me}"), None, body)?);
    }
    for thread in threads {
        thread.join().map_err(|_| "a worker's thread panicked")?;
    }
    Ok(())
}

/// Packets of both directions, and connections that come and go.
fn packets(args: &Lines) -> Result<Packets, Failure> {
    let flows = args.flows.to_string();
    let line = [
        "bench",
        "packets",
        "--direction",
        "both",
        "--new-connections",
        "0.2",
    ];
    let line = line.into_iter().chain(["--flows", &flows]);
    match Args::try_parse_from(line)?.mode {
        Mode::Packets(packets) => Ok(packets),
        _ => Err("packets is packets".into()),
    }
}

fn work(
    me: usize,
    seed: Seed,
    args: &Packets,
    steering: &Steering,
    batches: u32,
    barrier: &Barrier,
) {
    let mut gateway = seed.grow();
    let flows = flows_of(WorkerIx(me as u8), args.flows, steering);
    let mut source = Source::new(args, flows);
    let in_turn = |work: &mut dyn FnMut()| {
        for turn in 0..WORKERS {
            barrier.wait();
            if turn == me {
                work();
            }
        }
    };
    in_turn(&mut || {
        open_all(&mut gateway, &mut source, args).unwrap_or_else(|failure| {
            println!("worker {me}: {failure}");
            std::process::exit(1)
        });
    });
    for _ in 0..batches {
        in_turn(&mut || {
            let wire: &mut Wire<RingEnd> = &mut gateway.wire;
            source.batch(|side, frame| wire.put(side, &frame));
            wire.flush_all();
            let mut back = 0;
            // One more, which finds nothing.
            for _ in 0..=source.in_batch().div_ceil(source.in_poll()) {
                let now = gateway::now(&gateway.clock);
                BEGIN[me].set();
                gateway.worker.poll(now);
                END.set();
                back += source.collect(&mut gateway.wire);
            }
            if back < source.in_batch() {
                // Both sides do not get equally many.
                gateway.worker.poll(gateway::now(&gateway.clock));
                source.collect(&mut gateway.wire);
            }
        });
    }
    barrier.wait();
    for (reason, count) in drops(&gateway.stats) {
        println!("worker {me}: dropped {count} {reason}");
    }
}

/// Address of the program's first byte.
fn code_begins() -> Result<u64, Failure> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let own = std::env::current_exe()?;
    let own = own.to_string_lossy();
    let first = maps.lines().find(|line| line.ends_with(own.as_ref()));
    let start = first.and_then(|line| line.split('-').next());
    Ok(u64::from_str_radix(start.ok_or("no such mapping")?, 16)?)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lines_of_the_trace_are_read() {
        assert_eq!(parse(b"I  0401ab90,3\n"), Some((b'I', 0x0401_ab90, 3)));
        assert_eq!(parse(b" S 1ffefff568,8\n"), Some((b'S', 0x1f_feff_f568, 8)));
        assert_eq!(parse(b" M 00c0ffee,4\n"), Some((b'M', 0x00c0_ffee, 4)));
        assert_eq!(parse(b"==17== Lackey\n"), None);
        assert_eq!(parse(b"\n"), None);
    }
}
