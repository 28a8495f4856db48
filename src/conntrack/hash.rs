//! From a tuple to 64 bits, by a secret.
//!
//! Every packet's tuple is hashed, so it has to take a few cycles. And it has
//! to be keyed: whoever may send packets chooses the client-side tuple, and
//! with a public function could choose a million of them that fall into one
//! bucket, until each look-up walks a list (hash flooding). So a tuple is first
//! blurred with secret bits, then multiplied to 128 bits and folded, twice: the
//! second round spreads what the first, whose factors differ in few bits for
//! neighbouring tuples, leaves in arithmetic progression. This is no
//! cryptographic function, and need not be one: its values never leave the
//! process, and the most that a partial guess of the key can cause is
//! look-ups through the index's overflow buckets, whose number is bounded.
//!
//! Client-side and server-side tuples go through the same function, so a packet
//! is looked up before it is known which side it comes from.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use super::entry::{ClientTuple, FlowTuple, ServerTuple};
use crate::arena::KEY_BYTES;

/// Fraction digits of pi, 256 bits of them. With a factor of equal bytes, which
/// a random key never is but a written one may be, both halves of the product
/// would cancel in [`fold`].
const IRREGULAR: [u64; 4] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
];

/// The secret. One per worker and boot, kept in the arena's header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey([u64; 4]);

