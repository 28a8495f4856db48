//! A frame's headers in one line for people, the way tcpdump tells them. Pure;
//! takes any bytes, and says how far they go.

use std::net::Ipv4Addr;

use crate::wire::arp::{ArpOp, ArpRepr, ArpView};
use crate::wire::ethernet::MacAddr;
use crate::wire::proto;
use crate::wire::tcp::Flags;

const FLAGS: [(Flags, &str); 6] = [
    (Flags::SYN, "SYN"),
    (Flags::FIN, "FIN"),
    (Flags::RST, "RST"),
    (Flags::PSH, "PSH"),
    (Flags::ACK, "ACK"),
    (Flags::URG, "URG"),
];

/// The headers of a frame, of which the first bytes are there.
pub fn describe(frame: &[u8]) -> String {
    ethernet(frame).unwrap_or_else(|| match frame.len() {
        0 => "not made".into(),
        len => format!("{len} bytes"),
    })
}

fn ethernet(frame: &[u8]) -> Option<String> {
    let (mac, rest) = frame.split_first_chunk::<12>()?;
    let (ethertype, payload) = rest.split_first_chunk::<2>()?;
    let told = match u16::from_be_bytes(*ethertype) {
        0x0800 => ipv4(payload),
        0x0806 => arp(payload),
        0x8100 | 0x88a8 => vlan(payload),
        _ => None,
    };
    Some(told.unwrap_or_else(|| {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *mac;
        let (to, from) = (MacAddr([a, b, c, d, e, f]), MacAddr([g, h, i, j, k, l]));
        format!("{from} > {to} ethertype 0x{}", hex(ethertype))
    }))
}

fn vlan(payload: &[u8]) -> Option<String> {
    let &[a, b, c, d] = payload.first_chunk()?;
    let id = u16::from_be_bytes([a, b]) & 0xfff;
    let inner = match u16::from_be_bytes([c, d]) {
        0x0800 => ipv4(payload.get(4..)?),
        0x0806 => arp(payload.get(4..)?),
        _ => None,
    };
    Some(match inner {
        Some(inner) => format!("VLAN {id} {inner}"),
        None => format!("VLAN {id} ethertype 0x{}", hex(&[c, d])),
    })
}

