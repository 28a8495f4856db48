//! ICMP (RFC 792): echo, and the errors that quote the packet they are about.

use super::checksum::{Delta, checksum, nonzero};
use super::ipv4::{self, Ipv4View};
use super::{Field, ParseError, get_u16, get_u32, set_u16, set_u32};

/// Length of the header in bytes, with the four that each type uses its own way.
pub const HEADER_LEN: usize = REST.end;
/// IP protocol number.
pub const PROTOCOL: u8 = 1;
/// Longest ICMP error in bytes, with an IP header without options
/// (RFC 1812 §4.3.2.3).
pub const MAX_ERROR_PACKET: usize = 576;
/// Longest ICMP error in bytes, without its IP header.
pub const MAX_ERROR_LEN: usize = MAX_ERROR_PACKET - ipv4::MIN_HEADER_LEN;

const TYPE: usize = 0;
const CODE: usize = TYPE + 1;
const CHECKSUM: Field = CODE + 1..CODE + 3;
const REST: Field = CHECKSUM.end..CHECKSUM.end + 4;
const NEXT_HOP_MTU: Field = REST.start + 2..REST.end;

/// ICMP types (IANA "ICMP Parameters").
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct IcmpType(pub u8);

impl IcmpType {
    /// Answer to an echo request.
    pub const ECHO_REPLY: Self = Self(0);
    /// The packet could not be delivered; the code says why.
    pub const DEST_UNREACHABLE: Self = Self(3);
    /// Slow down; deprecated by RFC 6633.
    pub const SOURCE_QUENCH: Self = Self(4);
    /// There is a better first hop.
    pub const REDIRECT: Self = Self(5);
    /// Answer this.
    pub const ECHO_REQUEST: Self = Self(8);
    /// TTL ran out, or reassembly took too long.
    pub const TIME_EXCEEDED: Self = Self(11);
    /// The header is wrong at the pointer.
    pub const PARAMETER_PROBLEM: Self = Self(12);
}

/// Codes of [`IcmpType::DEST_UNREACHABLE`].
pub mod unreachable {
    /// No route to the network.
    pub const NET: u8 = 0;
    /// The host does not answer on its link.
    pub const HOST: u8 = 1;
    /// The host does not speak the protocol.
    pub const PROTOCOL: u8 = 2;
    /// Nobody listens on the port.
    pub const PORT: u8 = 3;
    /// Too big for the next hop, and DF is set (RFC 1191).
    pub const FRAG_NEEDED: u8 = 4;
    /// Prohibited by an administrator (RFC 1812 §5.2.7.1).
    pub const ADMIN: u8 = 13;
}

/// An ICMP message, or its first bytes.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |     Type      |     Code      |           Checksum            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |    unused, or by type and code (echo, next-hop MTU, ...)      |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Errors: the IP header and first bytes of the packet at fault |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug)]
pub struct IcmpView<T> {
    buf: T,
}

impl<T: AsRef<[u8]>> IcmpView<T> {
    /// A view of `buf`, the IP payload without Ethernet padding.
    ///
    /// # Errors
    /// [`ParseError::IcmpTruncated`].
    #[inline]
    pub fn new_checked(buf: T) -> Result<Self, ParseError> {
        if buf.as_ref().len() < HEADER_LEN {
            return Err(ParseError::IcmpTruncated);
        }
        Ok(Self { buf })
    }

    /// Type.
    #[inline]
    pub fn icmp_type(&self) -> IcmpType {
        IcmpType(self.buf.as_ref()[TYPE])
    }

    /// Code.
    #[inline]
    pub fn code(&self) -> u8 {
        self.buf.as_ref()[CODE]
    }

    /// Checksum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        get_u16(self.buf.as_ref(), CHECKSUM)
    }

    /// Whether the checksum is right; the buffer is the whole message.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        checksum(self.buf.as_ref()) == 0
    }

    /// MTU of the next hop in bytes, of a "fragmentation needed" (RFC 1191 §4);
    /// 0 from routers that don't tell.
    #[inline]
    pub fn next_hop_mtu(&self) -> Option<u16> {
        let is_it = self.icmp_type() == IcmpType::DEST_UNREACHABLE
            && self.code() == unreachable::FRAG_NEEDED;
        is_it.then(|| get_u16(self.buf.as_ref(), NEXT_HOP_MTU))
    }

    /// Whether the message is an error, and so quotes a packet.
    #[inline]
    pub fn is_error(&self) -> bool {
        matches!(
            self.icmp_type(),
            IcmpType::DEST_UNREACHABLE
                | IcmpType::SOURCE_QUENCH
                | IcmpType::REDIRECT
                | IcmpType::TIME_EXCEEDED
                | IcmpType::PARAMETER_PROBLEM
        )
    }
}

