//! Receive-side scaling: asked for where the driver reports it, and believed
//! only as far as the driver confirms what it was given.

use std::mem::MaybeUninit;

use crate::snat::steering::WITHOUT_RSS;

/// Bytes of a hash key, as callers give it.
const KEY_LEN: usize = 40;

/// Most bytes of a key that DPDK can name.
const MAX_KEY_LEN: usize = u8::MAX as usize;

/// Packets that the NIC hashes by addresses and ports. All others come in on
/// queue 0, or wherever the driver pleases.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RssFlows {
    /// TCP over IPv4.
    pub ipv4_tcp: bool,
    /// UDP over IPv4.
    pub ipv4_udp: bool,
    /// TCP over IPv6.
    pub ipv6_tcp: bool,
    /// UDP over IPv6.
    pub ipv6_udp: bool,
}

impl RssFlows {
    fn from_bits(bits: u64) -> Self {
        Self {
            ipv4_tcp: bits & dpdk_sys::FULLGATE_RSS_IPV4_TCP != 0,
            ipv4_udp: bits & dpdk_sys::FULLGATE_RSS_IPV4_UDP != 0,
            ipv6_tcp: bits & dpdk_sys::FULLGATE_RSS_IPV6_TCP != 0,
            ipv6_udp: bits & dpdk_sys::FULLGATE_RSS_IPV6_UDP != 0,
        }
    }
}

/// Whether the NIC spreads packets over the queues by the Toeplitz hash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RssStatus {
    /// It does, as read back from it.
    Active {
        /// The key.
        key: [u8; KEY_LEN],
        /// The queue of each slot of the redirection table; the slot of a packet
        /// is its hash modulo the length.
        reta: Vec<u16>,
        /// What is hashed.
        flows: RssFlows,
    },
    /// It does not, and why.
    Unavailable(String),
}

/// Hash functions to configure, as bits, or why there are none.
pub(super) fn plan(driver: &str, reported: u64, queues: u16) -> Result<u64, String> {
    const WANTED: u64 = dpdk_sys::FULLGATE_RSS_IPV4_TCP
        | dpdk_sys::FULLGATE_RSS_IPV4_UDP
        | dpdk_sys::FULLGATE_RSS_IPV6_TCP
        | dpdk_sys::FULLGATE_RSS_IPV6_UDP;
    if WITHOUT_RSS.contains(&driver) {
        return Err(format!("the driver {driver} has none that works"));
    }
    if queues < 2 {
        return Err("there is one queue only".to_owned());
    }
    match reported & WANTED {
        0 => Err(format!("the driver {driver} does not hash by ports")),
        functions => Ok(functions),
    }
}

/// A key of the length a NIC wants. Only the first 40 bytes decide about the
/// hash of an address and port tuple; the rest repeats them.
pub(super) fn key_of_length(key: &[u8; KEY_LEN], reported: u8) -> Vec<u8> {
    let len = match usize::from(reported) {
        0 => KEY_LEN,
        len => len.max(KEY_LEN),
    };
    key.iter().copied().cycle().take(len).collect()
}

/// Sets the redirection table of a started port to go round its queues, and
/// reads table, key and functions back.
pub(super) fn activate(
    port: u16,
    queues: u16,
    key: &[u8; KEY_LEN],
    functions: u64,
    reta_size: u16,
) -> RssStatus {
    let attempt = || -> Result<RssStatus, String> {
        if reta_size == 0 {
            return Err("the driver reports no redirection table".to_owned());
        }
        let group = dpdk_sys::FULLGATE_RETA_GROUP as usize;
        let slots = usize::from(reta_size);
        let blank = dpdk_sys::rte_eth_rss_reta_entry64::default();
        let mut table = vec![blank; slots.div_ceil(group)];
        for slot in 0..slots {
            table[slot / group].mask |= 1 << (slot % group);
            table[slot / group].reta[slot % group] = slot as u16 % queues;
        }
        let failed = |what: &str, code: i32| format!("{what}: {}", super::Errno(-code));
        // SAFETY: the port exists; the table has a group for every 64 slots.
        let code =
            unsafe { dpdk_sys::rte_eth_dev_rss_reta_update(port, table.as_mut_ptr(), reta_size) };
        if code != 0 {
            return Err(failed("the redirection table can't be set", code));
        }
        for entry in &mut table {
            entry.reta.fill(u16::MAX);
        }
        // SAFETY: as above.
        let code =
            unsafe { dpdk_sys::rte_eth_dev_rss_reta_query(port, table.as_mut_ptr(), reta_size) };
        if code != 0 {
            return Err(failed("the redirection table can't be read", code));
        }
        let reta: Vec<u16> = (0..slots)
            .map(|slot| table[slot / group].reta[slot % group])
            .collect();
        if reta.iter().any(|queue| *queue >= queues) {
            return Err("the redirection table is not what it was set to".to_owned());
        }

        let (read_key, active) =
            read_back(port).map_err(|code| failed("the key can't be read", code))?;
        if read_key[..KEY_LEN] != key[..] {
            return Err("the key is not what it was set to".to_owned());
        }
        match active & functions {
            0 => Err("the driver hashes by no ports after all".to_owned()),
            active => Ok(RssStatus::Active {
                key: *key,
                reta,
                flows: RssFlows::from_bits(active),
            }),
        }
    };
    attempt().unwrap_or_else(RssStatus::Unavailable)
}

