//! What can go wrong at the boundary to DPDK, in words an operator can act on.

use std::ffi::{CStr, c_int};
use std::fmt;

/// An error number of DPDK: a positive `errno`, or one of `rte_errno.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub i32);

impl Errno {
    /// The calling thread's `rte_errno`.
    pub(super) fn last() -> Self {
        // SAFETY: reads a thread-local integer; has no precondition.
        Self(unsafe { dpdk_sys::fullgate_errno() })
    }

    /// The kernel's.
    pub(super) fn of(error: &std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: any number is allowed; the text is a string constant or a
        // thread-local buffer, terminated, and read before the next call.
        let text = unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(self.0)) };
        write!(f, "{} (errno {})", text.to_string_lossy(), self.0)
    }
}

/// Why the DPDK layer refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `rte_eal_init` can't run twice in one process, not even after cleanup.
    #[error("DPDK's EAL was already initialised in this process")]
    AlreadyInitialised,
    /// An argument with a zero byte.
    #[error("{what} {value:?}: must not contain a zero byte")]
    ZeroByte {
        /// What the value is.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// Fewer hugepages than asked for.
    #[error(
        "hugepages are on, {needed_mb} MB are needed, and {free_mb} MB are free: reserve some with \
         `sysctl -w vm.nr_hugepages={pages}`, or turn hugepages off"
    )]
    Hugepages {
        /// Megabytes needed.
        needed_mb: u64,
        /// Megabytes free.
        free_mb: u64,
        /// Pages of the default size that would do.
        pages: u64,
    },
    /// EAL failed; its own lines in the log say more.
    #[error("DPDK's EAL does not start: {errno}; {said}")]
    EalInit {
        /// Why.
        errno: Errno,
        /// The first error in DPDK's log.
        said: String,
    },
    /// Another process has the device.
    #[error("port {address}: the PCI device is in use by {holder}: end that first")]
    PciHeld {
        /// The device.
        address: String,
        /// Who has it.
        holder: String,
    },
    /// No PCI device of this address.
    #[error("port {0}: there is no such PCI device (`lspci -D` lists them)")]
    NoPciDevice(String),
    /// The kernel's own driver, or none, has the device.
    #[error(
        "port {address}: the PCI device is bound to {bound}, from which DPDK can't use it: \
         `dpdk-devbind.py --bind=vfio-pci {address}` (fullgate preflight says what else)"
    )]
    PciBinding {
        /// The device.
        address: String,
        /// The kernel driver that has it, quoted, or "no driver".
        bound: String,
    },
    /// A capability is missing.
    #[error("port {port}: needs {capability}: run as root")]
    Capability {
        /// The port.
        port: String,
        /// The capability.
        capability: &'static str,
    },
    /// A file that must exist does not, or can't be used.
    #[error("port {port}: {path}: {source}")]
    File {
        /// The port.
        port: String,
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not a name the kernel takes for a network interface.
    #[error(
        "port tap:{0}: an interface name has 1 to 15 characters, without '/', ',', '=' or blanks"
    )]
    InterfaceName(String),
    /// No namespace of this name.
    #[error(
        "port {port}: there is no network namespace {netns:?} (`ip netns add {netns}` makes it)"
    )]
    NoNetns {
        /// The port.
        port: String,
        /// The namespace.
        netns: String,
    },
    /// The namespace exists but can't be entered.
    #[error("network namespace {netns:?} can't be entered: {source}")]
    Netns {
        /// The namespace.
        netns: String,
        /// Why.
        source: std::io::Error,
    },
    /// EAL knows no such device after probing.
    #[error("port {port}: no DPDK driver took the device; {said}")]
    NoDriver {
        /// The port.
        port: String,
        /// The first error in DPDK's log.
        said: String,
    },
    /// More workers than the driver has queues.
    #[error(
        "port {port}: {asked} workers need as many queues; the driver {driver} has {available}"
    )]
    Queues {
        /// The port.
        port: String,
        /// Its driver.
        driver: String,
        /// Queues asked for.
        asked: u16,
        /// Queues there are.
        available: u16,
    },
    /// An MTU outside what the driver takes.
    #[error("port {port}: MTU {asked}: the driver {driver} takes {min} to {max}")]
    Mtu {
        /// The port.
        port: String,
        /// Its driver.
        driver: String,
        /// Asked for, in bytes.
        asked: u16,
        /// Least the driver takes, in bytes.
        min: u16,
        /// Most the driver takes, in bytes.
        max: u16,
    },
    /// Frames would not fit a buffer and the driver can't chain buffers.
    #[error(
        "port {port}: MTU {mtu}: frames do not fit a packet buffer of {room} bytes, and the driver \
         {driver} can't spread them over several"
    )]
    NoScatter {
        /// The port.
        port: String,
        /// Its driver.
        driver: String,
        /// Asked for, in bytes.
        mtu: u16,
        /// Room of a packet buffer in bytes.
        room: u32,
    },
    /// The port was opened for an MTU whose frames fit one buffer.
    #[error(
        "port {port}: MTU {mtu}: frames do not fit a packet buffer of {room} bytes; the port has \
         to be opened with this MTU to spread them over several"
    )]
    OneBuffer {
        /// The port.
        port: String,
        /// Asked for, in bytes.
        mtu: u16,
        /// Room of a packet buffer in bytes.
        room: u32,
    },
    /// A pool for each queue, or one for all, was not given.
    #[error("port {port}: {given} packet pools for {queues} queues")]
    Pools {
        /// The port.
        port: String,
        /// Pools given.
        given: usize,
        /// Queues asked for.
        queues: u16,
    },
    /// Workers still hold queues of the port.
    #[error("port {0}: workers still hold its queues")]
    Busy(String),
    /// Queues are handed out of a started port only.
    #[error("port {0}: is not started")]
    NotStarted(String),
    /// The memory for a packet pool is not there.
    #[error("packet pool {name}: {count} buffers of {data_room} bytes: {errno}")]
    Pool {
        /// The pool.
        name: String,
        /// Buffers asked for.
        count: u32,
        /// Bytes of each.
        data_room: u16,
        /// Why.
        errno: Errno,
    },
    /// The memory for a hash table is not there.
    #[error("hash table {name}: {entries} entries: {errno}")]
    Hash {
        /// The table.
        name: String,
        /// Entries asked for.
        entries: u32,
        /// Why.
        errno: Errno,
    },
    /// A worker thread that can't have what it needs.
    #[error("thread {thread}: {what}: {source}")]
    Thread {
        /// The thread's name.
        thread: String,
        /// What it could not do.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// EAL has no number left for another thread.
    #[error("thread {thread}: not registered with DPDK: {errno}")]
    Lcore {
        /// The thread's name.
        thread: String,
        /// Why.
        errno: Errno,
    },
    /// Any other call.
    #[error("port {port}: {call}: {errno}")]
    Call {
        /// The port.
        port: String,
        /// DPDK's function.
        call: &'static str,
        /// Why.
        errno: Errno,
    },
}

impl Error {
    /// Whether the configuration asks for what the device can't do: no other
    /// attempt ends better.
    pub fn is_permanent(&self) -> bool {
        matches!(
            self,
            Self::ZeroByte { .. }
                | Self::InterfaceName(_)
                | Self::Queues { .. }
                | Self::Mtu { .. }
                | Self::NoScatter { .. }
        )
    }
}

/// Turns the negative errno that most of DPDK's functions return into an error.
pub(super) fn check(port: &str, call: &'static str, code: c_int) -> Result<(), Error> {
    if code >= 0 {
        return Ok(());
    }
    Err(Error::Call {
        port: port.to_owned(),
        call,
        errno: Errno(-code),
    })
}
