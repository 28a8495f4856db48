//! ICMP (RFC 792): echo, and the errors that quote the packet they are about.

use super::checksum::{Delta, checksum};
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

    /// Computes and sets the checksum; the buffer is the whole message.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let checksum = checksum(self.buf.as_ref());
        self.set_checksum(checksum);
    }

    /// Sets the MTU of the next hop, in bytes, of a "fragmentation needed".
    #[inline]
    pub fn set_next_hop_mtu(&mut self, mtu: u16) {
        set_u16(self.buf.as_mut(), NEXT_HOP_MTU, mtu);
    }

    /// Makes an echo request the reply to it, checksum included. Addresses are
    /// the caller's.
    #[inline]
    pub fn make_echo_reply(&mut self) {
        let old = u16::from(self.icmp_type().0) << 8;
        let new = u16::from(IcmpType::ECHO_REPLY.0) << 8;
        let checksum = Delta::new().replace_u16(old, new).apply(self.checksum());
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
    /// Bytes that are always there.
    pub const LEN: usize = QUOTED_SEQ.end;

    /// A view of `buf`, the payload of the quoted packet.
    ///
    /// # Errors
    /// [`ParseError::QuoteTruncated`].
    #[inline]
    pub fn new_checked(buf: T) -> Result<Self, ParseError> {
        if buf.as_ref().len() < Self::LEN {
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
