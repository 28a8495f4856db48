//! `fullgatectl top` in a terminal, as its user sees it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{add, start_nginx};
use crate::Case;
use crate::harness::machine::Need;
use crate::harness::plan::{Kind, Plan, Protocol, Service};
use crate::harness::process::{Process, until};
use crate::harness::tcp::LIMIT;
use crate::harness::topology::Lab;

pub fn list(cases: &mut Vec<Case>) {
    let first = cases.len();
    let plan = Plan {
        workers: 2,
        ..Plan::new(Kind::Fullgate)
    };
    add(cases, "top::under_load", &[plan], under_load);
    for case in &mut cases[first..] {
        case.needs.extend([Need::Tool("tmux"), Need::Tool("wrk")]);
    }
}

/// A terminal of 80 by 24 with `fullgatectl top` in it; ends with this.
struct Terminal {
    server: PathBuf,
}

impl Terminal {
    fn start(directory: &Path, socket: &Path) -> Self {
        let terminal = Self {
            server: directory.join("tmux"),
        };
        let top = format!(
            "{} --socket {} top --interval 500; cat",
            env!("CARGO_BIN_EXE_fullgatectl"),
            socket.display()
        );
        terminal.tmux(&["new-session", "-d", "-x", "80", "-y", "24", &top]);
        terminal
    }

    /// A command to this terminal's own server.
    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-f", "/dev/null", "-S"])
            .arg(&self.server)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("start tmux");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    fn press(&self, keys: &str) {
        self.tmux(&["send-keys", keys]);
    }

    /// Waits until the screen is as it should be, and returns it.
    fn shows(&self, what: &str, is_right: impl Fn(&str) -> bool) -> String {
        until(LIMIT, what, || {
            Some(self.screen()).filter(|text| is_right(text))
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- screen\n{}---", self.screen());
        }
        let _ = Command::new("tmux")
            .arg("-S")
            .arg(&self.server)
            .arg("kill-server")
            .status();
    }
}

/// The row of a table that begins with `name`, as words.
fn row(screen: &str, name: &str) -> Option<Vec<String>> {
    let line = screen
        .lines()
        .find(|line| line.split(' ').next() == Some(name))?;
    Some(line.split_whitespace().map(str::to_owned).collect())
}

/// While wrk runs the screen shows its traffic, follows keys and sizes, and
/// says when the gateway is gone.
fn under_load(plan: &Plan) {
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1, 1]);
    let quiet = Service::new(plan, "quiet", Protocol::Udp, 53, &[1]);
    let mut lab = Lab::start(plan, &[web.clone(), quiet]);
    let _servers = start_nginx(&lab, &web);
    let url = format!("http://{}/", web.vip());
    let arguments = ["-t1", "-c8", "-d60s", "-H", "Connection: close", &url];
    let wrk = Process::start(
        Some(lab.client()),
        lab.directory(),
        "wrk",
        "wrk",
        &arguments,
    );

    let socket = lab.fullgate().config().socket.clone();
    let terminal = Terminal::start(lab.directory(), &socket);
    // New connections, active ones, and bits.
    let is_busy = |cells: &[String]| cells.len() > 7 && cells[4] != "0" && cells[6] != "0";
    let screen = terminal.shows("the traffic of wrk", |text| {
        row(text, "web").is_some_and(|cells| is_busy(&cells))
    });
    println!("\n{screen}");
    assert_eq!(row(&screen, "web").expect("a row")[3], "3/3");
    assert_eq!(row(&screen, "quiet").expect("a row")[4], "0");
    assert!(screen.contains("worker 0"), "{screen}");
    assert!(screen.contains("q quit"), "{screen}");

    terminal.press("Enter");
    let screen = terminal.shows("its servers", |text| {
        ["s0", "s1", "s2"]
            .iter()
            .all(|name| row(text, name).is_some())
    });
    println!("{screen}");
    assert_eq!(row(&screen, "s0").expect("a row")[2], "up");
    terminal.tmux(&["resize-window", "-x", "50", "-y", "12"]);
    let screen = terminal.shows("a smaller screen", |text| {
        row(text, "s0").is_some() && text.lines().all(|line| line.chars().count() <= 50)
    });
    assert!(screen.lines().count() <= 12, "{screen}");
    terminal.tmux(&["resize-window", "-x", "120", "-y", "40"]);
    terminal.press("Escape");
    terminal.shows("all services", |text| row(text, "quiet").is_some());
    terminal.press("/");
    terminal.press("qui");
    terminal.press("Enter");
    terminal.shows("only what has it", |text| {
        row(text, "quiet").is_some() && row(text, "web").is_none()
    });
    terminal.press("Escape");
    terminal.press("p");
    terminal.shows("a pause", |text| text.contains("PAUSED"));
    terminal.press("p");

    let once = lab.fullgate().ctl(&["top", "--once", "--interval", "500"]);
    println!("{once}");
    assert!(
        row(&once, "web").is_some_and(|cells| is_busy(&cells)),
        "{once}"
    );
    let json = lab
        .fullgate()
        .ctl(&["--json", "top", "--once", "--interval", "500"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert!(
        json["services"][0]["traffic"]["new"].as_f64() > Some(0.0),
        "{json}"
    );

    lab.fullgate().terminate();
    terminal.shows("that it is gone", |text| text.contains("is not running"));
    terminal.press("q");
    terminal.shows("the end", |text| !text.contains("is not running"));
    drop(wrk);
}
