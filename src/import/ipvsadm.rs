//! What `ipvsadm -Sn` prints, and scripts of ipvsadm commands: a command a line.

use super::{Draft, Forwarding, Handle, Imported};
use crate::config::Protocol;

/// Options of ipvsadm and its forks: short form (or none), long form, whether
/// a value follows.
const OPTIONS: [(Option<char>, &str, Value); 47] = [
    (Some('A'), "add-service", Value::No),
    (Some('E'), "edit-service", Value::No),
    (Some('D'), "delete-service", Value::No),
    (Some('C'), "clear", Value::No),
    (Some('R'), "restore", Value::No),
    (Some('S'), "save", Value::No),
    (Some('a'), "add-server", Value::No),
    (Some('e'), "edit-server", Value::No),
    (Some('d'), "delete-server", Value::No),
    (Some('L'), "list", Value::No),
    (Some('l'), "list", Value::No),
    (Some('Z'), "zero", Value::No),
    (Some('P'), "add-laddr", Value::No),
    (Some('Q'), "del-laddr", Value::No),
    (None, "set", Value::No),
    (None, "start-daemon", Value::Yes),
    (None, "stop-daemon", Value::Yes),
    (Some('t'), "tcp-service", Value::Yes),
    (Some('u'), "udp-service", Value::Yes),
    (None, "sctp-service", Value::Yes),
    (Some('f'), "fwmark-service", Value::Yes),
    (Some('6'), "ipv6", Value::No),
    (Some('s'), "scheduler", Value::Yes),
    (None, "pe", Value::Yes),
    (Some('p'), "persistent", Value::Maybe),
    (Some('M'), "netmask", Value::Yes),
    (Some('O'), "ops", Value::No),
    (Some('o'), "ops", Value::No),
    (Some('b'), "fullnat", Value::No),
    (None, "sched-flags", Value::Yes),
    (Some('r'), "real-server", Value::Yes),
    (Some('g'), "gatewaying", Value::No),
    (Some('i'), "ipip", Value::No),
    (Some('m'), "masquerading", Value::No),
    (None, "tun-type", Value::Yes),
    (None, "tun-port", Value::Yes),
    (None, "tun-nocsum", Value::No),
    (None, "tun-csum", Value::No),
    (None, "tun-remcsum", Value::No),
    (Some('w'), "weight", Value::Yes),
    (Some('x'), "u-threshold", Value::Yes),
    (Some('y'), "l-threshold", Value::Yes),
    (Some('z'), "local-address", Value::Yes),
    (Some('F'), "ifname", Value::Yes),
    (Some('j'), "synproxy", Value::Yes),
    (Some('n'), "numeric", Value::No),
    (None, "exact", Value::No),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    No,
    Yes,
    /// A number, if the next word is one.
    Maybe,
}

/// One command: long names of its options, and their values.
struct Rule<'a> {
    options: Vec<(&'a str, &'a str)>,
}

impl<'a> Rule<'a> {
    fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(option, _)| *option == name)
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        let found = self.options.iter().find(|(option, _)| *option == name);
        found.map(|(_, value)| *value)
    }

    /// Protocol and address of the service it is about, as written.
    fn service(&self) -> Option<(Protocol, &'a str)> {
        let tcp = self.value("tcp-service").map(|vip| (Protocol::Tcp, vip));
        tcp.or_else(|| self.value("udp-service").map(|vip| (Protocol::Udp, vip)))
    }
}

/// Reads the rules that `ipvsadm -Sn` saved.
pub fn ipvsadm(text: &str) -> Imported {
    let mut draft = Draft::default();
    for (line, text) in (1..).zip(text.lines()) {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        match words.first() {
            None => continue,
            Some(first) if first.starts_with('#') => continue,
            Some(first) if *first == "ipvsadm" || first.ends_with("/ipvsadm") => {
                words.remove(0);
            }
            Some(first) if *first == "dpip" || first.ends_with("/dpip") => {
                draft.note(
                    line,
                    "dpip command left out: addresses of interfaces and routes belong to \
                     [[port]] and [[route]]",
                );
                continue;
            }
            Some(first) if !first.starts_with('-') => {
                draft.note(
                    line,
                    format!("not a rule of \"ipvsadm -Sn\": {first:?}; left out"),
                );
                continue;
            }
            Some(_) => {}
        }
        let rule = rule(&mut draft, line, &words);
        take(&mut draft, line, &rule);
    }
    draft.finish("ipvsadm")
}

fn rule<'a>(draft: &mut Draft, line: usize, words: &[&'a str]) -> Rule<'a> {
    let mut options = Vec::new();
    let mut words = words.iter().copied().peekable();
    while let Some(word) = words.next() {
        let (mut attached, name) = match word.strip_prefix("--") {
            Some(long) => match long.split_once('=') {
                Some((name, value)) => (Some(value), name),
                None => (None, long),
            },
            None => {
                let Some(letters) = word.strip_prefix('-').filter(|all| !all.is_empty()) else {
                    draft.note(line, format!("{word:?} is not understood; ignored"));
                    continue;
                };
                // Flags may be written together, and the last one's value too.
                let mut rest = letters;
                let mut found = None;
                while let Some(letter) = rest.chars().next() {
                    rest = &rest[letter.len_utf8()..];
                    let known = OPTIONS.iter().find(|(short, ..)| *short == Some(letter));
                    match known {
                        Some((_, name, Value::No)) if !rest.is_empty() => options.push((*name, "")),
                        known => {
                            found = Some(known.map(|(_, name, _)| *name));
                            break;
                        }
                    }
                }
                let attached = (!rest.is_empty()).then_some(rest);
                (attached, found.flatten().unwrap_or(word))
            }
        };
        let Some((_, name, value)) = OPTIONS.iter().find(|(_, long, _)| *long == name) else {
            draft.note(line, format!("option {word} is not known; ignored"));
            words.next_if(|next| attached.is_none() && !next.starts_with('-'));
            continue;
        };
        // ipvsadm's own -b takes the flags of a scheduler, its forks' none.
        let flags = *name == "fullnat" && options.contains(&("add-service", ""));
        let name = if flags { "sched-flags" } else { *name };
        let wanted = |next: &&str| match value {
            _ if flags => true,
            Value::No => false,
            Value::Yes => true,
            Value::Maybe => next.bytes().all(|byte| byte.is_ascii_digit()),
        };
        if attached.is_none() {
            attached = words.next_if(wanted);
        }
        if name == "set" {
            // Three numbers follow.
            while words.next_if(|next| !next.starts_with('-')).is_some() {}
        }
        options.push((name, attached.unwrap_or_default()));
    }
    Rule { options }
}