impl<'a> IcmpView<&'a [u8]> {
    /// The packet an error is about, from its IP header on and mostly cut
    /// short; `None` for what is no error. See [`Ipv4View::new_quoted`].
    #[inline]
    pub fn quoted(&self) -> Option<&'a [u8]> {
        self.is_error().then(|| &self.buf[HEADER_LEN..])
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> IcmpView<T> {
    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        set_u16(self.buf.as_mut(), CHECKSUM, checksum);
    }

    /// Sets the MTU of the next hop, of a "fragmentation needed", but not the
    /// checksum.
    #[inline]
    pub fn set_next_hop_mtu(&mut self, mtu: u16) {
        set_u16(self.buf.as_mut(), NEXT_HOP_MTU, mtu);
    }

    /// Computes and sets the checksum; the buffer is the whole message.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let checksum = checksum(self.buf.as_ref());
        self.set_checksum(checksum);
    }

    /// Makes an echo request the reply to it, checksum included. Addresses are
    /// the caller's.
    #[inline]
    pub fn make_echo_reply(&mut self) {
        let old = u16::from(self.icmp_type().0) << 8;
        let new = u16::from(IcmpType::ECHO_REPLY.0) << 8;
        let checksum = Delta::new().replace_u16(old, new).apply(self.checksum());
        // A reply can be all zeros, and then only the other zero verifies. The
        // update can't see that, but the other zero is right in either case.
        let checksum = nonzero(checksum);
        self.buf.as_mut()[TYPE] = IcmpType::ECHO_REPLY.0;
        self.set_checksum(checksum);
    }

    /// [`IcmpView::quoted`], writable.
    #[inline]
    pub fn quoted_mut(&mut self) -> Option<&mut [u8]> {
        if !self.is_error() {
            return None;
        }
        Some(&mut self.buf.as_mut()[HEADER_LEN..])
    }
}

/// The first bytes of the TCP or UDP header in a quoted packet; 8 of them are
/// all an ICMP error is sure to hold (RFC 792).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |          Source Port          |       Destination Port        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |     TCP: Sequence Number      |   UDP: Length, Checksum       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug)]
pub struct QuotedTransport<T> {
    buf: T,
}

const QUOTED_SRC_PORT: Field = 0..2;
const QUOTED_DST_PORT: Field = QUOTED_SRC_PORT.end..QUOTED_SRC_PORT.end + 2;
const QUOTED_SEQ: Field = QUOTED_DST_PORT.end..QUOTED_DST_PORT.end + 4;

impl<T: AsRef<[u8]>> QuotedTransport<T> {
    /// A view of `buf`, the payload of the quoted packet.
    ///
    /// # Errors
    /// [`ParseError::QuoteTruncated`].
    #[inline]
    pub fn new_checked(buf: T) -> Result<Self, ParseError> {
        if buf.as_ref().len() < QUOTED_SEQ.end {
            return Err(ParseError::QuoteTruncated);
        }
        Ok(Self { buf })
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        get_u16(self.buf.as_ref(), QUOTED_SRC_PORT)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        get_u16(self.buf.as_ref(), QUOTED_DST_PORT)
    }

