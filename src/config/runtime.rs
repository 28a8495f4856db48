//! `[runtime]`.

use std::path::PathBuf;
use std::time::Duration;

use super::Runtime;
use super::fields::{number, parsed, unless};
use super::problem::{Place, Problem};
use super::raw::RawRuntime;
use super::units::{format_duration, format_size, parse_duration, parse_ports, parse_size};
use crate::service::snapshot::Limits;
use crate::worker::NEIGHBORS;

/// A Unix socket's path: `sun_path` holds 108 bytes with the final 0 (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// Fewest local ports: with less, a server is soon out of them.
const LOCAL_PORTS_MIN: usize = 1_024;

/// What every link carries (RFC 791 §3.2).
const MTU_MIN: u16 = 68;

const IDLE_SLEEP_MAX: Duration = Duration::from_millis(100);

const MEMORY_MIN: u64 = 64 << 20;
const MEMORY_MAX: u64 = 1 << 40;

impl Default for Runtime {
    fn default() -> Self {
        Self {
            workers: 1,
            cores: None,
            main_core: None,
            hugepages: true,
            memory: None,
            connections: 1_000_000,
            mbufs: None,
            idle_sleep: None,
            instance: "fullgate".to_owned(),
            admin_socket: None,
            socket_group: None,
            socket_read_group: None,
            max_services: 4_096,
            max_servers: 65_536,
            neighbors: NEIGHBORS as u16,
            fragments: 4_096,
            resets_per_second: 10_000,
            server_resets_per_second: None,
            icmp_per_second: 1_000,
            echo_per_second: None,
            path_mtu_per_second: None,
            min_path_mtu: 1_280,
            reta_size: 128,
            local_ports: 1_024..=65_535,
        }
    }
}

impl Runtime {
    pub(super) fn admin_socket_or_default(&self) -> PathBuf {
        self.admin_socket
            .clone()
            .unwrap_or_else(|| PathBuf::from(format!("/run/fullgate/{}.sock", self.instance)))
    }

    /// What a worker may send.
    pub(crate) fn limits(&self) -> Limits {
        let or = |given: Option<u32>, other| given.unwrap_or(other);
        Limits {
            resets_per_second: self.resets_per_second,
            server_resets_per_second: or(self.server_resets_per_second, self.resets_per_second),
            icmp_per_second: self.icmp_per_second,
            echo_per_second: or(self.echo_per_second, self.icmp_per_second),
            path_mtu_per_second: or(self.path_mtu_per_second, self.icmp_per_second),
            min_path_mtu: self.min_path_mtu,
        }
    }

