//! The Internet checksum: in full (RFC 1071), and by incremental update
//! (RFC 1624).
//!
//! Every number that goes in or comes out is a header field's value in host
//! byte order, as the views give it (0x0800 is 0x0800 on any machine).
//!
//! One's complement has two zeros. What IPv4, TCP and UDP sum has a non-zero
//! word (version, protocol number), so its sum is 0xffff and never 0 where it
//! verifies. A checksum computed here is then never 0xffff, and equals what a
//! computation from scratch gives; one that came in as 0xffff where 0 was due
//! is put right when the sum next changes. Two users want the other zero, see
//! [`nonzero`]: UDP, and ICMP, whose messages may be all zeros.

use std::net::Ipv4Addr;

/// Folds a sum to 16 bits with end-around carry; 0 only for 0.
///
/// Added to itself with its halves exchanged, a word has in its upper half the
/// sum of both halves and the carry out of the lower one, which is the carry of
/// that very sum.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
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

    /// Adds `bytes` that start at an odd offset of what is summed: they count
    /// with the bytes of each word exchanged (RFC 1071 §2(B)).
    pub fn add_bytes_at_odd(self, bytes: &[u8]) -> Self {
        Self(self.0 + u64::from(fold(Self::new().add_bytes(bytes).0).swap_bytes()))
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
/// the wire means "none" (RFC 768). Both verify.
#[inline]
pub const fn nonzero(checksum: u16) -> u16 {
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
/// Byte order does not matter as long as it is one for all (RFC 1071 §2(B)):
/// fields and checksums may all be numbers, or all be as memory holds them.
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
        nonzero(self.apply(checksum))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §1 word by word.
    fn model(bytes: &[u8]) -> u16 {
        let mut sum = 0u16;
        for pair in bytes.chunks(2) {
            let word = u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
            let (added, carry) = sum.overflowing_add(word);
            sum = added + u16::from(carry);
        }
        !sum
    }

    /// A word that is an edge case of one's complement more often than not.
    fn word() -> impl Strategy<Value = u16> {
        prop_oneof![Just(0), Just(0xffff), Just(1), Just(0xfffe), any::<u16>()]
    }

    #[test]
    fn worked_examples() {
        // RFC 1071 §3.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&bytes), !0xddf2);
        // RFC 1624 §4: the case in which Eqn. 2 gives 0xffff.
        assert_eq!(
            Delta::new().replace_u16(0x5555, 0x3285).apply(0xdd2f),
            0x0000
        );
        assert_eq!(checksum(&[]), 0xffff);
        assert_eq!(checksum(&[0xab]), !0xab00);
    }

    #[test]
    fn no_change_changes_nothing() {
        for checksum in 0..=0xffff {
            assert_eq!(Delta::new().apply(checksum), checksum);
            assert_eq!(Delta::new().apply_udp(checksum), checksum);
        }
    }

    #[test]
    fn zero_is_sent_as_all_ones_in_udp() {
        assert_eq!(nonzero(0), 0xffff);
        assert_eq!(nonzero(0xffff), 0xffff);
        assert_eq!(nonzero(1), 1);
    }

    proptest! {
        #[test]
        fn full_sum_is_the_models(bytes in vec(prop_oneof![Just(0xffu8), any::<u8>()], 0..200)) {
            prop_assert_eq!(checksum(&bytes), model(&bytes));
        }

        /// A sum may be taken in parts that start at even offsets.
        #[test]
        fn sums_in_parts(bytes in vec(any::<u8>(), 0..200), cut in 0usize..100) {
            let (a, b) = bytes.split_at((cut * 2).min(bytes.len() / 2 * 2));
            prop_assert_eq!(Sum::new().add_bytes(a).add_bytes(b).finish(), model(&bytes));
        }

        /// And in parts that start anywhere.
        #[test]
        fn sums_in_odd_parts(bytes in vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            let sum = Sum::new().add_bytes(a);
            let sum = match a.len() % 2 {
                0 => sum.add_bytes(b),
                _ => sum.add_bytes_at_odd(b),
            };
            prop_assert_eq!(sum.finish(), model(&bytes));
        }

        #[test]
        fn pseudo_header_is_the_bytes(src: u32, dst: u32, protocol: u8, len: u16) {
            let bytes = [
                &src.to_be_bytes()[..], &dst.to_be_bytes(), &[0, protocol], &len.to_be_bytes(),
            ].concat();
            let sum = Sum::pseudo_header(src.into(), dst.into(), protocol, len);
            prop_assert_eq!(sum.finish(), model(&bytes));
        }

        /// Any set of fields replaced in a packet with the right checksum
        /// (its first word; the second is never 0): what is updated equals what
        /// is computed from scratch, bit for bit, for UDP too. Where the sender
        /// wrote the other zero, it is one of the two zeros, which both verify.
        #[test]
        fn update_is_recomputation(
            mut words in vec(word(), 16..40),
            fields in vec((0usize..60, any::<bool>(), word(), word()), 0..12),
            other_zero: bool,
        ) {
            words[0] = 0;
            words[1] |= 1;
            let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
            let right = model(&bytes);
            let written = if right == 0 && other_zero { 0xffff } else { right };
            let mut deltas = [Delta::new(), Delta::new()];
            for (i, &(at, wide, high, low)) in fields.iter().enumerate() {
                let delta = &mut deltas[i % 2];
                if wide {
                    // Any alignment, behind the two words that must stay.
                    let at = 4 + at % (bytes.len() - 8);
                    let old = u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4"));
                    let new = u32::from(high) << 16 | u32::from(low);
                    bytes[at..at + 4].copy_from_slice(&new.to_be_bytes());
                    *delta = match (at % 2, i % 3) {
                        (0, 0) => delta.replace_u32(old, new),
                        (0, 1) => delta.replace_addr(old.into(), new.into()),
                        _ => delta.replace_u32_at(at, old, new),
                    };
                } else {
                    let at = 4 + at / 2 * 2 % (bytes.len() - 6);
                    let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
                    bytes[at..at + 2].copy_from_slice(&high.to_be_bytes());
                    *delta = delta.replace_u16(old, high);
                }
            }
            let delta = deltas[0].merge(deltas[1]);
            let from_scratch = model(&bytes);
            if written == right {
                prop_assert_eq!(delta.apply(written), from_scratch);
            } else {
                prop_assert_eq!(nonzero(delta.apply(written)), nonzero(from_scratch));
            }
            // On the wire a UDP checksum is the one that is not 0.
            prop_assert_eq!(delta.apply_udp(nonzero(written)), nonzero(from_scratch));
            prop_assert_eq!(delta.apply_udp(0), 0);
            bytes[..2].copy_from_slice(&delta.apply(written).to_be_bytes());
            prop_assert_eq!(checksum(&bytes), 0);
        }
    }
}
