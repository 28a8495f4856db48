//! `fullgate-bench`: how many cycles the gateway adds to a packet.
//!
//! Runs the worker as the gateway runs it, on one thread in lock-step with a
//! generator: packets are made, put on a wire in memory (DPDK's ring driver),
//! the worker polls until it has seen them all, and a sink takes what it sent.
//! Only the polls are timed. So nothing of the figures depends on a second
//! core, and other load on the machine shows as less, not as other figures.
//! Over memif it is the generator alone, and another program is measured.
//!
//! docs/performance.md says what the figures mean.
#![deny(unsafe_code)]

mod args;
mod baseline;
mod connections;
mod flows;
mod frame;
mod gateway;
mod handshake;
mod latency;
mod lines;
mod measure;
mod memif;
mod open;
mod packets;
mod plot;
mod report;
mod source;
mod steps;
mod wire;
mod workers;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use signal_hook::consts::SIGPIPE;

use args::{Args, Mode};

type Failure = Box<dyn Error>;

/// A reader of standard output that has seen enough (`| head`) ends the program,
/// and is no fault.
fn end_with_reader() -> std::io::Result<()> {
    let always = Arc::new(AtomicBool::new(true));
    signal_hook::flag::register_conditional_shutdown(SIGPIPE, 0, always)?;
    Ok(())
}

fn main() -> ExitCode {
    env_logger::Builder::new().parse_filters("warn").init();
    if let Err(failure) = end_with_reader() {
        eprintln!("fullgate-bench: {failure}");
        return ExitCode::FAILURE;
    }
    let outcome = match Args::parse().mode {
        Mode::Packets(args) => packets::run(&args),
        Mode::Connections(args) => connections::run(&args),
        Mode::Memif(args) => memif::run(&args),
        Mode::Lines(args) => lines::run(&args),
        Mode::Plot(args) => plot::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("fullgate-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
