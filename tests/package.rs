//! The Debian package that `scripts/package` built: what is in it, and that it
//! installs into a directory of its own and runs there. Cases that need what
//! the machine lacks are listed as ignored, with the reason on standard error.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);

/// Most that systemd-analyze may find exposed.
const EXPOSURE: u32 = 50;

const CONFIG: &str = r#"
[runtime]
hugepages = false
connections = 4_096
socket-group = "fullgate"
socket-read-group = "fullgate-read"

[[port]]
name = "wan"
device = "tap:fg0"
addresses = ["10.0.0.1/24"]

[[port]]
name = "lan"
device = "tap:fg1"
addresses = ["10.0.1.1/24"]

[[pool]]
name = "default"
addresses = ["10.0.1.10"]

[[service]]
name = "web"
vip = "10.0.0.100:80"
"#;

fn main() {
    let arguments = Arguments::from_args();
    let package = package();
    let no_package = package
        .is_none()
        .then(|| "no package; scripts/package makes one".to_owned());
    let file = package.unwrap_or_default();
    let tool = |name: &str| {
        let path = std::env::var("PATH").unwrap_or_default();
        let found = path
            .split(':')
            .any(|part| Path::new(part).join(name).exists());
        (!found).then(|| format!("no {name}"))
    };
    let root = (!geteuid().is_root()).then(|| "not root".to_owned());
    let tun = (!Path::new("/dev/net/tun").exists()).then(|| "no /dev/net/tun".to_owned());
    type Body = fn(&Path);
    let cases: [(&str, Body, Vec<Option<String>>); 4] = [
        (
            "unit_is_well_formed",
            unit_is_well_formed,
            vec![tool("systemd-analyze")],
        ),
        (
            "says_what_it_is",
            says_what_it_is,
            vec![no_package.clone(), tool("dpkg-deb")],
        ),
        (
            "has_its_files",
            has_its_files,
            vec![no_package.clone(), tool("dpkg-deb")],
        ),
        (
            "installs_and_runs",
            installs_and_runs,
            vec![
                no_package,
                root,
                tun,
                tool("dpkg"),
                tool("unshare"),
                tool("nsenter"),
            ],
        ),
    ];
    let trials = cases
        .into_iter()
        .map(|(name, body, missing)| {
            let reasons: Vec<String> = missing.into_iter().flatten().collect();
            if !reasons.is_empty() {
                eprintln!("ignored: {name}: {}", reasons.join(", "));
            }
            let file = file.clone();
            Trial::test(name, move || {
                body(&file);
                Ok::<(), Failed>(())
            })
            .with_ignored_flag(!reasons.is_empty())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn package() -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian");
    let mut files = fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    files.find(|path| path.extension().is_some_and(|ending| ending == "deb"))
}

/// What a command prints; it must succeed.
#[track_caller]
fn said(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (
        String::from_utf8_lossy(&stdout).into_owned(),
        String::from_utf8_lossy(&stderr),
    );
    assert!(status.success(), "{command:?}: {status}\n{stdout}{stderr}");
    stdout
}

fn unit_is_well_formed(_: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/fullgate.service");
    let text = fs::read_to_string(source).expect("the unit");
    let directory = tempfile::tempdir().expect("a directory");
    let unit = directory.path().join("fullgate.service");
    // verify looks whether programs exist, and these are not installed here.
    fs::write(&unit, text.replace("/usr/sbin/fullgate ", "/bin/true ")).expect("a copy");
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&unit)
        .output()
        .expect("systemd-analyze runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    let about_us: Vec<&str> = errors
        .lines()
        .filter(|line| line.contains("fullgate"))
        .collect();
    assert!(output.status.success() && about_us.is_empty(), "{errors}");

    // A gateway comes back by itself: after a boot it starts when its NICs are
    // bound, and no number of failures ends the attempts but a wrong
    // configuration, which no attempt mends.
    let values = |key: &str| -> Vec<&str> {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let values = lines.filter(|(found, _)| *found == key);
        values
            .flat_map(|(_, value)| value.split_whitespace())
            .collect()
    };
    assert!(values("After").contains(&"dpdk.service"), "{text}");
    for (key, value) in [
        ("StartLimitIntervalSec", "0"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "2"),
        ("TimeoutStartSec", "180"),
    ] {
        assert_eq!(values(key), [value], "{key}");
    }

    // What systemd thinks of its hardening: from 0, the best, to 100. Devices,
    // /sys and the capabilities of the start are what is left.
    let threshold = format!("--threshold={EXPOSURE}");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", &threshold, "--no-pager"])
        .arg(&unit)
        .output()
        .expect("systemd-analyze runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

fn says_what_it_is(package: &Path) {
    let info = said(Command::new("dpkg-deb").arg("--field").arg(package));
    for line in [
        "Package: fullgate".to_owned(),
        format!("Version: {}", env!("CARGO_PKG_VERSION")),
        "Recommends: librte-meta-net, dpdk".to_owned(),
    ] {
        assert!(
            info.lines().any(|found| found == line),
            "no {line:?} in\n{info}"
        );
    }
    let depends = info.lines().find(|line| line.starts_with("Depends: "));
    let depends = depends.expect("dependencies");
    for needed in [
        "libc6 (>= ",
        "librte-eal",
        "librte-net-tap",
        "librte-mempool-ring",
    ] {
        assert!(depends.contains(needed), "no {needed} in {depends}");
    }
    let control = tempfile::tempdir().expect("a directory");
    said(
        Command::new("dpkg-deb")
            .arg("--control")
            .arg(package)
            .arg(control.path()),
    );
    let conffiles = fs::read_to_string(control.path().join("conffiles")).expect("conffiles");
    assert_eq!(conffiles, "/etc/fullgate/fullgate.toml\n");
    for script in ["postinst", "prerm", "postrm"] {
        said(
            Command::new("sh")
                .arg("-n")
                .arg(control.path().join(script)),
        );
    }
}

fn has_its_files(package: &Path) {
    let contents = said(Command::new("dpkg-deb").arg("--contents").arg(package));
    let rows: Vec<Vec<&str>> = contents
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for (mode, path) in [
        ("-rwxr-xr-x", "./usr/sbin/fullgate"),
        ("-rwxr-xr-x", "./usr/bin/fullgatectl"),
        ("-rw-r--r--", "./etc/fullgate/fullgate.toml"),
        ("-rw-r--r--", "./usr/lib/systemd/system/fullgate.service"),
        ("-rw-r--r--", "./usr/lib/tmpfiles.d/fullgate.conf"),
        ("-rw-r--r--", "./usr/lib/sysusers.d/fullgate.conf"),
        ("-rw-r--r--", "./usr/share/man/man5/fullgate.toml.5.gz"),
        ("-rw-r--r--", "./usr/share/man/man8/fullgate.8.gz"),
        (
            "-rw-r--r--",
            "./usr/share/man/man8/fullgatectl-import-ipvsadm.8.gz",
        ),
        (
            "-rw-r--r--",
            "./usr/share/bash-completion/completions/fullgatectl",
        ),
        (
            "-rw-r--r--",
            "./usr/share/zsh/vendor-completions/_fullgatectl",
        ),
        (
            "-rw-r--r--",
            "./usr/share/fish/vendor_completions.d/fullgatectl.fish",
        ),
        ("-rw-r--r--", "./usr/share/man/man8/fullgatectl-top.8.gz"),
        (
            "-rw-r--r--",
            "./usr/share/doc/fullgate/examples/prometheus/alerts.yml",
        ),
        ("-rw-r--r--", "./usr/share/doc/fullgate/security.md"),
        ("-rw-r--r--", "./usr/share/doc/fullgate/copyright"),
        ("-rw-r--r--", "./usr/share/doc/fullgate/changelog.gz"),
    ] {
        let row = rows.iter().find(|row| row.last() == Some(&path));
        let row = row.unwrap_or_else(|| panic!("no {path} in\n{contents}"));
        assert_eq!(row[0], mode, "{path}");
    }
    for row in &rows {
        assert_eq!(row[1], "root/root", "{row:?}");
        let writable = row[0].as_bytes()[5] == b'w' || row[0].as_bytes()[8] == b'w';
        assert!(!writable, "others may write {row:?}");
    }
    let tree = tempfile::tempdir().expect("a directory");
    said(
        Command::new("dpkg-deb")
            .arg("--raw-extract")
            .arg(package)
            .arg(tree.path()),
    );
    let sums = "cd \"$1\" && md5sum --check --quiet DEBIAN/md5sums";
    said(
        Command::new("sh")
            .args(["-ec", sums, "sh"])
            .arg(tree.path()),
    );
}

/// A process that is killed at the latest when the test ends.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("send a signal");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory with the host's libraries and package list, nothing else.
fn clean_root(root: &Path) {
    for directory in [
        "usr/lib",
        "usr/lib64",
        "etc",
        "run",
        "tmp",
        "proc",
        "sys",
        "dev",
    ] {
        fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    for name in ["lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).expect("a link");
    }
    for directory in ["info", "updates", "triggers"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(directory)).expect("a directory");
    }
    fs::create_dir_all(root.join("var/log")).expect("a directory");
    symlink("/run", root.join("var/run")).expect("a link");
    fs::copy("/var/lib/dpkg/status", root.join("var/lib/dpkg/status")).expect("the package list");
}

fn dpkg(root: &Path, arguments: &[&str]) {
    let mut command = Command::new("dpkg");
    command.arg(format!("--root={}", root.display()));
    command.arg("--force-script-chrootless").args(arguments);
    said(&mut command);
}

fn installs_and_runs(package: &Path) {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    clean_root(root);
    // Refused where a dependency is missing.
    dpkg(root, &["--install", package.to_str().expect("a path")]);
    let groups = fs::read_to_string(root.join("etc/group")).expect("groups");
    for group in ["fullgate:", "fullgate-read:"] {
        assert!(
            groups.lines().any(|line| line.starts_with(group)),
            "{groups}"
        );
    }
    fs::write(root.join("etc/fullgate/tap.toml"), CONFIG).expect("a configuration");
    let socket = UnixDatagram::bind(root.join("run/notify")).expect("a socket");
    socket.set_read_timeout(Some(LIMIT)).expect("a limit");

    let enter = "mount --make-rprivate /
        for part in proc sys dev usr/lib usr/lib64; do mount --rbind /$part \"$1/$part\"; done
        ROOT=$1; shift
        export WATCHDOG_PID=$$
        exec chroot \"$ROOT\" \"$@\"";
    let log = directory.path().join("log");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--net", "sh", "-ec", enter, "sh"])
        .arg(root);
    command.args(["/usr/sbin/fullgate", "--config", "/etc/fullgate/tap.toml"]);
    command
        .env("NOTIFY_SOCKET", "/run/notify")
        .env("WATCHDOG_USEC", "600000");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(&log).expect("a log"));
    let mut running = Running(command.spawn().expect("unshare runs"));

    // Waits for a message that has this line.
    let told = |line: &str| {
        let deadline = Instant::now() + LIMIT;
        let mut buffer = [0; 4_096];
        loop {
            let error = || fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < deadline, "no {line}: {}", error());
            let length = socket.recv(&mut buffer);
            let length = length.unwrap_or_else(|why| panic!("no {line}: {why}: {}", error()));
            let message = String::from_utf8_lossy(&buffer[..length]);
            if message.lines().any(|found| found == line) {
                break;
            }
        }
    };
    told("READY=1");
    let inside = |arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(running.0.id().to_string());
        said(command.args(["--mount", "--net", "--root"]).args(arguments))
    };
    let version = inside(&["/usr/bin/fullgatectl", "version"]);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    let ports = inside(&["/usr/bin/fullgatectl", "show", "ports"]);
    assert!(ports.contains("net_tap"), "{ports}");
    let checked = inside(&["/usr/sbin/fullgate", "check"]);
    assert_eq!(checked, "/etc/fullgate/fullgate.toml: ok\n");
    told("WATCHDOG=1");
    running.signal(Signal::SIGHUP);
    told("RELOADING=1");
    told("READY=1");
    running.signal(Signal::SIGTERM);
    told("STOPPING=1");
    let status = running.0.wait().expect("its end");
    assert!(
        status.success(),
        "{status}: {}",
        fs::read_to_string(&log).unwrap_or_default()
    );

    dpkg(root, &["--remove", "fullgate"]);
    assert!(!root.join("usr/sbin/fullgate").exists());
    assert!(
        root.join("etc/fullgate/fullgate.toml").exists(),
        "a configuration stays"
    );
    dpkg(root, &["--purge", "fullgate"]);
    assert!(!root.join("etc/fullgate/fullgate.toml").exists());
}
