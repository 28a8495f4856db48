//! The admin socket's requests: raw lines, and every method with parameters
//! picked from what it knows and what it does not, into the management loop
//! with the real state behind it; the workers take whatever they get. Held
//! against: every line has one outcome that reads back, and the configuration
//! in force is always one that a restart would take.

#![no_main]

use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use fullgate::config::Config;
use fullgate::host::kernel::Kernel;
use fullgate::management::{
    Management, Setup, Signals, WorkerLink,
};
use fullgate::metrics;
use fullgate::api::METHODS;
use fullgate::api::rpc::{self, Id, Outcome};
use fullgate::admin::socket::Call;
use fullgate::management::state::State;
use fullgate::host::supervisor::Supervisor;
use fullgate::service::snapshot::PortInfo;
use fullgate::snat::steering::{Reta, Steering, SteeringMode};
use fullgate::snat::toeplitz::DEFAULT_KEY;
use fullgate::stats::WorkerStats;
use fullgate::stats::readings::{PortReading, PortStatus};
use fullgate::wire::ethernet::MacAddr;
use fullgate::worker::message::{Command, Link, Reply};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

const WORKERS: usize = 2;

/// What a request may take; the loop's own patience is twice as long.
const PATIENCE: Duration = Duration::from_secs(5);

const CONFIG: &str = r#"
[runtime]
workers = 2
hugepages = false
local-ports = "2000-3023"
max-services = 8
max-servers = 32
[[port]]
name = "wan"
device = "tap:a"
addresses = ["10.1.0.1/24"]
[[pool]]
name = "default"
addresses = ["10.2.0.10"]
[[service]]
name = "web"
vip = "10.1.0.100:80"
[[service.server]]
name = "a"
address = "10.2.0.101:80"
"#;

const KEYS: [&str; 40] = [
    "name",
    "service",
    "server",
    "address",
    "vip",
    "protocol",
    "scheduler",
    "pool",
    "weight",
    "state",
    "deadline",
    "limit",
    "client",
    "client_port",
    "vip_port",
    "local",
    "local_port",
    "server_port",
    "timeouts",
    "unknown-flow",
    "on-expire",
    "syn-retry-after",
    "syn-retry-max",
    "syn-attempts",
    "fail-after",
    "established",
    "udp",
    "path",
    "half-open",
    "closed",
    "time-wait",
    "half-closed",
    "unknown",
    "filter",
    "sort",
    "sample",
    "snaplen",
    "records",
    "capture",
    "reason",
];

const TEXTS: [&str; 36] = [
    "web",
    "a",
    "b",
    "c",
    "10.2.0.101:80",
    "10.2.0.102:80",
    "10.1.0.100:80",
    "10.1.0.101:53",
    "10.1.0.100:80/tcp",
    "10.1.0.1:80",
    "10.2.0.10:80",
    "10.2.0.101",
    "tcp",
    "udp",
    "rr",
    "wrr",
    "wlc",
    "sh",
    "default",
    "up",
    "draining",
    "down",
    "ESTABLISHED",
    "1s",
    "250ms",
    "7d",
    "0s",
    "reset",
    "silent",
    "drop",
    "",
    "\u{0}\n\"\\é",
    "client 10.1.0.0/16 drops",
    "service web proto tcp",
    "idle",
    "no-route",
];

struct NoPort;

impl PortStatus for NoPort {
    fn read(&self) -> PortReading {
        PortReading::default()
    }
}

