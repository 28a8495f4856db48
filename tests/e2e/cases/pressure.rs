//! Floods that fill the connection table or the local ports, beside honest
//! clients; and UDP servers that die.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use super::{add, start_nginx};
use crate::Case;
use crate::harness::echo::UdpServer;
use crate::harness::flood::{Floods, Kind as Flood, Target, Victims};
use crate::harness::http;
use crate::harness::netns::Netns;
use crate::harness::plan::{GATEWAY, Kind, Layout, Plan, Protocol, Service};
use crate::harness::process::{output_of, until};
use crate::harness::tcp::{self, NO_TIMER};
use crate::harness::topology::Lab;

/// Router of the floods' sources, which is the client's host.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);

/// How long honest clients ask beside a flood, and how often.
const SPELL: Duration = Duration::from_secs(8);
const PERIOD: Duration = Duration::from_millis(25);

pub fn list(cases: &mut Vec<Case>) {
    let routes = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"]
        .map(|to| format!("[[route]]\nto = \"{to}\"\nvia = \"{ROUTER}\"\n"));
    let small = Plan {
        servers: 2,
        connections: 4_096,
        local_addresses: 1,
        runtime: routes.concat(),
        ..Plan::new(Kind::Fullgate)
    };
    let few_ports = Plan {
        connections: 65_536,
        local_ports: 1024..=2047,
        ..small.clone()
    };
    add(cases, "pressure::udp_flood", &[small], udp_flood);
    add(cases, "pressure::syn_flood", &[few_ports], syn_flood);
    let two = Plan {
        servers: 2,
        layout: Layout::Apart,
        ..Plan::new(Kind::Fullgate)
    };
    let kernel = Plan {
        kernel_rate: Some(10_000),
        ..two.clone()
    };
    let plans = [two];
    add(cases, "pressure::dead_udp_server", &plans, dead_server);
    add(cases, "pressure::udp_machine_off", &plans, machine_off);
    add(cases, "pressure::udp_check", &[kernel], check);
}

/// Honest requests beside `kinds`, none of which fails or waits for a timer.
fn flood(plan: &Plan, kinds: &[(Flood, u32)], filled: &[&str]) {
    let service = |name, protocol, port| Service::new(plan, name, protocol, port, &[1, 1]);
    let web = service("web", Protocol::Tcp, 80);
    let dns = service("dns", Protocol::Udp, 53);
    let silent = service("silent", Protocol::Udp, 54);
    let mut lab = Lab::start(plan, &[web.clone(), dns.clone(), silent.clone()]);
    lab.client().ip(&[format!("addr add {ROUTER}/24 dev fg0")]);
    let _web = start_nginx(&lab, &web);
    let hosts = || [0, 1].into_iter();
    let _dns: Vec<UdpServer> = hosts()
        .map(|i| UdpServer::start(lab.server(i), dns.servers[i].address, "s"))
        .collect();
    let _silent: Vec<UdpSocket> = hosts()
        .map(|i| lab.server(i).udp(silent.servers[i].address))
        .collect();
    let ports = lab.fullgate().show("ports");
    let mac = ports["ports"][0]["mac"].as_str().expect("a MAC address");
    let mac: Vec<u8> = mac
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("hex"))
        .collect();
    let target = Target {
        mac: mac.try_into().expect("six bytes"),
        gateway: GATEWAY,
        tcp: web.vip(),
        udp: dns.vip(),
        silent: silent.vip(),
        victims: Victims::default(),
    };
    let floods = Floods::start(lab.client(), "fg0", target, kinds);
    let start = Instant::now();
    let mut requests = 0;
    while start.elapsed() < SPELL {
        let answer = lab
            .client()
            .run(|| http::one_shot(plan.client(), web.vip()));
        let answer = answer.unwrap_or_else(|error| panic!("request {requests}: {error}"));
        assert!(answer.elapsed < NO_TIMER, "request {requests}: {answer:?}");
        let asked = Instant::now();
        let answer = lab
            .client()
            .run(|| ask(&tcp::udp(plan.client(), dns.vip())));
        if let Err(error) = answer {
            let counters = |netns: &Netns| {
                let shown = output_of(netns, "sh", &["-c", "ip -s link; grep Udp: /proc/net/snmp"]);
                String::from_utf8_lossy(&shown.stdout).into_owned()
            };
            println!("{}{}", counters(lab.client()), counters(lab.server(0)));
            println!("{}", lab.fullgate().ctl(&["show", "drops"]));
            panic!("question {requests}: {error}");
        }
        assert!(asked.elapsed() < NO_TIMER, "question {requests}");
        requests += 1;
        std::thread::sleep(PERIOD);
    }
    println!("{requests} requests beside {:?}", floods.stop());
    let drops = lab.fullgate().ctl(&["show", "drops"]);
    println!("{drops}");
    for counter in filled {
        assert!(drops.contains(counter), "no {counter}: nothing was full");
    }
    for refusal in ["table-full", "no-local-port"] {
        assert!(!drops.contains(refusal), "{refusal}");
    }
}

