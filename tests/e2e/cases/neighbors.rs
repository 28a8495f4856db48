//! Next hops and ARP: what strangers on the network can't do to others, and how
//! soon a host that moved, or a gateway that came back, is found.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{add, fullgate, start_nginx};
use crate::Case;
use crate::harness::flood;
use crate::harness::http::{Client, one_shot};
use crate::harness::netns::Netns;
use crate::harness::plan::{Kind, Plan, Protocol, Service, VIP};
use crate::harness::raw::{self, Raw};
use crate::harness::tcp::NO_TIMER;
use crate::harness::topology::Lab;

/// Long enough for all announcements of a start.
const ANNOUNCED: Duration = Duration::from_secs(4);

pub fn list(cases: &mut Vec<Case>) {
    let wide = |plan: Plan| Plan { prefix: 16, ..plan };
    add(
        cases,
        "neighbors::strangers",
        &fullgate().map(wide),
        strangers,
    );
    add(
        cases,
        "neighbors::unasked_answers",
        &fullgate().map(wide),
        unasked_answers,
    );
    let plan = [Plan::new(Kind::Fullgate)];
    add(cases, "neighbors::server_moves", &plan, server_moves);
    add(cases, "neighbors::silent_move", &plan, silent_move);
    add(cases, "neighbors::flap", &plan, flap);
    add(cases, "neighbors::takeover", &plan, takeover);
}

fn web(plan: &Plan) -> Service {
    Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1])
}

fn ask(netns: &Netns, source: Ipv4Addr, service: &Service) {
    let target = service.vip();
    let answer = netns.run(|| one_shot(source, target)).expect("an answer");
    println!("{source}: {:?}", answer.elapsed);
    assert!(answer.elapsed < NO_TIMER, "{source}: {:?}", answer.elapsed);
}

/// Address `n` that nobody has, on the clients' network.
fn unused(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 16, 0)) + n)
}

/// 4,200 SYNs in the name of hosts that are not there; then a client that never
/// was here, and a server that is new, are served at once.
fn strangers(plan: &Plan) {
    let service = web(plan);
    let mut only_first = service.clone();
    only_first.servers.truncate(1);
    let mut lab = Lab::start(plan, std::slice::from_ref(&only_first));
    let _servers = start_nginx(&lab, &service);
    let newcomers: Vec<_> = (0..40).map(|n| Ipv4Addr::new(10, 1, 1, 1 + n)).collect();
    let addresses = newcomers
        .iter()
        .map(|it| format!("addr add {it}/16 dev fg0"));
    lab.client().ip(&addresses.collect::<Vec<_>>());
    for batch in 0..60 {
        let segments: Vec<_> = (0..70)
            .map(|n| Raw {
                source: SocketAddrV4::new(unused(batch * 70 + n), 1_024 + n as u16),
                destination: service.vip(),
                flags: "S",
                sequence: n,
                acknowledgment: 0,
                payload: b"",
            })
            .collect();
        raw::send(lab.client(), &segments);
        if batch % 2 == 1 {
            ask(lab.client(), newcomers[batch as usize / 2], &service);
        }
        thread::sleep(Duration::from_millis(10));
    }
    let mut only_second = service.clone();
    only_second.servers.remove(0);
    lab.gateway().apply(&[only_second]);
    for newcomer in &newcomers[30..] {
        ask(lab.client(), *newcomer, &service);
    }
    let shown = lab.fullgate().ctl(&["show", "neighbors"]);
    let server = plan.server(1).to_string();
    let row = shown.lines().find(|line| line.contains(&server));
    let row = row.unwrap_or_else(|| panic!("no {server} in\n{shown}"));
    assert!(row.contains("known") && row.contains("configured"), "{row}");
}

/// An ARP answer of `sender` to the gateway.
fn answer(sender: Ipv4Addr, mac: [u8; 6], gateway: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60);
    frame.extend(gateway);
    frame.extend([2, 0xf0, 0, 0, 0, 0]);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend(gateway);
    frame.extend(Ipv4Addr::new(10, 1, 0, 1).octets());
    frame.resize(60, 0);
    frame
}

/// The MAC address of the gateway's first port.
fn port_mac(lab: &mut Lab) -> [u8; 6] {
    let ports = lab.fullgate().show("ports");
    let text = ports["ports"][0]["mac"].as_str().expect("a MAC").to_owned();
    let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Result<Vec<u8>, _> = bytes.collect();
    bytes.expect("hexadecimal").try_into().expect("six bytes")
}

fn event(lab: &mut Lab, name: &str) -> u64 {
    let drops = lab.fullgate().show("drops");
    let events = drops["events"].as_array().expect("a list").iter();
    let mut found = events.filter(|row| row["event"] == name);
    found
        .next()
        .map_or(0, |row| row["count"].as_u64().expect("a count"))
}