    /// Sequence number of a TCP segment.
    #[inline]
    pub fn tcp_seq(&self) -> u32 {
        get_u32(self.buf.as_ref(), QUOTED_SEQ)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> QuotedTransport<T> {
    /// Sets the source port.
    #[inline]
    pub fn set_src_port(&mut self, port: u16) {
        set_u16(self.buf.as_mut(), QUOTED_SRC_PORT, port);
    }

    /// Sets the destination port.
    #[inline]
    pub fn set_dst_port(&mut self, port: u16) {
        set_u16(self.buf.as_mut(), QUOTED_DST_PORT, port);
    }

    /// Sets the sequence number of a TCP segment.
    #[inline]
    pub fn set_tcp_seq(&mut self, seq: u32) {
        set_u32(self.buf.as_mut(), QUOTED_SEQ, seq);
    }
}

/// An ICMP error that the gateway sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// No route to the destination.
    NetUnreachable,
    /// The next hop does not answer ARP.
    HostUnreachable,
    /// The IP protocol is not served.
    ProtocolUnreachable,
    /// Nothing serves the port.
    PortUnreachable,
    /// Too big for the way out, and DF is set.
    FragNeeded {
        /// MTU of the way out, in bytes.
        mtu: u16,
    },
    /// Refused by configuration.
    AdminProhibited,
    /// TTL ran out.
    TimeExceeded,
}

impl IcmpError {
    /// Whether an error may be sent about `original` at all. The conditions of
    /// RFC 1812 §4.3.2.7 that the packet itself shows: it is no ICMP error, no
    /// fragment but the first, goes to one host, and comes from one. That it
    /// did not arrive as a link-layer broadcast is the caller's to see.
    #[inline]
    pub fn may_answer(original: &Ipv4View<&[u8]>) -> bool {
        let (src, dst) = (original.src(), original.dst());
        let names_one_host = |first: u8| first != 0 && first < 224;
        if original.fragment_offset() != 0
            || !names_one_host(src.octets()[0])
            || src.is_loopback()
            || !names_one_host(dst.octets()[0])
        {
            return false;
        }
        if original.protocol() != PROTOCOL {
            return true;
        }
        // A message too short to show its type may be an error.
        IcmpView::new_checked(original.payload()).is_ok_and(|icmp| !icmp.is_error())
    }

    const fn type_code_rest(self) -> (IcmpType, u8, u32) {
        use unreachable::{ADMIN, FRAG_NEEDED, HOST, NET, PORT, PROTOCOL};
        let (code, rest) = match self {
            Self::NetUnreachable => (NET, 0),
            Self::HostUnreachable => (HOST, 0),
            Self::ProtocolUnreachable => (PROTOCOL, 0),
            Self::PortUnreachable => (PORT, 0),
            Self::FragNeeded { mtu } => (FRAG_NEEDED, mtu as u32),
            Self::AdminProhibited => (ADMIN, 0),
            Self::TimeExceeded => return (IcmpType::TIME_EXCEEDED, 0, 0),
        };
        (IcmpType::DEST_UNREACHABLE, code, rest)
    }