fn take(draft: &mut Draft, line: usize, rule: &Rule<'_>) {
    const IGNORED: [&str; 4] = ["clear", "restore", "save", "zero"];
    if rule.has("add-service") {
        add_service(draft, line, rule);
    } else if rule.has("add-server") {
        add_server(draft, line, rule);
    } else if rule.has("add-laddr") {
        add_local(draft, line, rule);
    } else if rule.has("set") {
        draft.note(
            line,
            "timeouts left out; give them as [service.timeouts] where they matter",
        );
    } else if rule.has("start-daemon") || rule.has("stop-daemon") {
        draft.note(line, "connection synchronization has no counterpart");
    } else if !IGNORED.iter().any(|command| rule.has(command)) {
        draft.note(
            line,
            "command left out: only -A, -a and --add-laddr are carried over; \
             save the rules with \"ipvsadm -Sn\"",
        );
    }
}

/// Says why a rule is about no TCP or UDP service.
fn no_service(draft: &mut Draft, line: usize, rule: &Rule<'_>) {
    let text = match (rule.value("fwmark-service"), rule.value("sctp-service")) {
        (Some(mark), _) => format!(
            "fwmark {mark} left out: services are addresses and ports; write a [[service]] for \
             each one that gets this mark"
        ),
        (None, Some(vip)) => format!("SCTP service {vip} left out: only TCP and UDP are forwarded"),
        (None, None) => "rule left out: it names no service".into(),
    };
    draft.note(line, text);
}

fn add_service(draft: &mut Draft, line: usize, rule: &Rule<'_>) {
    let Some((protocol, vip)) = rule.service() else {
        return no_service(draft, line, rule);
    };
    let scheduler = rule.value("scheduler");
    if draft.service(line, vip, protocol, scheduler).is_none() {
        return;
    }
    if let Some(seconds) = rule.value("persistent") {
        draft.note(line, persistence(seconds));
    }
    if rule.has("ops") {
        draft.note(
            line,
            "one-packet scheduling left out: datagrams of one client port stay at one server \
             until timeouts.udp",
        );
    }
    if let Some(engine) = rule.value("pe") {
        draft.note(line, format!("persistence engine {engine} left out"));
    }
    if let Some(flags) = rule.value("sched-flags") {
        draft.note(line, format!("scheduler flags {flags} left out"));
    }
    if let Some(state) = rule.value("synproxy").filter(|state| *state != "disable") {
        draft.note(
            line,
            format!("synproxy {state} left out: it has no counterpart"),
        );
    }
}

/// What persistence becomes.
pub(super) fn persistence(seconds: &str) -> String {
    let length = match seconds {
        "" => String::new(),
        seconds => format!(" of {seconds} s"),
    };
    format!(
        "persistence{length} left out; scheduler = \"sh\" keeps a client at its server for as \
         long as the servers stay the same"
    )
}

fn service_of(draft: &mut Draft, line: usize, rule: &Rule<'_>) -> Option<Handle> {
    let Some((protocol, vip)) = rule.service() else {
        no_service(draft, line, rule);
        return None;
    };
    let found = draft.find(vip, protocol);
    if found.is_none() {
        draft.note(
            line,
            format!("left out: service {vip} was not carried over"),
        );
    }
    found
}

fn add_server(draft: &mut Draft, line: usize, rule: &Rule<'_>) {
    let Some(service) = service_of(draft, line, rule) else {
        return;
    };
    let weight = match rule.value("weight").map(str::parse) {
        None => 1,
        Some(Ok(weight)) => weight,
        Some(Err(_)) => {
            draft.note(line, "the weight is no number; it becomes 1");
            1
        }
    };
    // LVS's default is direct routing.
    let forwarding = if rule.has("fullnat") {
        Forwarding::FullNat
    } else if rule.has("masquerading") {
        Forwarding::Nat
    } else if rule.has("ipip") || rule.has("tun-type") {
        Forwarding::Tunnel
    } else {
        Forwarding::DirectRouting
    };
    let address = rule.value("real-server").unwrap_or_default();
    draft.server(line, service, address, weight, forwarding);
    for (option, bound) in [("u-threshold", "upper"), ("l-threshold", "lower")] {
        if let Some(count) = rule.value(option).filter(|count| *count != "0") {
            draft.note(
                line,
                format!("{bound} connection threshold {count} left out"),
            );
        }
    }
}

fn add_local(draft: &mut Draft, line: usize, rule: &Rule<'_>) {
    if let Some(service) = service_of(draft, line, rule) {
        let local = rule.value("local-address").unwrap_or_default();
        draft.locals(line, service, local);
    }
}
