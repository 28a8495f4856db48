//! Packets as `fullgatectl` shows them, read by the real tshark: both legs of
//! a request, drops with their reasons, losses.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::{Value, json};

use super::{add, fullgate, start_nginx};
use crate::Case;
use crate::harness::http;
use crate::harness::machine::Need;
use crate::harness::plan::{Plan, Protocol, Service};
use crate::harness::process::{Process, output_of, until};
use crate::harness::tcp::LIMIT;
use crate::harness::topology::Lab;

pub fn list(cases: &mut Vec<Case>) {
    let fullgate = fullgate();
    let before = cases.len();
    add(cases, "capture::both_legs", &fullgate, both_legs);
    add(cases, "capture::drops", &fullgate, drops);
    add(cases, "capture::losses", &fullgate[..1], losses);
    add(cases, "capture::client_goes", &fullgate, client_goes);
    add(cases, "capture::reader_goes", &fullgate[..1], reader_goes);
    add(cases, "capture::explain", &fullgate, explain);
    for case in &mut cases[before..] {
        case.needs
            .extend([Need::Tool("tshark"), Need::Tool("curl")]);
    }
}

/// A running `fullgatectl capture`.
struct Capture {
    process: Process,
    file: std::path::PathBuf,
}

impl Capture {
    /// Starts one and waits until all workers have begun.
    fn start(lab: &mut Lab, name: &str, arguments: &[&str]) -> Self {
        let file = lab.directory().join(format!("{name}.pcapng"));
        let socket = lab.fullgate().config().socket.clone();
        let mut all = vec!["--socket".as_ref(), socket.as_os_str(), "capture".as_ref()];
        all.extend(arguments.iter().map(std::ffi::OsStr::new));
        all.extend(["-w".as_ref(), file.as_os_str()]);
        let program = env!("CARGO_BIN_EXE_fullgatectl");
        let mut process = Process::start(None, lab.directory(), name, program, &all);
        let log = lab.directory().join(format!("{name}.log"));
        process.until(LIMIT, || {
            let said = std::fs::read_to_string(&log).ok()?;
            said.contains("capturing").then_some(())
        });
        Self { process, file }
    }

    /// Ends it with Ctrl-C; what it says in the end.
    fn end(&mut self) -> String {
        self.process.signal(Signal::SIGINT);
        assert!(self.process.ended(LIMIT).success());
        self.process.output()
    }

    /// These fields of each packet that passes a display filter.
    fn read(&self, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
        let mut tshark = Command::new("tshark");
        tshark.args("-n -o tcp.check_checksum:TRUE -o ip.check_checksum:TRUE -T fields".split(' '));
        tshark.args(["-Y", filter]).arg("-r").arg(&self.file);
        for field in fields {
            tshark.args(["-e", field]);
        }
        let output = tshark.output().expect("start tshark");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |line: &str| line.split('\t').map(str::to_owned).collect();
        lines.lines().map(line).collect()
    }
}

fn curl(lab: &Lab, plan: &Plan, url: &str) -> std::process::Output {
    let source = plan.client().to_string();
    let arguments = ["-sS", "--max-time", "5", "--interface", &source, url];
    output_of(lab.client(), "curl", &arguments)
}

