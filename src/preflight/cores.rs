//! The workers' cores, and the counter that they tell the time by.

use super::Report;
use super::host::{Host, list, listed};
use crate::config::Config;

const CPUS: &str = "/sys/devices/system/cpu";

pub(super) fn cores(report: &mut Report, host: &Host<'_>, config: &Config) {
    let topic = "cores";
    let Some(cores) = &config.runtime.cores else {
        if config.pci_ports().next().is_some() {
            report.advice(
                topic,
                "workers are not pinned: the kernel moves them about",
                "give runtime.cores, cores of the NIC's NUMA node",
            );
        }
        return;
    };
    let online = list(&host.text(&format!("{CPUS}/online")).unwrap_or_default());
    let mut used: Vec<u16> = cores.clone();
    used.extend(config.runtime.main_core);
    used.retain(|core| !online.contains(core));
    if !used.is_empty() {
        report.wrong(
            topic,
            format!("core {} is not online", listed(&used)),
            format!("use cores of {CPUS}/online"),
        );
        return;
    }
    report.ok(topic, format!("{} are online", listed(cores)));
    isolation(report, host, cores);
    siblings(report, host, cores);
    nodes(report, host, config, cores);
    governors(report, host, cores);
}

fn isolation(report: &mut Report, host: &Host<'_>, cores: &[u16]) {
    let isolated = list(&host.text(&format!("{CPUS}/isolated")).unwrap_or_default());
    let shared: Vec<u16> = cores
        .iter()
        .copied()
        .filter(|core| !isolated.contains(core))
        .collect();
    if shared.is_empty() {
        return report.ok("isolation", "the workers' cores are isolated");
    }
    let all = listed(cores);
    report.advice(
        "isolation",
        format!(
            "the kernel schedules other threads on core {}",
            listed(&shared)
        ),
        format!(
            "add \"isolcpus={all} nohz_full={all} rcu_nocbs={all}\" to the kernel command line"
        ),
    );
}

/// Two workers on one physical core have half of it each.
fn siblings(report: &mut Report, host: &Host<'_>, cores: &[u16]) {
    for (index, &core) in cores.iter().enumerate() {
        let threads = host
            .text(&format!("{CPUS}/cpu{core}/topology/thread_siblings_list"))
            .unwrap_or_default();
        let threads = list(&threads);
        let later = cores.iter().skip(index + 1);
        for other in later.filter(|other| threads.contains(other)) {
            report.advice(
                "threads",
                format!("cores {core} and {other} are threads of one physical core"),
                "give each worker a physical core (lscpu -e=CPU,CORE,NODE)",
            );
        }
    }
}

fn nodes(report: &mut Report, host: &Host<'_>, config: &Config, cores: &[u16]) {
    for (port, address) in config.pci_ports() {
        let Some(node) = host.node_of_device(address) else {
            continue;
        };
        let far: Vec<u16> = cores
            .iter()
            .copied()
            .filter(|core| host.node_of_core(*core).is_some_and(|its| its != node))
            .collect();
        if far.is_empty() {
            report.ok(
                "numa",
                format!("port {}: node {node}, as its workers", port.name),
            );
            continue;
        }
        let near = host
            .text(&format!("/sys/devices/system/node/node{node}/cpulist"))
            .unwrap_or_default();
        report.advice(
            "numa",
            format!(
                "port {}: node {node}, but core {} is on another",
                port.name,
                listed(&far)
            ),
            format!("give runtime.cores out of {near}"),
        );
    }
}

fn governors(report: &mut Report, host: &Host<'_>, cores: &[u16]) {
    let slow: Vec<u16> = cores
        .iter()
        .copied()
        .filter(|core| {
            // A virtual machine has none.
            host.text(&format!("{CPUS}/cpu{core}/cpufreq/scaling_governor"))
                .is_some_and(|governor| governor != "performance")
        })
        .collect();
    if slow.is_empty() {
        return report.ok("governor", "no core saves power");
    }
    let slow = listed(&slow);
    let each = match slow.contains(',') {
        true => format!("{{{slow}}}"),
        false => slow.clone(),
    };
    report.advice(
        "governor",
        format!("core {slow} changes its frequency by load"),
        format!("echo performance | tee {CPUS}/cpu{each}/cpufreq/scaling_governor"),
    );
}

/// Timers count cycles of the TSC.
pub(super) fn tsc(report: &mut Report, host: &Host<'_>) {
    let topic = "tsc";
    let cpu = host.text("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu
        .lines()
        .find_map(|line| line.strip_prefix("flags")?.split_once(':'))
        .map_or("", |(_, flags)| flags);
    let has = |wanted: &str| flags.split_whitespace().any(|flag| flag == wanted);
    let machine = "in a virtual machine, give it the host's CPU model (host-passthrough)";
    if !has("constant_tsc") {
        // The processors that DPDK runs on have one that is: it is a virtual
        // machine that does not say so.
        return report.advice(
            topic,
            "not said to be constant (no constant_tsc); timers go by it",
            machine,
        );
    }
    let source = host
        .text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        .unwrap_or_default();
    if source != "tsc" && !has("hypervisor") {
        return report.advice(
            topic,
            format!("the kernel trusts {source} instead: see dmesg for why"),
            "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource",
        );
    }
    if !has("nonstop_tsc") {
        return report.advice(topic, "it may stop in deep sleep (no nonstop_tsc)", machine);
    }
    report.ok(topic, "constant, and never stops");
}
