//! Network namespaces of the tests: made and deleted here, named after the
//! runner's pid so that two runners never meet and a killed one's can be swept.

use std::fs;
use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddrV4, TcpListener, UdpSocket};
use std::panic;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Name that no other test of any runner has: `fg-<pid>-<n>`.
pub fn unique_name() -> String {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("fg-{}-{number}", std::process::id())
}

/// Such a name, and a temporary directory named after it.
pub fn unique() -> (String, TempDir) {
    let name = unique_name();
    let directory = tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .tempdir()
        .expect("make a temporary directory");
    (name, directory)
}

/// A network namespace; deleted on drop, also when the test panics.
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes `<unique>-<role>` with loopback up and without IPv6.
    pub fn new(unique: &str, role: &str) -> Self {
        let name = format!("{unique}-{role}");
        run("ip", &["netns", "add", &name]);
        let netns = Self { name };
        netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        netns.ip(&["link set lo up"]);
        netns
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `job` on a fresh thread inside the namespace. Sockets it makes stay
    /// in the namespace wherever they are used later.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                enter(&self.name);
                job()
            });
            inside
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Starts a thread that lives inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let name = self.name.clone();
        thread::spawn(move || {
            enter(&name);
            job()
        })
    }

    /// Runs `ip` commands inside, all in one process.
    pub fn ip(&self, commands: &[impl AsRef<str>]) {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start ip");
        let lines: Vec<&str> = commands.iter().map(AsRef::as_ref).collect();
        let mut stdin = child.stdin.take().expect("piped stdin");
        stdin
            .write_all(lines.join("\n").as_bytes())
            .expect("write to ip");
        drop(stdin);
        let output = child.wait_with_output().expect("wait for ip");
        assert!(
            output.status.success(),
            "ip in {}: {lines:?}: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Writes `value` to `/proc/sys/<path>` as seen inside.
    pub fn sysctl(&self, path: &str, value: &str) {
        let path = Path::new("/proc/sys").join(path);
        self.run(|| fs::write(&path, value))
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }

    /// Has `device` send frames with checksums, and none above its MTU: over a
    /// veth the kernel leaves both to whoever sends the packet on a wire.
    pub fn frames_as_on_a_wire(&self, device: &str) {
        let arguments = ["netns", "exec", &self.name, "ethtool", "-K", device];
        run("ip", &[&arguments[..], &["tx", "off"]].concat());
    }

    /// Loads an nftables ruleset inside, as one transaction.
    pub fn nft(&self, ruleset: &str) {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start nft");
        let mut stdin = child.stdin.take().expect("piped stdin");
        stdin.write_all(ruleset.as_bytes()).expect("write to nft");
        drop(stdin);
        let output = child.wait_with_output().expect("wait for nft");
        assert!(
            output.status.success(),
            "nft in {}: {}\n{ruleset}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// One of the namespace's own TCP counters, such as `RetransSegs`.
    pub fn counter(&self, name: &str) -> u64 {
        let read = |file| fs::read_to_string(file).expect("read the namespace's counters");
        let text = self
            .run(|| read("/proc/thread-self/net/snmp") + &read("/proc/thread-self/net/netstat"));
        // Rows come in pairs: names, then values.
        let rows: Vec<&str> = text.lines().collect();
        let mut pairs = rows
            .chunks_exact(2)
            .flat_map(|pair| pair[0].split(' ').zip(pair[1].split(' ')).skip(1));
        let value = pairs.find(|(key, _)| *key == name).map(|(_, value)| value);
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no counter {name}"))
    }

    /// A listening TCP socket inside.
    pub fn listen(&self, address: SocketAddrV4) -> TcpListener {
        self.run(|| TcpListener::bind(address))
            .unwrap_or_else(|error| panic!("listen on {address} in {}: {error}", self.name))
    }

    /// A bound UDP socket inside.
    pub fn udp(&self, address: SocketAddrV4) -> UdpSocket {
        self.run(|| UdpSocket::bind(address))
            .unwrap_or_else(|error| panic!("bind {address} in {}: {error}", self.name))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

/// A veth pair: `(namespace, device)` at each end, both up.
pub fn connect(left: (&Netns, &str), right: (&Netns, &str)) {
    left.0.ip(&[format!(
        "link add {} type veth peer name {} netns {}",
        left.1,
        right.1,
        right.0.name()
    )]);
    left.0.ip(&[format!("link set {} up", left.1)]);
    right.0.ip(&[format!("link set {} up", right.1)]);
}

/// Deletes what runners that were killed have left: namespaces and temporary
/// directories. To be called before this runner makes any.
pub fn sweep() {
    for name in left_in(Path::new("/run/netns")) {
        delete(&name);
    }
    let temporary = std::env::temp_dir();
    for name in left_in(&temporary) {
        // Another user's is not ours to delete.
        let _ = fs::remove_dir_all(temporary.join(name));
    }
}

/// Entries of `directory` named after a runner that is no more.
fn left_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_left = |name: &String| {
        let pid = name
            .strip_prefix("fg-")
            .and_then(|rest| rest.split('-').next());
        pid.and_then(|pid| pid.parse::<u32>().ok())
            .is_some_and(|pid| {
                // A runner that has this one's pid was an earlier one.
                pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists()
            })
    };
    names.filter(is_left).collect()
}

/// Moves the calling thread into the namespace `name`.
fn enter(name: &str) {
    let file = File::open(Path::new("/run/netns").join(name)).expect("open the namespace");
    setns(file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
}

fn delete(name: &str) {
    let status = Command::new("ip").args(["netns", "del", name]).status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("could not delete the namespace {name}");
    }
}

/// Runs a command to its end and requires success.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("start {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
