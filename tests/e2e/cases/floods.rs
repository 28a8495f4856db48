//! Floods beside honest clients: whatever hostile hosts send, no honest request
//! fails or waits, and no established connection is lost.
//!
//! Three spells, with the same honest clients in each: frames for another host
//! at the rate of all floods (what the way into the gateway costs by itself),
//! the floods, and peace after them. Table, port sets and networks are sized so
//! that each flood fills what it can fill within seconds.
//!
//! `floods::short` belongs to the suite; where `FULLGATE_SOAK_FLOODS` says for
//! how many minutes, it runs for so long: `scripts/soak floods`.
//! `FULLGATE_FLOODS=NAME,…` lets in only some floods, and
//! `FULLGATE_FLOOD_RATE=PERCENT` changes the rate of all.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{add, start_nginx};
use crate::Case;
use crate::harness::echo::{TcpServer, UdpServer};
use crate::harness::flood::{Floods, Kind as Flood, Sent, Target, Victims};
use crate::harness::fullgate::{Fullgate, ask};
use crate::harness::honest::{self, Crowd, Order, Record, Sources};
use crate::harness::netns::Netns;
use crate::harness::plan::{GATEWAY, Kind, Plan, Protocol, Service};
use crate::harness::slow::Slow;
use crate::harness::topology::Lab;

/// Nothing an honest client waits for may take longer.
const SLOW: Duration = Duration::from_millis(200);

/// The same of metrics and admin socket: whoever keeps a place there may have it
/// for two seconds before the next client gets it.
const SLOW_PLACE: Duration = Duration::from_secs(3);

/// A spell in which some worker had no core for more than one part in so many of
/// the time says nothing about who kept clients waiting, in the suite.
const STARVED: u32 = 10;

/// Room for frames in the queue of the client's device. A gateway that does not
/// get a core for a while has its frames wait there; it is not what is tested.
const QUEUE: u32 = 20_000;

/// Router of what is not on the client's network, which is the client's host.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 254);

/// Honest clients on the link that come once, and behind the router.
const NEW: (Ipv4Addr, u32) = (Ipv4Addr::new(10, 1, 1, 0), 3 * 256);
const FAR: (Ipv4Addr, u32) = (Ipv4Addr::new(192, 0, 2, 0), 256);

/// What the servers' side has room for: fragments of the clients' size are
/// fragmented again there, and what must not be is answered.
const LAN_MTU: u16 = 1400;

/// What a worker's time without a core is called in the report.
const WITHOUT_CORE: &str = "ms without a core";

/// Clients that keep their places at metrics and admin socket.
const SLOW_CLIENTS: usize = 70;

pub fn list(cases: &mut Vec<Case>) {
    let routes = ["192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"]
        .map(|to| format!("[[route]]\nto = \"{to}\"\nvia = \"{ROUTER}\"\n"));
    let plan = Plan {
        servers: 2,
        connections: 16_384,
        local_addresses: 1,
        local_ports: 1024..=5119,
        prefix: 16,
        lan_mtu: Some(LAN_MTU),
        // Few, so that floods use them up.
        runtime: format!("icmp-per-second = 200\n{}", routes.concat()),
        ..Plan::new(Kind::Fullgate)
    };
    // Half of everything: two cores are all that two workers, the kernel under
    // their TAPs, clients and servers have on a small machine, and a worker that
    // waits for one makes an honest client wait.
    let two_workers = Plan {
        workers: 2,
        connections: 4_096,
        local_ports: 1024..=3071,
        ..plan.clone()
    };
    let plans = [plan, two_workers];
    if env::var_os("FULLGATE_SOAK_FLOODS").is_some() {
        add(cases, "floods", &plans, |plan| {
            let minutes: f64 = number("FULLGATE_SOAK_FLOODS").expect("a number of minutes");
            let floods = Duration::from_secs_f64(minutes * 60.0);
            let apart = floods.div_f64(6.0).min(Duration::from_secs(120));
            run(plan, apart, floods, true);
        });
    } else {
        add(cases, "floods::short", &plans, |plan| {
            run(plan, Duration::from_secs(3), Duration::from_secs(15), false);
        });
    }
}

