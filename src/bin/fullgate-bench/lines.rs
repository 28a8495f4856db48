//! Cache lines that one worker writes and another touches: none, if workers
//! share nothing.
//!
//! The program runs itself under valgrind's lackey, which tells every memory
//! access. Two workers of one gateway, on two threads as in production, take
//! turns; a store to a known address says whose turn begins and that it is
//! over, around the poll alone. What the trace shows between is collected by
//! cache line ([`trace`]), and the lines that are found are named ([`owner`]).

mod owner;
mod trace;

use std::hint::black_box;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;

use fullgate::dpdk::{RingEnd, spawn};
use fullgate::ids::WorkerIx;
use fullgate::snat::steering::Steering;
use fullgate::time::Millis;

use super::Failure;
use super::args::{Args, Lines, Mode, Packets};
use super::gateway::{self, Plan, Seed};
use super::measure;
use super::open::open_all;
use super::report::drops;
use super::source::Source;
use super::wire::Wire;
use super::workers::flows_of;
use owner::{Memory, describe};
use trace::{LINE_SHIFT, Marks, Trace, WORKERS};

/// Between two polls: connections that are over rest 100 ms, so their timers run
/// out within the trace.
const MS_PER_POLL: u64 = 2;

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
    let mut child = Command::new("valgrind")
        .args(["--tool=lackey", "--trace-mem=yes"])
        .arg(std::env::current_exe()?)
        .args(["lines", "--traced", "--flows", &args.flows.to_string()])
        .args(["--batches", &args.batches.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("valgrind: {error}; it is Debian's package of that name"))?;
    let (Some(accesses), Some(said), Some(mut go)) =
        (child.stderr.take(), child.stdout.take(), child.stdin.take())
    else {
        return Err("no pipes".into());
    };
    // The program says where its marks are and waits; meanwhile somebody has to
    // read the trace.
    let marks = Arc::new(OnceLock::new());
    let known = Arc::clone(&marks);
    let reader = std::thread::spawn(move || Trace::new(known).read(accesses));
    let mut said = BufReader::new(said);
    let mut line = String::new();
    said.read_line(&mut line)?;
    let numbers = line.split_whitespace().map(str::parse::<u64>);
    let numbers: Vec<u64> = numbers.collect::<Result<_, _>>()?;
    let Some((&end, begin)) = numbers.split_last() else {
        return Err("the traced program did not begin".into());
    };
    let begin = begin.try_into()?;
    marks.get_or_init(|| Marks { begin, end });
    go.write_all(b"\n")?;
    drop(go);
    let mut memory = Memory::default();
    for line in said.lines() {
        let line = line?;
        if !memory.note(&line) {
            eprintln!("{line}");
        }
    }
    let status = child.wait()?;
    let trace = reader.join().map_err(|_| "the trace's reader panicked")??;
    if !status.success() {
        return Err(format!("the traced program failed: {}", trace.last).into());
    }
    report(&trace, &memory, args)
}

fn report(trace: &Trace, memory: &Memory, args: &Lines) -> Result<(), Failure> {
    let packets = args.batches as usize * 512;
    println!(
        "2 workers, {packets} packets each, {} accesses",
        trace.accesses
    );
    for (worker, lines) in trace.lines.iter().enumerate() {
        let written = lines.values().filter(|touch| touch.writes.count() > 0);
        let written = written.count();
        println!(
            "worker {worker}  {} lines touched, {written} of them written",
            lines.len()
        );
        if written == 0 {
            return Err("the trace shows no worker".into());
        }
    }
    let shared = trace.shared();
    println!(
        "shared    {} lines read by both and written by none, {} written",
        trace.read_by_both(),
        shared.len(),
    );
    if shared.is_empty() {
        return Ok(());
    }
    for (line, touches) in shared.iter().take(SHOWN) {
        println!("line {:#x}: {}", line << LINE_SHIFT, memory.owner(*line));
        for (worker, touch) in touches.iter().enumerate() {
            for (what, sites) in [("reads", &touch.reads), ("writes", &touch.writes)] {
                if sites.count() > 0 {
                    println!("  worker {worker} {what} it {} times", sites.count());
                }
                for place in memory.places(sites) {
                    println!("    {place}");
                }
            }
        }
    }
    Err("workers share cache lines that are written".into())
}