/// The key (zeros behind its end) and the hash functions in force.
fn read_back(port: u16) -> Result<([u8; MAX_KEY_LEN], u64), i32> {
    let mut key = [0; MAX_KEY_LEN];
    let mut conf = MaybeUninit::<dpdk_sys::rte_eth_rss_conf>::zeroed();
    // SAFETY: all-zero is a valid value of this plain structure.
    let conf = unsafe { conf.assume_init_mut() };
    conf.rss_key = key.as_mut_ptr();
    conf.rss_key_len = MAX_KEY_LEN as u8;
    // SAFETY: the port exists; the key's buffer is as long as any key can be.
    let code = unsafe { dpdk_sys::rte_eth_dev_rss_hash_conf_get(port, conf) };
    if code != 0 {
        return Err(code);
    }
    Ok((key, conf.rss_hf))
}

/// DPDK's own software Toeplitz hash (`rte_softrss_be`), as the reference for
/// ours: `words` of the tuple in host order, at most 9 of them count.
pub fn soft_rss(words: &[u32], key: &[u8; KEY_LEN]) -> u32 {
    let mut words: Vec<u32> = words.iter().copied().take(KEY_LEN / 4 - 1).collect();
    // The function wants the key's words in host order.
    let mut host_key = [0; KEY_LEN / 4];
    for (word, bytes) in host_key.iter_mut().zip(key.chunks_exact(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    // SAFETY: reads `words.len()` words of the tuple and one more of the key,
    // which is aligned as words are.
    unsafe {
        dpdk_sys::fullgate_softrss_be(
            words.as_mut_ptr(),
            words.len() as u32,
            host_key.as_ptr().cast(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_drivers_are_not_believed() {
        assert!(plan("net_tap", u64::MAX, 4).is_err());
        assert!(plan("net_ixgbe", 0, 4).is_err());
        assert!(plan("net_ixgbe", u64::MAX, 1).is_err());
        let functions = plan("net_ixgbe", dpdk_sys::FULLGATE_RSS_IPV4_TCP | 1, 4).unwrap();
        assert_eq!(
            RssFlows::from_bits(functions),
            RssFlows {
                ipv4_tcp: true,
                ..RssFlows::default()
            }
        );
    }

    #[test]
    fn a_longer_key_starts_with_the_given_one() {
        let key: [u8; KEY_LEN] = std::array::from_fn(|i| i as u8);
        assert_eq!(key_of_length(&key, 0), key);
        assert_eq!(key_of_length(&key, 40), key);
        let long = key_of_length(&key, 52);
        assert_eq!(long.len(), 52);
        assert_eq!(long[..40], key);
    }

    /// The first rows of Microsoft's RSS verification suite.
    #[test]
    fn the_reference_hash_gives_the_published_values() {
        const KEY: [u8; KEY_LEN] = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
            0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
            0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let tuple = |src: [u8; 4], dst: [u8; 4], sport: u32, dport: u32| {
            [
                u32::from_be_bytes(src),
                u32::from_be_bytes(dst),
                sport << 16 | dport,
            ]
        };
        let first = tuple([66, 9, 149, 187], [161, 142, 100, 80], 2794, 1766);
        assert_eq!(soft_rss(&first, &KEY), 0x51cc_c178);
        assert_eq!(soft_rss(&first[..2], &KEY), 0x323e_8fc2);
        let second = tuple([199, 92, 111, 2], [65, 69, 140, 83], 14230, 4739);
        assert_eq!(soft_rss(&second, &KEY), 0xc626_b0ea);
    }
}
