//! Whether DPDK will get the devices of the ports.

use super::Report;
use super::host::Host;
use crate::config::{Config, Device, Port};

const MELLANOX: &str = "0x15b3";
const DEVICES: &str = "/sys/bus/pci/devices";
const NOIOMMU: &str = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
/// Drivers for DPDK through which a NIC can write to any memory.
const UNGUARDED: [&str; 2] = ["uio_pci_generic", "igb_uio"];
/// What Debian's dpdk.service binds, and the mark that it is enabled.
const INTERFACES: &str = "/etc/dpdk/interfaces";
const DPDK_ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/dpdk.service";
const DRIVERCTL: &str = "/etc/driverctl.d";
const MODPROBE: &str = "/etc/modprobe.d";

pub(super) fn ports(report: &mut Report, host: &Host<'_>, config: &Config) {
    // Before the devices: nothing is bound to a driver that is not loaded.
    if config
        .pci_ports()
        .any(|(_, address)| wants_vfio(host, address))
    {
        iommu(report, host);
    }
    for (port, address) in config.pci_ports() {
        pci(report, host, port, address);
    }
    let tap = |port: &&Port| matches!(port.device, Device::Tap(_));
    if let Some(port) = config.ports.iter().find(tap) {
        if host.exists("/dev/net/tun") {
            report.ok("tap", "/dev/net/tun is there");
        } else {
            report.wrong(
                "tap",
                format!("port {}: there is no /dev/net/tun", port.name),
                "modprobe tun",
            );
        }
    }
}

fn driver(host: &Host<'_>, address: &str) -> Option<String> {
    host.link(&format!("{DEVICES}/{address}/driver"))
}

/// Whether the kernel's driver and DPDK share the device.
fn is_shared(host: &Host<'_>, address: &str) -> bool {
    host.text(&format!("{DEVICES}/{address}/vendor")).as_deref() == Some(MELLANOX)
}

fn wants_vfio(host: &Host<'_>, address: &str) -> bool {
    let guarded = |driver: String| !UNGUARDED.contains(&driver.as_str());
    !is_shared(host, address) && driver(host, address).is_none_or(guarded)
}

fn pci(report: &mut Report, host: &Host<'_>, port: &Port, address: &str) {
    let topic = "driver";
    let directory = format!("{DEVICES}/{address}");
    let title = format!("port {}: {address}", port.name);
    if !host.exists(&directory) {
        return report.wrong(
            topic,
            format!("{title} is no PCI device of this host"),
            "dpdk-devbind.py --status-dev net",
        );
    }
    let driver = driver(host, address);
    if is_shared(host, address) {
        return match driver.as_deref() {
            Some(driver @ ("mlx5_core" | "mlx4_core")) => {
                report.ok(topic, format!("{title} stays with {driver}"));
            }
            _ => report.wrong(
                topic,
                format!("{title} has to stay with its kernel driver"),
                format!("dpdk-devbind.py --bind=mlx5_core {address}"),
            ),
        };
    }
    let bind = format!("dpdk-devbind.py --bind=vfio-pci {address}");
    match driver.as_deref() {
        Some("vfio-pci") => {
            report.ok(topic, format!("{title} is bound to vfio-pci"));
            next_boot(report, host, &title, address, "vfio-pci");
        }
        Some(driver) if UNGUARDED.contains(&driver) => {
            report.advice(
                topic,
                format!("{title} is bound to {driver}, which no IOMMU guards"),
                bind,
            );
            next_boot(report, host, &title, address, driver);
        }
        None => report.wrong(topic, format!("{title} has no driver"), bind),
        Some(kernel) => {
            let interfaces = interfaces(host, &directory);
            let also = match interfaces.as_slice() {
                [] => String::new(),
                names => format!(" (interface {})", names.join(", ")),
            };
            // dpdk-devbind.py leaves an interface with routes as it is, and
            // says that all is well.
            let down = interfaces
                .iter()
                .map(|name| format!("ip link set {name} down && "));
            report.wrong(
                topic,
                format!("{title} belongs to the kernel's driver {kernel}{also}"),
                format!("{}{bind}", down.collect::<String>()),
            );
        }
    }
}

/// The kernel's interfaces of a PCI device. Those of a virtio device are a
/// directory deeper, in that of its virtio device.
fn interfaces(host: &Host<'_>, directory: &str) -> Vec<String> {
    let entries = host.names(directory).into_iter();
    let virtio = entries
        .filter(|name| name.starts_with("virtio"))
        .map(|name| format!("{directory}/{name}"));
    std::iter::once(directory.to_owned())
        .chain(virtio)
        .flat_map(|directory| host.names(&format!("{directory}/net")))
        .collect()
}

