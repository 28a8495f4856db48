//! What the process may do once it runs, and who may do what with it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::unistd::{Group, User};

use super::{add, start_nginx};
use crate::Case;
use crate::harness::fullgate::Fullgate;
use crate::harness::http;
use crate::harness::plan::{GATEWAY, Kind, Plan, Protocol, Service, VIP};
use crate::harness::topology::Lab;

/// CAP_NET_RAW alone, as `/proc` shows it (capabilities(7)).
const NET_RAW: u64 = 1 << 13;

/// Groups that every Debian has and no test user is in.
const OPERATORS: &str = "operator";
const WATCHERS: &str = "audio";

pub fn list(cases: &mut Vec<Case>) {
    let plain = Plan {
        workers: 2,
        ..Plan::new(Kind::Fullgate)
    };
    let groups = |keys: &str| Plan {
        runtime: keys.to_owned(),
        ..Plan::new(Kind::Fullgate)
    };
    let both = format!("socket-group = \"{OPERATORS}\"\nsocket-read-group = \"{WATCHERS}\"\n");
    add(
        cases,
        "privileges::are_given_up",
        std::slice::from_ref(&plain),
        are_given_up,
    );
    add(cases, "privileges::groups", &[groups(&both)], groups_decide);
    add(
        cases,
        "privileges::metrics_stay_on_the_host",
        &[plain],
        metrics_stay_on_the_host,
    );
}

/// A TAP gateway's workers and management threads keep CAP_NET_RAW alone, no
/// thread has more than the start took, and none can get any back.
fn are_given_up(plan: &Plan) {
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1, 1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    lab.client()
        .run(|| http::one_shot(plan.client(), web.vip()))
        .expect("a request");
    let gateway = lab.fullgate();
    gateway.ctl(&["reload"]);
    gateway.ctl(&["show", "services"]);
    let mut ours = 0;
    for (name, status) in threads(gateway) {
        let number = |key: &str| {
            let value = status.get(key).unwrap_or_else(|| panic!("no {key}"));
            u64::from_str_radix(value, 16).expect("a number")
        };
        let has = ["CapEff", "CapPrm", "CapInh", "CapAmb"].map(number);
        assert_eq!(number("NoNewPrivs"), 1, "{name}");
        let is_main = status["Pid"] == status["Tgid"];
        let is_ours = name.starts_with("worker-") || name.starts_with("admin") || is_main;
        if is_ours {
            assert_eq!(has, [NET_RAW, NET_RAW, 0, 0], "{name}");
            ours += 1;
        }
        // To change users and capabilities, load modules, trace, reboot.
        for capability in [6, 7, 8, 16, 19, 22] {
            let bounding = number("CapBnd");
            let any = (has[0] | bounding) & 1 << capability;
            assert_eq!(any, 0, "{name}: {capability}");
        }
    }
    assert!(ours >= 2 + 4, "{ours} threads");
    let status = gateway.terminate();
    assert_eq!(status.code(), Some(0), "{status}:\n{}", gateway.output());
}

/// Name and status of each thread.
fn threads(gateway: &Fullgate) -> Vec<(String, BTreeMap<String, String>)> {
    let tasks = format!("/proc/{}/task", gateway.status("Pid"));
    let tasks = fs::read_dir(tasks).expect("the threads");
    let texts = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    texts
        .map(|text| {
            let lines = text.lines().filter_map(|line| line.split_once(':'));
            let status: BTreeMap<String, String> = lines
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect();
            (status["Name"].clone(), status)
        })
        .collect()
}

/// Members of the one group change things, of the other look at them, and
/// others learn what they would have to be.
fn groups_decide(plan: &Plan) {
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1, 1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    open_to_others(lab.directory());
    let gateway = lab.fullgate();
    let refused = |output: std::process::Output, part: &str| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(part), "{said}");
    };
    let allowed = |output: std::process::Output| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let edit = ["server", "edit", "web", "s0", "--weight", "3"];
    let show = ["show", "services"];

    refused(ctl_as(gateway, &[], &show), "group operator or audio");
    assert!(allowed(ctl_as(gateway, &[WATCHERS], &show)).contains("10.2.0.101:80"));
    for refusal in [&edit[..], &["reload"], &["diff", "/etc/hostname"]] {
        refused(
            ctl_as(gateway, &[WATCHERS], refusal),
            "be root, or a member of group operator",
        );
    }
    allowed(ctl_as(gateway, &[OPERATORS], &edit));
    allowed(ctl_as(gateway, &[WATCHERS, OPERATORS], &["reload"]));
    gateway.ctl(&edit);
}

/// Lets everybody into a directory of the tests.
fn open_to_others(directory: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory, mode).expect("open the directory");
}

/// Runs `fullgatectl` as nobody with these supplementary groups. The program
/// may lie where nobody can't reach it, so it is a copy.
fn ctl_as(gateway: &Fullgate, groups: &[&str], arguments: &[&str]) -> std::process::Output {
    let nobody = User::from_name("nobody").expect("users").expect("nobody");
    let ids: Vec<String> = groups
        .iter()
        .map(|name| {
            Group::from_name(name)
                .expect("groups")
                .expect(name)
                .gid
                .to_string()
        })
        .collect();
    let socket = &gateway.config().socket;
    let copy = socket.with_file_name("fullgatectl");
    if !copy.exists() {
        fs::copy(env!("CARGO_BIN_EXE_fullgatectl"), &copy).expect("a copy");
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        &nobody.uid.to_string(),
        "--regid",
        &nobody.gid.to_string(),
    ]);
    match ids.is_empty() {
        true => command.arg("--clear-groups"),
        false => command.args(["--groups", &ids.join(",")]),
    };
    command
        .arg(&copy)
        .arg("--socket")
        .arg(socket)
        .args(arguments);
    command.output().expect("setpriv runs")
}

/// Neither the VIP nor the gateway's own address serves the metrics or lets
/// anybody to the host behind it.
fn metrics_stay_on_the_host(plan: &Plan) {
    let free = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let listen = free.local_addr().expect("its address");
    drop(free);
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1, 1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let _servers = start_nginx(&lab, &web);
    let config = lab.fullgate().config();
    let text = config.text(std::slice::from_ref(&web));
    let text = format!("{text}\n[metrics]\nlisten = \"{listen}\"\n");
    fs::write(&config.file, text).expect("write the configuration");
    lab.fullgate().ctl(&["reload"]);
    let scraped = scrape(listen).expect("metrics on the host");
    assert!(scraped.contains("fullgate_"), "{scraped}");
    lab.client().run(|| {
        for address in [VIP, GATEWAY] {
            let outcome = scrape(SocketAddrV4::new(address, listen.port()).into());
            assert!(outcome.is_err(), "{address}: {outcome:?}");
        }
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let outcome = scrape(SocketAddr::new(loopback, listen.port()));
        assert!(outcome.is_err(), "{outcome:?}");
        http::one_shot(plan.client(), web.vip()).expect("a request");
    });
}

fn scrape(address: SocketAddr) -> std::io::Result<String> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut text = String::new();
    reader.read_line(&mut text)?;
    reader.read_to_string(&mut text)?;
    Ok(text)
}
