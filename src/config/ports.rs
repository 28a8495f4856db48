//! `[[port]]`: devices, addresses, and the kernel's interface beside one.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::fields::{Unique, choice, name, number, parsed, required, unless};
use super::network::{gateway, is_host, networks_of, not_ours};
use super::problem::{Place, Problem};
use super::raw::RawPort;
use super::units::{parse_address, parse_interface};
use super::{Device, KernelInterface, Port, SteeringChoice};
use crate::service::snapshot::Rpf;
use crate::snat::steering::WITHOUT_RSS;

/// Ports at most; `PortIx` is a byte, and every worker polls every port.
const PORTS_MAX: usize = 32;

const MTU: u16 = 1_500;

const DESCRIPTORS: u16 = 1_024;

/// Packets a second for a kernel interface: a routing daemon's full table, and
/// a small part of a core.
const KERNEL_RATE: u32 = 10_000;

/// Longest interface name (`IFNAMSIZ` less the final 0, netdevice(7)).
const INTERFACE_NAME_MAX: usize = 15;

const STEERING: [(&str, SteeringChoice); 3] = [
    ("auto", SteeringChoice::Auto),
    ("rss", SteeringChoice::Rss),
    ("software", SteeringChoice::Software),
];

const RPF: [(&str, Rpf); 3] = [
    ("loose", Rpf::Loose),
    ("strict", Rpf::Strict),
    ("off", Rpf::Off),
];

pub(super) fn ports(
    root: &Place<'_>,
    raw: &[RawPort],
    warnings: &mut Vec<Problem>,
) -> Result<Vec<Port>, Problem> {
    let at = root.key("port");
    if raw.is_empty() {
        return Err(at.problem("there is none; give at least one [[port]]"));
    }
    if raw.len() > PORTS_MAX {
        return Err(at.problem(format!("there are {}; give at most {PORTS_MAX}", raw.len())));
    }
    let (mut names, mut devices, mut addresses) = (Unique::new(), Unique::new(), Unique::new());
    let mut vdevs = Unique::new();
    let mut ports: Vec<Port> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.iter().enumerate() {
        let at = at.item(index, raw.name.as_deref().unwrap_or_default());
        let port = port(&at, raw)?;
        let owner = format!("port {}", port.name);
        names.claim(
            &at.key("name"),
            port.name.clone(),
            &format!("{:?}", port.name),
            "another port",
        )?;
        let device = port.device_text();
        devices.claim(&at.key("device"), device.clone(), &device, &owner)?;
        if let Device::Vdev(arguments) = &port.device {
            // DPDK knows a virtual device by the name before its arguments.
            let name = driver_and_number(arguments);
            vdevs.claim(&at.key("device"), name.to_owned(), &name, &owner)?;
        }
        let listed = at.key("addresses");
        for (index, net) in port.addresses.iter().enumerate() {
            let at = listed.item(index, "");
            addresses.claim(&at, net.addr(), &net.addr(), &owner)?;
            let overlaps = |other: &&Port| other.addresses.iter().any(|its| meet(its, net));
            if let Some(other) = ports.iter().find(overlaps) {
                warnings.push(at.problem(format!(
                    "the network {} is also on port {}; a destination in both goes out of the one listed first",
                    net.trunc(),
                    other.name
                )));
            }
        }
        if let Some(other) = ports.iter().find(|other| other.gateway.is_some())
            && port.gateway.is_some()
        {
            warnings.push(at.key("gateway").problem(format!(
                "port {} has a gateway too, and only that one is used; give networks behind this one as [[route]]",
                other.name
            )));
        }
        ports.push(port);
    }
    kernel_interfaces(&at, &ports)?;
    for (index, port) in ports.iter().enumerate() {
        let at = at.item(index, &port.name);
        if let Some(gateway) = port.gateway {
            not_ours(&at.key("gateway"), gateway, &ports)?;
        }
    }
    Ok(ports)
}

/// What no NIC is needed for to know that `steering = "rss"` is not possible.
pub(super) fn steering(root: &Place<'_>, ports: &[Port], workers: u8) -> Result<(), Problem> {
    let at = root.key("port");
    let software = ports
        .iter()
        .find(|port| port.steering == SteeringChoice::Software);
    for (index, port) in ports.iter().enumerate() {
        if port.steering != SteeringChoice::Rss {
            continue;
        }
        let wrong = if workers < 2 {
            "there is one worker, and nothing to spread".to_owned()
        } else if let Some(driver) = without_rss(&port.device) {
            format!("the driver {driver} has no RSS that works")
        } else if let Some(other) = software {
            format!(
                "port {} is \"software\", and all ports are steered alike",
                other.name
            )
        } else {
            continue;
        };
        return Err(at
            .item(index, &port.name)
            .key("steering")
            .problem(format!("is \"rss\", but {wrong}; give \"auto\"")));
    }
    Ok(())
}

