//! The kernel beside the gateway: its services are reached through the
//! gateway's ports, it reaches others, and a flood at it harms no connection.

use std::net::{SocketAddrV4, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::{add, start_nginx};
use crate::Case;
use crate::harness::http::{self, Load};
use crate::harness::machine::Need;
use crate::harness::netns::Netns;
use crate::harness::nginx::Nginx;
use crate::harness::plan::{GATEWAY, GATEWAY_LAN, Kind, Plan, Protocol, Service};
use crate::harness::process::{Process, output_of, until};
use crate::harness::tcp::{LIMIT, NO_TIMER};
use crate::harness::topology::Lab;

pub fn list(cases: &mut Vec<Case>) {
    let with_kernel = |workers, rate| Plan {
        workers,
        kernel_rate: Some(rate),
        ..Plan::new(Kind::Fullgate)
    };
    let plans = [with_kernel(1, 10_000), with_kernel(2, 10_000)];
    add(cases, "exception::serves", &plans, serves);
    add(cases, "exception::connects", &plans, connects);
    add(
        cases,
        "exception::comes_and_goes",
        &plans[..1],
        comes_and_goes,
    );
    add(
        cases,
        "exception::follows_reloads",
        &plans[..1],
        follows_reloads,
    );
    add(cases, "exception::vrrp", &plans, vrrp);
    let added = cases.len() - plans.len();
    for case in &mut cases[added..] {
        case.needs.push(Need::Tool("keepalived"));
    }
    add(
        cases,
        "exception::flood",
        &[with_kernel(1, 500), with_kernel(2, 500)],
        flood,
    );
}

fn web(plan: &Plan) -> Service {
    Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1])
}

/// No request failed and none waited for a timer.
fn check(load: Load) {
    let outcome = load.stop();
    assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    let slowest = outcome.answers.iter().map(|a| a.elapsed).max();
    assert!(
        slowest.is_some_and(|elapsed| elapsed < NO_TIMER),
        "{slowest:?}"
    );
}

/// How often an event or drop has been counted.
fn count(lab: &mut Lab, list: &str, key: &str, name: &str) -> u64 {
    let drops = lab.fullgate().show("drops");
    let rows = drops[list].as_array().expect("a list");
    let row = rows.iter().find(|row| row[key] == name).expect("a row");
    row["count"].as_u64().expect("a number")
}

/// A server in the gateway's namespace answers at the port's address, as the
/// servers behind the VIP do; pings are answered as ever.
fn serves(plan: &Plan) {
    let web = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    let address = SocketAddrV4::new(GATEWAY, 179);
    let directory = lab.directory().to_owned();
    let _own = Nginx::start(lab.fullgate().netns(), &directory, "own", address);
    let load = Load::start(lab.client(), plan.client(), web.vip(), 2);
    lab.client().run(|| {
        for _ in 0..50 {
            let answer = http::one_shot(plan.client(), address).expect("the gateway's own");
            assert_eq!(
                (&answer.server[..], *answer.peer.ip()),
                ("own", plan.client())
            );
            assert!(answer.elapsed < NO_TIMER, "{:?}", answer.elapsed);
        }
    });
    let ping = output_of(lab.client(), "ping", &["-c", "3", "-i", "0.01", "10.1.0.1"]);
    assert!(ping.status.success(), "{ping:?}");
    load.progress(10);
    check(load);
    let ports = lab.fullgate().show("ports");
    let kernel = &ports["ports"][0]["kernel"];
    assert_eq!(kernel["interface"], "k0");
    assert!(kernel["to_kernel"].as_u64() > Some(200), "{kernel}");
    assert!(kernel["from_kernel"].as_u64() > Some(200), "{kernel}");
    assert_eq!(kernel["refused"], 0, "{kernel}");
    assert_eq!(count(&mut lab, "drops", "reason", "no-service"), 0);
    lab.assert_nothing_lost();
}

