//! Active health checks through the gateway's own ports, of real servers that
//! stop, answer wrongly, fall silent and come back.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{add, start_nginx, tally};
use crate::Case;
use crate::harness::echo::{TcpServer, UdpServer};
use crate::harness::http::{self, Load};
use crate::harness::machine::Need;
use crate::harness::nginx::Nginx;
use crate::harness::plan::{Kind, Plan, Protocol, Service};
use crate::harness::process::until;
use crate::harness::tcp::{self, LIMIT};
use crate::harness::topology::Lab;

/// What a request may take when a server goes.
const QUICK: Duration = Duration::from_millis(200);

/// Where the metrics are in the gateway's own namespace.
const METRICS: &str = "127.0.0.1:9091";

pub fn list(cases: &mut Vec<Case>) {
    let plan = Plan {
        kernel_rate: Some(10_000),
        runtime: format!("[metrics]\nlisten = \"{METRICS}\"\n"),
        ..Plan::new(Kind::Fullgate)
    };
    let two_workers = Plan {
        workers: 2,
        ..plan.clone()
    };
    add(
        cases,
        "health::stops_and_starts",
        &[plan.clone(), two_workers],
        stops_and_starts,
    );
    let one = std::slice::from_ref(&plan);
    add(cases, "health::https", one, https);
    if let Some(case) = cases.last_mut() {
        case.needs.push(Need::Tool("openssl"));
    }
    add(cases, "health::kinds", one, kinds);
    add(cases, "health::connections", one, connections);
    add(cases, "health::all_down", one, all_down);
    let far = Plan {
        far_server: true,
        servers: 1,
        ..plan.clone()
    };
    add(cases, "health::behind_a_router", &[far], behind_a_router);
}

/// The servers of a service as listed.
fn listed(lab: &mut Lab, service: &str) -> Vec<Value> {
    let services = lab.fullgate().show("health");
    let mut services = services["services"].as_array().expect("a list").iter();
    let found = services.find(|found| found["name"] == service);
    let servers = found.expect("the service")["servers"].as_array();
    servers.expect("servers").clone()
}

/// Waits until a server of a service passes its checks, or fails them; how long
/// that took, and the last reason.
fn until_up(lab: &mut Lab, service: &str, server: usize, up: bool) -> (Duration, String) {
    let start = Instant::now();
    let what = format!("server {server} of {service}: up = {up}");
    until(LIMIT, &what, || {
        let server = listed(lab, service).swap_remove(server);
        let health = &server["health"];
        (health["up"] == up).then(|| {
            let reason = health["reason"].as_str().unwrap_or_default();
            (start.elapsed(), reason.to_owned())
        })
    })
}

/// Which requests of a load failed; none of the others took long, and all of
/// them were answered by these servers.
fn require_quick(load: Load, servers: &[&str]) -> Vec<String> {
    let outcome = load.stop();
    let slowest = outcome.answers.iter().map(|answer| answer.elapsed).max();
    assert!(
        slowest.is_some_and(|slowest| slowest < QUICK),
        "{slowest:?}"
    );
    let seen = tally(outcome.answers.iter().map(|answer| &*answer.server));
    assert!(seen.keys().all(|name| servers.contains(name)), "{seen:?}");
    outcome.failures
}

