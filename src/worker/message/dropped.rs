//! A dropped packet as the management core gets it.

use crate::ids::PortIx;

/// Packets kept of each reason.
pub const KEPT: usize = 16;

/// Bytes kept of a packet: all headers with their usual options, and the
/// headers that an ICMP error quotes.
pub const KEPT_BYTES: usize = 96;

/// A packet that went no further.
#[derive(Clone, Copy, Debug)]
pub struct Dropped {
    /// When: TSC of the worker's round; 0 for a place not used yet.
    pub tsc: u64,
    /// Length of the frame in bytes, without FCS; 0 where the packet could not
    /// even be made.
    pub total_len: u16,
    /// Where it was received; `None` where it had waited, or is our own.
    pub port: Option<PortIx>,
    pub(in crate::worker) len: u8,
    pub(in crate::worker) bytes: [u8; KEPT_BYTES],
}

impl Dropped {
    pub(in crate::worker) const NONE: Self = Self {
        tsc: 0,
        total_len: 0,
        port: None,
        len: 0,
        bytes: [0; KEPT_BYTES],
    };

    /// The first bytes of the frame: as received, or with translated IP header
    /// where the reason lies behind the translation.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}