/// A process in the gateway's namespace reaches real servers and clients by
/// both ports, as health checks and routing daemons do.
fn connects(plan: &Plan) {
    let web = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    let client_side = SocketAddrV4::new(plan.client(), 8080);
    let _peer = Nginx::start(lab.client(), lab.directory(), "peer", client_side);
    let targets = [
        (GATEWAY_LAN, web.servers[0].address, "s0"),
        (GATEWAY_LAN, web.servers[1].address, "s1"),
        (GATEWAY, client_side, "peer"),
    ];
    lab.fullgate().netns().run(|| {
        for _ in 0..10 {
            for (own, target, name) in targets {
                let answer = http::one_shot(own, target).expect("a request of our own");
                assert_eq!((&answer.server[..], *answer.peer.ip()), (name, own));
                assert!(answer.elapsed < NO_TIMER, "{:?} to {name}", answer.elapsed);
            }
        }
    });
    let ping = ["-c", "2", "-i", "0.01", "10.2.0.101"];
    let ping = output_of(lab.fullgate().netns(), "ping", &ping);
    assert!(ping.status.success(), "{ping:?}");
    lab.assert_nothing_lost();
}

/// Names of the interfaces in a namespace that fullgate may have made.
fn interfaces(netns: &Netns) -> Vec<String> {
    let output = output_of(netns, "ip", &["-o", "link"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split(": ").nth(1));
    let ours = names.filter(|name| name.starts_with('k'));
    ours.map(str::to_owned).collect()
}

/// The interfaces are there while the gateway is, however it ends.
fn comes_and_goes(plan: &Plan) {
    let web = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let gateway = lab.fullgate();
    assert_eq!(interfaces(gateway.netns()), ["k0", "k1"]);
    let status = gateway.terminate();
    assert!(status.success(), "{status}: {}", gateway.output());
    assert_eq!(interfaces(gateway.netns()), [""; 0]);
    gateway.start_again();
    assert_eq!(interfaces(gateway.netns()), ["k0", "k1"]);
    gateway.kill();
    assert_eq!(interfaces(gateway.netns()), [""; 0]);
    gateway.start_again();
    assert_eq!(interfaces(gateway.netns()), ["k0", "k1"]);

    gateway.terminate();
    gateway.netns().ip(&["tuntap add k1 mode tap"]);
    let file = gateway.config().file.display().to_string();
    let binary = crate::harness::fullgate::binary().display().to_string();
    let output = output_of(gateway.netns(), &binary, &["--config", &file]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        said.contains("port lan: kernel-interface k1: an interface of this name exists"),
        "{said}"
    );
    assert_eq!(interfaces(gateway.netns()), ["k1"]);
}

/// The addresses of the kernel's interface behind the port to the clients.
fn addresses(netns: &Netns) -> Vec<String> {
    let output = output_of(netns, "ip", &["-o", "-4", "addr", "show", "dev", "k0"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace().filter(|word| word.contains('/'));
    words.map(str::to_owned).collect()
}

/// Starts a keepalived with one VRRP address.
fn keepalived(netns: &Netns, directory: &Path, name: &str, device: &str, priority: u8) -> Process {
    let configuration = format!(
        "vrrp_instance gateway {{\n interface {device}\n state BACKUP\n virtual_router_id 51\n \
         priority {priority}\n advert_int 0.2\n version 3\n virtual_ipaddress {{\n {VRRP}/24\n }}\n}}\n"
    );
    let file = directory.join(format!("{name}.conf"));
    std::fs::write(&file, configuration).expect("write keepalived's configuration");
    let file = file.display().to_string();
    let pid = |kind: &str| {
        directory
            .join(format!("{name}.{kind}"))
            .display()
            .to_string()
    };
    let arguments = [
        "--dont-fork",
        "--log-console",
        "--vrrp",
        "--use-file",
        &file,
        "--pid",
        &pid("pid"),
        "--vrrp_pid",
        &pid("vrrp"),
    ];
    Process::start(Some(netns), directory, name, "keepalived", &arguments)
}

/// An address of the kernel's alone, which VRRP moves.
const VRRP: &str = "10.1.0.77";

/// keepalived has an address behind the port, by which the VIP is reached, until
/// somebody of higher priority has it.
fn vrrp(plan: &Plan) {
    let web = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    let directory = lab.directory().to_owned();
    let gateway = lab.fullgate();
    let file = gateway.config().file.clone();
    let text = std::fs::read_to_string(&file).expect("read the configuration");
    let interface = "kernel-interface = \"k0\"";
    let wanted = format!("{interface}\nkernel-addresses = [\"{VRRP}\"]");
    std::fs::write(&file, text.replacen(interface, &wanted, 1)).expect("write the configuration");
    gateway.ctl(&["reload"]);
    let _own = keepalived(gateway.netns(), &directory, "vrrp-own", "k0", 100);
    let has_it = |netns: &Netns| addresses(netns).contains(&format!("{VRRP}/24"));
    until(LIMIT, "the address", || {
        has_it(lab.fullgate().netns()).then_some(())
    });
    let ping = output_of(lab.client(), "ping", &["-c", "1", "-W", "5", VRRP]);
    assert!(ping.status.success(), "{ping:?}");
    let vip = web.vip();
    lab.client()
        .ip(&[format!("route add {}/32 via {VRRP}", vip.ip())]);
    let answer = lab.client().run(|| http::one_shot(plan.client(), vip));
    assert!(answer.expect("a request by the address").elapsed < NO_TIMER);

    let _other = keepalived(lab.client(), &directory, "vrrp-other", "fg0", 200);
    until(LIMIT, "the end of the address", || {
        (!has_it(lab.fullgate().netns())).then_some(())
    });
}

/// A reload that changes a port's addresses changes the kernel's.
fn follows_reloads(plan: &Plan) {
    let web = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let gateway = lab.fullgate();
    let file = gateway.config().file.clone();
    let text = std::fs::read_to_string(&file).expect("read the configuration");
    let own = "addresses = [\"10.1.0.1/24\"]";
    assert!(text.contains(own));
    let wanted = "addresses = [\"10.1.0.3/24\", \"10.1.0.4/24\"]";
    std::fs::write(&file, text.replacen(own, wanted, 1)).expect("write the configuration");
    gateway.ctl(&["reload"]);
    until(LIMIT, "the kernel's addresses", || {
        (addresses(gateway.netns()) == ["10.1.0.3/24", "10.1.0.4/24"]).then_some(())
    });
    let address = SocketAddrV4::new([10, 1, 0, 4].into(), 179);
    let directory = lab.directory().to_owned();
    let _own = Nginx::start(lab.fullgate().netns(), &directory, "own", address);
    let answer = lab.client().run(|| http::one_shot(plan.client(), address));
    assert_eq!(answer.expect("the new address").server, "own");
}

/// More datagrams at the port's address than its rate: the kernel gets what it
/// may, the rest is counted, and connections do not notice.
fn flood(plan: &Plan) {
    let web = web(plan);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    let load = Load::start(lab.client(), plan.client(), web.vip(), 2);
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let start = Instant::now();
    let flooding = lab.client().spawn(move || {
        let socket = UdpSocket::bind("10.1.0.2:0").expect("a socket");
        while !asked.load(Ordering::Relaxed) {
            // In portions, so that clients and servers get the two cores too.
            for _ in 0..20 {
                // ICMP errors of the flooded come back as errors.
                let _ = socket.send_to(&[0; 64], "10.1.0.1:9");
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    });
    until(LIMIT, "a flood", || {
        (count(&mut lab, "drops", "reason", "kernel-rate") > 5_000).then_some(())
    });
    load.progress(20);
    stop.store(true, Ordering::Relaxed);
    flooding.join().expect("the flood");
    check(load);
    let rate = u64::from(plan.kernel_rate.expect("a rate")) * plan.workers as u64;
    let passed = count(&mut lab, "events", "event", "to-kernel");
    // What may come at once, and one more second for the look at the clock.
    let most = rate / 10 + rate * (start.elapsed().as_secs() + 1);
    assert!(passed <= most, "{passed} to the kernel, at most {most}");
    assert!(passed >= rate / 10, "{passed} to the kernel");
    lab.assert_nothing_lost();
}
