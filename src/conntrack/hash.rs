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
            key[ix] = u64::from_le_bytes(words[ix]);
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
