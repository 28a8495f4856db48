//! The Internet checksum: in full (RFC 1071), and by incremental update
//! (RFC 1624).
//!
//! Every number that goes in or comes out is a header field's value in host
//! byte order, as the views give it (0x0800 is 0x0800 on any machine).
//!
//! One's complement has two zeros. The sum of a packet that verifies is 0xffff
//! and never 0, since it has a non-zero word (IP version, protocol number). So
//! a checksum computed here is never 0xffff, and equals what a computation from
//! scratch gives; one that came in as 0xffff where 0 was due is put right when
//! the sum next changes. UDP is the exception: see [`udp_nonzero`].

use std::net::Ipv4Addr;

/// Folds a sum to 16 bits with end-around carry; 0 only for 0.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// A running one's complement sum, not yet complemented.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    #[inline]
    pub const fn new() -> Self {
        Self(0)
    }

    /// The sum of the pseudo-header that TCP (RFC 9293 §3.1) and UDP (RFC 768)
    /// put before a segment of `len` bytes, header included.
    #[inline]
    pub const fn pseudo_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> Self {
        Self(src.to_bits() as u64 + dst.to_bits() as u64 + protocol as u64 + len as u64)
    }

    /// Adds `bytes`, which start at an even offset of what is summed; an odd
    /// last byte is padded with zero.
    #[inline]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        // The sum does not depend on byte order (RFC 1071 §2(B)): words are
        // added as memory holds them and swapped once. Four lanes let the
        // compiler use vector registers.
        let mut lanes = [0u64; 4];
        let mut blocks = bytes.chunks_exact(16);
        for block in &mut blocks {
            let (words, _) = block.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let mut sum: u64 = lanes.iter().sum();
        let (pairs, odd) = blocks.remainder().as_chunks::<2>();
        for pair in pairs {
            sum += u64::from(u16::from_ne_bytes(*pair));
        }
        if let [last] = odd {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(self.0 + u64::from(u16::from_be(fold(sum))))
    }

    /// The checksum to put into the header whose checksum field was summed as
    /// 0; or 0, where the sum is over data that includes its right checksum.
    #[inline]
    pub const fn finish(self) -> u16 {
        !fold(self.0)
    }
}

/// The checksum of `bytes`; 0 where they include their right checksum.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::new().add_bytes(bytes).finish()
}

/// A UDP checksum as it is sent: a computed 0 goes out as 0xffff, because 0 on
/// the wire means "none" (RFC 768).
#[inline]
pub const fn udp_nonzero(checksum: u16) -> u16 {
    // 0 - 1 borrows and wraps; every other value stays as it is.
    checksum.wrapping_sub((checksum == 0) as u16)
}

/// What a rewrite changes in a checksum: one sum for all replaced fields, which
/// is then applied to each checksum that covers them.
///
/// RFC 1624 §3, where HC is the old checksum, m a 16-bit field's old value, and
/// m', HC' the new ones:
///
/// ```text
/// HC' = ~(~HC + ~m + m')                         [Eqn. 3]
/// ```
///
/// A 32-bit field is its two halves: 2^16 ≡ 1 modulo 2^16 - 1, so it is added
/// whole and the fold at the end does the rest. Room for 2^22 replacements.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Delta(u64);

impl Delta {
    /// No change.
    #[inline]
    pub const fn new() -> Self {
        Self(0)
    }

    /// A 16-bit word at an even offset of the summed data changes. A field of
    /// one byte counts as the whole word it is part of, or as that word with
    /// its other byte taken as 0 both times.
    #[inline]
    pub const fn replace_u16(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// A 32-bit field at an even offset of the summed data changes.
    #[inline]
    pub const fn replace_u32(self, old: u32, new: u32) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// A 32-bit field at any `offset` of the summed data changes. At an odd
    /// one its bytes count swapped (RFC 1071 §2(B)), which in this sum is to
    /// multiply it by 2^8.
    #[inline]
    pub const fn replace_u32_at(self, offset: usize, old: u32, new: u32) -> Self {
        Self(self.0 + (((!old) as u64 + new as u64) << ((offset & 1) * 8)))
    }

    /// An address changes.
    #[inline]
    pub const fn replace_addr(self, old: Ipv4Addr, new: Ipv4Addr) -> Self {
        self.replace_u32(old.to_bits(), new.to_bits())
    }

    /// Both changes.
    #[inline]
    pub const fn merge(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// HC' for HC = `checksum`. For UDP use [`Delta::apply_udp`].
    #[inline]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + (!checksum) as u64)
    }

    /// HC' for a UDP checksum: "none" stays "none", and any other never
    /// becomes it.
    #[inline]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        udp_nonzero(self.apply(checksum))
    }
}
