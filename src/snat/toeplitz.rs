//! The Toeplitz hash of receive-side scaling, over the 12 bytes of an IPv4
//! tuple: source address, destination address, source port, destination port,
//! each in network byte order.
//!
//! The hash is linear over GF(2): every input bit that is set contributes the
//! 32 key bits that start at its position, and the contributions are XORed.
//! A table of the contributions of each byte value at each of the 12 positions
//! makes it 12 loads, and makes the contribution of a port alone two loads.

use std::fmt;
use std::net::Ipv4Addr;

/// Length in bytes of a hash key; covers the 36 bytes of an IPv6 tuple, and is
/// what NICs take.
pub const KEY_LEN: usize = 40;

/// Bytes of an IPv4 tuple.
const TUPLE_LEN: usize = 12;

/// Where the destination port starts in the tuple.
const DST_PORT: usize = 10;

/// The key of Microsoft's RSS verification suite.
///
/// The contributions of the destination port's 16 bits have full rank on the
/// low 12 bits of the hash, so that a redirection table of any size up to 4096
/// divides the 65,536 ports into classes of exactly the same length; up to
/// 512 slots this holds for ports 1024–65535 as well. Keys whose pattern
/// repeats, as those for symmetric hashing do, make both directions of a flow
/// hash alike, which a gateway that chooses the local port does not need.
pub const DEFAULT_KEY: [u8; KEY_LEN] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// The hash with one key.
pub struct Toeplitz {
    key: [u8; KEY_LEN],
    tables: Box<[[u32; 256]; TUPLE_LEN]>,
}

impl Toeplitz {
    /// Computes the tables of `key`, the key as the NIC is given it.
    pub fn new(key: [u8; KEY_LEN]) -> Self {
        let mut tables = Box::new([[0; 256]; TUPLE_LEN]);
        for (position, table) in tables.iter_mut().enumerate() {
            for bit in 0..8 {
                let window = window(&key, position * 8 + bit);
                for value in (0..256).filter(|value| value & (0x80 >> bit) != 0) {
                    table[value] ^= window;
                }
            }
        }
        Self { key, tables }
    }

    /// The key, as the NIC is given it.
    pub fn key(&self) -> &[u8; KEY_LEN] {
        &self.key
    }

    /// The hash of a packet with these addresses and ports. Ports are in host
    /// byte order.
    #[inline]
    pub fn hash_v4(&self, src: Ipv4Addr, dst: Ipv4Addr, sport: u16, dport: u16) -> u32 {
        let t = &*self.tables;
        let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (src.octets(), dst.octets());
        let [p0, p1] = sport.to_be_bytes();
        t[0][usize::from(s0)]
            ^ t[1][usize::from(s1)]
            ^ t[2][usize::from(s2)]
            ^ t[3][usize::from(s3)]
            ^ t[4][usize::from(d0)]
            ^ t[5][usize::from(d1)]
            ^ t[6][usize::from(d2)]
            ^ t[7][usize::from(d3)]
            ^ t[8][usize::from(p0)]
            ^ t[9][usize::from(p1)]
            ^ self.port_contribution(dport)
    }

    /// What the destination port (host byte order) contributes to the hash:
    /// `hash_v4(s, d, sp, dp) == hash_v4(s, d, sp, 0) ^ port_contribution(dp)`.
    #[inline]
    pub fn port_contribution(&self, dport: u16) -> u32 {
        let [hi, lo] = dport.to_be_bytes();
        self.tables[DST_PORT][usize::from(hi)] ^ self.tables[DST_PORT + 1][usize::from(lo)]
    }

    /// Rank over GF(2) of the destination port's contribution to the low
    /// `bits` bits of the hash. Where it equals `bits`, every value of those
    /// bits is reached by the same number of ports.
    pub fn port_rank(&self, bits: u32) -> u32 {
        let mask = (1u32 << bits) - 1;
        // A basis in echelon form, by position of the leading bit.
        let mut basis = [0u32; 32];
        for bit in 0..16 {
            let mut rest = self.port_contribution(1 << bit) & mask;
            while let Some(lead) = rest.checked_ilog2() {
                let known = &mut basis[lead as usize];
                if *known == 0 {
                    *known = rest;
                    break;
                }
                rest ^= *known;
            }
        }
        basis.iter().filter(|&&row| row != 0).count() as u32
    }
}