/// Whether something binds the device to this driver again when the host boots:
/// Debian's dpdk.service, driverctl, or the driver itself, which can be told to
/// take all devices of a kind.
fn next_boot(report: &mut Report, host: &Host<'_>, title: &str, address: &str, driver: &str) {
    let topic = "boot";
    let listed = host.text(INTERFACES).is_some_and(|text| {
        text.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words == ["pci", address, driver]
        })
    });
    if listed && !host.exists(DPDK_ENABLED) {
        return report.advice(
            topic,
            format!("{title}: {INTERFACES} binds it, but dpdk.service is not enabled"),
            "systemctl enable dpdk.service",
        );
    }
    let by = if listed {
        Some(INTERFACES)
    } else if host
        .text(&format!("{DRIVERCTL}/{address}"))
        .is_some_and(|its| its == driver)
    {
        Some(DRIVERCTL)
    } else if driver == "vfio-pci" && taken_by_kind(host, address) {
        Some("vfio-pci.ids")
    } else {
        None
    };
    match by {
        Some(by) => report.ok(topic, format!("{title}: {by} binds it to {driver}")),
        None => report.advice(
            topic,
            format!("{title}: nothing binds it to {driver} after the next boot"),
            format!(
                "apt-get install dpdk && echo \"pci {address} {driver}\" >> {INTERFACES} && \
                 systemctl enable dpdk.service"
            ),
        ),
    }
}

/// Whether vfio-pci takes all devices of this one's kind, by the kernel's
/// command line or an option of the module.
fn taken_by_kind(host: &Host<'_>, address: &str) -> bool {
    let number = |name: &str| {
        let text = host.text(&format!("{DEVICES}/{address}/{name}"))?;
        Some(text.trim_start_matches("0x").to_owned())
    };
    let (Some(vendor), Some(device)) = (number("vendor"), number("device")) else {
        return false;
    };
    let kind = format!("{vendor}:{device}");
    let names = |ids: &str| ids.split(',').any(|id| id.eq_ignore_ascii_case(&kind));
    let command_line = host.text("/proc/cmdline").unwrap_or_default();
    let by_kernel = command_line
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("vfio-pci.ids="))
        .any(names);
    let by_module = host.names(MODPROBE).iter().any(|file| {
        let text = host.text(&format!("{MODPROBE}/{file}")).unwrap_or_default();
        text.lines()
            .map(str::split_whitespace)
            .filter_map(|mut words| {
                let ours = words.next() == Some("options")
                    && matches!(words.next(), Some("vfio-pci" | "vfio_pci"));
                ours.then(|| {
                    words
                        .filter_map(|word| word.strip_prefix("ids="))
                        .any(names)
                })
            })
            .any(|found| found)
    });
    by_kernel || by_module
}

fn iommu(report: &mut Report, host: &Host<'_>) {
    let topic = "iommu";
    if host.exists("/sys/module/vfio_pci") {
        report.ok(topic, "vfio-pci is loaded");
    } else {
        report.wrong(
            topic,
            "the module vfio-pci is not loaded",
            "modprobe vfio-pci && echo vfio-pci > /etc/modules-load.d/fullgate.conf",
        );
    }
    if !host.names("/sys/kernel/iommu_groups").is_empty() {
        report.ok(topic, "the IOMMU is on");
    } else if host.text(NOIOMMU).as_deref() == Some("Y") {
        report.advice(
            topic,
            "there is none, and vfio works without: a NIC can write to any memory",
            "switch the IOMMU on in the firmware, or give the virtual machine one",
        );
    } else {
        let cpu = host.text("/proc/cpuinfo").unwrap_or_default();
        let option = match cpu.contains("GenuineIntel") {
            true => "intel_iommu=on iommu=pt",
            false => "iommu=pt",
        };
        report.wrong(
            topic,
            "it is off, or there is none",
            format!(
                "add \"{option}\" to the kernel command line; {}",
                without_iommu(host)
            ),
        );
    }
}

/// What is left where there is no IOMMU. Debian 12's kernel is built without
/// vfio's unsafe mode.
fn without_iommu(host: &Host<'_>) -> String {
    let built_with = || {
        let release = host.text("/proc/sys/kernel/osrelease").unwrap_or_default();
        let built = host.text(&format!("/boot/config-{release}"))?;
        Some(built.lines().any(|line| line == "CONFIG_VFIO_NOIOMMU=y"))
    };
    let can =
        host.exists(NOIOMMU) || !host.exists("/sys/module/vfio") && built_with().unwrap_or(false);
    match can {
        true => format!("without an IOMMU: modprobe vfio && echo 1 > {NOIOMMU}"),
        false => "a virtual machine needs one from its host (this kernel's vfio does not work \
                  without), or the driver uio_pci_generic, which no IOMMU guards"
            .to_owned(),
    }
}
