//! ARP for IPv4 over Ethernet (RFC 826): what asks for and gives MAC addresses.

use std::net::Ipv4Addr;

use super::ethernet::{self, EtherType, EthernetRepr, MIN_FRAME_LEN, MacAddr};
use super::{Field, ParseError, get_addr, get_u16, set_addr, set_u16};

/// Length of the packet in bytes, without Ethernet padding.
pub const LEN: usize = TARGET_IP.end;

const HARDWARE_TYPE: Field = 0..2;
const PROTOCOL_TYPE: Field = HARDWARE_TYPE.end..HARDWARE_TYPE.end + 2;
const ADDRESS_LENGTHS: Field = PROTOCOL_TYPE.end..PROTOCOL_TYPE.end + 2;
const OPERATION: Field = ADDRESS_LENGTHS.end..ADDRESS_LENGTHS.end + 2;
const SENDER_MAC: Field = OPERATION.end..OPERATION.end + 6;
const SENDER_IP: Field = SENDER_MAC.end..SENDER_MAC.end + 4;
const TARGET_MAC: Field = SENDER_IP.end..SENDER_IP.end + 6;
const TARGET_IP: Field = TARGET_MAC.end..TARGET_MAC.end + 4;

const HARDWARE_ETHERNET: u16 = 1;
const LENGTHS_ETHERNET_IPV4: u16 = 0x0604;

/// What an ARP packet wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum ArpOp {
    /// Who has the target address?
    Request = 1,
    /// The sender has the sender address.
    Reply = 2,
}

/// An ARP packet for IPv4 over Ethernet.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |       Hardware Type (1)       |    Protocol Type (0x0800)     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | HW Length (6) | Proto Len (4) |           Operation           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                          Sender MAC                           |
/// +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                               |           Sender IP           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |           Sender IP           |                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+                               +
/// |                          Target MAC                           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                           Target IP                           |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ArpView<T> {
    buf: T,
    op: ArpOp,
}

impl<T: AsRef<[u8]>> ArpView<T> {
    /// A view of `buf`, which starts at the hardware type and may be padded.
    ///
    /// # Errors
    /// The `Arp…` variants of [`ParseError`].
    #[inline]
    pub fn new_checked(buf: T) -> Result<Self, ParseError> {
        let bytes = buf.as_ref();
        if bytes.len() < LEN {
            return Err(ParseError::ArpTruncated);
        }
        if get_u16(bytes, HARDWARE_TYPE) != HARDWARE_ETHERNET {
            return Err(ParseError::ArpHardwareType);
        }
        if get_u16(bytes, PROTOCOL_TYPE) != EtherType::IPV4.0 {
            return Err(ParseError::ArpProtocolType);
        }
        if get_u16(bytes, ADDRESS_LENGTHS) != LENGTHS_ETHERNET_IPV4 {
            return Err(ParseError::ArpAddressLength);
        }
        let op = match get_u16(bytes, OPERATION) {
            1 => ArpOp::Request,
            2 => ArpOp::Reply,
            _ => return Err(ParseError::ArpOperation),
        };
        Ok(Self { buf, op })
    }

    /// Request or reply.
    #[inline]
    pub fn op(&self) -> ArpOp {
        self.op
    }

    /// MAC address of the sender.
    #[inline]
    pub fn sender_mac(&self) -> MacAddr {
        ethernet::get_mac(self.buf.as_ref(), SENDER_MAC)
    }

    /// IPv4 address of the sender; 0.0.0.0 in a probe (RFC 5227 §2.1.1).
    #[inline]
    pub fn sender_ip(&self) -> Ipv4Addr {
        get_addr(self.buf.as_ref(), SENDER_IP)
    }

    /// MAC address of the target; without meaning in a request.
    #[inline]
    pub fn target_mac(&self) -> MacAddr {
        ethernet::get_mac(self.buf.as_ref(), TARGET_MAC)
    }

    /// IPv4 address of the target.
    #[inline]
    pub fn target_ip(&self) -> Ipv4Addr {
        get_addr(self.buf.as_ref(), TARGET_IP)
    }
}

/// An ARP packet as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArpRepr {
    /// Request or reply.
    pub op: ArpOp,
    /// MAC address of the sender.
    pub sender_mac: MacAddr,
    /// IPv4 address of the sender.
    pub sender_ip: Ipv4Addr,
    /// MAC address of the target.
    pub target_mac: MacAddr,
    /// IPv4 address of the target.
    pub target_ip: Ipv4Addr,
}

impl ArpRepr {
    /// The packet that `view` shows.
    #[inline]
    pub fn parse<T: AsRef<[u8]>>(view: &ArpView<T>) -> Self {
        Self {
            op: view.op(),
            sender_mac: view.sender_mac(),
            sender_ip: view.sender_ip(),
            target_mac: view.target_mac(),
            target_ip: view.target_ip(),
        }
    }

