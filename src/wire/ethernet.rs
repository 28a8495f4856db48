//! Ethernet II frames and MAC addresses. VLAN tags are recognised, not read.

use std::fmt;
use std::str::FromStr;

use super::{Field, ParseError, get_u16, set_u16};

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether this is a group address; the broadcast address is one.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is not six hexadecimal octets between colons.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a MAC address (want six octets such as 02:00:00:00:00:01)")]
pub struct MacAddrError;

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(MacAddrError)?;
            // from_str_radix alone would also take a sign.
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacAddrError);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| MacAddrError)?;
        }
        match parts.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(MacAddrError),
        }
    }
}

/// What an Ethernet frame carries, host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// An IEEE 802.1Q C-tag.
    pub const VLAN: Self = Self(0x8100);
    /// An IEEE 802.1ad S-tag.
    pub const SERVICE_VLAN: Self = Self(0x88a8);

    /// Whether a VLAN tag follows in place of the payload.
    #[inline]
    pub const fn is_vlan(self) -> bool {
        matches!(self, Self::VLAN | Self::SERVICE_VLAN)
    }
}

/// Length of the header in bytes.
pub const HEADER_LEN: usize = ETHERTYPE.end;
/// Shortest frame in bytes, without its check sequence (IEEE 802.3 §4.2.3.3).
pub const MIN_FRAME_LEN: usize = 60;

const DST: Field = 0..6;
const SRC: Field = DST.end..DST.end + 6;
const ETHERTYPE: Field = SRC.end..SRC.end + 2;

/// An Ethernet frame.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                      Destination Address                      |
/// +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                               |                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+                               +
/// |                        Source Address                         |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |           EtherType           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug)]
pub struct EthernetView<T> {
    buf: T,
}

impl<T: AsRef<[u8]>> EthernetView<T> {
    /// A view of `buf`, which starts at the destination address.
    ///
    /// # Errors
    /// [`ParseError::EthernetTruncated`].
    #[inline]
    pub fn new_checked(buf: T) -> Result<Self, ParseError> {
        if buf.as_ref().len() < HEADER_LEN {
            return Err(ParseError::EthernetTruncated);
        }
        Ok(Self { buf })
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> MacAddr {
        get_mac(self.buf.as_ref(), DST)
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> MacAddr {
        get_mac(self.buf.as_ref(), SRC)
    }

    /// What the payload is.
    #[inline]
    pub fn ethertype(&self) -> EtherType {
        EtherType(get_u16(self.buf.as_ref(), ETHERTYPE))
    }
}

impl<'a> EthernetView<&'a [u8]> {
    /// The bytes after the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.buf[HEADER_LEN..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> EthernetView<T> {
    /// Sets the destination address.
    #[inline]
    pub fn set_dst(&mut self, dst: MacAddr) {
        self.buf.as_mut()[DST].copy_from_slice(&dst.0);
    }

    /// Sets the source address.
    #[inline]
    pub fn set_src(&mut self, src: MacAddr) {
        self.buf.as_mut()[SRC].copy_from_slice(&src.0);
    }

    /// The bytes after the header, writable.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.buf.as_mut()[HEADER_LEN..]
    }
}

#[inline(always)]
pub(super) fn get_mac(bytes: &[u8], field: Field) -> MacAddr {
    let mut octets = [0; 6];
    octets.copy_from_slice(&bytes[field]);
    MacAddr(octets)
}

/// An Ethernet header as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EthernetRepr {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// What the payload is.
    pub ethertype: EtherType,
}

impl EthernetRepr {
    /// The header that `view` shows.
    pub fn parse<T: AsRef<[u8]>>(view: &EthernetView<T>) -> Self {
        Self {
            dst: view.dst(),
            src: view.src(),
            ethertype: view.ethertype(),
        }
    }

    /// Writes the header.
    #[inline]
    pub fn emit(&self, buf: &mut [u8; HEADER_LEN]) {
        buf[DST].copy_from_slice(&self.dst.0);
        buf[SRC].copy_from_slice(&self.src.0);
        set_u16(buf, ETHERTYPE, self.ethertype.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 16] = [
        0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x02, 0x08, 0x00, //
        0x45, 0x00,
    ];

    fn repr() -> EthernetRepr {
        EthernetRepr {
            dst: MacAddr([2, 0, 0, 0, 0, 1]),
            src: MacAddr([2, 0, 0, 0, 0, 2]),
            ethertype: EtherType::IPV4,
        }
    }

    #[test]
    fn reads_and_writes_a_header() {
        let view = EthernetView::new_checked(&FRAME[..]).expect("whole");
        assert_eq!(EthernetRepr::parse(&view), repr());
        assert_eq!(view.payload(), [0x45, 0x00]);
        let mut buf = [0xa5; HEADER_LEN];
        repr().emit(&mut buf);
        assert_eq!(buf, FRAME[..HEADER_LEN]);
    }

    #[test]
    fn swaps_addresses_in_place() {
        let mut bytes = FRAME;
        let mut view = EthernetView::new_checked(&mut bytes[..]).expect("whole");
        view.set_dst(repr().src);
        view.set_src(repr().dst);
        view.payload_mut()[0] = 0x46;
        let swapped = EthernetRepr {
            dst: repr().src,
            src: repr().dst,
            ..repr()
        };
        assert_eq!(EthernetRepr::parse(&view), swapped);
        assert_eq!(bytes[HEADER_LEN..], [0x46, 0x00]);
    }

    #[test]
    fn short_frames_are_rejected() {
        let error = EthernetView::new_checked(&FRAME[..13]).err();
        assert_eq!(error, Some(ParseError::EthernetTruncated));
    }

    #[test]
    fn vlan_tags_are_recognised() {
        assert!(EtherType(0x8100).is_vlan() && EtherType(0x88a8).is_vlan());
        assert!(!EtherType::IPV4.is_vlan() && !EtherType::ARP.is_vlan());
    }

    #[test]
    fn mac_addresses_as_text() {
        let mac = MacAddr([0x02, 0x00, 0x5e, 0x10, 0xab, 0xff]);
        assert_eq!(mac.to_string(), "02:00:5e:10:ab:ff");
        assert_eq!("02:00:5E:10:ab:FF".parse(), Ok(mac));
        for text in [
            "",
            "02:00:5e:10:ab",
            "02:00:5e:10:ab:ff:00",
            "02:00:5e:10:ab:",
            "2:00:5e:10:ab:ff",
            "+2:00:5e:10:ab:ff",
            "02:00:5e:10:ab:fg",
            "02-00-5e-10-ab-ff",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(MacAddrError), "{text}");
        }
    }

    #[test]
    fn group_addresses() {
        assert!(MacAddr::BROADCAST.is_multicast());
        assert!(MacAddr([0x01, 0, 0x5e, 0, 0, 1]).is_multicast());
        assert!(!MacAddr([0x02, 0, 0, 0, 0, 1]).is_multicast());
    }
}