impl HashKey {
    /// Fresh secret bytes from the kernel.
    ///
    /// # Errors
    /// `/dev/urandom` can't be read.
    pub fn random_bytes() -> io::Result<[u8; KEY_BYTES]> {
        let mut bytes = [0; KEY_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The key of these secret bytes.
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut key = [0; 4];
        let mut ix = 0;
        while ix < key.len() {
            key[ix] = u64::from_le_bytes(words[ix]) ^ IRREGULAR[ix];
            ix += 1;
        }
        // A factor must be odd: an even one would lose bits, zero all of them.
        key[3] |= 1;
        Self(key)
    }

    /// Hash of a tuple as a packet shows it.
    #[inline(always)]
    pub const fn flow(&self, tuple: &FlowTuple) -> u64 {
        self.mix(
            pair(tuple.src.to_bits(), tuple.dst.to_bits()),
            ports(tuple.src_port, tuple.dst_port, tuple.protocol),
        )
    }

    /// Hash of a client-side tuple.
    #[inline(always)]
    pub fn client(&self, tuple: &ClientTuple) -> u64 {
        self.flow(&tuple.into())
    }

    /// Hash of a server-side tuple.
    #[inline(always)]
    pub fn server(&self, tuple: &ServerTuple) -> u64 {
        self.flow(&tuple.into())
    }

    #[inline(always)]
    const fn mix(&self, addresses: u64, ports: u64) -> u64 {
        let blurred = fold(addresses ^ self.0[0], ports ^ self.0[1]);
        fold(blurred ^ self.0[2], self.0[3])
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

/// Both halves of the 128-bit product: the high one depends on the factors'
/// high bits, the low one on their low bits.
#[inline(always)]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[inline(always)]
const fn pair(a: u32, b: u32) -> u64 {
    (a as u64) << 32 | b as u64
}

#[inline(always)]
const fn ports(a: u16, b: u16, protocol: u8) -> u64 {
    (protocol as u64) << 32 | (a as u64) << 16 | b as u64
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::HashKey;
    use crate::arena::KEY_BYTES;
    use crate::conntrack::entry::{ClientTuple, FlowTuple, ServerTuple};
    use crate::wire::proto;

    /// Key 0 is of equal bytes.
    fn key(seed: u8) -> HashKey {
        if seed == 0 {
            return HashKey::from_bytes([0x3c; KEY_BYTES]);
        }
        HashKey::from_bytes(std::array::from_fn(|ix| {
            (ix as u8).wrapping_mul(73) ^ seed.wrapping_mul(151)
        }))
    }

    fn client(address: u32, port: u16) -> ClientTuple {
        ClientTuple {
            client: Ipv4Addr::from_bits(address),
            vip: Ipv4Addr::new(192, 0, 2, 1),
            client_port: port,
            vip_port: 443,
            protocol: proto::TCP,
        }
    }

    /// Chi-square over `cells` cells, normalised: about N(0, 1) if uniform.
    fn deviation(values: impl Iterator<Item = usize>, cells: usize) -> f64 {
        let mut counts = vec![0u32; cells];
        let mut total = 0u32;
        for value in values {
            counts[value] += 1;
            total += 1;
        }
        let expected = f64::from(total) / cells as f64;
        let chi2: f64 = counts
            .iter()
            .map(|&count| (f64::from(count) - expected).powi(2) / expected)
            .sum();
        let freedom = (cells - 1) as f64;
        (chi2 - freedom) / (2.0 * freedom).sqrt()
    }

    /// What clients really are: one address with many ports, many addresses
    /// with one port, ports in steps, addresses in steps.
    fn patterns() -> Vec<(&'static str, Vec<ClientTuple>)> {
        let all = 0..1u32 << 16;
        vec![
            (
                "ports",
                all.clone().map(|i| client(0x0a00_0001, i as u16)).collect(),
            ),
            (
                "addresses",
                all.clone()
                    .map(|i| client(0x0a00_0000 + i, 40000))
                    .collect(),
            ),
            (
                "even",
                all.clone()
                    .map(|i| client(0x0a00_0000 + (i >> 15), (i as u16) << 1))
                    .collect(),
            ),
            (
                "networks",
                all.clone().map(|i| client(i << 16 | 1, 40000)).collect(),
            ),
            (
                "both",
                all.map(|i| client(0x0a00_0000 + (i >> 8), 40000 + (i as u16 & 255)))
                    .collect(),
            ),
        ]
    }

    #[test]
    fn buckets_and_tags_are_uniform() {
        for seed in 0..8 {
            let key = key(seed);
            for (name, tuples) in patterns() {
                let hashes: Vec<u64> = tuples.iter().map(|t| key.client(t)).collect();
                for (part, shift) in [("bucket", 52), ("middle", 26), ("tag", 0)] {
                    let cells = hashes.iter().map(|h| (h >> shift) as usize & 0xfff);
                    let deviation = deviation(cells, 1 << 12);
                    assert!(deviation.abs() < 7.0, "{name} {part} {seed}: {deviation}");
                }
            }
        }
    }

    #[test]
    fn each_input_bit_flips_half_of_the_output() {
        let samples = 2000u32;
        for bit in 0..48 {
            let mut flips = [0u32; 64];
            for sample in 0..samples {
                let key = key(sample as u8);
                let address = sample.wrapping_mul(0x9e37_79b9);
                let port = (sample.wrapping_mul(40503) >> 3) as u16;
                let other = if bit < 32 {
                    client(address ^ 1 << bit, port)
                } else {
                    client(address, port ^ 1 << (bit - 32))
                };
                let changed = key.client(&client(address, port)) ^ key.client(&other);
                for (out, count) in flips.iter_mut().enumerate() {
                    *count += (changed >> out & 1) as u32;
                }
            }
            for (out, &count) in flips.iter().enumerate() {
                let share = f64::from(count) / f64::from(samples);
                assert!((0.42..0.58).contains(&share), "in {bit} out {out}: {share}");
            }
        }
    }

    #[test]
    fn the_key_decides_who_collides() {
        let bucket = |key: HashKey, tuple: &ClientTuple| key.client(tuple) >> 56;
        let colliding: Vec<ClientTuple> = (0..1u32 << 16)
            .map(|i| client(0xc633_6400 + (i >> 12), i as u16))
            .filter(|tuple| bucket(key(1), tuple) == 0)
            .collect();
        assert!(colliding.len() > 200);
        let still = colliding.iter().filter(|t| bucket(key(2), t) == 0).count();
        assert!(
            still < colliding.len() / 10,
            "{still} of {}",
            colliding.len()
        );
    }

    #[test]
    fn a_packet_is_found_from_either_side() {
        let key = key(3);
        let tuple = client(0x0a00_0000, 40000);
        let server = ServerTuple {
            server: tuple.client,
            local: tuple.vip,
            server_port: tuple.client_port,
            local_port: tuple.vip_port,
            protocol: tuple.protocol,
        };
        let flow = FlowTuple::from(&tuple);
        assert_eq!(key.client(&tuple), key.flow(&flow));
        assert_eq!(key.server(&server), key.flow(&flow));
    }

    #[test]
    fn the_kernel_gives_different_keys() {
        let one = HashKey::random_bytes().expect("random bytes");
        let two = HashKey::random_bytes().expect("random bytes");
        assert_ne!(one, two);
        assert_eq!(format!("{:?}", HashKey::from_bytes(one)), "HashKey(secret)");
    }
}
