//! The metrics, as promtool and a real Prometheus take them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{add, start_nginx};
use crate::Case;
use crate::harness::http::Client;
use crate::harness::machine::Need;
use crate::harness::plan::{Kind, Plan, Protocol, Service};
use crate::harness::process::Process;
use crate::harness::topology::Lab;

/// Prometheus starts, scrapes and evaluates rules once a second.
const LIMIT: Duration = Duration::from_secs(60);

const REQUESTS: usize = 6;

pub fn list(cases: &mut Vec<Case>) {
    let fullgate = [Plan {
        workers: 2,
        ..Plan::new(Kind::Fullgate)
    }];
    add(cases, "metrics::slow_clients", &fullgate, slow_clients);
    let first = cases.len();
    add(cases, "metrics::prometheus", &fullgate, prometheus);
    for case in &mut cases[first..] {
        case.needs
            .extend([Need::Tool("promtool"), Need::Tool("prometheus")]);
    }
}

/// An address of the loopback interface on which nobody listens now.
fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address")
}

/// The body of what is at `path`, if the server answers 200.
fn get(addr: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(addr).ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (header, body) = answer.split_once("\r\n\r\n")?;
    header
        .split(' ')
        .nth(1)
        .is_some_and(|code| code == "200")
        .then(|| body.to_owned())
}

/// What Prometheus finds for a query; `None` while it can't be asked or where
/// the query is at fault.
fn query(prometheus: SocketAddr, query: &str) -> Option<Vec<Value>> {
    let mut path = String::from("/api/v1/query?query=");
    for byte in query.bytes() {
        path += &format!("%{byte:02x}");
    }
    let answer: Value = serde_json::from_str(&get(prometheus, &path)?).ok()?;
    answer["data"]["result"].as_array().cloned()
}

fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start promtool");
    let mut stdin = child.stdin.take().expect("its standard input");
    stdin.write_all(input.as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("promtool's output");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

/// The queries of the dashboard, for every instance and service.
fn dashboard(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("config/grafana/fullgate.json")).expect("read");
    let parsed: Value = serde_json::from_str(&text).expect("JSON");
    let panels = parsed["panels"].as_array().expect("panels").iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array());
    targets
        .flatten()
        .map(|target| {
            let query = target["expr"].as_str().expect("a query");
            query
                .replace("$__rate_interval", "1m")
                .replace("$instance", ".*")
                .replace("$service", ".*")
        })
        .collect()
}

/// Clients that do not come to an end, far more than there are places for: none
/// that asks goes without an answer, or waits for it.
fn slow_clients(plan: &Plan) {
    let service = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1]);
    let services = std::slice::from_ref(&service);
    let mut lab = Lab::start(plan, services);
    let addr = open(&mut lab, services);
    let mut slow = Vec::new();
    for round in 0..100 {
        let mut client = TcpStream::connect(addr).expect("connect");
        // Who is turned away may be gone by now.
        let _ = match round % 3 {
            0 => Ok(()),
            1 => client.write_all(b"GET /metrics HTTP/1.1\r\nX: "),
            _ => client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n"),
        };
        slow.push((round % 3, client));
        // A byte now and then.
        for (_, client) in slow.iter_mut().filter(|(kind, _)| *kind == 1) {
            let _ = client.write_all(b"x");
        }
        let begun = Instant::now();
        let body = get(addr, "/metrics").unwrap_or_default();
        assert!(body.contains("fullgate_build_info"), "with {round} others");
        let elapsed = begun.elapsed();
        assert!(elapsed < Duration::from_secs(1), "{elapsed:?}");
    }
}

/// Opens the endpoint by a reload.
fn open(lab: &mut Lab, services: &[Service]) -> SocketAddr {
    let addr = free_addr();
    let config = lab.fullgate().config().clone();
    let text = format!(
        "{}\n[metrics]\nlisten = \"{addr}\"\n",
        config.text(services)
    );
    fs::write(&config.file, text).expect("write the configuration");
    lab.fullgate().ctl(&["reload"]);
    addr
}

/// The endpoint is opened by a reload; promtool finds nothing to say about it
/// and the rules; Prometheus scrapes it, evaluates every rule, and answers
/// every query of the dashboard.
fn prometheus(plan: &Plan) {
    let service = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1, 1]);
    let services = std::slice::from_ref(&service);
    let mut lab = Lab::start(plan, services);
    let _servers = start_nginx(&lab, &service);
    let _held: Vec<Client> = lab.client().run(|| {
        let request = |_| {
            let mut client = Client::connect(plan.client(), service.vip()).expect("connect");
            client.get(true).expect("a request");
            client
        };
        (0..REQUESTS).map(request).collect()
    });
    let addr = open(&mut lab, services);
    let web = free_addr();

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let alerts = root.join("config/prometheus/alerts.yml");
    let alerts = alerts.to_str().expect("a path of text");
    let exposition = get(addr, "/metrics").expect("the metrics");
    promtool(&["check", "metrics"], &exposition);
    promtool(&["check", "rules", alerts], "");

    let file = lab.directory().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: [\"{alerts}\"]\n\
         scrape_configs:\n  - job_name: fullgate\n    static_configs: [{{targets: [\"{addr}\"]}}]\n"
    );
    fs::write(&file, text).expect("write Prometheus' configuration");
    let arguments = [
        format!("--config.file={}", file.display()),
        format!(
            "--storage.tsdb.path={}",
            lab.directory().join("tsdb").display()
        ),
        format!("--web.listen-address={web}"),
    ];
    let directory = lab.directory();
    let mut process = Process::start(None, directory, "prometheus", "prometheus", &arguments);
    let new_connections = "sum(fullgate_server_new_connections_total)";
    let expected = Value::from(REQUESTS.to_string());
    process.until(LIMIT, || {
        let found = query(web, new_connections)?;
        (found.first()?["value"][1] == expected).then_some(())
    });
    let up = query(web, "up{job=\"fullgate\"} == 1").expect("a query");
    assert_eq!(up.len(), 1, "{up:?}");
    process.until(LIMIT, || {
        let rules: Value = serde_json::from_str(&get(web, "/api/v1/rules")?).ok()?;
        let rules = rules["data"]["groups"][0]["rules"].as_array()?.clone();
        let failed = rules.iter().find(|rule| rule["health"] == "err");
        assert!(failed.is_none(), "{failed:?}");
        let fine = rules.iter().all(|rule| rule["health"] == "ok");
        (fine && rules.len() > 10).then_some(())
    });
    let firing = query(web, "ALERTS{alertstate=\"firing\"}").expect("a query");
    assert!(firing.is_empty(), "{firing:?}");
    for text in dashboard(root) {
        assert!(query(web, &text).is_some(), "refused: {text}");
    }
}