/// The program that is traced.
fn traced(args: &Lines) -> Result<(), Failure> {
    for mark in BEGIN.iter().chain([&END]) {
        print!("{} ", mark.address());
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
    let (turns, mut first) = Turn::circle()?;
    let packets = Arc::new(packets);
    let mut threads = Vec::new();
    for (me, (seed, turn)) in seeds.into_iter().zip(turns).enumerate() {
        let packets = Arc::clone(&packets);
        let (steering, batches) = (Arc::clone(&world.steering), args.batches);
        let body = move || {
            if let Err(failure) = work(me, seed, &packets, &steering, batches, turn) {
                println!("worker {me}: {failure}");
                std::process::exit(1);
            }
        };
        threads.push(spawn(&eal, &format!("worker-{me}"), None, body)?);
    }
    first.write_all(&[0])?;
    for thread in threads {
        thread.join().map_err(|_| "a worker's thread panicked")?;
    }
    describe(&eal)?;
    Ok(())
}

/// Who waits for their turn, and by what: the thread's directory in `/proc`, and
/// the pipe that it reads.
type Waiting = Arc<[OnceLock<(PathBuf, i32)>; WORKERS]>;

/// One worker's part in taking turns. The trace does not tell threads apart, so
/// while it is one worker's turn the others must not run at all, not even to
/// leave a lock: each sleeps in a read of its own pipe.
struct Turn {
    me: usize,
    mine: PipeReader,
    next: PipeWriter,
    waiting: Waiting,
}

impl Turn {
    /// For each worker its part, and what gives the first one its turn.
    fn circle() -> Result<(Vec<Self>, PipeWriter), Failure> {
        let pipes: Vec<_> = (0..WORKERS)
            .map(|_| std::io::pipe())
            .collect::<Result<_, _>>()?;
        let (readers, mut writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
        let first = writers[0].try_clone()?;
        writers.rotate_left(1);
        let waiting = Waiting::default();
        let parts = readers.into_iter().zip(writers).enumerate();
        let parts = parts.map(|(me, (mine, next))| Self {
            me,
            mine,
            next,
            waiting: Arc::clone(&waiting),
        });
        Ok((parts.collect(), first))
    }

    /// Waits for the turn, and until all others wait for theirs.
    fn take(&mut self) -> Result<(), Failure> {
        if self.waiting[self.me].get().is_none() {
            let thread = PathBuf::from("/proc").join(std::fs::read_link("/proc/thread-self")?);
            let _ = self.waiting[self.me].set((thread, self.mine.as_raw_fd()));
        }
        self.mine.read_exact(&mut [0])?;
        let late = Instant::now() + Duration::from_secs(60);
        for (worker, waits) in self.waiting.iter().enumerate() {
            while worker != self.me && !waits.get().is_some_and(sleeps) {
                if Instant::now() > late {
                    return Err("the other worker does not wait for its turn".into());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn pass_on(&mut self) {
        // At the end nobody is left to take it.
        let _ = self.next.write_all(&[0]);
    }
}

/// Whether a thread is in a read of that file, or over.
fn sleeps((thread, file): &(PathBuf, i32)) -> bool {
    match std::fs::read_to_string(thread.join("syscall")) {
        Ok(call) => call.starts_with(&format!("{} {file:#x} ", libc::SYS_read)),
        Err(_) => !thread.exists(),
    }
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
    mut turn: Turn,
) -> Result<(), Failure> {
    turn.take()?;
    let mut gateway = seed.grow();
    let flows = flows_of(WorkerIx(me as u8), args.flows, steering);
    let mut source = Source::new(args, flows);
    open_all(&mut gateway, &mut source, args)?;
    gateway.wire.stock(source.in_batch() as usize);
    // Seconds pass from turn to turn under valgrind, and next hops would be given
    // up; this clock is its own.
    let mut now = measure::now(&gateway.clock);
    let mut tick = || {
        now.ms = Millis(now.ms.0 + MS_PER_POLL);
        now.tsc += 1;
        now
    };
    turn.pass_on();
    for _ in 0..batches {
        turn.take()?;
        let wire: &mut Wire<RingEnd> = &mut gateway.wire;
        source.batch(|side, frame| wire.put(side, &frame));
        wire.flush_all();
        let mut back = 0;
        // One more, which finds nothing.
        for _ in 0..=source.in_batch().div_ceil(source.in_poll()) {
            let now = tick();
            BEGIN[me].set();
            gateway.worker.poll(now);
            END.set();
            back += source.collect(&mut gateway.wire);
        }
        if back < source.in_batch() {
            // Both sides do not get equally many.
            gateway.worker.poll(tick());
            source.collect(&mut gateway.wire);
        }
        gateway.wire.stock(source.in_batch() as usize);
        turn.pass_on();
    }
    // What ends with a worker must not happen in the turn of another.
    turn.take()?;
    for (reason, count) in drops(&gateway.stats) {
        println!("worker {me}: dropped {count} {reason}");
    }
    turn.pass_on();
    Ok(())
}
