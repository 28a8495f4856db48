//! Child processes: started with their output in files, killed by pid on drop,
//! and killed by the kernel when the runner itself is killed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::netns::Netns;

/// Polls until `ready` gives a value; panics naming `what` after `limit`.
pub fn until<T>(limit: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A running child. The thread that starts it must live as long as it does:
/// the kernel ties the death signal to the thread.
pub struct Process {
    child: Child,
    name: String,
    output: PathBuf,
}

impl Process {
    /// Starts `program` in `netns` (or where the runner is); its standard
    /// output and error go to `<name>.log` in `directory`.
    pub fn start(
        netns: Option<&Netns>,
        directory: &Path,
        name: &str,
        program: impl AsRef<OsStr>,
        arguments: &[impl AsRef<OsStr>],
    ) -> Self {
        let output = directory.join(format!("{name}.log"));
        let file = File::create(&output).expect("create the log file");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if let Some(netns) = netns {
            command.args(["ip", "netns", "exec", netns.name()]);
        }
        command.arg(program).args(arguments);
        command.stdin(Stdio::null());
        command.stdout(file.try_clone().expect("a second handle of the log file"));
        command.stderr(file);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        Self {
            child,
            name: name.to_owned(),
            output,
        }
    }

    /// Its process id: what starts it replaces itself by it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the process has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Polls until `ready` gives a value; panics with the process's output when
    /// the process ends first or `limit` passes.
    pub fn until<T>(&mut self, limit: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(value) = ready() {
                return value;
            }
            let ended = self.child.try_wait().expect("look at the child");
            assert!(
                ended.is_none(),
                "{} ended ({ended:?}):\n{}",
                self.name,
                self.output()
            );
            let in_time = Instant::now() < deadline;
            assert!(
                in_time,
                "{} not ready within {limit:?}:\n{}",
                self.name,
                self.output()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends a signal to exactly this process.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid is positive");
        kill(Pid::from_raw(pid), signal)
            .unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.name));
    }

    /// Waits for the end of the process.
    pub fn ended(&mut self, limit: Duration) -> ExitStatus {
        until(limit, &format!("end of {}", self.name), || {
            self.child.try_wait().expect("look at the child")
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- output of {}\n{}---", self.name, self.output());
        }
    }
}

/// Runs a program to its end inside `netns`, with its output captured.
pub fn output_of(netns: &Netns, program: &str, arguments: &[&str]) -> Output {
    Command::new("ip")
        .args(["netns", "exec", netns.name(), program])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("start {program}: {error}"))
}
