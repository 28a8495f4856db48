//! What a configuration of 20,000 services with 100,000 real servers costs:
//! to read, to put in force, to compare, to write, and a change of one server.
//! `FULLGATE_BENCH_SERVICES` gives another number; each has five servers.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::time::Instant;

use fullgate::config::{Config, request};
use fullgate::ids::WorkerIx;
use fullgate::management::state::State;
use fullgate::service::snapshot::PortInfo;
use fullgate::snat::steering::{Reta, Steering, SteeringMode};
use fullgate::snat::toeplitz::DEFAULT_KEY;
use fullgate::wire::ethernet::MacAddr;
use fullgate::worker::message::Update;

const SERVERS: usize = 5;
const WORKERS: u8 = 2;

fn main() {
    // cargo passes "--bench", and "--test" where it only wants to see it run.
    let services = match std::env::args().any(|argument| argument == "--test") {
        true => 20,
        false => std::env::var("FULLGATE_BENCH_SERVICES")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(20_000),
    };
    let text = file(services);
    println!(
        "{services} services, {} servers, {} bytes, {WORKERS} workers",
        services * SERVERS,
        text.len()
    );
    let config = timed("read and check", || {
        Config::parse("f", &text).expect("valid").config
    });
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let ports = config.ports.iter();
    let ports = ports.map(|port| PortInfo::opened(&port.name, mac, 1500));
    let ports = ports.collect();
    let reta = Reta::even(128, WORKERS).expect("a table");
    let steering = Steering::new(DEFAULT_KEY, reta, SteeringMode::Software).expect("steering");
    let (mut state, updates) = timed("put in force at the start", || {
        State::new(config.clone(), ports, Arc::new(steering), WORKERS.into(), 7).expect("a state")
    });
    take(&mut state, updates);
    println!("  resident: {} MB", resident() >> 20);

    let same = timed("read and check again", || {
        Config::parse("f", &text).expect("valid").config
    });
    let old = Arc::clone(state.snapshot());
    let updates = timed("put the same in force", || {
        state.apply(same).expect("applied")
    });
    take(&mut state, updates);
    timed("free what it replaced", || drop(old));
    let edited = timed("edit one server", || {
        let keys = request(serde_json::json!({"weight": 7})).expect("keys");
        let edited = state
            .config()
            .edit_server("service-7", "10.64.0.35:80", keys);
        edited.expect("an edit").config
    });
    let differences = timed("differences", || state.config().differences(&edited));
    assert_eq!(differences.len(), 1, "{differences:?}");
    let updates = timed("put the edit in force", || {
        state.apply(edited).expect("applied")
    });
    take(&mut state, updates);
    let written = timed("write", || state.config().to_toml());
    assert!(written.len() > text.len() / 2);
    let mut shrunk = state.config().clone();
    shrunk.services.truncate(services / 2);
    let updates = timed("take half of them out", || {
        state.apply(shrunk).expect("applied")
    });
    take(&mut state, updates);
}

fn timed<T>(what: &str, job: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = job();
    println!("{:>9.1} ms  {what}", begun.elapsed().as_secs_f64() * 1e3);
    result
}

/// What the workers do with updates, as far as the state sees it.
fn take(state: &mut State, updates: Vec<Update>) {
    for (worker, mut update) in (0..).map(WorkerIx).zip(updates) {
        // A worker keeps its sets; here they would only fill memory.
        std::mem::forget(std::mem::take(&mut update.new_sets));
        state.applied(worker, &update);
    }
}

/// Resident memory, bytes.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|text| text.parse().ok());
    pages.unwrap_or(0_u64) * 4096
}

/// A configuration with every scheduler, addresses and names of its own for
/// each server.
fn file(services: usize) -> String {
    let mut text = format!(
        "[runtime]\nmax-services = {}\nmax-servers = {}\n\
         [[port]]\nname = \"wan\"\ndevice = \"tap:fg0\"\naddresses = [\"10.1.0.1/24\"]\n\
         gateway = \"10.1.0.254\"\n\
         [[pool]]\nname = \"default\"\naddresses = [\"10.1.0.10\"]\n",
        services * 2,
        services * SERVERS * 2
    );
    for service in 0..services {
        let (vip, port) = (service / 200, 1000 + service % 200);
        write!(
            text,
            "[[service]]\nname = \"service-{service}\"\nvip = \"198.18.{}.{}:{port}\"\n\
             scheduler = \"{}\"\n",
            vip / 256,
            vip % 256,
            ["wrr", "rr", "wlc", "sh"][service % 4]
        )
        .expect("write to a string");
        for server in service * SERVERS..(service + 1) * SERVERS {
            write!(
                text,
                "[[service.server]]\nname = \"server-{server}\"\naddress = \"10.{}.{}.{}:80\"\n\
                 weight = {}\n",
                64 + server / 65536,
                server / 256 % 256,
                server % 256,
                1 + server % 9
            )
            .expect("write to a string");
        }
    }
    text
}
