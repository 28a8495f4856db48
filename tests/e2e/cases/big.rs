//! A configuration of 20,000 services with 100,000 servers: it loads, reloads
//! and is shown while requests pass, and none of them waits for that.

use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{add, start_nginx};
use crate::Case;
use crate::harness::fullgate::Fullgate;
use crate::harness::http::{Client, Load};
use crate::harness::plan::{Kind, Plan, Protocol, Service};
use crate::harness::topology::Lab;

const SERVICES: usize = 20_000;
const SERVERS: usize = 5;

/// Servers of one more service, whose table of source hashes takes longest.
const HASHED: usize = 1_000;

/// No request may take longer.
const SLOW: Duration = Duration::from_millis(200);

/// What an operator would call seconds, on a machine with other things to do.
const SECONDS: Duration = Duration::from_secs(30);

pub fn list(cases: &mut Vec<Case>) {
    let plan = Plan {
        workers: 2,
        local_addresses: 1,
        runtime: "max-services = 40_000\nmax-servers = 220_000\n".to_owned(),
        ..Plan::new(Kind::Fullgate)
    };
    add(cases, "big::twenty_thousand_services", &[plan], big);
}

fn big(plan: &Plan) {
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1, 1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    let gateway_file = lab.fullgate().config().file.clone();
    let head = lab.fullgate().config().text(std::slice::from_ref(&web));
    let head = head + "[[route]]\nto = \"10.64.0.0/10\"\nvia = \"10.2.0.101\"\n";
    let write = |text: &str| fs::write(&gateway_file, text).expect("write the configuration");

    let load = Load::start(lab.client(), plan.client(), web.vip(), 2);
    let mut held = lab
        .client()
        .run(|| Client::connect(plan.client(), web.vip()))
        .expect("a connection to keep");
    let done = AtomicBool::new(false);
    let gateway = lab.fullgate();
    let slowest = std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let answer = held.get(true).expect("a request");
                slowest = slowest.max(answer.elapsed);
                std::thread::sleep(Duration::from_millis(1));
            }
            slowest
        });
        let done = StopOnDrop(&done);
        let path = gateway_file.to_str().expect("a path of text");
        let first = services(&head, 1);
        write(&first);
        ctl(gateway, &["check", path]);
        ctl(gateway, &["reload"]);
        ctl(gateway, &["reload"]);
        let shown = ctl(gateway, &["show", "services"]);
        let rows = shown.lines().filter(|line| line.starts_with("  ->"));
        assert_eq!(rows.count(), 1 + SERVICES * SERVERS + HASHED + 3, "rows");
        ctl(gateway, &["show", "pools"]);
        // Every weight but one in nine.
        write(&services(&head, 2));
        let differences = ctl(gateway, &["diff", path]);
        let changed = differences.lines().filter(|line| line.starts_with("~ "));
        assert!(changed.count() > SERVICES * SERVERS / 2);
        ctl(gateway, &["reload"]);
        assert_eq!(ctl(gateway, &["diff", path]), "no differences\n");
        ctl(
            gateway,
            &["server", "edit", "service-7", "server-36", "--weight", "5"],
        );
        ctl(
            gateway,
            &["service", "edit", "hashed", "--scheduler", "wrr"],
        );
        ctl(gateway, &["service", "edit", "hashed", "--scheduler", "sh"]);
        ctl(gateway, &["save"]);
        assert_eq!(ctl(gateway, &["diff", path]), "no differences\n");
        println!("  resident: {} MB", gateway.resident() >> 20);
        write(&head);
        ctl(gateway, &["reload"]);
        // The slots and local ports are given back meanwhile.
        std::thread::sleep(Duration::from_secs(5));
        drop(done);
        user.join().expect("whoever uses the held connection")
    });
    let outcome = load.stop();
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    let new = outcome.answers.iter().map(|answer| answer.elapsed).max();
    println!(
        "  slowest request: {slowest:?} on a held connection, {new:?} of {} on new ones",
        outcome.answers.len()
    );
    assert!(slowest < SLOW && new.is_some_and(|new| new < SLOW));
    lab.assert_nothing_lost();
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `fullgatectl` and prints how long it took.
fn ctl(gateway: &Fullgate, arguments: &[&str]) -> String {
    let begun = Instant::now();
    let said = gateway.ctl(arguments);
    let elapsed = begun.elapsed();
    println!(
        "{:>8.0} ms  {}",
        elapsed.as_secs_f64() * 1e3,
        arguments[..arguments.len().min(2)].join(" ")
    );
    assert!(elapsed < SECONDS, "{arguments:?} took {elapsed:?}");
    said
}

/// The configuration with all the services; `round` decides about weights.
fn services(head: &str, round: usize) -> String {
    let mut text = head.to_owned();
    let mut add = |name: &str, vip: &str, scheduler: &str, servers: std::ops::Range<usize>| {
        write!(
            text,
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nscheduler = \"{scheduler}\"\n"
        )
        .expect("write to a string");
        for server in servers {
            write!(
                text,
                "[[service.server]]\nname = \"server-{server}\"\naddress = \"10.{}.{}.{}:80\"\n\
                 weight = {}\n",
                64 + server / 65536,
                server / 256 % 256,
                server % 256,
                1 + server * round % 9
            )
            .expect("write to a string");
        }
    };
    for service in 0..SERVICES {
        let (vip, port) = (service / 200, 1000 + service % 200);
        add(
            &format!("service-{service}"),
            &format!("198.18.0.{vip}:{port}"),
            ["wrr", "rr", "wlc", "sh"][service % 4],
            service * SERVERS..(service + 1) * SERVERS,
        );
    }
    let all = SERVICES * SERVERS;
    add("hashed", "198.18.1.1:80", "sh", all..all + HASHED);
    text
}
