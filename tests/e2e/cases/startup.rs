//! What keeps the gateway from starting is said in one clear line, and the
//! exit status is not 0.

use std::fs;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{add, both};
use crate::Case;
use crate::harness::fullgate::{Config, binary};
use crate::harness::gateway::Attachment;
use crate::harness::machine;
use crate::harness::netns::{self, Netns};
use crate::harness::plan::{Kind, Plan, Protocol, Service};
use crate::harness::process::until;
use crate::harness::topology::Lab;

const LIMIT: Duration = Duration::from_secs(20);

/// A part of the lines that are about the configuration.
const MISTAKES: [&str; 3] = [".toml:", "nowhere.toml", "the driver net_af_packet takes"];

pub fn list(cases: &mut Vec<Case>) {
    let mut fullgate = both();
    fullgate.retain(|plan| plan.kind == Kind::Fullgate);
    add(
        cases,
        "startup::wrong_configurations",
        &fullgate,
        wrong_configurations,
    );
    add(cases, "startup::without_rights", &fullgate, without_rights);
    add(
        cases,
        "startup::without_hugepages",
        &fullgate,
        without_hugepages,
    );
    add(
        cases,
        "startup::without_the_nic",
        &fullgate,
        without_the_nic,
    );
    add(
        cases,
        "startup::more_than_the_driver_takes",
        &fullgate,
        more_than_the_driver_takes,
    );
    add(
        cases,
        "startup::device_that_does_not_answer",
        &fullgate,
        device_that_does_not_answer,
    );
    add(
        cases,
        "startup::second_instance",
        &fullgate,
        second_instance,
    );
    add(
        cases,
        "startup::more_than_the_machine_holds",
        &fullgate,
        more_than_the_machine_holds,
    );
    add(
        cases,
        "startup::standard_output_full",
        &fullgate,
        standard_output_full,
    );
    add(
        cases,
        "startup::killed_and_started_at_once",
        &fullgate,
        killed_and_started_at_once,
    );
    add(
        cases,
        "startup::stopped_before_ready",
        &fullgate,
        stopped_before_ready,
    );
}

/// A configuration nobody has started yet, with namespaces for its ports.
struct Unstarted {
    config: Config,
    text: String,
    directory: tempfile::TempDir,
    namespaces: [Netns; 2],
}

impl Unstarted {
    fn new(plan: &Plan) -> Self {
        let (unique, directory) = netns::unique();
        let namespaces = [Netns::new(&unique, "cl"), Netns::new(&unique, "sv")];
        let ports = [
            Attachment {
                netns: &namespaces[0],
                device: "fg0",
            },
            Attachment {
                netns: &namespaces[1],
                device: "fg1",
            },
        ];
        let config = Config::new(&unique, directory.path(), plan, &ports);
        let text = config.text(&[Service::new(plan, "web", Protocol::Tcp, 80, &[1, 1])]);
        Self {
            config,
            text,
            directory,
            namespaces,
        }
    }

    /// The configuration with `from` replaced, which must be in it.
    fn replaced(&self, from: &str, to: &str) -> String {
        assert!(self.text.contains(from), "{from} is not in\n{}", self.text);
        self.text.replacen(from, to, 1)
    }

    /// Starts fullgate on `text`, requires it to give up, and returns the one
    /// line it says.
    fn refusal(&self, text: &str, prefix: &[&str]) -> String {
        fs::write(&self.config.file, text).expect("write the configuration");
        refusal_of(&self.config.file, self.directory.path(), prefix)
    }
}

fn refusal_of(file: &Path, directory: &Path, prefix: &[&str]) -> String {
    let log = directory.join("refusal.log");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(prefix).arg("--");
    command.arg(binary()).arg("--config").arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(&log).expect("create the log file"));
    let mut child = command.spawn().expect("start fullgate");
    let deadline = std::time::Instant::now() + LIMIT;
    let status = until(LIMIT * 2, "the end of fullgate", || {
        if std::time::Instant::now() > deadline {
            let _ = child.kill();
        }
        child.try_wait().expect("look at fullgate")
    });
    let said = fs::read_to_string(&log).expect("read the log file");
    // What another attempt does not mend is told from what it may.
    let is_mistake = MISTAKES.iter().any(|mistake| said.contains(mistake))
        && !said.contains("MB of memory are needed");
    let code = i32::from(is_mistake) + 1;
    assert_eq!(status.code(), Some(code), "{status}:\n{said}");
    assert_eq!(said.lines().count(), 1, "not one line:\n{said}");
    said
}