/// One curl through the gateway: every packet as received and as sent, with
/// right checksums, and both streams complete.
fn both_legs(plan: &Plan) {
    let service = Service::new(plan, "web", Protocol::Tcp, 80, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let _servers = start_nginx(&lab, &service);
    let mut capture = Capture::start(&mut lab, "legs", &["service", "web"]);
    let answer = curl(&lab, plan, &format!("http://{}/", service.vip()));
    let body = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(body.starts_with("s0 "), "{body}");
    // One of no service: not in the capture.
    let _ = curl(&lab, plan, &format!("http://{}:81/", service.vip().ip()));
    until(LIMIT, "the end of the connection", || {
        let table = lab.fullgate().show("connections");
        (table["connections"][0]["state"] == "TIME_WAIT").then_some(())
    });
    let said = capture.end();
    assert!(said.contains(" 0 lost"), "{said}");

    let wrong = "ip.checksum.status == 0 || tcp.checksum.status == 0";
    let wrong = capture.read(wrong, &["frame.number"]);
    assert!(wrong.is_empty(), "wrong checksums: {wrong:?}");
    let analysis = capture.read(
        "tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment || tcp.analysis.retransmission",
        &["frame.number", "frame.comment"],
    );
    assert!(analysis.is_empty(), "not complete: {analysis:?}");

    // tshark follows each leg to its end, and finds the request and the whole
    // answer in both.
    let bodies = capture.read("http.response", &["tcp.stream", "http.file_data", "ip.src"]);
    let tail = |row: &Vec<String>| row[2].clone();
    let sources: Vec<String> = bodies.iter().map(tail).collect();
    let server = plan.server(0).to_string();
    let vip = service.vip().ip().to_string();
    assert_eq!(sources, [server.clone(), vip.clone()], "{bodies:?}");
    assert_eq!(bodies[0][1], bodies[1][1], "the same answer");
    let requests = capture.read("http.request", &["tcp.stream", "ip.dst"]);
    assert_eq!(requests.len(), 2, "{requests:?}");
    for stream in ["0", "1"] {
        for flag in ["tcp.flags.syn == 1", "tcp.flags.fin == 1"] {
            let filter = format!("tcp.stream == {stream} && {flag}");
            assert_eq!(
                capture.read(&filter, &["frame.number"]).len(),
                2,
                "{filter}"
            );
        }
    }

    let packets = capture.read(
        "tcp",
        &[
            "frame.interface_name",
            "frame.packet_flags_direction",
            "tcp.flags",
            "tcp.seq_raw",
            "tcp.ack_raw",
            "tcp.len",
            "ip.src",
            "frame.comment",
        ],
    );
    let (inward, outward): (Vec<_>, Vec<_>) =
        packets.iter().partition(|packet| packet[1].ends_with('1'));
    assert!(outward.iter().all(|packet| packet[1].ends_with('2')));
    for packet in &inward {
        let alike = |other: &&&Vec<String>| other[2..6] == packet[2..6];
        let (came, left) = (
            inward.iter().filter(alike).count(),
            outward.iter().filter(alike).count(),
        );
        assert_eq!(came, left, "{packet:?} leaves as often: {packets:?}");
        let comment = &packet[7];
        let from_client = packet[0] == "wan";
        let way = if from_client {
            format!("client to server: {}:", plan.client())
        } else {
            format!("server to client: {server}:80 > ")
        };
        assert!(comment.contains(&way), "{comment}");
        let translation = if from_client {
            format!(" > {server}:80;")
        } else {
            format!(" becomes {vip}:80 > {}:", plan.client())
        };
        assert!(comment.contains(&translation), "{comment}");
        assert!(comment.contains("service web"), "{comment}");
        assert!(comment.contains("worker "), "{comment}");
    }
    let times = capture.read("tcp", &["frame.time_epoch"]);
    let times: Vec<&str> = times.iter().map(|row| row[0].as_str()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("after 1970");
    let last: f64 = times.last().and_then(|t| t.parse().ok()).expect("a time");
    assert!((now.as_secs_f64() - last).abs() < 60.0, "wall clock time");
}

/// A request to a port without service: its drop with the reason, and the
/// reset, in a capture of drops alone; and in the list of the last ones.
fn drops(plan: &Plan) {
    let service = Service::new(plan, "web", Protocol::Tcp, 80, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let _servers = start_nginx(&lab, &service);
    let client = format!("client {}", plan.client());
    let mut arguments = vec!["drops"];
    arguments.extend(client.split(' '));
    let mut capture = Capture::start(&mut lab, "drops", &arguments);
    lab.client()
        .run(|| http::one_shot(plan.client(), service.vip()))
        .expect("an answer");
    let refused = curl(&lab, plan, &format!("http://{}:81/", service.vip().ip()));
    assert!(!refused.status.success());
    capture.end();
    let packets = capture.read("tcp", &["tcp.flags.reset", "tcp.dstport", "frame.comment"]);
    assert_eq!(packets[0][1], "81");
    let dropped = &packets[0][2];
    assert!(dropped.contains("dropped: no-service:"), "{dropped}");
    // A second worker may have to ask for the client's MAC address first, and
    // the reset then leaves without a cause.
    if plan.workers == 1 {
        let is_reset = ["1", "True"].contains(&packets[1][0].as_str());
        assert!(is_reset && packets.len() == 2, "{packets:?}");
    }

    let last = lab
        .fullgate()
        .ctl(&["show", "drops", "--last", "--reason", "no-service"]);
    let syn = format!("> {}:81 TCP SYN", service.vip().ip());
    assert!(last.contains(&syn), "{last}");
    assert!(last.contains(" wan "), "{last}");
    let json = lab.fullgate().ctl(&["show", "drops", "--last", "--json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let all = json["drops"].as_array().expect("a list");
    let mut found = all.iter().filter(|drop| drop["reason"] == "no-service");
    let hex = found.next().expect("the drop")["hex"]
        .as_str()
        .expect("text");
    assert!(hex.len() >= 2 * 54, "all headers: {hex}");
}

/// With room for one packet most are lost, and the file and the command say so.
fn losses(plan: &Plan) {
    let service = Service::new(plan, "web", Protocol::Tcp, 80, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let _servers = start_nginx(&lab, &service);
    let mut capture = Capture::start(&mut lab, "losses", &["--records", "1", "port", "80"]);
    for _ in 0..20 {
        lab.client()
            .run(|| http::one_shot(plan.client(), service.vip()))
            .expect("an answer");
    }
    let said = capture.end();
    let lost = said
        .split_whitespace()
        .rev()
        .nth(1)
        .and_then(|count| count.parse::<u64>().ok())
        .expect("a count");
    assert!(lost > 0, "{said}");
    let kept = capture.read("frame", &["frame.number"]).len() as u64;
    assert!(
        said.contains(&format!("{kept} packets captured, {lost} lost")),
        "{said}"
    );
    // The statistics at the end of the file.
    let file = std::fs::File::open(&capture.file).expect("the file");
    let mut reader = PcapNgReader::new(file).expect("a pcapng file");
    let mut told = 0;
    while let Some(block) = reader.next_block() {
        if let Block::InterfaceStatistics(statistics) = block.expect("a block") {
            for option in statistics.options {
                if let InterfaceStatisticsOption::IsbIfDrop(lost) = option {
                    told += lost;
                }
            }
        }
    }
    assert_eq!(told, lost);
}

/// The program is killed: the capture ends, and all places are free again.
fn client_goes(plan: &Plan) {
    let service = Service::new(plan, "web", Protocol::Tcp, 80, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let _servers = start_nginx(&lab, &service);
    let mut running: Vec<Capture> = (0..4)
        .map(|n| Capture::start(&mut lab, &format!("killed-{n}"), &[]))
        .collect();
    let refused = lab
        .fullgate()
        .call("capture.start", json!({}))
        .expect_err("one too many");
    assert!(refused.contains("captures already"), "{refused}");
    for capture in &mut running {
        capture.process.signal(Signal::SIGKILL);
        capture.process.ended(LIMIT);
    }
    for _ in 0..4 {
        until(Duration::from_secs(20), "a free place", || {
            lab.fullgate().call("capture.start", json!({})).ok()
        });
    }
    // What was written before is a whole file.
    let _ = running[0].read("tcp", &["frame.number"]);
}

/// As with `| head`: whoever reads the file is gone.
fn reader_goes(plan: &Plan) {
    let service = Service::new(plan, "web", Protocol::Tcp, 80, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut capture = Command::new(env!("CARGO_BIN_EXE_fullgatectl"));
    capture.arg("--socket").arg(&lab.fullgate().config().socket);
    let output = capture.args(["capture", "-w", "-"]).stdout(writer).output();
    let output = output.expect("start fullgatectl");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// A held connection from both sides, one that would be new, and one that
/// would be dropped.
fn explain(plan: &Plan) {
    let service = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&service));
    let _servers = start_nginx(&lab, &service);
    let held = lab
        .client()
        .run(|| std::net::TcpStream::connect(service.vip()))
        .expect("a connection");
    let client = held.local_addr().expect("an address").to_string();
    let vip = service.vip().to_string();
    let fullgate = lab.fullgate();
    let table = fullgate.show("connections");
    let known = &table["connections"][0];
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let (local, server) = (text(&known["local"]), text(&known["server"]));

    for (source, destination, way) in [
        (&client, &vip, "client to server"),
        (&server, &local, "server to client"),
    ] {
        let told = fullgate.ctl(&["explain", source, destination]);
        assert!(told.contains("ESTABLISHED"), "{told}");
        assert!(told.contains(way), "{told}");
        for part in [&client, &vip, &local, &server] {
            assert!(told.contains(part.as_str()), "{part} in {told}");
        }
        assert_eq!(told.matches("MAC ").count(), 2, "{told}");
        let json = fullgate.ctl(&["explain", source, destination, "--json"]);
        let json: Value = serde_json::from_str(&json).expect("JSON");
        let connection = &json["connection"];
        let worker = &connection["connection"]["worker"];
        assert_eq!(worker, &known["worker"]);
        // Both sides' packets come to the worker that has it.
        assert_eq!(&connection["client_hash"]["worker"], worker);
        assert_eq!(&connection["server_hash"]["worker"], worker);
    }
    let new = fullgate.ctl(&["explain", "10.9.9.9:1234", &vip]);
    assert!(new.contains("a SYN opens one"), "{new}");
    assert!(new.contains("next server s"), "{new}");
    let none = fullgate.ctl(&["explain", &client, &vip, "--udp"]);
    assert!(none.contains("no-service"), "{none}");
}