/// The management loop in a thread of its own, and one that answers for the
/// workers.
fn start() -> Sender<Call> {
    let file = std::env::temp_dir().join(format!("fullgate-fuzz-{}.toml", std::process::id()));
    std::fs::write(&file, CONFIG).expect("write the configuration");
    let config = Config::load(&file).expect("valid").config;
    let reta = Reta::even(128, WORKERS as u8).expect("a table");
    let steering = Steering::new(DEFAULT_KEY, reta, SteeringMode::Software).expect("steering");
    let port = PortInfo::opened("wan", MacAddr([2, 0, 0, 0, 0, 1]), 1500);
    let (state, updates) =
        State::new(config, vec![port], Arc::new(steering), WORKERS, 7).expect("a state");
    let (links, mut workers): (Vec<Link>, Vec<WorkerLink>) = (Vec::new(), Vec::new());
    let mut links = links;
    let mut alive = Vec::new();
    for update in updates {
        let link = Link::new();
        let _ = link.replies.push(Reply::Applied(Box::new(update)));
        let stats = Arc::new(WorkerStats::new(1, 32, 8));
        let (worker, life) = WorkerLink::new(link.clone(), stats);
        workers.push(worker);
        links.push(link);
        alive.push(life);
    }
    std::thread::spawn(move || {
        let _alive = alive;
        let mut taps = Vec::new();
        loop {
            for link in &links {
                while let Some(command) = link.commands.pop() {
                    let reply = match command {
                        Command::Apply(mut update) => {
                            update.new_sets.clear();
                            Reply::Applied(update)
                        }
                        Command::Scan(scan) => Reply::Scanned(scan),
                        Command::Pools(scan) => Reply::Pools(scan),
                        Command::Neighbors(scan) => Reply::Neighbors(scan),
                        Command::LastDrops(scan) => Reply::LastDrops(scan),
                        Command::Explain(probe) => Reply::Explained(probe),
                        Command::Capture(tap) => {
                            let id = tap.id;
                            taps.push(tap);
                            Reply::Capturing(id)
                        }
                        Command::EndCapture(id) => {
                            let Some(at) = taps.iter().position(|tap| tap.id == id) else {
                                continue;
                            };
                            Reply::Captured(taps.swap_remove(at))
                        }
                        _ => continue,
                    };
                    let _ = link.replies.push(reply);
                }
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    let (sender, calls) = mpsc::channel();
    std::thread::spawn(move || {
        Management::new(Setup {
            state,
            workers,
            ports: vec![Arc::new(NoPort)],
            config_path: file,
            calls,
            signals: Signals::default(),
            supervisor: Supervisor::default(),
            metrics: metrics::Setup::default(),
            tsc: || 0,
            kernel: Kernel::none(),
            // What a request makes up must not be sent anything.
            checker: Box::new(|| Err(io::ErrorKind::Unsupported.into())),
        })
        .run()
    });
    sender
}

static CALLS: LazyLock<Mutex<Sender<Call>>> = LazyLock::new(|| Mutex::new(start()));

fn ask(request: rpc::Request) -> Outcome {
    let (reply, outcome) = mpsc::sync_channel(1);
    let calls = CALLS.lock().expect("the loop");
    calls.send(Call { request, reply }).expect("the loop runs");
    outcome.recv_timeout(PATIENCE).expect("an outcome")
}

/// What a client would get for a line.
fn line(text: &[u8]) {
    let (id, outcome) = match rpc::parse(text) {
        Ok(request) => (request.id.clone(), ask(request)),
        Err(refusal) => (refusal.id, Err(refusal.error)),
    };
    if let Err(error) = &outcome {
        assert!((-32_768..=-32_000).contains(&error.code), "{error:?}");
        assert!(!error.message.contains('\n'), "{error:?}");
    }
    let response = rpc::response(&id, &outcome);
    assert_eq!(response.matches('\n').count(), 1);
    let read = rpc::parse_response(&response).expect("a response");
    assert_eq!(read.is_ok(), outcome.is_ok());
}

/// A value out of a few bytes.
fn value(data: &mut std::slice::Iter<'_, u8>, depth: usize) -> Value {
    let mut next = || data.next().copied().unwrap_or(0);
    let text = |byte: u8| json!(TEXTS[usize::from(byte) % TEXTS.len()]);
    match next() {
        0..160 => text(next()),
        160..200 => json!(next()),
        200..210 => json!(i64::from(next()) - 128 << 20),
        210..215 => json!(f64::from(next()) * 1e300),
        215..220 => Value::Null,
        220..225 => json!(true),
        kind if depth < 3 => {
            let count = next() % 4;
            if kind < 240 {
                (0..count).map(|_| value(data, depth + 1)).collect()
            } else {
                Value::Object(object(data, usize::from(count), depth + 1))
            }
        }
        _ => json!([]),
    }
}

fn object(data: &mut std::slice::Iter<'_, u8>, count: usize, depth: usize) -> Map<String, Value> {
    (0..count)
        .map(|_| {
            let key = KEYS[usize::from(data.next().copied().unwrap_or(0)) % KEYS.len()];
            (key.to_owned(), value(data, depth))
        })
        .collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((&kind, rest)) = data.split_first() else {
        return;
    };
    if kind < 64 {
        for text in rest.split(|&byte| byte == b'\n') {
            line(text);
        }
    } else {
        let mut data = rest.iter();
        for _ in 0..4 {
            let Some(&method) = data.next() else { break };
            let method = METHODS[usize::from(method) % METHODS.len()];
            let count = usize::from(data.next().copied().unwrap_or(0)) % 7;
            let params = Value::Object(object(&mut data, count, 0));
            line(rpc::request(1, method, &params).trim_end().as_bytes());
        }
    }
    let config = ask(rpc::Request {
        id: Id::Number(1.into()),
        method: "config.get".into(),
        params: Map::new(),
    });
    let config = config.expect("the configuration in force");
    let text = config["toml"].as_str().expect("a text");
    let read = Config::parse("f", text).unwrap_or_else(|problem| panic!("{problem}\n{text}"));
    assert_eq!(read.config.to_toml(), text);
});