fn number(variable: &str) -> Option<f64> {
    let text = env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}: {text} is no number")))
}

/// The floods that run, each with its frames a second.
fn chosen(plan: &Plan) -> Vec<(Flood, u32)> {
    let names = env::var("FULLGATE_FLOODS").ok();
    let names: Option<Vec<&str>> = names.as_deref().map(|names| names.split(',').collect());
    let share = number("FULLGATE_FLOOD_RATE").unwrap_or(100.0) / 100.0 / plan.workers as f64;
    let all = Flood::ALL.into_iter();
    if let Some(names) = &names {
        let known = |name: &&str| {
            *name == "slow" || Flood::ALL.iter().any(|(kind, _)| kind.name() == *name)
        };
        let unknown = names.iter().find(|name| !known(name));
        assert!(
            unknown.is_none(),
            "FULLGATE_FLOODS: there is no {unknown:?}"
        );
    }
    all.filter(|(kind, _)| {
        names
            .as_ref()
            .is_none_or(|names| names.contains(&kind.name()))
    })
    .map(|(kind, rate)| (kind, (f64::from(rate) * share) as u32))
    .collect()
}

/// What the test talks to.
struct Services {
    web: Service,
    peer: Service,
    dns: Service,
    silent: Service,
    metrics: SocketAddr,
}

/// `is_strict`: what was slow counts also where the machine had no core for the
/// gateway.
fn run(plan: &Plan, apart: Duration, floods: Duration, is_strict: bool) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let metrics = listener.local_addr().expect("its address");
    drop(listener);
    let service = |name, protocol, port| Service::new(plan, name, protocol, port, &[1, 1]);
    let services = Services {
        web: service("web", Protocol::Tcp, 80),
        peer: service("peer", Protocol::Tcp, 7000),
        dns: service("dns", Protocol::Udp, 53),
        silent: service("silent", Protocol::Udp, 54),
        metrics,
    };
    let all = [
        &services.web,
        &services.peer,
        &services.dns,
        &services.silent,
    ]
    .map(Service::clone);
    let plan = Plan {
        runtime: format!("{}[metrics]\nlisten = \"{metrics}\"\n", plan.runtime),
        ..plan.clone()
    };
    let mut lab = Lab::start(&plan, &all);
    lab.client().sysctl("net/ipv4/conf/all/arp_announce", "2");
    lab.client().ip(&[
        format!("link set fg0 txqueuelen {QUEUE}"),
        format!("addr add {ROUTER}/16 dev fg0"),
        "route add local 10.1.1.0/24 dev fg0".to_owned(),
        "route add local 10.1.2.0/23 dev fg0".to_owned(),
        "route add local 192.0.2.0/24 dev fg0".to_owned(),
    ]);
    lab.server(0)
        .ip(&[format!("link set fg1 txqueuelen {QUEUE}")]);
    // First fragments of which no more comes wait at the servers for 30 s; that
    // they fill what a kernel has for that is no matter of the gateway.
    let room = (256 << 20).to_string();
    lab.server(0).sysctl("net/ipv4/ipfrag_high_thresh", &room);
    let _web = start_nginx(&lab, &services.web);
    let _peers: Vec<TcpServer> = (services.peer.servers.iter().enumerate())
        .map(|(index, server)| {
            TcpServer::start(lab.server(index), server.address, |stream, _| {
                // The client says how it ended.
                let _ = honest::serve(stream);
            })
        })
        .collect();
    let _answering: Vec<UdpServer> = (services.dns.servers.iter().enumerate())
        .map(|(index, server)| UdpServer::start(lab.server(index), server.address, &server.name))
        .collect();
    let _silent: Vec<_> = (services.silent.servers.iter().enumerate())
        .map(|(index, server)| lab.server(index).udp(server.address))
        .collect();

    let mut failures = Vec::new();
    let memory = lab.fullgate().resident();
    let kinds = chosen(&plan);
    let rate = kinds.iter().map(|(_, rate)| rate).sum();
    let foreign = [(Flood::Foreign, rate)];
    let slow = env::var("FULLGATE_FLOODS").map_or(true, |names| names.contains("slow"));
    let spells = [
        ("frames for another host", apart, &foreign[..], false),
        ("floods", floods, &kinds[..], slow),
        ("peace afterwards", Duration::from_secs(3), &[], false),
    ];
    for (name, length, kinds, slow) in spells {
        let spell = spell(&mut lab, &plan, &services, length, kinds, slow);
        println!("\n=== {name}, {:.0} s", spell.length.as_secs_f64());
        spell.report(&mut lab);
        let starved = spell.starved().filter(|_| !is_strict);
        if let Some(waited) = starved {
            println!("not judged by its times: a worker had no core for {waited:?}");
        }
        let faults = spell.faults(starved.is_none());
        failures.extend(faults.map(|fault| format!("{name}: {fault}")));
    }
    let after = lab.fullgate().resident();
    println!(
        "\nresident memory: {} KiB at the start, {} KiB at the end",
        memory >> 10,
        after >> 10
    );
    assert!(failures.is_empty(), "{failures:#?}");
}