    /// Writes the message about `original` to the start of `buf` and gives its
    /// length in bytes, at most [`MAX_ERROR_LEN`]. It quotes as much of
    /// `original` as that, `buf` and the original's buffer allow; the quote is
    /// the packet as received, so emit before anything is rewritten. `None`
    /// where `buf` has no room for the quote that RFC 792 requires: the header
    /// and 8 bytes.
    #[inline]
    pub fn emit(self, original: &Ipv4View<&[u8]>, buf: &mut [u8]) -> Option<usize> {
        let packet = original.packet();
        let room = buf.len().min(MAX_ERROR_LEN).checked_sub(HEADER_LEN)?;
        if room < (original.header_len() + 8).min(packet.len()) {
            return None;
        }
        let quote = &packet[..packet.len().min(room)];
        let message = &mut buf[..HEADER_LEN + quote.len()];
        let (icmp_type, code, rest) = self.type_code_rest();
        message[TYPE] = icmp_type.0;
        message[CODE] = code;
        set_u16(message, CHECKSUM, 0);
        set_u32(message, REST, rest);
        message[HEADER_LEN..].copy_from_slice(quote);
        let checksum = checksum(message);
        set_u16(message, CHECKSUM, checksum);
        Some(message.len())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    /// 192.0.2.1:53000 → 198.51.100.2:53, UDP, "hello".
    const ORIGINAL: [u8; 33] = [
        0x45, 0xb8, 0x00, 0x21, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x11, 0x31, 0x97, //
        0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33, 0x64, 0x02, // IPv4
        0xcf, 0x08, 0x00, 0x35, 0x00, 0x0d, 0x00, 0x8d, // UDP
        0x68, 0x65, 0x6c, 0x6c, 0x6f,
    ];
    const PORT_UNREACHABLE: [u8; 8] = [0x03, 0x03, 0xe9, 0x52, 0x00, 0x00, 0x00, 0x00];
    const FRAG_NEEDED_1400: [u8; 8] = [0x03, 0x04, 0xe3, 0xd9, 0x00, 0x00, 0x05, 0x78];
    const ECHO_REQUEST: [u8; 15] = [
        0x08, 0x00, 0x54, 0x9d, 0x12, 0x34, 0x00, 0x01, // ident 0x1234, sequence 1
        0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67,
    ];

    fn original(bytes: &[u8]) -> Ipv4View<&[u8]> {
        Ipv4View::new_checked(bytes, 65_535).expect("valid")
    }

    #[test]
    fn writes_errors() {
        for (error, header) in [
            (IcmpError::PortUnreachable, PORT_UNREACHABLE),
            (IcmpError::FragNeeded { mtu: 1400 }, FRAG_NEEDED_1400),
        ] {
            let mut buf = [0xa5; 100];
            assert_eq!(error.emit(&original(&ORIGINAL), &mut buf), Some(41));
            assert_eq!(buf[..8], header);
            assert_eq!(buf[8..41], ORIGINAL);
            assert_eq!(buf[41..], [0xa5; 59]);
        }
    }

    #[test]
    fn types_and_codes_of_errors() {
        for (error, type_code) in [
            (IcmpError::NetUnreachable, (3, 0)),
            (IcmpError::HostUnreachable, (3, 1)),
            (IcmpError::ProtocolUnreachable, (3, 2)),
            (IcmpError::PortUnreachable, (3, 3)),
            (IcmpError::FragNeeded { mtu: 68 }, (3, 4)),
            (IcmpError::AdminProhibited, (3, 13)),
            (IcmpError::TimeExceeded, (11, 0)),
        ] {
            let mut buf = [0xa5; 41];
            error.emit(&original(&ORIGINAL), &mut buf).expect("room");
            let view = IcmpView::new_checked(&buf[..]).expect("emitted");
            assert_eq!((view.icmp_type().0, view.code()), type_code);
            assert!(view.verify_checksum() && view.is_error());
            assert_eq!(view.quoted(), Some(&ORIGINAL[..]));
        }
    }

    #[test]
    fn reads_the_quoted_packet() {
        let message = [&FRAG_NEEDED_1400[..], &ORIGINAL[..28]].concat();
        let view = IcmpView::new_checked(&message[..]).expect("valid");
        assert_eq!(view.next_hop_mtu(), Some(1400));
        let ip = Ipv4View::new_quoted(view.quoted().expect("error")).expect("valid");
        assert_eq!(
            (ip.src(), ip.dst()),
            (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 2))
        );
        let transport = QuotedTransport::new_checked(ip.payload()).expect("8 bytes");
        assert_eq!((transport.src_port(), transport.dst_port()), (53000, 53));
        assert_eq!(transport.tcp_seq(), 0x000d_008d);
        let short = QuotedTransport::new_checked(&ip.payload()[..7]).err();
        assert_eq!(short, Some(ParseError::QuoteTruncated));
    }

    #[test]
    fn rewrites_the_quoted_packet() {
        let mut message = [&FRAG_NEEDED_1400[..], &ORIGINAL[..]].concat();
        let mut view = IcmpView::new_checked(&mut message[..]).expect("valid");
        let mut ip = Ipv4View::new_quoted(view.quoted_mut().expect("error")).expect("valid");
        let mut transport = QuotedTransport::new_checked(ip.payload_mut()).expect("8 bytes");
        transport.set_src_port(1);
        transport.set_dst_port(2);
        transport.set_tcp_seq(3);
        view.fill_checksum();
        assert!(view.verify_checksum());
        assert_eq!(view.next_hop_mtu(), Some(1400));
        assert_eq!(message[28..36], [0, 1, 0, 2, 0, 0, 0, 3]);
        assert_eq!(message[8..28], ORIGINAL[..20]);
    }