/// The driver, where it is a virtual device's without RSS.
fn without_rss(device: &Device) -> Option<&str> {
    match device {
        Device::Pci(_) => None,
        Device::Tap(_) => Some("net_tap"),
        Device::Vdev(arguments) => {
            let name = driver_and_number(arguments);
            let driver = name.trim_end_matches(|c: char| c.is_ascii_digit());
            WITHOUT_RSS.contains(&driver).then_some(driver)
        }
    }
}

/// `net_af_packet0` of `net_af_packet0,iface=eth0`.
fn driver_and_number(arguments: &str) -> &str {
    arguments.split(',').next().unwrap_or_default()
}

/// Names and addresses of the kernel's that are taken.
fn kernel_interfaces(at: &Place<'_>, ports: &[Port]) -> Result<(), Problem> {
    let (mut names, mut addresses) = (Unique::new(), Unique::new());
    for port in ports {
        if let (Device::Tap(name), None) = (&port.device, &port.netns) {
            let owner = format!("port {}, its device", port.name);
            names.claim(at, name.clone(), &format!("{name:?}"), &owner)?;
        }
        for net in &port.addresses {
            addresses.claim(at, net.addr(), &net.addr(), &format!("port {}", port.name))?;
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let Some(kernel) = &port.kernel else { continue };
        let at = at.item(index, &port.name);
        let owner = format!("port {}, its kernel-interface", port.name);
        names.claim(
            &at.key("kernel-interface"),
            kernel.name.clone(),
            &format!("{:?}", kernel.name),
            &owner,
        )?;
        let listed = at.key("kernel-addresses");
        for (index, address) in kernel.addresses.iter().enumerate() {
            is_host(&listed.item(index, ""), *address, networks_of(ports))?;
            addresses.claim(&listed.item(index, ""), *address, address, &owner)?;
        }
    }
    Ok(())
}

fn meet(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn port(at: &Place<'_>, raw: &RawPort) -> Result<Port, Problem> {
    let named = required(
        &at.key("name"),
        raw.name.as_ref(),
        "a name, such as \"wan\"",
    )?;
    let device = device(&at.key("device"), raw)?;
    let tap = matches!(device, Device::Tap(_));
    let netns = match &raw.netns {
        None => None,
        Some(_) if !tap => {
            return Err(at
                .key("netns")
                .problem("only a TAP has a kernel side that can be in a namespace; leave it out"));
        }
        Some(text) if text.is_empty() || text.contains(['/', '\0']) || text.starts_with('.') => {
            return Err(at.key("netns").problem(format!(
                "{text:?} names no namespace; give a name as \"ip netns\" lists it"
            )));
        }
        Some(text) => Some(text.clone()),
    };
    let listed = at.key("addresses");
    let texts = raw.addresses.as_deref().unwrap_or_default();
    if texts.is_empty() {
        return Err(listed.problem("there is none; give at least one, such as [\"10.0.0.1/24\"]"));
    }
    let addresses = texts
        .iter()
        .enumerate()
        .map(|(index, text)| parsed(&listed.item(index, ""), text, parse_interface))
        .collect::<Result<Vec<_>, _>>()?;
    let gateway = match &raw.gateway {
        None => None,
        Some(text) => Some(gateway(&at.key("gateway"), text, &addresses)?),
    };
    let mtu_at = at.key("mtu");
    let mtu = number(&mtu_at, raw.mtu, MTU, 576..=9_600)?;
    if tap && mtu > 1_500 {
        return Err(mtu_at.problem(format!("is {mtu}; a TAP has at most 1500")));
    }
    Ok(Port {
        name: name(&at.key("name"), named)?.to_owned(),
        device,
        netns,
        addresses,
        gateway,
        mtu,
        rx_descriptors: descriptors(&at.key("rx-descriptors"), raw.rx_descriptors)?,
        tx_descriptors: descriptors(&at.key("tx-descriptors"), raw.tx_descriptors)?,
        steering: choice(&at.key("steering"), raw.steering.as_deref(), &STEERING)?,
        rpf: choice(&at.key("rpf"), raw.rpf.as_deref(), &RPF)?,
        kernel: kernel(at, raw)?,
    })
}

fn kernel(at: &Place<'_>, raw: &RawPort) -> Result<Option<KernelInterface>, Problem> {
    let Some(name) = &raw.kernel_interface else {
        let others = [
            ("kernel-rate", raw.kernel_rate.is_some()),
            ("kernel-addresses", raw.kernel_addresses.is_some()),
        ];
        return match others.iter().find(|(_, given)| *given) {
            None => Ok(None),
            Some((key, _)) => Err(at.key(key).problem(
                "the port has no interface of the kernel; give kernel-interface too, or leave it out",
            )),
        };
    };
    interface_name(&at.key("kernel-interface"), name)?;
    let listed = at.key("kernel-addresses");
    let texts = raw.kernel_addresses.iter().flatten().enumerate();
    let addresses = texts
        .map(|(index, text)| parsed(&listed.item(index, ""), text, parse_address))
        .collect::<Result<Vec<_>, _>>()?;
    let rate = number(
        &at.key("kernel-rate"),
        raw.kernel_rate,
        KERNEL_RATE,
        1..=1_000_000,
    )?;
    Ok(Some(KernelInterface {
        name: name.clone(),
        rate,
        addresses,
    }))
}

fn interface_name(at: &Place<'_>, name: &str) -> Result<(), Problem> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = (1..=INTERFACE_NAME_MAX).contains(&name.len());
    // The kernel takes no "." and "..".
    if fits && name.bytes().all(allowed) && !name.bytes().all(|byte| byte == b'.') {
        return Ok(());
    }
    Err(at.problem(format!(
        "{name:?} is no interface name; give 1 to {INTERFACE_NAME_MAX} letters, digits, dots, hyphens or underscores"
    )))
}

fn descriptors(at: &Place<'_>, value: Option<i64>) -> Result<u16, Problem> {
    let count: u16 = number(at, value, DESCRIPTORS, 64..=32_768)?;
    if !count.is_power_of_two() {
        return Err(at.problem(format!(
            "is {count}; give a power of two, such as {}",
            count.next_power_of_two()
        )));
    }
    Ok(count)
}

fn device(at: &Place<'_>, raw: &RawPort) -> Result<Device, Problem> {
    let text = required(
        at,
        raw.device.as_ref(),
        "\"tap:NAME\", a PCI address such as \"0000:03:00.0\", or \"vdev:ARGUMENTS\"",
    )?;
    if let Some(interface) = text.strip_prefix("tap:") {
        interface_name(at, interface)?;
        return Ok(Device::Tap(interface.to_owned()));
    }
    if let Some(arguments) = text.strip_prefix("vdev:") {
        if !arguments.starts_with("net_") || arguments.contains(char::is_whitespace) {
            return Err(at.problem(format!(
                "{arguments:?} is no DPDK network device; give one such as \"vdev:net_af_packet0,iface=eth0\""
            )));
        }
        return Ok(Device::Vdev(arguments.to_owned()));
    }
    if is_pci(text) {
        return Ok(Device::Pci(text.to_ascii_lowercase()));
    }
    let right = if is_pci(&format!("0000:{text}")) {
        format!("give the domain too: \"0000:{text}\"")
    } else {
        "give \"tap:NAME\", a PCI address such as \"0000:03:00.0\", or \"vdev:ARGUMENTS\""
            .to_owned()
    };
    Err(at.problem(format!("{text:?} is no device; {right}")))
}

/// `DDDD:BB:DD.F` in hexadecimal.
fn is_pci(text: &str) -> bool {
    let shape = "hhhh:hh:hh.h";
    text.len() == shape.len()
        && text
            .bytes()
            .zip(shape.bytes())
            .all(|(byte, kind)| match kind {
                b'h' => byte.is_ascii_hexdigit(),
                separator => byte == separator,
            })
}

impl Port {
    /// The device as the file names it.
    pub fn device_text(&self) -> String {
        match &self.device {
            Device::Tap(interface) => format!("tap:{interface}"),
            Device::Pci(address) => address.clone(),
            Device::Vdev(arguments) => format!("vdev:{arguments}"),
        }
    }

    pub(super) fn to_raw(&self) -> RawPort {
        let (rpf, _) = RPF
            .into_iter()
            .find(|(_, rpf)| *rpf == self.rpf)
            .unwrap_or(RPF[0]);
        RawPort {
            name: Some(self.name.clone()),
            device: Some(self.device_text()),
            netns: self.netns.clone(),
            addresses: Some(self.addresses.iter().map(Ipv4Net::to_string).collect()),
            gateway: self.gateway.map(|address| address.to_string()),
            mtu: unless(self.mtu, MTU, i64::from),
            rx_descriptors: unless(self.rx_descriptors, DESCRIPTORS, i64::from),
            tx_descriptors: unless(self.tx_descriptors, DESCRIPTORS, i64::from),
            steering: unless(self.steering, STEERING[0].1, |choice| {
                choice.name().to_owned()
            }),
            rpf: unless(rpf, RPF[0].0, str::to_owned),
            kernel_interface: self.kernel.as_ref().map(|kernel| kernel.name.clone()),
            kernel_rate: self
                .kernel
                .as_ref()
                .and_then(|kernel| unless(kernel.rate, KERNEL_RATE, i64::from)),
            kernel_addresses: self
                .kernel
                .as_ref()
                .map(|kernel| kernel.addresses.iter().map(Ipv4Addr::to_string).collect())
                .filter(|addresses: &Vec<_>| !addresses.is_empty()),
        }
    }
}
