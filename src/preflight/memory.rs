//! Hugepages, ordinary memory, and how much of it may be locked.

use std::collections::BTreeSet;

use super::Report;
use super::host::Host;
use crate::config::Config;

const NODES: &str = "/sys/devices/system/node";
/// Of capabilities(7): may lock memory without limit.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// The hugepages of one size on one node.
struct Pages {
    directory: String,
    node: u32,
    /// Bytes of a page.
    size: u64,
    reserved: u64,
    free: u64,
}

pub(super) fn hugepages(report: &mut Report, host: &Host<'_>, config: &Config) {
    let topic = "hugepages";
    let needed = config.memory();
    if !config.runtime.hugepages {
        return report.ok(topic, "not used: hugepages = false");
    }
    let all = pages(host);
    for pages in all.iter().filter(|pages| pages.reserved > 0) {
        report.ok(
            topic,
            format!(
                "node {}: {} of {} pages of {} MB are free",
                pages.node,
                pages.free,
                pages.reserved,
                pages.size >> 20
            ),
        );
    }
    let free: u64 = all.iter().map(|pages| pages.free * pages.size).sum();
    let wanted_nodes = wanted_nodes(host, config);
    let smallest = |node: u32| {
        let on_node = all.iter().filter(|pages| pages.node == node);
        on_node.min_by_key(|pages| pages.size)
    };
    let reserve = |node: u32| match smallest(node) {
        Some(pages) => {
            let more = needed.saturating_sub(free).div_ceil(pages.size);
            let count = pages.reserved + more.max(1);
            format!("echo {count} > {}/nr_hugepages", pages.directory)
        }
        None => format!("sysctl vm.nr_hugepages={}", needed.div_ceil(2 << 20)),
    };
    if free < needed {
        report.wrong(
            topic,
            format!("{} MB are free, {} MB are needed", free >> 20, needed >> 20),
            reserve(wanted_nodes.first().copied().unwrap_or(0)),
        );
        return;
    }
    for node in wanted_nodes {
        let here = all.iter().filter(|pages| pages.node == node);
        if here.map(|pages| pages.free).sum::<u64>() == 0 && smallest(node).is_some() {
            report.advice(
                topic,
                format!("none is free on node {node}, which has ports or workers"),
                reserve(node),
            );
        }
    }
}

/// The nodes of the ports and the workers' cores; the first port's first.
fn wanted_nodes(host: &Host<'_>, config: &Config) -> Vec<u32> {
    let of_ports = config
        .pci_ports()
        .filter_map(|(_, address)| host.node_of_device(address));
    let cores = config.runtime.cores.iter().flatten();
    let of_cores = cores.filter_map(|&core| host.node_of_core(core));
    let mut seen = BTreeSet::new();
    of_ports
        .chain(of_cores)
        .filter(|node| seen.insert(*node))
        .collect()
}

fn pages(host: &Host<'_>) -> Vec<Pages> {
    let mut all = Vec::new();
    for name in host.names(NODES) {
        let Some(node) = name
            .strip_prefix("node")
            .and_then(|number| number.parse().ok())
        else {
            continue;
        };
        let sizes = format!("{NODES}/{name}/hugepages");
        for size in host.names(&sizes) {
            let kilobytes = size
                .strip_prefix("hugepages-")
                .and_then(|size| size.strip_suffix("kB"))
                .and_then(|number| number.parse::<u64>().ok());
            let Some(kilobytes) = kilobytes.filter(|size| *size >= 1_024) else {
                continue;
            };
            let directory = format!("{sizes}/{size}");
            let read = |name| host.number(&format!("{directory}/{name}")).unwrap_or(0);
            all.push(Pages {
                node,
                size: kilobytes << 10,
                reserved: read("nr_hugepages"),
                free: read("free_hugepages"),
                directory,
            });
        }
    }
    all
}

/// Of the whole machine, and of the process's control groups.
const MEMINFO: &str = "/proc/meminfo";
const GROUPS: &str = "/sys/fs/cgroup";

/// What bounds the memory of the process.
struct Bound {
    /// Bytes to be had.
    available: u64,
    /// Who says so.
    source: String,
}