    pub(super) fn from_raw(at: &Place<'_>, raw: &RawRuntime) -> Result<Self, Problem> {
        let default = Self::default();
        let workers = number(&at.key("workers"), raw.workers, default.workers, 1..=64)?;
        let main_core = match raw.main_core {
            Some(_) => Some(number(&at.key("main-core"), raw.main_core, 0, 0..=1_023)?),
            None => None,
        };
        let reta_size = number(
            &at.key("reta-size"),
            raw.reta_size,
            default.reta_size,
            2..=4_096,
        )?;
        if !reta_size.is_power_of_two() {
            return Err(at.key("reta-size").problem(format!(
                "is {reta_size}; give a power of two, such as {}",
                reta_size.next_power_of_two()
            )));
        }
        if reta_size < u16::from(workers) {
            return Err(at.key("reta-size").problem(format!(
                "is {reta_size}, but there are {workers} workers; give at least one slot per worker"
            )));
        }
        let mbufs = match raw.mbufs {
            Some(_) => Some(number(&at.key("mbufs"), raw.mbufs, 0, 1_024..=16_777_216)?),
            None => None,
        };
        Ok(Self {
            workers,
            cores: cores(at, raw, workers, main_core)?,
            main_core,
            hugepages: raw.hugepages.unwrap_or(default.hugepages),
            memory: memory(at, raw)?,
            connections: number(
                &at.key("connections"),
                raw.connections,
                default.connections,
                4_096..=200_000_000,
            )?,
            mbufs,
            idle_sleep: idle_sleep(at, raw)?,
            instance: instance(at, raw, default.instance)?,
            admin_socket: admin_socket(at, raw)?,
            socket_group: group(&at.key("socket-group"), raw.socket_group.as_ref())?,
            socket_read_group: group(&at.key("socket-read-group"), raw.socket_read_group.as_ref())?,
            max_services: number(
                &at.key("max-services"),
                raw.max_services,
                default.max_services,
                1..=1_000_000,
            )?,
            max_servers: number(
                &at.key("max-servers"),
                raw.max_servers,
                default.max_servers,
                1..=4_000_000,
            )?,
            fragments: number(
                &at.key("fragments"),
                raw.fragments,
                default.fragments,
                64..=1_048_576,
            )?,
            neighbors: number(
                &at.key("neighbors"),
                raw.neighbors,
                default.neighbors,
                384..=65_535,
            )?,
            resets_per_second: number(
                &at.key("resets-per-second"),
                raw.resets_per_second,
                default.resets_per_second,
                0..=100_000_000,
            )?,
            icmp_per_second: number(
                &at.key("icmp-per-second"),
                raw.icmp_per_second,
                default.icmp_per_second,
                0..=100_000_000,
            )?,
            server_resets_per_second: rate(
                &at.key("server-resets-per-second"),
                raw.server_resets_per_second,
            )?,
            echo_per_second: rate(&at.key("echo-per-second"), raw.echo_per_second)?,
            path_mtu_per_second: rate(&at.key("path-mtu-per-second"), raw.path_mtu_per_second)?,
            min_path_mtu: number(
                &at.key("min-path-mtu"),
                raw.min_path_mtu,
                default.min_path_mtu,
                MTU_MIN..=65_535,
            )?,
            reta_size,
            local_ports: local_ports(at, raw, default.local_ports, reta_size)?,
        })
    }

    pub(super) fn to_raw(&self) -> RawRuntime {
        let default = Self::default();
        RawRuntime {
            workers: unless(self.workers, default.workers, i64::from),
            cores: self
                .cores
                .as_ref()
                .map(|cores| cores.iter().copied().map(i64::from).collect()),
            main_core: self.main_core.map(i64::from),
            hugepages: unless(self.hugepages, default.hugepages, |on| on),
            memory: self.memory.map(format_size),
            connections: unless(self.connections, default.connections, i64::from),
            mbufs: self.mbufs.map(i64::from),
            idle_sleep: self.idle_sleep.map(format_duration),
            instance: unless(&self.instance, &default.instance, String::clone),
            admin_socket: self
                .admin_socket
                .as_ref()
                .map(|path| path.display().to_string()),
            socket_group: self.socket_group.clone(),
            socket_read_group: self.socket_read_group.clone(),
            max_services: unless(self.max_services, default.max_services, i64::from),
            max_servers: unless(self.max_servers, default.max_servers, i64::from),
            neighbors: unless(self.neighbors, default.neighbors, i64::from),
            fragments: unless(self.fragments, default.fragments, i64::from),
            resets_per_second: unless(self.resets_per_second, default.resets_per_second, i64::from),
            server_resets_per_second: self.server_resets_per_second.map(i64::from),
            icmp_per_second: unless(self.icmp_per_second, default.icmp_per_second, i64::from),
            echo_per_second: self.echo_per_second.map(i64::from),
            path_mtu_per_second: self.path_mtu_per_second.map(i64::from),
            min_path_mtu: unless(self.min_path_mtu, default.min_path_mtu, i64::from),
            reta_size: unless(self.reta_size, default.reta_size, i64::from),
            local_ports: unless(&self.local_ports, &default.local_ports, |range| {
                format!("{}-{}", range.start(), range.end())
            }),
        }
    }
}

/// A rate that is another's where it is not given.
fn rate(at: &Place<'_>, value: Option<i64>) -> Result<Option<u32>, Problem> {
    match value {
        Some(_) => number(at, value, 0, 0..=100_000_000).map(Some),
        None => Ok(None),
    }
}

