//! VIPs that fullgate has a real BIRD announce: while there is a usable server,
//! and from two gateways at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Case;
use crate::harness::fabric::{CLIENT, Fabric, VIP};
use crate::harness::http;
use crate::harness::machine::Need;
use crate::harness::process::until;
use crate::harness::tcp::LIMIT;

/// Longest that a request may take while all is well.
const PROMPT: Duration = Duration::from_millis(200);

pub fn list(cases: &mut Vec<Case>) {
    let mut add = |name: &str, body: fn()| {
        let needs = [
            Need::Root,
            Need::Tun,
            Need::Multipath,
            Need::Tool("ip"),
            Need::Tool("setpriv"),
            Need::Tool("nginx"),
            Need::Tool("bird"),
        ];
        cases.push(Case {
            name: format!("announce::{name}/fullgate"),
            needs: needs.into(),
            body: Box::new(body),
        });
    };
    add("follows_the_servers", follows_the_servers);
    add("follows_health_checks", follows_health_checks);
    add("comes_and_goes", comes_and_goes);
    add("one_of_two_stops", one_of_two_stops);
    add("one_of_two_dies", one_of_two_dies);
}

fn request(fabric: &Fabric) {
    let answer = fabric.client.run(|| http::one_shot(CLIENT, VIP));
    let answer = answer.expect("a request through router and gateway");
    assert!(answer.elapsed < PROMPT, "{:?}", answer.elapsed);
}

/// The router has a route to the VIP exactly while a server is usable.
fn follows_the_servers() {
    let fabric = Fabric::start(1);
    let gateway = &fabric.gateways[0];
    let there = [gateway.address];
    let ctl = |arguments: &[&str]| gateway.fullgate.ctl(arguments);
    let weigh = |server: &str, weight: &str| {
        ctl(&["server", "edit", "web", server, "--weight", weight]);
    };
    request(&fabric);
    let answered = gateway.fullgate.show("services");
    assert_eq!(answered["services"][0]["announced"], true);

    weigh("s0", "0");
    request(&fabric);
    assert_eq!(fabric.next_hops(), there, "one server is left");
    weigh("s1", "0");
    fabric.until_next_hops(&[]);
    assert!(!gateway.has_route());
    let answered = gateway.fullgate.show("services");
    assert_eq!(answered["services"][0]["announced"], false);
    weigh("s0", "1");
    fabric.until_next_hops(&there);
    request(&fabric);

    // By the socket: the command waits for the end of its connections.
    let drained = json!({"service": "web", "server": "s0"});
    let drained = gateway.fullgate.call("server.drain", drained);
    drained.expect("a drain");
    fabric.until_next_hops(&[]);
    weigh("s1", "1");
    fabric.until_next_hops(&there);
    request(&fabric);
    ctl(&["server", "edit", "web", "s1", "--state", "down"]);
    fabric.until_next_hops(&[]);
    ctl(&["server", "edit", "web", "s1", "--state", "up"]);
    fabric.until_next_hops(&there);
    ctl(&["service", "del", "web"]);
    fabric.until_next_hops(&[]);
    assert!(!gateway.has_route());
}

/// The same where health checks say so, which go by the kernel's interface
/// behind the port to the servers.
fn follows_health_checks() {
    let mut fabric = Fabric::start(1);
    let there = [fabric.gateways[0].address];
    fabric.stop_servers();
    fabric.until_next_hops(&[]);
    let gateway = &fabric.gateways[0].fullgate;
    let answered = gateway.show("services");
    assert_eq!(answered["services"][0]["announced"], false);
    let checked = gateway.show("ports");
    let through = checked["ports"][1]["kernel"]["to_kernel"].as_u64();
    assert!(through > Some(0), "{checked}");
    fabric.start_servers();
    fabric.until_next_hops(&there);
    request(&fabric);
}

/// The route comes back after the interface was down, is withdrawn before the
/// gateway stops, and does not outlive one that is killed.
fn comes_and_goes() {
    let mut fabric = Fabric::start(1);
    let there = [fabric.gateways[0].address];
    let netns = fabric.gateways[0].fullgate.netns();
    // Only BFD tells the router of a gateway that can't say so itself.
    fabric.until_bfd(1);
    netns.ip(&["link set fgwan down"]);
    fabric.until_next_hops(&[]);
    netns.ip(&["link set fgwan up"]);
    fabric.until_next_hops(&there);
    request(&fabric);

    fabric.gateways[0].fullgate.ask_to_stop();
    fabric.until_next_hops(&[]);
    // Within the grace: the interface is still there, the route is not.
    assert!(!fabric.gateways[0].has_route());
    let gateway = &mut fabric.gateways[0].fullgate;
    gateway.netns().ip(&["link set fgwan up"]);
    let status = gateway.ended();
    assert!(status.success(), "{status}: {}", gateway.output());

    fabric.start_again(0);
    fabric.until_next_hops(&there);
    request(&fabric);
    fabric.until_bfd(1);
    fabric.gateways[0].fullgate.kill();
    assert!(!fabric.gateways[0].has_route());
    fabric.until_next_hops(&[]);
}

