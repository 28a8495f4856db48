//! Clients of the admin socket that mean no good: nothing they send changes
//! anything, keeps anybody else waiting, or costs memory without bound.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fullgate::api::METHODS;
use serde_json::{Value, json};

use super::{add, start_nginx};
use crate::Case;
use crate::harness::fullgate::Fullgate;
use crate::harness::http::Load;
use crate::harness::plan::{Kind, Plan, Protocol, Service};
use crate::harness::tcp::{LIMIT, NO_TIMER};
use crate::harness::topology::Lab;

/// What one hostile client may cost while it is there: a line of 1 MiB, read
/// and taken apart, and the memory that the allocator keeps of it.
const MEMORY: u64 = 64 << 20;

/// Longest that somebody else's request takes meanwhile.
const OTHERS: Duration = Duration::from_secs(10);

pub fn list(cases: &mut Vec<Case>) {
    let plans = [Plan::new(Kind::Fullgate)];
    add(cases, "hostile::malformed", &plans, malformed);
    add(cases, "hostile::endless", &plans, endless);
    add(cases, "hostile::floods", &plans, floods);
    add(cases, "hostile::thousand", &plans, thousand);
}

/// Runs `attack` on the admin socket while traffic passes; the configuration
/// is the same afterwards, and no request waited for a timer.
fn under_attack(plan: &Plan, attack: impl FnOnce(&Fullgate)) {
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1, 1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    let before = lab.fullgate().ctl(&["show", "config"]);
    let load = Load::start(lab.client(), plan.client(), web.vip(), 2);
    load.progress(10);
    attack(lab.fullgate());
    load.progress(10);
    let outcome = load.stop();
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    let slowest = outcome.answers.iter().map(|answer| answer.elapsed).max();
    println!("slowest of {} requests: {slowest:?}", outcome.answers.len());
    assert!(slowest.is_some_and(|slowest| slowest < NO_TIMER));
    lab.assert_nothing_lost();
    assert_eq!(lab.fullgate().ctl(&["show", "config"]), before);
}

fn connect(socket: &Path) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(socket).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream.set_write_timeout(Some(LIMIT)).expect("a limit");
    BufReader::new(stream)
}

/// The next response: it must be one, and of no more than a result or an error.
fn answer(client: &mut BufReader<UnixStream>) -> Result<Value, (i64, String)> {
    let mut line = String::new();
    client.read_line(&mut line).expect("a line");
    let response: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
    assert_eq!(response["jsonrpc"], "2.0", "{line}");
    match (response.get("result"), response.get("error")) {
        (Some(result), None) => Ok(result.clone()),
        (None, Some(error)) => Err((
            error["code"].as_i64().expect("a code"),
            error["message"].as_str().expect("a message").to_owned(),
        )),
        _ => panic!("neither result nor error: {line}"),
    }
}

/// Whoever else asks gets its answer.
fn others_are_served(gateway: &Fullgate) {
    let begun = Instant::now();
    let shown = gateway.ctl(&["show", "services"]);
    assert!(shown.contains("10.1.0.100:80"), "{shown}");
    let elapsed = begun.elapsed();
    assert!(elapsed < OTHERS, "fullgatectl took {elapsed:?}");
}

/// Every method with parameters of every wrong kind, and lines that are no
/// requests: each is answered with an error, on one connection.
fn malformed(plan: &Plan) {
    under_attack(plan, |gateway| {
        let mut client = connect(&gateway.config().socket);
        let mut refuse = |line: &str| {
            let stream = client.get_mut();
            stream.write_all(line.as_bytes()).expect("written");
            stream.write_all(b"\n").expect("written");
            let (code, message) = answer(&mut client).expect_err(line);
            assert!((-32_768..=-32_000).contains(&code), "{line}: {code}");
            assert!(!message.is_empty() && !message.contains('\n'), "{line}");
            assert!(message.len() <= 600, "{line}: {message}");
        };
        let deep = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
        for line in [
            "x",
            "{",
            "[]",
            "null",
            "\"\\ud800\"",
            "{}",
            "1e999",
            "[{}]",
            &deep,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":1}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"\u0000"}"#,
        ] {
            refuse(line);
        }
        let wrong = [
            json!([]),
            json!({"x": 1}),
            json!({"name": {"a": []}, "service": 7, "server": null, "path": 1, "limit": -1}),
            json!({"name": "", "service": "", "server": "", "path": "", "limit": 0}),
            json!({"name": "web\u{0}", "vip": "0.0.0.0:0", "service": "web", "server": "s9"}),
            json!({"path": "/dev/zero"}),
            json!({"path": "/"}),
            json!({"path": format!("/{}", "x".repeat(10_000))}),
            json!({"service": "web", "server": "s0", "weight": 1e300}),
            json!({"service": "web", "server": "s0", "deadline": "99999999999999999999d"}),
            json!({"name": "x".repeat(1 << 19)}),
        ];
        for method in METHODS {
            for params in &wrong {
                refuse(
                    &json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
                        .to_string(),
                );
            }
        }
        others_are_served(gateway);
    });
}