fn cores(
    at: &Place<'_>,
    raw: &RawRuntime,
    workers: u8,
    main_core: Option<u16>,
) -> Result<Option<Vec<u16>>, Problem> {
    let Some(listed) = &raw.cores else {
        return Ok(None);
    };
    let at = at.key("cores");
    let mut cores = Vec::with_capacity(listed.len());
    for (index, &core) in listed.iter().enumerate() {
        let at = at.item(index, "");
        let core: u16 = number(&at, Some(core), 0, 0..=1_023)?;
        if cores.contains(&core) {
            return Err(at.problem(format!(
                "core {core} is listed twice; give each worker its own"
            )));
        }
        if main_core == Some(core) {
            return Err(at.problem(format!(
                "core {core} is the main core; give workers other cores"
            )));
        }
        cores.push(core);
    }
    if cores.len() != usize::from(workers) {
        return Err(at.problem(format!(
            "lists {} cores for {workers} workers; give one core per worker",
            cores.len()
        )));
    }
    Ok(Some(cores))
}

fn memory(at: &Place<'_>, raw: &RawRuntime) -> Result<Option<u64>, Problem> {
    let Some(text) = &raw.memory else {
        return Ok(None);
    };
    let at = at.key("memory");
    let bytes = parsed(&at, text, parse_size)?;
    if !(MEMORY_MIN..=MEMORY_MAX).contains(&bytes) {
        return Err(at.problem(format!("is {text}; give \"64M\" to \"1024G\"")));
    }
    Ok(Some(bytes))
}

fn idle_sleep(at: &Place<'_>, raw: &RawRuntime) -> Result<Option<Duration>, Problem> {
    let Some(text) = &raw.idle_sleep else {
        return Ok(None);
    };
    let at = at.key("idle-sleep");
    let sleep = parsed(&at, text, parse_duration)?;
    if sleep > IDLE_SLEEP_MAX {
        return Err(at.problem(format!("is {text}; give \"0us\" to \"100ms\"")));
    }
    Ok(Some(sleep))
}

fn instance(at: &Place<'_>, raw: &RawRuntime, default: String) -> Result<String, Problem> {
    let Some(text) = &raw.instance else {
        return Ok(default);
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !(1..=32).contains(&text.len()) || !text.bytes().all(allowed) {
        return Err(at.key("instance").problem(format!(
            "{text:?} can't be part of file names; give 1 to 32 letters, digits, hyphens or underscores"
        )));
    }
    Ok(text.clone())
}

fn admin_socket(at: &Place<'_>, raw: &RawRuntime) -> Result<Option<PathBuf>, Problem> {
    let Some(text) = &raw.admin_socket else {
        return Ok(None);
    };
    let at = at.key("admin-socket");
    if !text.starts_with('/') || text.ends_with('/') || text.contains('\0') {
        return Err(at.problem(format!(
            "{text:?} is no absolute path of a file; give one, such as \"/run/fullgate/fullgate.sock\""
        )));
    }
    if text.len() > SOCKET_PATH_MAX {
        return Err(at.problem(format!(
            "has {} bytes; give a path of at most {SOCKET_PATH_MAX}, the limit of Unix sockets",
            text.len()
        )));
    }
    Ok(Some(PathBuf::from(text)))
}

/// A group's name as groupadd(8) takes it; whether the host has it shows at the
/// start.
fn group(at: &Place<'_>, given: Option<&String>) -> Result<Option<String>, Problem> {
    let Some(text) = given else { return Ok(None) };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if !(1..=32).contains(&text.len()) || !text.bytes().all(allowed) || text.starts_with('-') {
        return Err(at.problem(format!(
            "{text:?} is no group; give the name of one, such as \"fullgate\""
        )));
    }
    Ok(Some(text.clone()))
}

fn local_ports(
    at: &Place<'_>,
    raw: &RawRuntime,
    default: std::ops::RangeInclusive<u16>,
    reta_size: u16,
) -> Result<std::ops::RangeInclusive<u16>, Problem> {
    let Some(text) = &raw.local_ports else {
        return Ok(default);
    };
    let at = at.key("local-ports");
    let range = parsed(&at, text, parse_ports)?;
    let least = LOCAL_PORTS_MIN.max(usize::from(reta_size));
    if range.len() < least {
        return Err(at.problem(format!("has {} ports; give at least {least}", range.len())));
    }
    Ok(range)
}