    /// Writes the packet.
    #[inline]
    pub fn emit(&self, buf: &mut [u8; LEN]) {
        set_u16(buf, HARDWARE_TYPE, HARDWARE_ETHERNET);
        set_u16(buf, PROTOCOL_TYPE, EtherType::IPV4.0);
        set_u16(buf, ADDRESS_LENGTHS, LENGTHS_ETHERNET_IPV4);
        set_u16(buf, OPERATION, self.op as u16);
        buf[SENDER_MAC].copy_from_slice(&self.sender_mac.0);
        set_addr(buf, SENDER_IP, self.sender_ip);
        buf[TARGET_MAC].copy_from_slice(&self.target_mac.0);
        set_addr(buf, TARGET_IP, self.target_ip);
    }

    /// Writes a whole frame from the sender's MAC address to `dst`, padded with
    /// zeros to the shortest length that Ethernet allows.
    #[inline]
    pub fn emit_frame(&self, dst: MacAddr, buf: &mut [u8; MIN_FRAME_LEN]) {
        let ethernet = EthernetRepr {
            dst,
            src: self.sender_mac,
            ethertype: EtherType::ARP,
        };
        let mut header = [0; ethernet::HEADER_LEN];
        ethernet.emit(&mut header);
        let mut packet = [0; LEN];
        self.emit(&mut packet);
        buf.fill(0);
        buf[..ethernet::HEADER_LEN].copy_from_slice(&header);
        buf[ethernet::HEADER_LEN..ethernet::HEADER_LEN + LEN].copy_from_slice(&packet);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::ethernet::EthernetView;

    /// Who has 192.0.2.1? Tell 192.0.2.9, at 02:00:00:00:00:09.
    const REQUEST: [u8; MIN_FRAME_LEN] = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0x00, 0x00, 0x00, 0x00, 0x09, 0x08, 0x06, //
        0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01, // Ethernet, IPv4, 6, 4, request
        0x02, 0x00, 0x00, 0x00, 0x00, 0x09, 0xc0, 0x00, 0x02, 0x09, // sender
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xc0, 0x00, 0x02, 0x01, // target
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // padding
    ];

    fn request() -> ArpRepr {
        ArpRepr {
            op: ArpOp::Request,
            sender_mac: MacAddr([2, 0, 0, 0, 0, 9]),
            sender_ip: Ipv4Addr::new(192, 0, 2, 9),
            target_mac: MacAddr([0; 6]),
            target_ip: Ipv4Addr::new(192, 0, 2, 1),
        }
    }

    #[test]
    fn reads_a_request() {
        let ethernet = EthernetView::new_checked(&REQUEST[..]).expect("whole");
        assert_eq!(ethernet.ethertype(), EtherType::ARP);
        let view = ArpView::new_checked(ethernet.payload()).expect("valid");
        assert_eq!(ArpRepr::parse(&view), request());
    }

    #[test]
    fn writes_a_request() {
        let mut buf = [0xa5; MIN_FRAME_LEN];
        request().emit_frame(MacAddr::BROADCAST, &mut buf);
        assert_eq!(buf, REQUEST);
    }

    #[test]
    fn tells_the_causes_of_rejection_apart() {
        let packet = &REQUEST[ethernet::HEADER_LEN..];
        let check = |at: usize, byte: u8| {
            let mut bytes = packet.to_vec();
            bytes[at] = byte;
            ArpView::new_checked(bytes).err()
        };
        assert_eq!(check(1, 6), Some(ParseError::ArpHardwareType));
        assert_eq!(check(2, 0x86), Some(ParseError::ArpProtocolType));
        assert_eq!(check(4, 8), Some(ParseError::ArpAddressLength));
        assert_eq!(check(5, 16), Some(ParseError::ArpAddressLength));
        assert_eq!(check(7, 0), Some(ParseError::ArpOperation));
        assert_eq!(check(7, 3), Some(ParseError::ArpOperation));
        let short = ArpView::new_checked(&packet[..LEN - 1]).err();
        assert_eq!(short, Some(ParseError::ArpTruncated));
    }

    proptest! {
        /// What was written is read back.
        #[test]
        fn round_trip(
            reply: bool, sender_mac: [u8; 6], sender_ip: u32, target_mac: [u8; 6], target_ip: u32,
        ) {
            let repr = ArpRepr {
                op: if reply { ArpOp::Reply } else { ArpOp::Request },
                sender_mac: MacAddr(sender_mac),
                sender_ip: sender_ip.into(),
                target_mac: MacAddr(target_mac),
                target_ip: target_ip.into(),
            };
            let mut buf = [0xa5; LEN];
            repr.emit(&mut buf);
            let view = ArpView::new_checked(&buf[..]).expect("emitted");
            prop_assert_eq!(ArpRepr::parse(&view), repr);
        }
    }
}
