//! Whether DPDK will get the devices of the ports.

use super::Report;
use super::host::{Host, pci_ports};
use crate::control::config::{Config, Device, Port};

const MELLANOX: &str = "0x15b3";
const DEVICES: &str = "/sys/bus/pci/devices";
const NOIOMMU: &str = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";

pub(super) fn ports(report: &mut Report, host: &Host<'_>, config: &Config) {
    let mut vfio = false;
    for (port, address) in pci_ports(config) {
        vfio |= pci(report, host, port, address);
    }
    if vfio {
        iommu(report, host);
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

/// Whether the port needs vfio.
fn pci(report: &mut Report, host: &Host<'_>, port: &Port, address: &str) -> bool {
    let topic = "driver";
    let directory = format!("{DEVICES}/{address}");
    let title = format!("port {}: {address}", port.name);
    if !host.exists(&directory) {
        report.wrong(
            topic,
            format!("{title} is no PCI device of this host"),
            "dpdk-devbind.py --status-dev net",
        );
        return true;
    }
    let driver = host.link(&format!("{directory}/driver"));
    if host.text(&format!("{directory}/vendor")).as_deref() == Some(MELLANOX) {
        match driver.as_deref() {
            Some(driver @ ("mlx5_core" | "mlx4_core")) => {
                report.ok(topic, format!("{title} stays with {driver}"));
            }
            _ => report.wrong(
                topic,
                format!("{title} has to stay with its kernel driver"),
                format!("dpdk-devbind.py --bind=mlx5_core {address}"),
            ),
        }
        return false;
    }
    let bind = format!("dpdk-devbind.py --bind=vfio-pci {address}");
    match driver.as_deref() {
        Some("vfio-pci") => report.ok(topic, format!("{title} is bound to vfio-pci")),
        Some(driver @ ("uio_pci_generic" | "igb_uio")) => {
            report.advice(
                topic,
                format!("{title} is bound to {driver}, which no IOMMU guards"),
                bind,
            );
            return false;
        }
        None => report.wrong(topic, format!("{title} has no driver"), bind),
        Some(kernel) => {
            let interfaces = host.names(&format!("{directory}/net"));
            let (also, down) = match interfaces.first() {
                Some(name) => (
                    format!(" (interface {name})"),
                    format!("ip link set {name} down && "),
                ),
                None => Default::default(),
            };
            report.wrong(
                topic,
                format!("{title} belongs to the kernel's driver {kernel}{also}"),
                format!("{down}{bind}"),
            );
        }
    }
    true
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
                "add \"{option}\" to the kernel command line; without an IOMMU: echo 1 > {NOIOMMU}"
            ),
        );
    }
}