    #[test]
    fn echo_quotes_nothing() {
        let mut bytes = ECHO_REQUEST;
        let mut view = IcmpView::new_checked(&mut bytes[..]).expect("valid");
        assert!(view.verify_checksum() && !view.is_error());
        assert_eq!(view.quoted_mut(), None);
        assert_eq!(view.next_hop_mtu(), None);
        let view = IcmpView::new_checked(&ECHO_REQUEST[..]).expect("valid");
        assert_eq!(view.quoted(), None);
    }

    #[test]
    fn answers_an_echo_request() {
        let mut bytes = ECHO_REQUEST;
        let mut view = IcmpView::new_checked(&mut bytes[..]).expect("valid");
        view.make_echo_reply();
        assert_eq!(
            (view.icmp_type(), view.checksum()),
            (IcmpType::ECHO_REPLY, 0x5c9d)
        );
        assert!(view.verify_checksum());
        assert_eq!(bytes[4..], ECHO_REQUEST[4..]);
    }

    /// Found by fuzzing: identifier, sequence number and payload all 0 left a
    /// reply of nothing but zeros, whose sum is 0 and not 0xffff.
    #[test]
    fn an_echo_reply_of_zeros_verifies() {
        let mut bytes = [0x08, 0x00, 0xf7, 0xff, 0, 0, 0, 0, 0, 0];
        let mut view = IcmpView::new_checked(&mut bytes[..]).expect("valid");
        assert!(view.verify_checksum());
        view.make_echo_reply();
        assert!(view.verify_checksum());
        assert_eq!(bytes, [0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn short_messages_are_rejected() {
        let error = IcmpView::new_checked(&ECHO_REQUEST[..7]).err();
        assert_eq!(error, Some(ParseError::IcmpTruncated));
    }

    /// `ORIGINAL` with another protocol, first payload byte, addresses, flags.
    fn may_answer(change: impl Fn(&mut [u8])) -> bool {
        let mut bytes = ORIGINAL;
        change(&mut bytes);
        IcmpError::may_answer(&original(&bytes))
    }

    #[test]
    fn errors_are_not_answered_nor_groups_nor_later_fragments() {
        assert!(may_answer(|_| ()));
        assert!(may_answer(|b| (b[9], b[20]) = (PROTOCOL, 8)));
        for icmp_type in [3, 4, 5, 11, 12] {
            assert!(!may_answer(|b| (b[9], b[20]) = (PROTOCOL, icmp_type)));
        }
        assert!(!may_answer(|b| (b[9], b[3], b[20]) = (PROTOCOL, 27, 8)));
        assert!(may_answer(|b| b[6] = 0x20));
        assert!(!may_answer(|b| b[7] = 1));
        assert!(!may_answer(|b| b[12] = 0));
        assert!(!may_answer(|b| b[12] = 127));
        assert!(!may_answer(|b| b[12] = 224));
        assert!(!may_answer(|b| b[16] = 239));
        assert!(!may_answer(|b| b[16..20].fill(255)));
    }

    proptest! {
        /// Whatever the original's and the buffer's sizes: the message fits,
        /// verifies, quotes a prefix, and quotes all that fits.
        #[test]
        fn quotes_what_fits(payload in 0usize..1500, options in 0usize..=10, room in 0usize..700) {
            let header_len = 20 + options * 4;
            let mut bytes = vec![1u8; header_len + payload];
            bytes[..20].copy_from_slice(&ORIGINAL[..20]);
            bytes[0] = 0x40 | (header_len / 4) as u8;
            let total_len = bytes.len() as u16;
            bytes[2..4].copy_from_slice(&total_len.to_be_bytes());
            // Ethernet padding is not quoted.
            bytes.extend([0xa5; 4]);
            let mut buf = vec![0xa5; room];
            let fits = room.min(556).saturating_sub(8).min(usize::from(total_len));
            let least = (header_len + 8).min(usize::from(total_len));
            match IcmpError::TimeExceeded.emit(&original(&bytes), &mut buf) {
                Some(len) => {
                    prop_assert_eq!(len, fits + 8);
                    prop_assert_eq!(&buf[8..len], &bytes[..fits]);
                    let view = IcmpView::new_checked(&buf[..len]).expect("emitted");
                    prop_assert!(view.verify_checksum());
                    prop_assert!(buf[len..].iter().all(|&b| b == 0xa5));
                }
                None => prop_assert!(fits < least),
            }
        }
    }
}