/// nginx on one of two servers is stopped and started again.
fn stops_and_starts(plan: &Plan) {
    let keys = "[service.health]\ncheck = \"http\"\nbody = \" 10.2.0.1:\"\ninterval = \"400ms\"\n\
                timeout = \"400ms\"\nslow-start = \"6s\"\n";
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1]).with(keys);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let mut servers = start_nginx(&lab, &web);
    until(LIMIT, "checks", || {
        let servers = listed(&mut lab, "web");
        let mut checks = servers.iter().map(|server| &server["health"]["successes"]);
        checks.all(|count| count.as_u64() > Some(2)).then_some(())
    });

    let load = Load::start(lab.client(), plan.client(), web.vip(), 2);
    load.progress(10);
    drop(servers.remove(0));
    let (elapsed, reason) = until_up(&mut lab, "web", 0, false);
    // 3 checks 400 ms apart, the first of them at most 400 ms from now.
    assert!(
        elapsed < Duration::from_millis(3 * 400 + 300),
        "{elapsed:?}"
    );
    assert_eq!(reason, "connection refused");
    // Those under way went with the server, which closes one after the other: with
    // a RST where their request had arrived, with a FIN where it had not.
    let failures = require_quick(load, &["s0", "s1"]);
    let closed = |failure: &String| {
        failure.contains("Connection reset by peer") || failure.contains("unexpected end of file")
    };
    assert!(
        failures.len() < 10 && failures.iter().all(closed),
        "{failures:?}"
    );
    let listing = lab.fullgate().ctl(&["show", "services"]);
    let (_, why) = listing
        .split_once(" s0 (down, fails its checks for ")
        .unwrap_or_else(|| panic!("{listing}"));
    let (since, why) = why.split_once(": ").unwrap_or_else(|| panic!("{listing}"));
    assert!(["0s", "1s", "2s"].contains(&since), "{listing}");
    assert!(why.starts_with("connection refused)"), "{listing}");

    let load = Load::start(lab.client(), plan.client(), web.vip(), 2);
    load.progress(100);
    let before = listed(&mut lab, "web");
    let failures = &before[0]["failures"];
    assert_eq!(require_quick(load, &["s1"]), [""; 0]);

    std::fs::remove_dir_all(lab.directory().join("nginx-s0")).expect("nginx's directory");
    let load = Load::start(lab.client(), plan.client(), web.vip(), 1);
    let s0 = &web.servers[0];
    servers.push(Nginx::start(
        lab.server(0),
        lab.directory(),
        "s0",
        s0.address,
    ));
    until_up(&mut lab, "web", 0, true);
    assert_eq!(require_quick(load, &["s0", "s1"]), [""; 0]);
    let after = listed(&mut lab, "web");
    assert_eq!(&after[0]["failures"], failures, "no SYN went to it before");

    // Slowly at first, then its half.
    let requests = |lab: &Lab| {
        let ask = || http::one_shot(plan.client(), web.vip()).expect("a request");
        let answers = lab
            .client()
            .run(|| (0..60).map(|_| ask()).collect::<Vec<_>>());
        let seen = tally(answers.iter().map(|answer| &*answer.server));
        seen.get("s0").copied().unwrap_or(0)
    };
    let first = requests(&lab);
    assert!(first < 20, "{first} of 60 in the first moments");
    until(LIMIT, "its whole weight", || {
        let servers = listed(&mut lab, "web");
        (servers[0]["health"]["share"] == 100).then_some(())
    });
    let then = requests(&lab);
    assert!(
        (29..=31).contains(&then),
        "{then} of 60 with its whole weight"
    );

    require_prompt_changes(&mut lab);
    lab.assert_nothing_lost();
}

/// All workers had every verdict within 100 ms, by the gateway's own clock.
fn require_prompt_changes(lab: &mut Lab) {
    let text = lab.fullgate().netns().run(|| {
        let mut stream = TcpStream::connect(METRICS).expect("connect to the metrics");
        let request = "GET /metrics HTTP/1.0\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("ask");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the metrics");
        text
    });
    let value = |suffix: &str| {
        let name = format!("fullgate_health_change_delay_seconds_{suffix} ");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(&name));
        let value: u64 = lines.next().expect(suffix).parse().expect("a number");
        value
    };
    let (all, prompt) = (value("count"), value("bucket{le=\"0.1\"}"));
    assert!(all >= 2, "{all} changes");
    assert_eq!(prompt, all, "{text}");
}

