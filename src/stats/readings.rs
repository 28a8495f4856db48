//! What is read where it is: the figures of drivers, and how full rings and pools
//! are. Whoever knows them offers a trait; metrics and `show ports` ask.

use crossbeam::queue::ArrayQueue;

/// What a driver says about its port. Read a few times a minute.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortReading {
    /// The driver's name.
    pub driver: String,
    /// Whether there is a link.
    pub link_up: bool,
    /// Link speed in Mbit/s, where the driver knows it.
    pub speed_mbps: Option<u32>,
    /// Packets the NIC had no receive descriptor for.
    pub rx_missed: u64,
    /// Packets received with errors.
    pub rx_errors: u64,
    /// Packets the driver had no buffer for.
    pub rx_no_buffer: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Who delivers its packets to their workers, and why.
    pub steering: PortSteering,
    /// The kernel's interface behind the port, if it has one.
    pub kernel: Option<KernelReading>,
}

/// A port once it is decided, in words.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortSteering {
    /// What the configuration asks for: `auto`, `rss` or `software`.
    pub asked: String,
    /// What the NIC says.
    pub nic: String,
    /// Why the NIC does not deliver this port's packets; none where it does.
    pub reason: Option<String>,
}

/// What went through a kernel's interface.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KernelReading {
    /// The interface's name.
    pub interface: String,
    /// Packets the kernel took.
    pub to_kernel: u64,
    /// Packets the kernel sent.
    pub from_kernel: u64,
    /// Packets the kernel did not take.
    pub refused: u64,
}

/// A port as the driver knows it. Read by several threads.
pub trait PortStatus: Send + Sync {
    /// The driver's present figures.
    fn read(&self) -> PortReading;

    /// Whether there is a link. Read a few times a second.
    fn link_up(&self) -> bool {
        self.read().link_up
    }

    /// Whether somebody asked for the device back. Read as often.
    fn removal_asked(&self) -> bool {
        false
    }
}

/// Something bounded that fills up: a ring, a pool of packet buffers. Read from
/// any thread at any time; what it says may be a moment old.
pub trait Level: Send + Sync {
    /// How much is in use.
    fn used(&self) -> u64;
    /// How much there is.
    fn capacity(&self) -> u64;
}

impl<T: Send> Level for ArrayQueue<T> {
    fn used(&self) -> u64 {
        self.len() as u64
    }

    fn capacity(&self) -> u64 {
        self.capacity() as u64
    }
}