/// Answers that nobody asked for, on and off the link, and impossible ones.
fn unasked_answers(plan: &Plan) {
    const ANSWERS: u32 = 150_000;
    let service = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let _servers = start_nginx(&lab, &service);
    ask(lab.client(), plan.client(), &service);
    let gateway = port_mac(&mut lab);
    let before = lab.fullgate().resident();
    let received = |lab: &mut Lab| -> u64 {
        let ports = lab.fullgate().show("ports");
        ports["ports"][0]["rx_packets"].as_u64().expect("a count")
    };
    let packets = received(&mut lab);
    lab.client().run(|| {
        let device = flood::open("fg0");
        for n in 0..ANSWERS {
            let sender = match n % 3 {
                0 => unused(n % 50_000),
                1 => Ipv4Addr::from(0xc000_0200 + n),
                _ => Ipv4Addr::new(10, 1, 0, 1),
            };
            let mac = match n % 4 {
                0 => [0xff; 6],
                _ => [2, 0xee, 0, (n >> 16) as u8, (n >> 8) as u8, n as u8],
            };
            flood::put(&device, &answer(sender, mac, gateway));
            if n % 500 == 0 {
                thread::sleep(Duration::from_millis(10));
            }
        }
    });
    let arrived = received(&mut lab) - packets;
    println!("{arrived} of {ANSWERS} arrived");
    assert!(arrived > u64::from(ANSWERS) / 2, "{arrived}");
    let begun = Instant::now();
    let list = lab.fullgate().show("neighbors");
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let rows = list["neighbors"].as_array().expect("a list").len();
    assert!(rows < 16, "{list}");
    let grown = lab.fullgate().resident().saturating_sub(before);
    assert!(grown < 3 << 20, "{grown} bytes more");
    // Our own address was claimed, too: told, counted and answered.
    assert!(event(&mut lab, "address-claimed") > 10_000);
    let log = lab.fullgate().output();
    let lines = log.matches("claims 10.1.0.1").count();
    assert!((1..10).contains(&lines), "{lines} lines");
    ask(lab.client(), plan.client(), &service);
}

/// A server gets another MAC address and says nothing.
fn server_moves(plan: &Plan) {
    let service = web(plan);
    let lab = Lab::start(plan, std::slice::from_ref(&service));
    let _servers = start_nginx(&lab, &service);
    let source = plan.client();
    let mut client = lab
        .client()
        .run(|| Client::connect(source, service.vip()))
        .expect("connected");
    client.get(true).expect("an answer");
    let begun = Instant::now();
    lab.server(0)
        .ip(&["link set fg1 address 02:f0:00:00:00:77"]);
    client.get(true).expect("an answer");
    let elapsed = begun.elapsed();
    println!("found after {elapsed:?}");
    // It is confirmed every 5 s, and the client's own repetitions are up to
    // twice that apart by then.
    assert!(elapsed < Duration::from_secs(12), "{elapsed:?}");
    ask(lab.client(), source, &service);
}

/// The only server takes another MAC address and tells nobody: the next client's
/// SYN goes to the old one, and to the new one as soon as that is known.
fn silent_move(plan: &Plan) {
    let service = Service::new(plan, "web", Protocol::Tcp, 80, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let _servers = start_nginx(&lab, &service);
    ask(lab.client(), plan.client(), &service);
    // Whoever was heard within the last second is not doubted.
    thread::sleep(Duration::from_millis(1200));
    lab.server(0)
        .ip(&["link set fg1 address 02:f0:00:00:00:77"]);
    ask(lab.client(), plan.client(), &service);
    assert_eq!(event(&mut lab, "syn-resent"), 1);
}

/// What the client's kernel has for the VIP.
fn known(lab: &Lab) -> String {
    let name = lab.client().name();
    let arguments = ["-n", name, "neigh", "show", "to", &VIP.to_string()];
    let output = std::process::Command::new("ip").args(arguments).output();
    String::from_utf8_lossy(&output.expect("start ip").stdout).into_owned()
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Waits until the client has the gateway's MAC for the VIP.
fn wait_until_known(lab: &Lab, mac: &str, limit: Duration) {
    let begun = Instant::now();
    while !known(lab).contains(mac) {
        assert!(begun.elapsed() < limit, "{:?} for {mac}", known(lab));
        thread::sleep(Duration::from_millis(20));
    }
    println!("known after {:?}", begun.elapsed());
}

/// The link goes and comes: the client hears of the VIP without asking.
fn flap(plan: &Plan) {
    let service = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let _servers = start_nginx(&lab, &service);
    let mac = mac_text(port_mac(&mut lab));
    lab.client().sysctl("net/ipv4/conf/fg0/arp_accept", "1");
    thread::sleep(ANNOUNCED);
    lab.client().ip(&["link set fg0 down"]);
    thread::sleep(Duration::from_secs(1));
    lab.client().ip(&["neigh flush dev fg0"]);
    assert!(!known(&lab).contains(&mac), "{}", known(&lab));
    lab.client()
        .ip(&["link set fg0 up", "route replace default via 10.1.0.1"]);
    wait_until_known(&lab, &mac, Duration::from_secs(3));
    ask(lab.client(), plan.client(), &service);
    let log = lab.fullgate().output();
    assert!(log.contains("port wan: the link is down"), "{log}");
    assert!(log.contains("port wan: the link is up again"), "{log}");
    let shown = lab.fullgate().ctl(&["show", "ports"]);
    assert!(shown.contains("(was down once)"), "{shown}");
}

/// The client has another gateway's MAC for the VIP, until this one announces.
fn takeover(plan: &Plan) {
    let service = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let _servers = start_nginx(&lab, &service);
    let mac = mac_text(port_mac(&mut lab));
    thread::sleep(ANNOUNCED);
    lab.client().ip(&[format!(
        "neigh replace {VIP} lladdr 02:00:00:00:00:55 dev fg0 nud reachable"
    )]);
    let said = lab.fullgate().ctl(&["announce"]);
    assert!(said.contains("addresses"), "{said}");
    // The kernel holds on to an address that it has heard less than a second ago
    // (locktime, arp(7)); it is announced more than once.
    wait_until_known(&lab, &mac, Duration::from_secs(3));
    ask(lab.client(), plan.client(), &service);
    let rows: Value = lab.fullgate().show("neighbors");
    assert!(rows["neighbors"].is_array());
}
