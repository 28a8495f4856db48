//! What keeps the gateway from starting is said in one clear line, and the
//! exit status is not 0.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

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
        "startup::second_instance",
        &fullgate,
        second_instance,
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
    assert!(
        status.code().is_some_and(|code| code != 0),
        "{status}:\n{said}"
    );
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

/// The second start is refused and the first instance goes on.
fn second_instance(plan: &Plan) {
    let web = Service::new(plan, "web", Protocol::Tcp, 80, &[1]);
    let mut lab = Lab::start(plan, std::slice::from_ref(&web));
    let file = lab.fullgate().config().file.clone();
    let line = refusal_of(&file, lab.directory(), &[]);
    assert!(line.contains("fg-") || line.contains("running"), "{line}");
    lab.fullgate().ctl(&["show", "services"]);
}