/// A request of the load.
struct Request {
    begun: Instant,
    took: Duration,
    error: Option<String>,
}

/// Clients that send one request after the other.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Request>>>,
}

impl Load {
    fn start(fabric: &Fabric, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let stop = Arc::clone(&stop);
            fabric.client.spawn(move || {
                let mut requests = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let answer = http::one_shot(CLIENT, VIP);
                    requests.push(Request {
                        begun,
                        took: begun.elapsed(),
                        error: answer.err().map(|error| error.to_string()),
                    });
                }
                requests
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, clients }
    }

    fn stop(self) -> Vec<Request> {
        self.stop.store(true, Ordering::Relaxed);
        let clients = self.clients.into_iter();
        clients
            .flat_map(|client| client.join().expect("the clients"))
            .collect()
    }
}

/// Connections that the gateway has scheduled.
fn connections(fabric: &Fabric, gateway: usize) -> u64 {
    let services = fabric.gateways[gateway].fullgate.show("services");
    let servers = services["services"][0]["servers"].as_array();
    let counts = servers.into_iter().flatten();
    counts.filter_map(|s| s["connections"].as_u64()).sum()
}

/// A load that both gateways get a share of.
fn load_over_both(fabric: &Fabric) -> Load {
    let load = Load::start(fabric, CLIENTS);
    until(LIMIT, "flows over both gateways", || {
        ((0..2).all(|gateway| connections(fabric, gateway) >= 50)).then_some(())
    });
    load
}

const CLIENTS: usize = 4;

/// Requires every request that began from `settled` on to be prompt; returns
/// how many of those before failed or were not, of those since `event`.
fn judge(requests: &[Request], event: Instant, settled: Instant) -> usize {
    let is_bad = |request: &&Request| request.error.is_some() || request.took >= PROMPT;
    let bad = |request: &Request| format!("{:?} {:?}", request.took, request.error);
    let since = |from: Instant| requests.iter().filter(move |request| request.begun >= from);
    let late: Vec<String> = since(settled).filter(is_bad).map(bad).collect();
    assert!(late.is_empty(), "after the other took over: {late:?}");
    assert!(since(settled).count() > 100);
    let before = requests
        .iter()
        .filter(|request| request.begun + request.took < event);
    assert_eq!(before.filter(is_bad).count(), 0, "before");
    let between = requests
        .iter()
        .filter(|request| request.begun < settled && request.begun + request.took >= event);
    between.filter(is_bad).count()
}

/// One of two gateways is stopped: the router turns to the other before it
/// ends. Only what was under way through it at that moment is lost.
fn one_of_two_stops() {
    let mut fabric = Fabric::start(2);
    let left = fabric.gateways[1].address;
    let load = load_over_both(&fabric);
    let event = Instant::now();
    fabric.gateways[0].fullgate.ask_to_stop();
    fabric.until_next_hops(&[left]);
    let settled = Instant::now();
    let status = fabric.gateways[0].fullgate.ended();
    assert!(status.success(), "{status}");
    until_over_the_other(&fabric);
    let requests = load.stop();
    let lost = judge(&requests, event, settled);
    eprintln!(
        "the router turned away after {:?}; {lost} of the {CLIENTS} requests under way then were lost",
        settled - event
    );
    assert!(lost <= CLIENTS, "{lost} were lost");
}

/// Waits until the gateway that is left has got a good many connections more.
fn until_over_the_other(fabric: &Fabric) {
    let before = connections(fabric, 1);
    until(LIMIT, "flows over the other", || {
        (connections(fabric, 1) >= before + 500).then_some(())
    });
}

/// One of two gateways is killed: BFD finds out.
fn one_of_two_dies() {
    let mut fabric = Fabric::start(2);
    let left = fabric.gateways[1].address;
    fabric.until_bfd(2);
    let load = load_over_both(&fabric);
    let event = Instant::now();
    fabric.gateways[0].fullgate.kill();
    fabric.until_next_hops(&[left]);
    let settled = Instant::now();
    until_over_the_other(&fabric);
    let requests = load.stop();
    let lost = judge(&requests, event, settled);
    let gap = settled - event;
    eprintln!(
        "the router turned away after {gap:?}; {lost} requests failed or took over {PROMPT:?}"
    );
    // Without BFD it would be BGP's hold time, four minutes.
    assert!(gap < Duration::from_secs(3), "{gap:?}");
}
