//! What the kernel's ARP table says about a host that was just sent something.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;

/// Of the namespace that the calling thread is in.
const TABLE: &str = "/proc/thread-self/net/arp";

/// The entry has a MAC address (`ATF_COM` of `linux/if_arp.h`).
const COMPLETE: u32 = 2;

/// Whether the kernel asked for the host's MAC address and got no answer. Not
/// so where the host is behind a router, or the kernel does not say.
pub(super) fn is_silent(host: Ipv4Addr, interface: Option<&str>) -> bool {
    let Ok(table) = std::fs::File::open(TABLE) else {
        return false;
    };
    let lines = BufReader::new(table).lines().map_while(Result::ok);
    is_silent_in(lines, host, interface)
}

/// As [`is_silent`]: in lines of address, hardware type, flags, MAC address,
/// mask and interface, after a heading.
fn is_silent_in(
    lines: impl Iterator<Item = String>,
    host: Ipv4Addr,
    interface: Option<&str>,
) -> bool {
    for line in lines.skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [address, _, flags, _, _, device] = fields[..] else {
            continue;
        };
        if address.parse() != Ok(host) || interface.is_some_and(|wanted| wanted != device) {
            continue;
        }
        let flags = flags.strip_prefix("0x").unwrap_or(flags);
        return u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & COMPLETE == 0);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_silent_where_its_entry_is_incomplete() {
        let table = "\
IP address       HW type     Flags       HW address            Mask     Device
10.0.0.1         0x1         0x2         02:00:00:00:00:01     *        lan
10.0.0.2         0x1         0x0         00:00:00:00:00:00     *        lan
10.0.0.2         0x1         0x2         02:00:00:00:00:02     *        wan
10.0.0.3         0x1         0x6         02:00:00:00:00:03     *        lan
";
        let rows = [
            (1, None, false),
            (2, None, true),
            (2, Some("lan"), true),
            (2, Some("wan"), false),
            (3, None, false),
            (4, None, false),
        ];
        for (last, interface, silent) in rows {
            let host = Ipv4Addr::new(10, 0, 0, last);
            let lines = table.lines().map(str::to_owned);
            assert_eq!(is_silent_in(lines, host, interface), silent, "{host}");
        }
    }
}