fn arp(payload: &[u8]) -> Option<String> {
    let arp = ArpRepr::parse(&ArpView::new_checked(payload).ok()?);
    Some(match arp.op {
        ArpOp::Reply => format!("ARP {} is at {}", arp.sender_ip, arp.sender_mac),
        _ => format!("ARP who has {} tell {}", arp.target_ip, arp.sender_ip),
    })
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn ipv4(ip: &[u8]) -> Option<String> {
    let header = ip.first_chunk::<20>()?;
    let (src, dst) = (
        Ipv4Addr::from_bits(word(header, 12)?),
        Ipv4Addr::from_bits(word(header, 16)?),
    );
    let (protocol, ttl) = (header[9], header[8]);
    let header_len = usize::from(header[0] & 0xf) * 4;
    let payload_len = usize::from(half(header, 2)?).saturating_sub(header_len);
    let fragment = half(header, 6)?;
    let offset = usize::from(fragment & 0x1fff) * 8;
    let mut told = match ip.get(header_len..) {
        Some(transport) if offset == 0 => match protocol {
            proto::TCP => tcp(src, dst, transport, payload_len),
            proto::UDP => udp(src, dst, transport, payload_len),
            proto::ICMP => icmp(src, dst, transport),
            _ => None,
        },
        _ => None,
    }
    .unwrap_or_else(|| format!("{src} > {dst} {}", proto::name(protocol).to_uppercase()));
    if fragment & 0x3fff != 0 {
        told.push_str(&format!(", fragment {} at {offset}", half(header, 4)?));
    }
    Some(format!("{told}, ttl {ttl}"))
}

fn tcp(src: Ipv4Addr, dst: Ipv4Addr, tcp: &[u8], len: usize) -> Option<String> {
    let (sport, dport) = (half(tcp, 0)?, half(tcp, 2)?);
    let Some(header) = tcp.first_chunk::<20>() else {
        return Some(format!("{src}:{sport} > {dst}:{dport} TCP"));
    };
    let flags = Flags(header[13]);
    let names = FLAGS.iter().filter(|(flag, _)| flags.has(*flag));
    let names: Vec<&str> = names.map(|(_, name)| *name).collect();
    let names = if names.is_empty() {
        "no flags".into()
    } else {
        names.join(",")
    };
    let len = len.saturating_sub(usize::from(header[12] >> 4) * 4);
    let (seq, ack, window) = (word(header, 4)?, word(header, 8)?, half(header, 14)?);
    Some(format!(
        "{src}:{sport} > {dst}:{dport} TCP {names} seq {seq} ack {ack} win {window} len {len}"
    ))
}

fn udp(src: Ipv4Addr, dst: Ipv4Addr, udp: &[u8], len: usize) -> Option<String> {
    let (sport, dport) = (half(udp, 0)?, half(udp, 2)?);
    let len = len.saturating_sub(8);
    Some(format!("{src}:{sport} > {dst}:{dport} UDP len {len}"))
}

fn icmp(src: Ipv4Addr, dst: Ipv4Addr, icmp: &[u8]) -> Option<String> {
    let &[kind, code] = icmp.first_chunk()?;
    let told = format!("{src} > {dst} ICMP type {kind} code {code}");
    let quoted = match kind {
        3 | 11 | 12 => icmp.get(8..).and_then(quoted),
        _ => None,
    };
    Some(match quoted {
        Some(quoted) => format!("{told} about {quoted}"),
        None => told,
    })
}

fn quoted(ip: &[u8]) -> Option<String> {
    let header = ip.first_chunk::<20>()?;
    let (src, dst) = (
        Ipv4Addr::from_bits(word(header, 12)?),
        Ipv4Addr::from_bits(word(header, 16)?),
    );
    let transport = ip.get(usize::from(header[0] & 0xf) * 4..)?;
    let name = proto::name(header[9]).to_uppercase();
    Some(match (header[9], half(transport, 0), half(transport, 2)) {
        (proto::TCP | proto::UDP, Some(sport), Some(dport)) => {
            format!("{src}:{sport} > {dst}:{dport} {name}")
        }
        _ => format!("{src} > {dst} {name}"),
    })
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(ethertype: &str, rest: &str) -> Vec<u8> {
        let text = format!("020000000001 020000000099 {ethertype} {rest}").replace(' ', "");
        let digits: Vec<char> = text.chars().collect();
        let byte = |pair: &[char]| {
            let text: String = pair.iter().collect();
            u8::from_str_radix(&text, 16).expect("digits")
        };
        digits.chunks(2).map(byte).collect()
    }

    #[test]
    fn frames_are_told_like_tcpdump_does() {
        let rows = [
            (
                frame(
                    "0800",
                    "4500002c 00010000 40060000 c0000209 c6336401 9c400050 00000007 00000063 6012faf0 00000000 020405b4",
                ),
                "192.0.2.9:40000 > 198.51.100.1:80 TCP SYN,ACK seq 7 ack 99 win 64240 len 0, ttl 64",
            ),
            (
                frame(
                    "0800",
                    "45000020 00020000 01110000 c0000209 c6336401 9c400035 000c0000",
                ),
                "192.0.2.9:40000 > 198.51.100.1:53 UDP len 4, ttl 1",
            ),
            (
                frame(
                    "0800",
                    "45000020 00022001 40110000 c0000209 c6336401 9c400035 000c0000",
                ),
                "192.0.2.9 > 198.51.100.1 UDP, fragment 2 at 8, ttl 64",
            ),
            (
                frame(
                    "0800",
                    "45000038 00020000 40010000 c0000209 c6336401 03030000 00000000 45000020 00020000 01110000 c6336401 c0000209 00359c40 000c0000",
                ),
                "192.0.2.9 > 198.51.100.1 ICMP type 3 code 3 about 198.51.100.1:53 > 192.0.2.9:40000 UDP, ttl 64",
            ),
            (
                frame("0800", "45000014 00020000 402f0000 c0000209 c6336401"),
                "192.0.2.9 > 198.51.100.1 47, ttl 64",
            ),
            (
                frame(
                    "0806",
                    "0001080006040001 020000000099 0a000001 000000000000 0a000002",
                ),
                "ARP who has 10.0.0.2 tell 10.0.0.1",
            ),
            (
                frame("86dd", ""),
                "02:00:00:00:00:99 > 02:00:00:00:00:01 ethertype 0x86dd",
            ),
            (frame("8100", "0005 88cc"), "VLAN 5 ethertype 0x88cc"),
            (vec![1, 2, 3], "3 bytes"),
            (Vec::new(), "not made"),
        ];
        for (frame, expected) in rows {
            assert_eq!(describe(&frame), expected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_told_in_one_line(
            bytes in proptest::collection::vec(any::<u8>(), 0..96), ip: bool,
        ) {
            let mut bytes = bytes;
            if ip && bytes.len() > 14 {
                bytes[12..14].copy_from_slice(&[8, 0]);
            }
            prop_assert!(!describe(&bytes).contains('\n'));
        }
    }
}