pub(super) fn ordinary(report: &mut Report, host: &Host<'_>, config: &Config) {
    let topic = "memory";
    let Some(bound) = bound(host) else { return };
    let needed = config.demand().total();
    match shortage(host, config) {
        Some(text) => report.wrong(topic, text, remedy(config, bound.available)),
        None => report.ok(
            topic,
            format!(
                "{} MB are available, {} MB are needed",
                bound.available >> 20,
                needed >> 20
            ),
        ),
    }
}

/// More than there is: the kernel would end the process, and maybe others, in
/// the middle of the start.
pub(super) fn shortage(host: &Host<'_>, config: &Config) -> Option<String> {
    let (demand, bound) = (config.demand(), bound(host)?);
    if demand.total() <= bound.available {
        return None;
    }
    let runtime = &config.runtime;
    let mut parts = vec![format!(
        "{} MB for runtime.connections = {} of {} workers",
        demand.connections >> 20,
        runtime.connections,
        runtime.workers
    )];
    for (bytes, what) in [
        (demand.buffers, "packet buffers"),
        (demand.local_ports, "local ports"),
    ] {
        if bytes > 0 {
            parts.push(format!("{} MB for {what}", bytes >> 20));
        }
    }
    Some(format!(
        "{} MB of memory are needed ({}), and {} MB are available ({})",
        demand.total() >> 20,
        parts.join(", "),
        bound.available >> 20,
        bound.source
    ))
}

fn remedy(config: &Config, available: u64) -> String {
    let demand = config.demand();
    let rest = demand.total() - demand.connections;
    let connections = u64::from(config.runtime.connections);
    let each = demand.connections.div_ceil(connections).max(1);
    let fit = available.saturating_sub(rest) / each;
    match fit {
        0..4_096 => "add memory, or use fewer workers".to_owned(),
        _ => format!("runtime.connections = {}", fit.min(connections)),
    }
}

/// The least of what is free on the machine and what its control groups allow.
fn bound(host: &Host<'_>) -> Option<Bound> {
    let of_machine = kilobytes(&host.text(MEMINFO)?, "MemAvailable:").map(|available| Bound {
        available,
        source: format!("MemAvailable of {MEMINFO}"),
    });
    let groups = host.text("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let mut path = own.map(str::to_owned).unwrap_or_default();
    let mut bounds: Vec<Bound> = of_machine.into_iter().collect();
    loop {
        let directory = format!("{GROUPS}{}", path.trim_end_matches('/'));
        if let Some(max) = host.number(&format!("{directory}/memory.max")) {
            let used = host.number(&format!("{directory}/memory.current"));
            let stat = host.text(&format!("{directory}/memory.stat"));
            // The kernel takes back what is cached of files.
            let cached = stat.and_then(|stat| {
                let line = |line: &str| line.strip_prefix("inactive_file ")?.trim().parse().ok();
                stat.lines().find_map(line)
            });
            let used = used.unwrap_or(0).saturating_sub(cached.unwrap_or(0));
            bounds.push(Bound {
                available: max.saturating_sub(used),
                source: format!("{directory}/memory.max"),
            });
        }
        match path.rfind('/') {
            Some(end) => path.truncate(end),
            None => break,
        }
    }
    bounds.into_iter().min_by_key(|bound| bound.available)
}

/// A figure of `/proc/meminfo`, bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(number << 10)
}

/// vfio locks what a NIC reads and writes.
pub(super) fn locking(report: &mut Report, host: &Host<'_>, config: &Config) {
    let topic = "memlock";
    if config.pci_ports().next().is_none() {
        return;
    }
    let status = host.text("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let limits = host.text("/proc/self/limits").unwrap_or_default();
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap_or_default();
    let enough = limit
        .parse()
        .map_or(limit == "unlimited", |bytes: u64| bytes >= config.memory());
    if effective.is_some_and(|mask| mask & CAP_IPC_LOCK != 0) {
        report.ok(topic, "may lock memory without limit (CAP_IPC_LOCK)");
    } else if enough {
        report.ok(topic, format!("the limit is {limit}"));
    } else {
        report.wrong(
            topic,
            format!(
                "the limit is {limit} bytes, and a NIC needs {} MB locked",
                config.memory() >> 20
            ),
            "ulimit -l unlimited (LimitMEMLOCK=infinity in a systemd unit)",
        );
    }
}
