//! Reloads while connections are held: whoever is not concerned by one does not
//! notice it.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{add, fullgate, start_nginx};
use crate::Case;
use crate::harness::http::{self, Answer, Client, Load};
use crate::harness::machine;
use crate::harness::nginx::Nginx;
use crate::harness::plan::{Plan, Protocol, Service};
use crate::harness::topology::Lab;

const HELD: usize = 10_000;
const RELOADS: usize = 100;

/// No request may take longer.
const SLOW: Duration = Duration::from_millis(200);

pub fn list(cases: &mut Vec<Case>) {
    add(
        cases,
        "reload::ten_thousand_held",
        &fullgate(),
        ten_thousand_held,
    );
}

/// 10,000 connections are held and used in turn, and new ones are made, while
/// other services come, go and change. Each held one answers afterwards, from
/// the server it was with and with the local port it had.
fn ten_thousand_held(plan: &Plan) {
    machine::raise_file_limit(20_000);
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1, 1]);
    let others = Others::new(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    let _others = others.start(&lab);
    let mut held: Vec<Client> = lab.client().run(|| {
        let connect = |_| Client::connect(plan.client(), web.vip()).expect("connect");
        (0..HELD).map(connect).collect()
    });
    let mut slowest = Slowest::default();
    let before = ask_all(&mut held, &mut slowest);

    let load = Load::start(lab.client(), plan.client(), web.vip(), 2);
    let done = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let (held, slowest, done) = (&mut held, &mut slowest, &done);
        let user = scope.spawn(move || {
            let mut requests = 0;
            while !done.load(Ordering::Relaxed) {
                for client in held.chunks_mut(16).step_by(25).flatten() {
                    slowest.note("held", client.get(true).expect("a request").elapsed);
                    requests += 1;
                }
            }
            requests
        });
        for number in 0..RELOADS {
            let services = others.at(number, &web);
            lab.gateway().apply(&services);
            for other in &services[1..] {
                let vip = other.vip();
                let answer = lab.client().run(|| http::one_shot(plan.client(), vip));
                let answer = answer.unwrap_or_else(|error| panic!("reload {number}: {error}"));
                assert!(answer.elapsed < SLOW, "{}: {:?}", vip, answer.elapsed);
            }
        }
        done.store(true, Ordering::Relaxed);
        user.join().expect("whoever uses the held connections")
    });
    let outcome = load.stop();
    assert!(
        outcome.failures.is_empty(),
        "{} new connections failed, the first: {}",
        outcome.failures.len(),
        outcome.failures[0]
    );
    for answer in &outcome.answers {
        slowest.note("new", answer.elapsed);
    }
    assert!(rounds > RELOADS, "{rounds} requests on held connections");
    assert!(outcome.answers.len() > RELOADS);

    let after = ask_all(&mut held, &mut slowest);
    assert!(before == after, "a connection changed its server or port");
    println!(
        "{RELOADS} reloads, {HELD} held, {rounds} requests on them and {} new ones: slowest {:?}",
        outcome.answers.len(),
        slowest.0
    );
    slowest.check();
    lab.assert_nothing_lost();
}

/// The longest that each kind of request took.
#[derive(Default)]
struct Slowest(HashMap<&'static str, Duration>);

impl Slowest {
    fn note(&mut self, kind: &'static str, elapsed: Duration) {
        let longest = self.0.entry(kind).or_default();
        *longest = elapsed.max(*longest);
    }

    fn check(&self) {
        assert!(self.0.values().all(|&time| time < SLOW), "{:?}", self.0);
    }
}

/// A request on each: who answered, and whom it saw.
fn ask_all(clients: &mut [Client], slowest: &mut Slowest) -> Vec<(String, SocketAddrV4)> {
    let noted = |answer: Answer| {
        slowest.note("wave", answer.elapsed);
        (answer.server, answer.peer)
    };
    http::ask_in_waves(clients).into_iter().map(noted).collect()
}

/// The services that change: one comes and goes, one has other servers,
/// weights and timeouts every time.
struct Others {
    passing: Service,
    changing: Service,
}

impl Others {
    fn new(plan: &Plan) -> Self {
        let named = |service: Service, prefix: &str| {
            let mut service = service;
            for (index, server) in service.servers.iter_mut().enumerate() {
                server.name = format!("{prefix}{index}");
            }
            service
        };
        let passing = Service::new(plan, "passing", Protocol::Tcp, 8080, &[1]);
        let changing = Service::new(plan, "changing", Protocol::Tcp, 8081, &[1, 1, 1]);
        Self {
            passing: named(passing, "p"),
            changing: named(changing, "c"),
        }
    }

    fn start(&self, lab: &Lab) -> Vec<Nginx> {
        let services = [&self.passing, &self.changing];
        let servers = services.into_iter().flat_map(|service| {
            let servers = service.servers.iter().enumerate();
            servers.map(|(index, server)| {
                let netns = lab.server(index);
                Nginx::start(netns, lab.directory(), &server.name, server.address)
            })
        });
        servers.collect()
    }

    /// All services of reload `number`.
    fn at(&self, number: usize, web: &Service) -> Vec<Service> {
        let mut changing = self.changing.clone();
        changing.servers.rotate_left(number % 3);
        changing.servers.truncate(1 + number % 3);
        for (index, server) in changing.servers.iter_mut().enumerate() {
            server.weight = 1 + (number * 7 + index) as u32 % 10;
        }
        changing.keys = format!("timeouts = {{ established = \"{}s\" }}\n", 60 + number);
        let mut services = vec![web.clone(), changing];
        if number.is_multiple_of(2) {
            services.push(self.passing.clone());
        }
        services
    }
}