/// The line names what is wrong.
fn wrong_configurations(plan: &Plan) {
    let unstarted = Unstarted::new(plan);
    let rows = [
        (
            "an unknown key",
            "scheduler = \"wrr\"",
            "shceduler = \"wrr\"",
            "shceduler",
        ),
        ("no TOML", "[runtime]", "[runtime", ":1:"),
        (
            "a wrong type",
            "workers = 1",
            "workers = \"one\"",
            "workers",
        ),
        (
            "an address that is none",
            "10.1.0.100:80",
            "10.1.0.300:80",
            "10.1.0.300",
        ),
        (
            "no servers' protocol",
            "protocol = \"tcp\"",
            "protocol = \"sctp\"",
            "sctp",
        ),
        ("one name twice", "name = \"s1\"", "name = \"s0\"", "s0"),
        ("no prefix", "10.2.0.1/24", "10.2.0.1/33", "10.2.0.1/33"),
        (
            "queues that hold all packet buffers",
            "workers = 1",
            "workers = 1\nmbufs = 2048",
            "runtime.mbufs: is 2048",
        ),
        (
            "RSS with nothing to spread",
            "device = \"tap:fg0\"",
            "steering = \"rss\"\ndevice = \"tap:fg0\"",
            "there is one worker",
        ),
        // The first worker polls when the second can't be started.
        (
            "a core that is not there",
            "workers = 1",
            "workers = 2\ncores = [0, 1000]",
            "core 1000",
        ),
    ];
    for (what, from, to, named) in rows {
        let line = unstarted.refusal(&unstarted.replaced(from, to), &[]);
        assert!(line.contains(named), "{what}: {named} is not in {line}");
    }
    let missing = unstarted.directory.path().join("nowhere.toml");
    let line = refusal_of(&missing, unstarted.directory.path(), &[]);
    assert!(line.contains("nowhere.toml"), "{line}");
}

fn without_rights(plan: &Plan) {
    let unstarted = Unstarted::new(plan);
    // Everything it reads and writes is open to it: what is left is its rights.
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(unstarted.directory.path(), all).expect("open the directory");
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let line = unstarted.refusal(&unstarted.text, &nobody);
    let understood = ["root", "CAP_", "ermi"]
        .iter()
        .any(|word| line.contains(word));
    assert!(understood, "says nothing about rights: {line}");
}

fn without_hugepages(plan: &Plan) {
    if machine::read() > 0 {
        // Somebody else's pages: the case would start instead of failing.
        panic!("this machine has hugepages reserved; release them to run this case");
    }
    let unstarted = Unstarted::new(plan);
    let line = unstarted.refusal(
        &unstarted.replaced("hugepages = false", "hugepages = true"),
        &[],
    );
    assert!(line.to_lowercase().contains("hugepages"), "{line}");
}

fn without_the_nic(plan: &Plan) {
    let unstarted = Unstarted::new(plan);
    let absent = "0000:7f:1f.7";
    let namespace = format!("netns = \"{}\"\n", unstarted.namespaces[1].name());
    let text = unstarted
        .replaced("tap:fg1", absent)
        .replace(&namespace, "");
    let line = unstarted.refusal(&text, &[]);
    assert!(line.contains(absent), "{line}");
}

/// Known only when the driver is asked.
fn more_than_the_driver_takes(plan: &Plan) {
    let unstarted = Unstarted::new(plan);
    let namespace = format!("netns = \"{}\"\n", unstarted.namespaces[1].name());
    let text = unstarted
        .replaced("tap:fg1", "vdev:net_af_packet0,iface=lo\"\nmtu = 9_600\n#")
        .replace(&namespace, "");
    let line = unstarted.refusal(&text, &[]);
    assert!(line.contains("MTU 9600"), "{line}");
    // What the driver says about it is for who asks.
    let mut asked = Command::new(binary());
    asked.args(["--log", "warn,dpdk=debug", "--config"]);
    let output = asked.arg(&unstarted.config.file).output();
    let said = output.expect("start fullgate").stderr;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains(" DEBUG dpdk] "), "{said}");
    assert!(said.contains("MTU 9600"), "{said}");
}

/// The other side of this virtio device takes the connection and says nothing,
/// and its driver waits for ever. The service manager knows for what, and a stop
/// needs no SIGKILL.
fn device_that_does_not_answer(plan: &Plan) {
    let mut unstarted = Unstarted::new(plan);
    let silent = unstarted.directory.path().join("silent.sock");
    let _listener = UnixListener::bind(&silent).expect("a socket");
    let notify = unstarted.directory.path().join("notify");
    let socket = UnixDatagram::bind(&notify).expect("a socket");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");
    let device = format!("vdev:net_virtio_user0,path={}", silent.display());
    let namespace = format!("netns = \"{}\"\n", unstarted.namespaces[1].name());
    unstarted.text = unstarted
        .replaced("tap:fg1", &device)
        .replace(&namespace, "");
    let mut fullgate = Killed::start(&unstarted, |command| {
        command.env("NOTIFY_SOCKET", &notify);
    });
    let mut told = String::new();
    let mut buffer = [0; 4_096];
    while !told.starts_with("STATUS=opening port lan (vdev:net_virtio_user0") {
        let length = socket.recv(&mut buffer);
        let length = length.unwrap_or_else(|error| panic!("{error} after {told}"));
        told = String::from_utf8_lossy(&buffer[..length]).into_owned();
    }
    std::thread::sleep(Duration::from_millis(500));
    fullgate.terminate();
    assert_eq!(fullgate.ended().code(), Some(0));
}

