//! The gateway under test as a process: its configuration, its start, and its
//! admin socket, spoken to directly and through `fullgatectl`.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::gateway::{Attachment, Gateway};
use super::netns::{self, Netns};
use super::plan::{Arms, Driver, Plan, Service};
use super::process::Process;

/// DPDK probes buses and reserves memory before the admin socket opens.
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The built gateway.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_fullgate"))
}

/// A configuration without its services, ready to be written with any.
#[derive(Clone)]
pub struct Config {
    head: String,
    pub file: PathBuf,
    pub socket: PathBuf,
}

impl Config {
    pub fn new(unique: &str, directory: &Path, plan: &Plan, ports: &[Attachment<'_>]) -> Self {
        let socket = directory.join("fullgate.sock");
        let mut head = format!(
            "[runtime]\nworkers = {}\nhugepages = {}\nconnections = {}\n\
             instance = \"{unique}\"\nadmin-socket = \"{}\"\nlocal-ports = \"{}-{}\"\n{}",
            plan.workers,
            plan.hugepages,
            plan.connections,
            socket.display(),
            plan.local_ports.start(),
            plan.local_ports.end(),
            plan.runtime,
        );
        for (index, port) in ports.iter().enumerate() {
            let (name, address) = [("wan", "10.1.0.1"), ("lan", "10.2.0.1")][index];
            let device = port.device;
            let (device, netns) = match plan.driver {
                Driver::Tap => (format!("tap:{device}"), Some(port.netns.name())),
                Driver::AfPacket => (format!("vdev:net_af_packet{index},iface={device}"), None),
                Driver::AfXdp => (format!("vdev:net_af_xdp{index},iface={device}"), None),
            };
            write!(
                head,
                "\n[[port]]\nname = \"{name}\"\ndevice = \"{device}\"\n\
                 addresses = [\"{address}/{}\"]\n",
                plan.prefix
            )
            .expect("write to a string");
            if let Some(netns) = netns {
                writeln!(head, "netns = \"{netns}\"").expect("write to a string");
            }
            if let (1, Some(mtu)) = (index, plan.lan_mtu) {
                writeln!(head, "mtu = {mtu}").expect("write to a string");
            }
            if let Some(rate) = plan.kernel_rate {
                write!(
                    head,
                    "kernel-interface = \"k{index}\"\nkernel-rate = {rate}\n"
                )
                .expect("write to a string");
            }
        }
        for (to, via, wanted) in [
            ("10.4.0.0/24", "10.1.0.254", plan.far_client),
            ("10.3.0.0/24", "10.2.0.254", plan.far_server),
        ] {
            if wanted {
                write!(head, "\n[[route]]\nto = \"{to}\"\nvia = \"{via}\"\n")
                    .expect("write to a string");
            }
        }
        let (first, last) = plan.locals();
        write!(
            head,
            "\n[[pool]]\nname = \"default\"\naddresses = [\"{first}-{last}\"]\n"
        )
        .expect("write to a string");
        Self {
            head,
            file: directory.join("fullgate.toml"),
            socket,
        }
    }

    /// One that is written already, but for the runtime of a test and services.
    pub fn of(unique: &str, directory: &Path, ports: &str) -> Self {
        let socket = directory.join("fullgate.sock");
        let head = format!(
            "[runtime]\nhugepages = false\nconnections = 65_536\ninstance = \"{unique}\"\n\
             admin-socket = \"{}\"\n{ports}",
            socket.display()
        );
        Self {
            head,
            file: directory.join("fullgate.toml"),
            socket,
        }
    }

    /// The whole file.
    pub fn text(&self, services: &[Service]) -> String {
        let mut text = self.head.clone();
        for service in services {
            write!(
                text,
                "\n[[service]]\nname = \"{}\"\nvip = \"{}\"\nprotocol = \"{}\"\n\
                 scheduler = \"wrr\"\n{}",
                service.name,
                service.vip(),
                service.protocol.name(),
                service.keys
            )
            .expect("write to a string");
            for server in &service.servers {
                write!(
                    text,
                    "  [[service.server]]\n  name = \"{}\"\n  address = \"{}\"\n  weight = {}\n",
                    server.name, server.address, server.weight
                )
                .expect("write to a string");
            }
        }
        text
    }

    pub fn write(&self, services: &[Service]) {
        fs::write(&self.file, self.text(services)).expect("write the configuration");
    }
}

/// Whether the plan's ports are what `Config` knows to write.
pub fn port_count(plan: &Plan) -> usize {
    match plan.arms {
        Arms::One => 1,
        Arms::Two => 2,
    }
}

/// A running fullgate.
pub struct Fullgate {
    process: Process,
    config: Config,
    /// Where it and its ends of the veth pairs are, if it is on any, or has
    /// interfaces of the kernel.
    netns: Option<Netns>,
    directory: PathBuf,
}

impl Fullgate {
    /// Starts it and waits until the admin socket answers.
    pub fn start(
        unique: &str,
        directory: &Path,
        plan: &Plan,
        ports: &[Attachment<'_>],
        services: &[Service],
    ) -> Self {
        assert_eq!(ports.len(), port_count(plan));
        let config = Config::new(unique, directory, plan, ports);
        config.write(services);
        let on_veth = plan.driver != Driver::Tap;
        let netns = (on_veth || plan.kernel_rate.is_some()).then(|| Netns::new(unique, "gw"));
        for port in ports.iter().filter(|_| on_veth) {
            let netns = netns.as_ref().expect("just made");
            netns::connect((netns, port.device), (port.netns, port.device));
            port.netns.frames_as_on_a_wire(port.device);
        }
        Self::run(config, netns, directory)
    }

    /// Starts it with a configuration that is written, in a namespace.
    pub fn run(config: Config, netns: Option<Netns>, directory: &Path) -> Self {
        Self {
            process: run(&config, netns.as_ref(), directory),
            config,
            netns,
            directory: directory.to_owned(),
        }
    }

    /// Starts it anew after it has ended.
    pub fn start_again(&mut self) {
        self.process = run(&self.config, self.netns.as_ref(), &self.directory);
    }

    /// The namespace it runs in, where that is one of its own.
    pub fn netns(&self) -> &Netns {
        self.netns.as_ref().expect("a namespace of its own")
    }

    /// Asks it to stop the way an init system does.
    pub fn ask_to_stop(&self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// Waits until it has ended.
    pub fn ended(&mut self) -> ExitStatus {
        self.process.ended(STOP_LIMIT)
    }

    /// Ends it without giving it a say.
    pub fn kill(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.ended(STOP_LIMIT);
    }

    /// Kills it, and starts it anew before it has ended.
    pub fn kill_and_start_again(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.start_again();
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A line of its `/proc/PID/status`, such as `VmRSS`, without the name.
    pub fn status(&self, name: &str) -> String {
        let path = format!("/proc/{}/status", self.process.pid());
        let text = fs::read_to_string(path).expect("the status of the process");
        let line = text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key == name).then(|| value.trim().to_owned())
        });
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Its resident memory, bytes.
    pub fn resident(&self) -> u64 {
        let text = self.status("VmRSS");
        let kilobytes = text.split(' ').next().and_then(|text| text.parse().ok());
        kilobytes.map_or_else(|| panic!("VmRSS: {text}"), |count: u64| count << 10)
    }

    /// How often one of its threads waited for a page that was on disk.
    pub fn major_faults(&self) -> u64 {
        let path = format!("/proc/{}/stat", self.process.pid());
        let text = fs::read_to_string(path).expect("the status of the process");
        // The name, in parentheses, may have blanks; the state follows it.
        let (_, rest) = text.rsplit_once(')').expect("a name");
        let count = rest.split_whitespace().nth(9);
        let count = count.and_then(|text| text.parse().ok());
        count.unwrap_or_else(|| panic!("no page faults in {text}"))
    }

    /// For how many milliseconds each worker was ready to run and had no core, so
    /// far.
    pub fn waited_for_core(&self) -> Vec<u64> {
        let tasks = format!("/proc/{}/task", self.process.pid());
        let mut waited: Vec<(String, u64)> = fs::read_dir(tasks)
            .expect("the threads of the process")
            .filter_map(|task| {
                let task = task.expect("a thread").path();
                // Others than workers may have ended.
                let name = fs::read_to_string(task.join("comm")).ok()?;
                if !name.starts_with("worker-") {
                    return None;
                }
                let text = fs::read_to_string(task.join("schedstat")).expect("its times");
                let nanoseconds = text.split(' ').nth(1).and_then(|text| text.parse().ok());
                let nanoseconds: u64 = nanoseconds.unwrap_or_else(|| panic!("schedstat: {text}"));
                Some((name, nanoseconds / 1_000_000))
            })
            .collect();
        waited.sort();
        waited.into_iter().map(|(_, waited)| waited).collect()
    }

    /// What it has logged.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Makes it read its configuration again, now with `services`.
    pub fn hang_up(&self, services: &[Service]) {
        self.config.write(services);
        self.process.signal(Signal::SIGHUP);
    }

    /// Stops it the way an init system does.
    pub fn terminate(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.ended()
    }

    /// One request over the admin socket.
    pub fn call(&self, method: &str, parameters: Value) -> Result<Value, String> {
        ask(&self.config.socket, method, parameters)
    }

    /// Runs `fullgatectl` and requires success; what it printed.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let output = self.try_ctl(arguments);
        assert!(
            output.status.success(),
            "fullgatectl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `fullgatectl`.
    pub fn try_ctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_fullgatectl"))
            .arg("--socket")
            .arg(&self.config.socket)
            .args(arguments)
            .output()
            .expect("start fullgatectl")
    }

    /// One of `fullgatectl`'s tables as JSON.
    pub fn show(&self, table: &str) -> Value {
        let text = self.ctl(&["show", table, "--json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }
}

/// Starts fullgate and waits until the admin socket answers.
fn run(config: &Config, netns: Option<&Netns>, directory: &Path) -> Process {
    let arguments = ["--config".as_ref(), config.file.as_os_str()];
    let mut process = Process::start(netns, directory, "fullgate", binary(), &arguments);
    process.until(START_LIMIT, || ask(&config.socket, "ping", json!({})).ok());
    process
}

impl Gateway for Fullgate {
    fn apply(&mut self, services: &[Service]) {
        self.config.write(services);
        self.ctl(&["reload"]);
    }
}

/// One JSON-RPC 2.0 request and its response, a line each.
pub fn ask(socket: &Path, method: &str, parameters: Value) -> Result<Value, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = UnixStream::connect(socket).map_err(text)?;
    stream.set_read_timeout(Some(STOP_LIMIT)).map_err(text)?;
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters});
    stream
        .write_all(format!("{request}\n").as_bytes())
        .map_err(text)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(text)?;
    let mut response: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
    if response["jsonrpc"] != "2.0" || response["id"] != 1 {
        return Err(format!("not the response to the request: {line}"));
    }
    match response.get("error") {
        Some(error) => Err(error["message"].as_str().unwrap_or(&line).to_owned()),
        None => Ok(response["result"].take()),
    }
}