/// 1 GB without a newline, from four clients at once, is cut off early.
fn endless(plan: &Plan) {
    under_attack(plan, |gateway| {
        let before = gateway.resident();
        let most = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = connect(&gateway.config().socket);
                    let chunk = [b'x'; 1 << 16];
                    let mut sent = 0_u64;
                    while sent < 1 << 30 {
                        match client.get_mut().write(&chunk) {
                            Ok(count) => sent += count as u64,
                            Err(_) => break,
                        }
                    }
                    most.fetch_max(sent, Ordering::Relaxed);
                    // What it is told may be lost with what it sent in vain.
                    let mut rest = String::new();
                    let _ = client.read_to_string(&mut rest);
                    assert!(rest.is_empty() || rest.contains("longer than"), "{rest}");
                });
            }
        });
        let most = most.into_inner();
        assert!(most < 8 << 20, "{most} bytes went in");
        let grown = gateway.resident().saturating_sub(before);
        println!("at most {most} bytes went in; {grown} more resident");
        assert!(grown < MEMORY, "{grown} more bytes are resident");
        others_are_served(gateway);
    });
}

/// Requests without reading an answer, blank lines, requests as fast as they
/// are answered, and lines that never end, from many clients at a time.
fn floods(plan: &Plan) {
    under_attack(plan, |gateway| {
        let before = gateway.resident();
        let stop = AtomicBool::new(false);
        let list = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"drops.list\"}\n".repeat(100);
        let blank = "\n".repeat(5000);
        let mut highest = 0;
        thread::scope(|scope| {
            for text in [&list, &list, &blank, &blank] {
                scope.spawn(|| flood(gateway, text, false, &stop));
            }
            for _ in 0..4 {
                scope.spawn(|| flood(gateway, &list, true, &stop));
            }
            // Before an assertion leaves the scope: it waits for the floods.
            let stop = StopOnDrop(&stop);
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(5) {
                others_are_served(gateway);
                highest = highest.max(gateway.resident());
            }
            drop(stop);
        });
        let grown = highest.saturating_sub(before);
        println!("{grown} more bytes were resident");
        assert!(grown < MEMORY, "{grown} more bytes were resident");
    });
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes `text` again and again, and reads what comes if `listens`.
fn flood(gateway: &Fullgate, text: &str, listens: bool, stop: &AtomicBool) {
    let mut client = connect(&gateway.config().socket);
    let limit = Some(Duration::from_millis(200));
    client.get_mut().set_write_timeout(limit).expect("a limit");
    client.get_mut().set_read_timeout(limit).expect("a limit");
    let mut taken = [0; 1 << 16];
    while !stop.load(Ordering::Relaxed) {
        let _ = client.get_mut().write(text.as_bytes());
        if listens {
            let _ = client.get_mut().read(&mut taken);
        }
    }
}

/// A thousand clients at once: each is served or told that it is not. Then a
/// thousand that begin a request and say no more: others get their turn.
fn thousand(plan: &Plan) {
    under_attack(plan, |gateway| {
        let before = gateway.resident();
        let socket = &gateway.config().socket;
        let ping = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n";
        let mut clients: Vec<_> = (0..1000).map(|_| connect(socket)).collect();
        let (mut served, mut refused) = (0, 0);
        for client in &mut clients {
            // One that was turned away has its answer already.
            let _ = client.get_mut().write_all(ping);
        }
        for client in &mut clients {
            match answer(client) {
                Ok(result) => {
                    assert_eq!(result, "pong");
                    served += 1;
                }
                Err((code, message)) => {
                    assert_eq!(code, -32_001, "{message}");
                    refused += 1;
                }
            }
        }
        println!("{served} served, {refused} refused");
        assert!(served >= 64, "{served} served");
        drop(clients);

        let stalled: Vec<_> = (0..1000)
            .map(|_| {
                let mut client = connect(socket);
                let _ = client.get_mut().write_all(b"{\"jsonrpc\"");
                client
            })
            .collect();
        for _ in 0..5 {
            others_are_served(gateway);
        }
        let grown = gateway.resident().saturating_sub(before);
        println!("{grown} more bytes are resident");
        assert!(grown < MEMORY, "{grown} more bytes are resident");
        drop(stalled);
    });
}
