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
