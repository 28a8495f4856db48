//! Values written as text: durations, sizes, addresses, ranges. Each parser's
//! error reads `what is wrong; what would be right`, to stand behind a key.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::Ipv4Net;

const DURATION_UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// A duration such as `30s`, `2h4m`, `250ms`, `50us`; whole microseconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("{text:?} is no duration; give numbers with units, such as \"250ms\" or \"2h4m\"")
    };
    let mut rest = text;
    let mut micros: u64 = 0;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..]
            .bytes()
            .take_while(u8::is_ascii_lowercase)
            .count();
        let (number, tail) = rest.split_at(digits);
        let (unit, tail) = tail.split_at(letters);
        let &(_, unit) = DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        if unit >= last_unit {
            return Err(wrong());
        }
        last_unit = unit;
        micros = number
            .checked_mul(unit)
            .and_then(|part| micros.checked_add(part))
            .ok_or_else(wrong)?;
        rest = tail;
    }
    if last_unit == u64::MAX {
        Err(wrong())
    } else {
        Ok(Duration::from_micros(micros))
    }
}

/// The shortest text that [`parse_duration`] reads back.
pub(super) fn format_duration(duration: Duration) -> String {
    let mut micros = duration.as_micros() as u64;
    if micros == 0 {
        return "0ms".to_owned();
    }
    let mut text = String::new();
    for (name, unit) in DURATION_UNITS {
        if micros >= unit {
            text.push_str(&format!("{}{name}", micros / unit));
            micros %= unit;
        }
    }
    text
}

/// A size such as `512M` or `2G`, in bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is no size; give a whole number with M or G, such as \"512M\"");
    let (number, shift) = match text.as_bytes() {
        [.., b'M'] => (&text[..text.len() - 1], 20),
        [.., b'G'] => (&text[..text.len() - 1], 30),
        _ => return Err(wrong()),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// The text of a whole number of megabytes.
pub(super) fn format_size(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 30) => format!("{}G", bytes >> 30),
        _ => format!("{}M", bytes >> 20),
    }
}

/// A range of ports such as `1024-65535`.
pub(super) fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong =
        || format!("{text:?} is no range of ports; give FIRST-LAST, such as \"1024-65535\"");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first: u16 = first.trim().parse().map_err(|_| wrong())?;
    let last: u16 = last.trim().parse().map_err(|_| wrong())?;
    if first == 0 || first > last {
        Err(wrong())
    } else {
        Ok(first..=last)
    }
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
        || text.parse::<SocketAddrV6>().is_ok()
        || text
            .split_once('/')
            .is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok())
}

fn address_wrong(text: &str, kind: &str, example: &str) -> String {
    if is_ipv6(text) {
        format!(
            "{text:?} is IPv6, which is not supported yet; give an IPv4 {kind}, such as \"{example}\""
        )
    } else {
        format!("{text:?} is no {kind}; give an IPv4 {kind}, such as \"{example}\"")
    }
}

/// Why `address` can't be that of a host on a network, if it can't.
fn unusable(address: Ipv4Addr) -> Option<&'static str> {
    match address {
        _ if address.octets()[0] == 0 => Some("names no host"),
        _ if address.is_loopback() => Some("is a loopback address"),
        _ if address.is_multicast() => Some("is a multicast address"),
        _ if address.octets()[0] >= 240 => Some("is reserved or broadcast"),
        _ => None,
    }
}

fn usable(address: Ipv4Addr) -> Result<Ipv4Addr, String> {
    match unusable(address) {
        None => Ok(address),
        Some(why) => Err(format!(
            "{address} {why}; give the unicast address of a host"
        )),
    }
}

/// A host's address.
pub(super) fn parse_address(text: &str) -> Result<Ipv4Addr, String> {
    usable(
        text.parse()
            .map_err(|_| address_wrong(text, "address", "10.0.0.1"))?,
    )
}

/// A host's address and port.
pub(crate) fn parse_endpoint(text: &str) -> Result<SocketAddrV4, String> {
    if text.parse::<Ipv4Addr>().is_ok() {
        return Err(format!(
            "{text:?} lacks a port; give ADDRESS:PORT, such as \"{text}:80\""
        ));
    }
    let endpoint: SocketAddrV4 = text
        .parse()
        .map_err(|_| address_wrong(text, "address with a port", "10.0.0.1:80"))?;
    usable(*endpoint.ip())?;
    if endpoint.port() == 0 {
        return Err(format!("{text:?} has port 0; give a port from 1 to 65535"));
    }
    Ok(endpoint)
}

/// A host's address with its network's prefix length.
pub(super) fn parse_interface(text: &str) -> Result<Ipv4Net, String> {
    if text.parse::<Ipv4Addr>().is_ok() {
        return Err(format!(
            "{text:?} lacks a prefix length; give ADDRESS/LENGTH, such as \"{text}/24\""
        ));
    }
    let net: Ipv4Net = text
        .parse()
        .map_err(|_| address_wrong(text, "address with a prefix length", "10.0.0.1/24"))?;
    usable(net.addr())?;
    if net.prefix_len() < 31 && (net.addr() == net.network() || net.addr() == net.broadcast()) {
        return Err(format!(
            "{text:?} is the network or broadcast address; give a host's address"
        ));
    }
    Ok(net)
}

/// A network.
pub(super) fn parse_network(text: &str) -> Result<Ipv4Net, String> {
    let net: Ipv4Net = text
        .parse()
        .map_err(|_| address_wrong(text, "network", "10.9.0.0/16"))?;
    if net.addr() != net.network() {
        return Err(format!(
            "{text:?} has host bits set; give \"{}\"",
            net.trunc()
        ));
    }
    Ok(net)
}

/// Addresses: one, or a range such as `10.0.1.10-10.0.1.13`.
pub(crate) fn parse_addresses(text: &str) -> Result<RangeInclusive<Ipv4Addr>, String> {
    let Some((first, last)) = text.split_once('-') else {
        let address = parse_address(text)?;
        return Ok(address..=address);
    };
    let (first, last) = (parse_address(first.trim())?, parse_address(last.trim())?);
    if first > last {
        return Err(format!("{text:?} runs backwards; give \"{last}-{first}\""));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        let micros = |text| {
            parse_duration(text)
                .map(|duration| duration.as_micros())
                .ok()
        };
        assert_eq!(micros("2h4m"), Some(7_440_000_000));
        assert_eq!(micros("250ms"), Some(250_000));
        assert_eq!(micros("0us"), Some(0));
        for wrong in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "5s3h",
            "5s5s",
            "1.5s",
            "99999999999999d",
            "5é",
        ] {
            assert_eq!(micros(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        for wrong in ["", "M", "5", "5k", "+5M", "99999999999G", "é"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn formats_read_back(micros in 0_u64..1 << 50, megabytes in 0_u64..1 << 40) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            let size = megabytes << 20;
            prop_assert_eq!(parse_size(&format_size(size)), Ok(size));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}|[0-9./:smhd-]{0,20}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
            let _ = parse_ports(&text);
            let _ = parse_endpoint(&text);
            let _ = parse_interface(&text);
            let _ = parse_network(&text);
            let _ = parse_addresses(&text);
        }
    }
}