/// A server whose certificate nobody else has signed: good enough by default,
/// with the right authority and name, and not with another name.
fn https(plan: &Plan) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |suffix: &str| directory.path().join(format!("tls.{suffix}"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "1", "-subj", "/CN=test"])
        .args(["-addext", "subjectAltName=DNS:www.example.com"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(path("key"))
        .arg("-out")
        .arg(path("crt"))
        .output()
        .expect("start openssl");
    assert!(made.status.success(), "{made:?}");
    let check = |more: &str| {
        format!(
            "[service.health]\ncheck = \"https\"\nhost = \"www.example.com\"\nport = 443\n\
             interval = \"200ms\"\nstart = \"down\"\nbody = \"tls\"\n{more}"
        )
    };
    let ca = format!("ca = \"{}\"\n", path("crt").display());
    let service = |name: &str, port, more: &str| {
        Service::new(plan, name, Protocol::Tcp, port, &[1]).with(&check(more))
    };
    let services = [
        service("any", 1001, ""),
        service("known", 1002, &ca),
        service("other", 1003, &format!("{ca}sni = \"other.example.com\"\n")),
    ];
    let mut lab = Lab::start(plan, &services);
    let address = SocketAddrV4::new(plan.server(0), 443);
    let _server = Nginx::start_tls(lab.server(0), directory.path(), "tls", address);
    until_up(&mut lab, "any", 0, true);
    until_up(&mut lab, "known", 0, true);
    until(LIMIT, "a certificate for another name", || {
        let server = listed(&mut lab, "other").swap_remove(0);
        assert_eq!(server["health"]["up"], false);
        let reason = server["health"]["reason"].as_str().unwrap_or_default();
        let invalid = reason.starts_with("TLS: invalid peer certificate: ");
        invalid.then_some(())
    });
    lab.assert_nothing_lost();
}

/// Each kind of check, with a server that passes it and one that does not.
fn kinds(plan: &Plan) {
    let mut lab = {
        let service = |name: &str, protocol, port, up: bool, keys: &str| {
            let start = if up { "down" } else { "up" };
            Service::new(plan, name, protocol, port, &[1]).with(&format!(
                "[service.health]\ninterval = \"200ms\"\nrise = 1\nfall = 2\n\
                 start = \"{start}\"\n{keys}"
            ))
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let udp_check = "check = \"udp\"\nsend = \"hex:68690a\"\n";
        let mute = "check = \"http\"\nport = 2000\ntimeout = \"150ms\"\n";
        let mut silent = service("icmp-silent", tcp, 1004, false, "check = \"icmp\"\n");
        silent.servers[0].address.set_ip([10, 2, 0, 222].into());
        let services = [
            service("tcp", tcp, 1001, true, "check = \"tcp\"\nport = 80\n"),
            service(
                "tcp-closed",
                tcp,
                1002,
                false,
                "check = \"tcp\"\nport = 81\n",
            ),
            service("icmp", tcp, 1003, true, "check = \"icmp\"\n"),
            silent,
            service(
                "udp",
                udp,
                53,
                true,
                &format!("{udp_check}expect = \"hi\"\n"),
            ),
            service(
                "udp-other",
                udp,
                54,
                false,
                &format!("{udp_check}expect = \"ho\"\nport = 53\n"),
            ),
            service("udp-open", udp, 55, true, "check = \"udp\"\nport = 53\n"),
            service("udp-closed", udp, 56, false, udp_check),
            service("mute", tcp, 2001, false, mute),
            service(
                "body",
                tcp,
                1005,
                false,
                "check = \"http\"\nport = 80\nbody = \"s1\"\n",
            ),
            service(
                "status",
                tcp,
                1006,
                false,
                "check = \"http\"\nport = 80\nstatus = \"500-599\"\n",
            ),
            service(
                "head",
                tcp,
                1007,
                true,
                "check = \"http\"\nport = 80\nmethod = \"HEAD\"\n",
            ),
        ];
        Lab::start(plan, &services)
    };
    let at = |port| SocketAddrV4::new(plan.server(0), port);
    let _nginx = Nginx::start(lab.server(0), lab.directory(), "s0", at(80));
    let _udp = UdpServer::start(lab.server(0), at(53), "s0");
    let _mute = TcpServer::start(lab.server(0), at(2000), |mut stream, _| {
        // It reads, and never answers.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    for passes in ["tcp", "icmp", "udp", "udp-open", "head"] {
        until_up(&mut lab, passes, 0, true);
    }
    for (fails, why) in [
        ("tcp-closed", "connection refused"),
        ("icmp-silent", "no answer within 200ms"),
        ("udp-other", "an answer of "),
        ("udp-closed", "connection refused"),
        ("mute", "connected, but no complete response within 150ms"),
        ("body", "the body lacks \"s1\""),
        ("status", "HTTP status 200, not 500-599"),
    ] {
        // Until it is there nobody answers.
        until(LIMIT, &format!("{fails}: {why}"), || {
            let server = listed(&mut lab, fails).swap_remove(0);
            let reason = server["health"]["reason"].as_str().unwrap_or_default();
            (server["health"]["up"] == false && reason.starts_with(why)).then_some(())
        });
    }
    assert_eq!(listed(&mut lab, "tcp-closed")[0]["state"], "down");
}

/// The connection to a server that answers its checks wrongly goes on; once it
/// falls silent, both ends are reset at once.
fn connections(plan: &Plan) {
    let keys = "[service.health]\ncheck = \"http\"\ninterval = \"300ms\"\ntimeout = \"250ms\"\n\
                fall = 2\nport = 81\n";
    let service = Service::new(plan, "t", Protocol::Tcp, 7000, &[1, 1]).with(keys);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let echo = |mut stream: &TcpStream, _| {
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
    };
    let serves = |port| {
        let at = |server| SocketAddrV4::new(plan.server(server), port);
        [0, 1].map(|server| TcpServer::start(lab.server(server), at(server), echo))
    };
    let _servers = serves(7000);
    let _wrong = TcpServer::start(lab.server(0), SocketAddrV4::new(plan.server(0), 81), echo);
    let right = SocketAddrV4::new(plan.server(1), 81);
    let _right = Nginx::start(lab.server(1), lab.directory(), "right", right);
    let source = SocketAddrV4::new(plan.client(), 20_000);
    let connected = lab.client().run(|| tcp::connect(source, service.vip()));
    let mut stream = connected.expect("connect").stream;
    let mut ask = |byte| {
        stream.write_all(&[byte]).expect("ask");
        let mut answer = [0];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, [byte]);
    };
    ask(1);
    let (_, reason) = until_up(&mut lab, "t", 0, false);
    assert!(reason.starts_with("no HTTP response"), "{reason}");
    until(LIMIT, "its connections go on", || {
        let server = listed(&mut lab, "t").swap_remove(0);
        (server["state"] == "draining").then_some(())
    });
    ask(2);
    assert_eq!(listed(&mut lab, "t")[0]["active"], 1);

    lab.server(0).nft(&format!(
        "table ip dead {{\nchain in {{ type filter hook input priority 0; ip daddr {} drop; }}\n}}\n",
        plan.server(0)
    ));
    let start = Instant::now();
    let error = stream.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    // 2 checks 300 ms apart, each given up after 250 ms.
    let elapsed = start.elapsed();
    assert!(
        elapsed < Duration::from_millis(3 * 300 + 250 + 300),
        "{elapsed:?}"
    );
}

/// All servers fail: new connections are refused at once, or go to all.
fn all_down(plan: &Plan) {
    let keys = "[service.health]\ncheck = \"tcp\"\ninterval = \"200ms\"\nfall = 1\nport = 81\n";
    let refuse = Service::new(plan, "refuse", Protocol::Tcp, 80, &[1, 1]).with(keys);
    let all = format!("{keys}all-down = \"use-all\"\n");
    let use_all = Service::new(plan, "use-all", Protocol::Tcp, 8080, &[1, 1]).with(&all);
    let mut lab = Lab::start(plan, &[refuse.clone(), use_all.clone()]);
    let _servers = start_nginx(&lab, &use_all);
    for service in ["refuse", "use-all"] {
        for server in [0, 1] {
            until_up(&mut lab, service, server, false);
        }
    }
    let ask = |lab: &Lab, service: &Service| {
        let start = Instant::now();
        let answer = lab
            .client()
            .run(|| http::one_shot(plan.client(), service.vip()));
        assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
        answer
    };
    until(LIMIT, "a refusal", || {
        let error = ask(&lab, &refuse).err()?;
        (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
    });
    let answers: Vec<http::Answer> = (0..4)
        .map(|_| ask(&lab, &use_all).expect("a request"))
        .collect();
    let seen = tally(answers.iter().map(|answer| &*answer.server));
    assert_eq!(seen.len(), 2, "{seen:?}");
    let listing = lab.fullgate().ctl(&["show", "services"]);
    assert!(
        listing.contains("name=use-all (all servers fail their health checks; all are used)"),
        "{listing}"
    );
}

/// The host needs a route to a server behind a router; without one, the checks
/// say so and nothing about the server.
fn behind_a_router(plan: &Plan) {
    let keys = "[service.health]\ncheck = \"http\"\ninterval = \"100ms\"\nfall = 1\n";
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1]).with(keys);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    let unmade = until(LIMIT, "checks that can't be made", || {
        let server = listed(&mut lab, "web").swap_remove(0);
        (server["health"]["unmade"].as_u64() > Some(5)).then_some(server)
    });
    let health = &unmade["health"];
    assert_eq!(
        (&health["up"], &health["failures"]),
        (&true.into(), &0.into())
    );
    let remedy = "route add 10.3.0.101 via 10.2.0.254 dev k1";
    let reason = health["reason"].as_str().expect("a reason");
    assert!(reason.contains(remedy), "{reason}");
    lab.fullgate().netns().ip(&[remedy]);
    until(LIMIT, "checks", || {
        let server = listed(&mut lab, "web").swap_remove(0);
        assert_eq!(server["health"]["failures"], 0);
        (server["health"]["successes"].as_u64() > Some(2)).then_some(())
    });
}
