//! What a port is on, and how it is to be set up.

use std::fmt;

/// What a port is on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Device {
    /// A PCI device, by its address; also named in [`super::EalConfig::pci`].
    Pci(String),
    /// A TAP interface of the kernel, made for the port and gone with it. The
    /// driver gives the kernel's end the MAC address of the port.
    Tap {
        /// The interface's name.
        name: String,
    },
    /// Any virtual device of DPDK: `driver_name,argument=value,…`.
    Vdev(String),
}

/// Drivers of virtual devices that carry packets by the processor alone, from
/// and to buffers anywhere in the process's memory.
const COPYING: [&str; 6] = [
    "net_tap",
    "net_af_packet",
    "net_af_xdp",
    "net_memif",
    "net_ring",
    "net_null",
];

impl Device {
    /// Whether the driver reads and writes packet buffers by the processor
    /// alone, in this process. A NIC does so by itself, and what shares its
    /// memory with another process (vhost, memif's zero-copy mode) needs
    /// buffers in memory of EAL's.
    pub fn copies(&self) -> bool {
        match self {
            Self::Pci(_) => false,
            Self::Tap { .. } => true,
            Self::Vdev(string) => {
                let mut parts = string.split(',');
                let driver = parts.next().unwrap_or_default();
                let driver = driver.trim_end_matches(|c: char| c.is_ascii_digit());
                COPYING.contains(&driver) && !parts.any(|part| part.starts_with("zero-copy=yes"))
            }
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => f.write_str(address),
            Self::Tap { name } => write!(f, "tap:{name}"),
            Self::Vdev(string) => write!(f, "vdev:{string}"),
        }
    }
}

/// How a port is to be set up.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// What it is on.
    pub device: Device,
    /// Receive and transmit queues, one of each per worker.
    pub queues: u16,
    /// Descriptors of a receive queue; adjusted to what the driver can do.
    pub rx_desc: u16,
    /// Descriptors of a transmit queue; adjusted likewise.
    pub tx_desc: u16,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
    /// Receive frames to any MAC address.
    pub promiscuous: bool,
    /// Network namespace in which a virtual device is created, as `ip netns`
    /// names it.
    pub netns: Option<String>,
    /// The Toeplitz key to give to a NIC that hashes.
    pub rss_key: [u8; 40],
    /// Whether all packets ever sent through this port come from one pool, so
    /// that the driver may free them in bulk without looking.
    pub one_pool: bool,
}