/// What was seen while some floods ran.
struct Spell {
    length: Duration,
    sent: Vec<Sent>,
    honest: BTreeMap<&'static str, Record>,
    counters: Vec<(String, u64)>,
    slow_clients: u64,
}

/// One spell: honest clients, half a second later the floods.
fn spell(
    lab: &mut Lab,
    plan: &Plan,
    services: &Services,
    length: Duration,
    kinds: &[(Flood, u32)],
    slow: bool,
) -> Spell {
    let before = counters(lab);
    let ports = lab.fullgate().show("ports");
    let mac = ports["ports"][0]["mac"].as_str().expect("a MAC address");
    let bytes = mac
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).expect("hex"));
    let bytes: Vec<u8> = bytes.collect();
    let socket = lab.fullgate().config().socket.clone();
    let victims = Victims::default();
    let target = Target {
        mac: bytes.try_into().expect("six bytes"),
        gateway: GATEWAY,
        tcp: services.web.vip(),
        udp: services.dns.vip(),
        silent: services.silent.vip(),
        victims: victims.clone(),
    };
    let mut crowd = Crowd::new(victims);
    invite(&mut crowd, plan.client(), services, &socket);
    let crowd = crowd.start(lab.client());
    let start = Instant::now();
    thread::sleep(Duration::from_millis(500));
    let floods = Floods::start(lab.client(), "fg0", target, kinds);
    let clients = slow.then(|| {
        [
            Slow::http(services.metrics, SLOW_CLIENTS),
            Slow::admin(&socket, SLOW_CLIENTS),
        ]
    });
    watch(lab.fullgate(), length);
    let flooded = start.elapsed();
    let slow_clients = clients.map_or(0, |clients| clients.iter().map(Slow::connected).sum());
    let sent = floods.stop();
    let honest = crowd.stop();
    let mut counters = counters(lab);
    for ((_, now), (_, before)) in counters.iter_mut().zip(before) {
        *now -= before;
    }
    Spell {
        length: flooded,
        sent,
        honest,
        counters,
        slow_clients,
    }
}

/// Waits, and says every minute how large the gateway is and what it holds.
fn watch(gateway: &Fullgate, length: Duration) {
    let start = Instant::now();
    while let Some(left) = length.checked_sub(start.elapsed()) {
        thread::sleep(left.min(Duration::from_secs(60)));
        if length > Duration::from_secs(60) {
            println!(
                "{:5.0} s: {} KiB resident",
                start.elapsed().as_secs_f64(),
                gateway.resident() >> 10
            );
            fill(gateway);
        }
    }
}