/// One question and its answer.
fn ask(socket: &UdpSocket) -> std::io::Result<String> {
    socket.send(b"question")?;
    let mut answer = [0; 256];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn udp_flood(plan: &Plan) {
    let kinds = [(Flood::UdpSilent, 2_000), (Flood::UdpAnswered, 500)];
    flood(plan, &kinds, &["udp-evicted"]);
}

fn syn_flood(plan: &Plan) {
    flood(plan, &[(Flood::SynFar, 2_500)], &["half-open-port-taken"]);
}

/// A process dies: the flows that it had get their answers from the other
/// server, and so do new ones, each at its first try.
fn dead_server(plan: &Plan) {
    let dns = Service::new(plan, "dns", Protocol::Udp, 53, &[1, 1]);
    let lab = Lab::start(plan, std::slice::from_ref(&dns));
    let server =
        |i: usize| UdpServer::start(lab.server(i), dns.servers[i].address, ["s0", "s1"][i]);
    let (first, _second) = (server(0), server(1));
    let client = || lab.client().run(|| tcp::udp(plan.client(), dns.vip()));
    let flows: Vec<UdpSocket> = (0..8).map(|_| client()).collect();
    let answers: Vec<String> = flows.iter().map(|flow| ask(flow).expect("asked")).collect();
    assert!(answers.iter().any(|answer| answer.starts_with("s0 ")));
    drop(first);
    let start = Instant::now();
    for round in 0..5 {
        for flow in flows
            .iter()
            .chain(&(0..4).map(|_| client()).collect::<Vec<_>>())
        {
            let answer = ask(flow).unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert!(answer.starts_with("s1 "), "{answer}");
        }
    }
    assert!(start.elapsed() < NO_TIMER, "{:?}", start.elapsed());
}

/// A machine is switched off: when the gateway has asked for its MAC address in
/// vain, its flows go to the other one.
fn machine_off(plan: &Plan) {
    /// A new flow waits a second for its answer, then the server is asked for
    /// its MAC address for another.
    const NOTICED: Duration = Duration::from_secs(4);
    let dns = Service::new(plan, "dns", Protocol::Udp, 53, &[1, 1]);
    let lab = Lab::start(plan, std::slice::from_ref(&dns));
    let server =
        |i: usize| UdpServer::start(lab.server(i), dns.servers[i].address, ["s0", "s1"][i]);
    let _servers = [server(0), server(1)];
    let client = || {
        let socket = lab.client().run(|| tcp::udp(plan.client(), dns.vip()));
        let patience = Duration::from_millis(500);
        socket.set_read_timeout(Some(patience)).expect("a time-out");
        socket
    };
    let flows: Vec<UdpSocket> = (0..4).map(|_| client()).collect();
    for flow in &flows {
        ask(flow).expect("asked");
    }
    lab.server(0).ip(&["link set eth0 down"]);
    let start = Instant::now();
    let mut lost = 0;
    while start.elapsed() < NOTICED {
        for flow in flows.iter().chain([&client()]) {
            lost += u32::from(ask(flow).is_err());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("{lost} questions lost");
    for flow in flows
        .iter()
        .chain(&(0..8).map(|_| client()).collect::<Vec<_>>())
    {
        let answer = ask(flow).expect("an answer");
        assert!(answer.starts_with("s1 "), "{answer}");
    }
}

/// A check that expects no answer does not call a machine up that is off.
fn check(plan: &Plan) {
    let health = "[service.health]\ncheck = \"udp\"\ninterval = \"300ms\"\n\
                  rise = 1\nfall = 2\nstart = \"down\"\n";
    let mut dns = Service::new(plan, "dns", Protocol::Udp, 53, &[1, 1]).with(health);
    dns.servers[1].address = SocketAddrV4::new(Ipv4Addr::new(10, 2, 0, 222), 53);
    let mut lab = Lab::start(plan, std::slice::from_ref(&dns));
    let _server = UdpServer::start(lab.server(0), dns.servers[0].address, "s0");
    until(tcp::LIMIT, "the checks' verdicts", || {
        let health = lab.fullgate().show("health");
        let server = |i: usize| &health["services"][0]["servers"][i]["health"];
        let silent = server(1)["reason"] == "no answer to ARP" && server(1)["up"] == false;
        (server(0)["up"] == true && silent).then_some(())
    });
    for _ in 0..4 {
        let answer = lab
            .client()
            .run(|| ask(&tcp::udp(plan.client(), dns.vip())));
        assert!(answer.expect("an answer").starts_with("s0 "));
    }
}