/// The second start is refused and the first instance goes on.
fn second_instance(plan: &Plan) {
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let file = lab.fullgate().config().file.clone();
    let line = refusal_of(&file, lab.directory(), &[]);
    assert!(line.contains("fg-") || line.contains("running"), "{line}");
    lab.fullgate().ctl(&["show", "services"]);
}

/// Said before anything is touched, and by `preflight`.
fn more_than_the_machine_holds(plan: &Plan) {
    let unstarted = Unstarted::new(plan);
    let connections = format!("connections = {}", plan.connections);
    let text = unstarted
        .replaced(&connections, "connections = 200_000_000")
        .replacen("workers = 1", "workers = 16", 1);
    let line = unstarted.refusal(&text, &[]);
    assert!(line.contains("runtime.connections"), "{line}");
    assert!(line.contains("MB of memory are needed"), "{line}");
    assert!(!unstarted.config.socket.exists());
    let mut preflight = Command::new(binary());
    preflight.args(["preflight", "--config"]);
    let output = preflight.arg(&unstarted.config.file).output();
    let output = output.expect("start fullgate");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("\nwrong   memory "), "{said}");
}

/// A process that is killed in the end, whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Killed {
    fn start(unstarted: &Unstarted, adapt: impl FnOnce(&mut Command)) -> Self {
        fs::write(&unstarted.config.file, &unstarted.text).expect("write the configuration");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(binary());
        command.arg("--config").arg(&unstarted.config.file);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        adapt(&mut command);
        Self(command.spawn().expect("start fullgate"))
    }

    fn terminate(&self) {
        let pid = i32::try_from(self.0.id()).expect("a pid is positive");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("SIGTERM");
    }

    fn ended(&mut self) -> ExitStatus {
        until(LIMIT, "the end of fullgate", || {
            self.0.try_wait().expect("look at fullgate")
        })
    }
}

/// Neither the line that says "ready" nor the log ends a process whose disk is
/// full.
fn standard_output_full(plan: &Plan) {
    let unstarted = Unstarted::new(plan);
    let full = || fs::File::create("/dev/full").expect("/dev/full");
    let mut fullgate = Killed::start(&unstarted, |command| {
        command.env("RUST_LOG", "debug");
        command.stdout(full()).stderr(full());
    });
    until(LIMIT, "an answer", || {
        assert_eq!(fullgate.0.try_wait().expect("look"), None, "ended");
        UnixStream::connect(&unstarted.config.socket).ok()
    });
    fullgate.terminate();
    assert_eq!(fullgate.ended().code(), Some(0));
}

/// The second start waits for what the kernel has not taken from the first yet.
fn killed_and_started_at_once(plan: &Plan) {
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    for _ in 0..10 {
        lab.fullgate().kill_and_start_again();
    }
    lab.fullgate().ctl(&["show", "services"]);
    assert_eq!(lab.fullgate().terminate().code(), Some(0));
}

/// Stopped at any moment of its start, it ends at once and well, and the
/// service manager hears nothing after "stopping".
fn stopped_before_ready(plan: &Plan) {
    let unstarted = Unstarted::new(plan);
    let notify = unstarted.directory.path().join("notify");
    let socket = UnixDatagram::bind(&notify).expect("a socket");
    socket.set_nonblocking(true).expect("never blocks");
    let mut early = 0;
    for delay in (1..20).map(|tenth| Duration::from_millis(20) * tenth) {
        let mut fullgate = Killed::start(&unstarted, |command| {
            command.env("NOTIFY_SOCKET", &notify);
        });
        // Its first deed is the lock, its second to mind signals.
        let locked = || {
            let entries = fs::read_dir(unstarted.directory.path()).expect("a directory");
            let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            names.any(|name| name.ends_with(".lock")).then_some(())
        };
        until(LIMIT, "the lock", locked);
        std::thread::sleep(delay);
        fullgate.terminate();
        let status = fullgate.ended();
        assert_eq!(status.code(), Some(0), "stopped after {delay:?}");
        let mut told = Vec::new();
        let mut buffer = [0; 4_096];
        while let Ok(length) = socket.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]);
            told.extend(message.lines().map(str::to_owned));
        }
        assert_eq!(
            told.last().map(String::as_str),
            Some("STOPPING=1"),
            "after {delay:?}: {told:?}"
        );
        early += u32::from(!told.iter().any(|line| line == "READY=1"));
    }
    assert!(early > 0, "none was stopped before it was ready");
}