/// The honest clients, some 300 requests a second in all.
fn invite(crowd: &mut Crowd, client: Ipv4Addr, services: &Services, socket: &Path) {
    let (web, dns, peer) = (services.web.vip(), services.dns.vip(), services.peer.vip());
    use Order::{Kernel, LastFirst};
    let ms = Duration::from_millis;
    let own = || Sources::one(client);
    let new = Sources::several(NEW.0, NEW.1);
    let far = Sources::several(FAR.0, FAR.1);
    for _ in 0..4 {
        crowd.keep_alive(client, web, ms(50));
        crowd.half_closed(client, peer);
    }
    crowd.one_shot("one-shot", own(), web, ms(25));
    crowd.one_shot("one-shot, new on the link", new.clone(), web, ms(100));
    crowd.one_shot("one-shot, far", far.clone(), web, ms(25));
    crowd.datagram("dns", own(), dns, 64, Kernel, ms(25));
    crowd.datagram("dns, new on the link", new, dns, 64, Kernel, ms(100));
    crowd.datagram("dns, far", far.clone(), dns, 64, Kernel, ms(25));
    crowd.datagram("fragmented", own(), dns, 3000, Kernel, ms(50));
    crowd.datagram("fragmented, far", far.clone(), dns, 3000, Kernel, ms(50));
    crowd.datagram("fragmented, last first", far, dns, 3000, LastFirst, ms(50));
    crowd.too_long(own(), dns, usize::from(LAN_MTU) + 50, ms(200));
    crowd.bulk(client, peer, ms(50));
    crowd.bulk(client, peer, ms(50));
    crowd.idle(client, peer, 20, Duration::from_secs(4));
    let metrics = services.metrics;
    crowd.other("metrics", ms(1000), move || scrape(metrics));
    let socket = socket.to_owned();
    crowd.other("admin", ms(500), move || ping(&socket));
}