impl fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Toeplitz")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// The 32 bits of `key` from bit `at`, counted from the most significant bit
/// of the first byte.
fn window(key: &[u8; KEY_LEN], at: usize) -> u32 {
    let (byte, shift) = (at / 8, at % 8);
    let five = key[byte..byte + 5]
        .iter()
        .fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
    (five >> (8 - shift)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The hash as the specification words it, bit by bit.
    fn bitwise(key: &[u8; KEY_LEN], input: &[u8]) -> u32 {
        let bit = |bytes: &[u8], at: usize| u32::from(bytes[at / 8] >> (7 - at % 8) & 1);
        (0..input.len() * 8)
            .filter(|&at| bit(input, at) == 1)
            .map(|at| (at..at + 32).fold(0, |window, at| window << 1 | bit(key, at)))
            .fold(0, |hash, window| hash ^ window)
    }

    /// "Verifying the RSS Hash Calculation", Microsoft, IPv4 with TCP.
    #[test]
    fn hashes_the_verification_suite() {
        let toeplitz = Toeplitz::new(DEFAULT_KEY);
        for (src, sport, dst, dport, hash) in [
            (
                [66, 9, 149, 187],
                2794,
                [161, 142, 100, 80],
                1766,
                0x51cc_c178,
            ),
            (
                [199, 92, 111, 2],
                14230,
                [65, 69, 140, 83],
                4739,
                0xc626_b0ea,
            ),
            (
                [24, 19, 198, 95],
                12898,
                [12, 22, 207, 184],
                38024,
                0x5c2b_394a,
            ),
            (
                [38, 27, 205, 30],
                48228,
                [209, 142, 163, 6],
                2217,
                0xafc7_327f,
            ),
            (
                [153, 39, 163, 191],
                44251,
                [202, 188, 127, 2],
                1303,
                0x10e8_28a2,
            ),
        ] {
            assert_eq!(
                toeplitz.hash_v4(src.into(), dst.into(), sport, dport),
                hash,
                "{src:?}"
            );
        }
    }

    #[test]
    fn default_key_spreads_ports_over_every_size_of_table() {
        let toeplitz = Toeplitz::new(DEFAULT_KEY);
        for bits in 0..=12 {
            assert_eq!(toeplitz.port_rank(bits), bits);
        }
    }

    #[test]
    fn rank_is_that_of_the_key() {
        assert_eq!(Toeplitz::new([0; KEY_LEN]).port_rank(7), 0);
        assert_eq!(Toeplitz::new([0xff; KEY_LEN]).port_rank(7), 1);
        // Windows at an even distance are equal, so there are two of them.
        assert_eq!(Toeplitz::new([0xaa; KEY_LEN]).port_rank(7), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn equals_the_bitwise_definition(
            key: [[u8; 20]; 2], src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16,
        ) {
            let key: [u8; KEY_LEN] = key.concat().try_into().unwrap();
            let mut input = Vec::new();
            input.extend(src);
            input.extend(dst);
            input.extend(sport.to_be_bytes());
            input.extend(dport.to_be_bytes());
            let hash = Toeplitz::new(key).hash_v4(src.into(), dst.into(), sport, dport);
            prop_assert_eq!(hash, bitwise(&key, &input));
        }

        #[test]
        fn is_linear_in_the_port(
            key: [[u8; 20]; 2], src: [u8; 4], dst: [u8; 4], sport: u16, a: u16, b: u16,
        ) {
            let toeplitz = Toeplitz::new(key.concat().try_into().unwrap());
            let hash = |dport| toeplitz.hash_v4(src.into(), dst.into(), sport, dport);
            prop_assert_eq!(hash(a), hash(0) ^ toeplitz.port_contribution(a));
            prop_assert_eq!(hash(a ^ b), hash(0) ^ hash(a) ^ hash(b));
        }

        #[test]
        fn full_rank_means_equal_shares(key: [[u8; 20]; 2], bits in 1u32..=12) {
            let toeplitz = Toeplitz::new(key.concat().try_into().unwrap());
            let mut shares = vec![0u32; 1 << bits];
            for port in 0..=u16::MAX {
                shares[toeplitz.port_contribution(port) as usize & ((1 << bits) - 1)] += 1;
            }
            let reached = shares.iter().filter(|&&share| share > 0).count();
            prop_assert_eq!(reached, 1 << toeplitz.port_rank(bits));
            prop_assert!(shares.iter().all(|&share| share == 0 || share as usize == 65536 / reached));
        }
    }
}