/// One request over the admin socket; like fullgatectl it comes again where it
/// is told that there are too many clients.
fn ping(socket: &Path) -> io::Result<()> {
    let start = Instant::now();
    loop {
        let error = match ask(socket, "ping", json!({})) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if start.elapsed() > SLOW_PLACE {
            return Err(io::Error::other(error));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// One scrape of the metrics.
fn scrape(addr: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(io::Error::other(format!("answer {status:?}"))),
    }
}

/// Everything that counts: at the devices' side, at the gateway's ports, what it
/// dropped and what else it did, and what clients' kernels sent again.
fn counters(lab: &mut Lab) -> Vec<(String, u64)> {
    let mut counters = Vec::new();
    for (netns, device) in [(lab.client(), "fg0"), (lab.server(0), "fg1")] {
        let lost = |name: &str| statistic(netns, device, name);
        counters.push((format!("kernel: {device} sent"), lost("tx_packets")));
        counters.push((format!("kernel: {device} lost"), lost("tx_dropped")));
    }
    let again = ["TCPTimeouts", "TCPSynRetrans", "RetransSegs"];
    let again = again.map(|name| (format!("client: {name}"), lab.client().counter(name)));
    counters.extend(again);
    let lost = ["RcvbufErrors", "ReasmFails"];
    let lost = lost.map(|name| (format!("servers: {name}"), lab.server(0).counter(name)));
    counters.extend(lost);
    let gateway = lab.fullgate();
    let waited = "gateway: pages it waited for".to_owned();
    counters.push((waited, gateway.major_faults()));
    for (worker, waited) in gateway.waited_for_core().into_iter().enumerate() {
        counters.push((format!("worker {worker}: {WITHOUT_CORE}"), waited));
    }
    let ports = gateway.show("ports");
    for port in ports["ports"].as_array().expect("ports") {
        for name in [
            "rx_packets",
            "rx_missed",
            "rx_errors",
            "rx_no_buffer",
            "tx_errors",
        ] {
            let count = port[name].as_u64().expect("a count");
            let port = port["name"].as_str().expect("a name");
            counters.push((format!("{port}: {name}"), count));
        }
    }
    let drops = gateway.call("drops.list", json!({})).expect("drops");
    for (list, name) in [("drops", "reason"), ("events", "event")] {
        for row in drops[list].as_array().expect("a list") {
            let count = row["count"].as_u64().expect("a count");
            let name = row[name].as_str().expect("a name");
            counters.push((format!("{list}: {name}"), count));
        }
    }
    counters
}

fn statistic(netns: &Netns, device: &str, name: &str) -> u64 {
    let output =
        crate::harness::process::output_of(netns, "ip", &["-s", "-j", "link", "show", device]);
    let links: Value = serde_json::from_slice(&output.stdout).expect("JSON of ip");
    let (side, name) = name.split_once('_').expect("tx_ or rx_");
    links[0]["stats64"][side][name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {links}"))
}

impl Spell {
    fn report(&self, lab: &mut Lab) {
        let seconds = self.length.as_secs_f64();
        println!(
            "{:18} {:>9} {:>8} {:>8}",
            "flood", "frames", "a second", "refused"
        );
        for sent in &self.sent {
            let rate = sent.frames as f64 / seconds;
            println!(
                "{:18} {:>9} {rate:>8.0} {:>8}",
                sent.kind.name(),
                sent.frames,
                sent.refused
            );
        }
        if self.slow_clients > 0 {
            println!("{:18} {:>9}", "slow clients", self.slow_clients);
        }
        println!(
            "{:25} {:>8} {:>7} {:>6} {:>8} {:>8} {:>8} {:>7}",
            "honest, ms", "requests", "failed", "lost", "median", "99 %", "max", "> 200"
        );
        for (name, record) in &self.honest {
            let mut took = record.took.clone();
            took.sort_unstable();
            let at = |share: f64| {
                let index = (took.len().saturating_sub(1) as f64 * share) as usize;
                took.get(index).map_or(0.0, |&took| f64::from(took) / 1e3)
            };
            println!(
                "{name:25} {:>8} {:>7} {:>6} {:>8.2} {:>8.2} {:>8.2} {:>7}",
                took.len() as u64 + record.failed,
                record.failed,
                record.lost,
                at(0.5),
                at(0.99),
                at(1.0),
                record.slower_than(SLOW),
            );
            for (why, count) in &record.why {
                println!("{:25} {count:>8} {why}", "");
            }
        }
        for (name, count) in self.counters.iter().filter(|(_, count)| *count > 0) {
            println!("{name:35} {count:>10}");
        }
        fill(lab.fullgate());
    }

    /// How long the worker that had to wait longest had no core, where that was
    /// too long.
    fn starved(&self) -> Option<Duration> {
        let waits = self
            .counters
            .iter()
            .filter(|(name, _)| name.ends_with(WITHOUT_CORE));
        let longest = waits.map(|(_, ms)| Duration::from_millis(*ms)).max()?;
        (longest > self.length / STARVED).then_some(longest)
    }

    /// What must not have happened.
    fn faults(&self, by_times: bool) -> impl Iterator<Item = String> {
        self.honest.iter().filter_map(move |(name, record)| {
            let slow = match *name {
                "metrics" | "admin" => SLOW_PLACE,
                _ => SLOW,
            };
            let slow = record.slower_than(slow);
            let (failed, lost, asked) = (record.failed, record.lost, record.took.len());
            let fine = failed == 0 && lost == 0 && (slow == 0 || !by_times) && asked > 0;
            (!fine).then(|| {
                format!("{name}: {asked} answered, {failed} failed, {lost} connections lost, {slow} slow")
            })
        })
    }
}

/// How full what can fill is.
fn fill(gateway: &Fullgate) {
    let workers = gateway.call("workers.list", json!({})).expect("workers");
    for worker in workers["workers"].as_array().expect("workers") {
        println!(
            "worker {}: {} connections, {} half-open, {} held SYNs",
            worker["worker"], worker["connections"], worker["half_open"], worker["held_syns"]
        );
    }
    let neighbors = gateway
        .call("neighbors.list", json!({}))
        .expect("neighbors");
    let neighbors = neighbors["neighbors"].as_array().expect("neighbors");
    let silent = neighbors.iter().filter(|hop| hop["mac"].is_null()).count();
    println!(
        "neighbors: {}, {silent} of them without an answer",
        neighbors.len()
    );
    let pools = gateway.call("pools.list", json!({})).expect("pools");
    for address in pools["pools"][0]["addresses"]
        .as_array()
        .expect("addresses")
    {
        for set in address["servers"].as_array().expect("servers") {
            println!(
                "ports to {} {}: {} used, {} resting, {} free",
                set["server"], set["protocol"], set["used"], set["resting"], set["free"]
            );
        }
    }
}
