//! IPv4 (RFC 791). Options are allowed and passed over.

use std::net::Ipv4Addr;

use super::checksum::checksum;
use super::{Field, ParseError, get_addr, get_u16, set_addr, set_u16};

/// Length in bytes of a header without options.
pub const MIN_HEADER_LEN: usize = DST.end;

const VERSION_IHL: usize = 0;
const DSCP_ECN: usize = VERSION_IHL + 1;
const TOTAL_LEN: Field = DSCP_ECN + 1..DSCP_ECN + 3;
const IDENT: Field = TOTAL_LEN.end..TOTAL_LEN.end + 2;
const FLAGS_OFFSET: Field = IDENT.end..IDENT.end + 2;
const TTL: usize = FLAGS_OFFSET.end;
const PROTOCOL: usize = TTL + 1;
const CHECKSUM: Field = PROTOCOL + 1..PROTOCOL + 3;
const SRC: Field = CHECKSUM.end..CHECKSUM.end + 4;
const DST: Field = SRC.end..SRC.end + 4;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// An IPv4 packet, or its first bytes.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |Version|  IHL  |   DSCP    |ECN|         Total Length          |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |        Identification         |0|D|M|     Fragment Offset     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | Time to Live  |   Protocol    |        Header Checksum        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                        Source Address                         |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                      Destination Address                      |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |               Options, padded to a multiple of 4              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Ipv4View<T> {
    buf: T,
}

impl<T: AsRef<[u8]>> Ipv4View<T> {
    /// A view of `buf`, which starts at the header and holds at least the whole
    /// header; the payload may go on elsewhere. `total_available` is the number
    /// of bytes received from the header on, wherever they lie; Ethernet
    /// padding makes it larger than the packet's total length.
    ///
    /// # Errors
    /// The `Ipv4…` variants of [`ParseError`].
    #[inline]
    pub fn new_checked(buf: T, total_available: usize) -> Result<Self, ParseError> {
        let view = Self::new_quoted(buf)?;
        if usize::from(view.total_len()) > total_available {
            return Err(ParseError::Ipv4TotalLengthLong);
        }
        Ok(view)
    }

    /// A view of a packet that was cut short on purpose, as an ICMP error
    /// quotes it: like [`Ipv4View::new_checked`], but however much of the
    /// payload is missing.
    ///
    /// # Errors
    /// The `Ipv4…` variants of [`ParseError`] but `Ipv4TotalLengthLong`.
    #[inline]
    pub fn new_quoted(buf: T) -> Result<Self, ParseError> {
        let bytes = buf.as_ref();
        if bytes.len() < MIN_HEADER_LEN {
            return Err(ParseError::Ipv4Truncated);
        }
        if bytes[VERSION_IHL] >> 4 != 4 {
            return Err(ParseError::Ipv4Version);
        }
        let header_len = usize::from(bytes[VERSION_IHL] & 0x0f) * 4;
        if header_len < MIN_HEADER_LEN {
            return Err(ParseError::Ipv4HeaderLength);
        }
        if header_len > bytes.len() {
            return Err(ParseError::Ipv4OptionsTruncated);
        }
        if usize::from(get_u16(bytes, TOTAL_LEN)) < header_len {
            return Err(ParseError::Ipv4TotalLengthShort);
        }
        Ok(Self { buf })
    }

    /// Length of the header with its options, 20 to 60 bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.buf.as_ref()[VERSION_IHL] & 0x0f) * 4
    }

    /// Length of the packet with its header, in bytes.
    #[inline]
    pub fn total_len(&self) -> u16 {
        get_u16(self.buf.as_ref(), TOTAL_LEN)
    }

    /// Length of the whole payload in bytes, of which the buffer may hold less.
    #[inline]
    pub fn payload_len(&self) -> usize {
        usize::from(self.total_len()) - self.header_len()
    }

    /// Differentiated services code point (RFC 2474), 6 bits.
    #[inline]
    pub fn dscp(&self) -> u8 {
        self.buf.as_ref()[DSCP_ECN] >> 2
    }

    /// Explicit congestion notification (RFC 3168), 2 bits.
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.buf.as_ref()[DSCP_ECN] & 3
    }

    /// Identification.
    #[inline]
    pub fn ident(&self) -> u16 {
        get_u16(self.buf.as_ref(), IDENT)
    }

    /// Routers may not fragment the packet.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        get_u16(self.buf.as_ref(), FLAGS_OFFSET) & DONT_FRAGMENT != 0
    }

    /// This is a fragment, and not the last.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        get_u16(self.buf.as_ref(), FLAGS_OFFSET) & MORE_FRAGMENTS != 0
    }

    /// Where the payload belongs in that of the whole packet, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> u16 {
        (get_u16(self.buf.as_ref(), FLAGS_OFFSET) & OFFSET_MASK) << 3
    }

    /// Whether the payload is only part of a packet's.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        get_u16(self.buf.as_ref(), FLAGS_OFFSET) & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Time to live, in hops.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.buf.as_ref()[TTL]
    }

    /// Protocol number of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.buf.as_ref()[PROTOCOL]
    }

    /// Header checksum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        get_u16(self.buf.as_ref(), CHECKSUM)
    }

    /// Whether the header checksum is right.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        checksum(self.header()) == 0
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        get_addr(self.buf.as_ref(), SRC)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        get_addr(self.buf.as_ref(), DST)
    }

    /// The header with its options.
    #[inline]
    pub fn header(&self) -> &[u8] {
        &self.buf.as_ref()[..self.header_len()]
    }

    /// Offset behind the last byte of the packet that the buffer holds.
    #[inline]
    fn end(&self) -> usize {
        usize::from(self.total_len()).min(self.buf.as_ref().len())
    }
}

impl<'a> Ipv4View<&'a [u8]> {
    /// The packet as far as the buffer holds it, without Ethernet padding.
    #[inline]
    pub fn packet(&self) -> &'a [u8] {
        &self.buf[..self.end()]
    }

    /// The payload as far as the buffer holds it, without Ethernet padding.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.buf[self.header_len()..self.end()]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4View<T> {
    /// Sets the time to live, in hops.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        self.buf.as_mut()[TTL] = ttl;
    }

    /// Sets the header checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        set_u16(self.buf.as_mut(), CHECKSUM, checksum);
    }

    /// Computes and sets the header checksum.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let checksum = checksum(self.header());
        self.set_checksum(checksum);
    }

    /// Sets the source address.
    #[inline]
    pub fn set_src(&mut self, src: Ipv4Addr) {
        set_addr(self.buf.as_mut(), SRC, src);
    }

    /// Sets the destination address.
    #[inline]
    pub fn set_dst(&mut self, dst: Ipv4Addr) {
        set_addr(self.buf.as_mut(), DST, dst);
    }

    /// The payload as far as the buffer holds it, writable.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let range = self.header_len()..self.end();
        &mut self.buf.as_mut()[range]
    }
}

/// The header of an unfragmented packet without options, as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4Repr {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Protocol number of the payload.
    pub protocol: u8,
    /// Length of the payload in bytes, at most 65,515.
    pub payload_len: u16,
    /// Time to live, in hops.
    pub ttl: u8,
    /// Identification; without meaning where DF is set (RFC 6864 §4.1).
    pub ident: u16,
    /// Routers may not fragment the packet.
    pub dont_fragment: bool,
    /// Differentiated services code point, 6 bits.
    pub dscp: u8,
}

impl Ipv4Repr {
    /// The header that `view` shows, as far as the value can say it.
    #[inline]
    pub fn parse<T: AsRef<[u8]>>(view: &Ipv4View<T>) -> Self {
        Self {
            src: view.src(),
            dst: view.dst(),
            protocol: view.protocol(),
            payload_len: view.total_len() - view.header_len() as u16,
            ttl: view.ttl(),
            ident: view.ident(),
            dont_fragment: view.dont_fragment(),
            dscp: view.dscp(),
        }
    }

    /// Writes the header with its checksum.
    #[inline]
    pub fn emit(&self, buf: &mut [u8; MIN_HEADER_LEN]) {
        buf[VERSION_IHL] = 0x45;
        buf[DSCP_ECN] = self.dscp << 2;
        let total_len = self.payload_len.saturating_add(MIN_HEADER_LEN as u16);
        set_u16(buf, TOTAL_LEN, total_len);
        set_u16(buf, IDENT, self.ident);
        let flags = if self.dont_fragment { DONT_FRAGMENT } else { 0 };
        set_u16(buf, FLAGS_OFFSET, flags);
        buf[TTL] = self.ttl;
        buf[PROTOCOL] = self.protocol;
        set_u16(buf, CHECKSUM, 0);
        set_addr(buf, SRC, self.src);
        set_addr(buf, DST, self.dst);
        let checksum = checksum(buf.as_slice());
        set_u16(buf, CHECKSUM, checksum);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A later fragment with a router-alert option, DSCP EF, ECT(1).
    const FRAGMENT: [u8; 24] = [
        0x46, 0xb9, 0x00, 0x25, 0x1c, 0x46, 0x20, 0x03, 0x40, 0x11, 0xbc, 0x8a, //
        0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33, 0x64, 0x02, 0x94, 0x04, 0x00, 0x00,
    ];

    const PLAIN: [u8; 20] = [
        0x45, 0xb8, 0x00, 0x21, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x11, 0x31, 0x97, //
        0xc0, 0x00, 0x02, 0x01, 0xc6, 0x33, 0x64, 0x02,
    ];

    fn plain() -> Ipv4Repr {
        Ipv4Repr {
            src: Ipv4Addr::new(192, 0, 2, 1),
            dst: Ipv4Addr::new(198, 51, 100, 2),
            protocol: 17,
            payload_len: 13,
            ttl: 64,
            ident: 0x1c46,
            dont_fragment: true,
            dscp: 46,
        }
    }

    #[test]
    fn reads_a_fragment_with_options() {
        let view = Ipv4View::new_checked(&FRAGMENT[..], 37).expect("valid");
        assert_eq!(
            (view.header_len(), view.total_len(), view.payload_len()),
            (24, 37, 13)
        );
        assert_eq!((view.dscp(), view.ecn()), (46, 1));
        assert_eq!(view.ident(), 0x1c46);
        assert!(view.more_fragments() && !view.dont_fragment() && view.is_fragment());
        assert_eq!(view.fragment_offset(), 24);
        assert_eq!(
            (view.ttl(), view.protocol(), view.checksum()),
            (64, 17, 0xbc8a)
        );
        assert!(view.verify_checksum());
        assert_eq!((view.src(), view.dst()), (plain().src, plain().dst));
        assert!(view.payload().is_empty());
    }

    #[test]
    fn fragments_are_told_from_whole_packets() {
        for (flags, expect) in [
            (0x0000u16, false),
            (0x4000, false),
            (0x8000, false),
            (0x2000, true),
            (0x0001, true),
            (0x1fff, true),
        ] {
            let mut bytes = PLAIN;
            set_u16(&mut bytes, FLAGS_OFFSET, flags);
            let view = Ipv4View::new_checked(&bytes[..], 33).expect("valid");
            assert_eq!(view.is_fragment(), expect, "{flags:04x}");
            assert_eq!(view.fragment_offset(), (flags & 0x1fff) * 8);
        }
    }

    #[test]
    fn writes_a_header() {
        let mut buf = [0xa5; MIN_HEADER_LEN];
        plain().emit(&mut buf);
        assert_eq!(buf, PLAIN);
    }

    #[test]
    fn padding_is_no_payload() {
        let mut bytes = PLAIN.to_vec();
        bytes.extend(*b"hello, world.");
        bytes.extend([0; 13]);
        let view = Ipv4View::new_checked(&bytes[..], bytes.len()).expect("valid");
        assert_eq!(view.payload(), b"hello, world.");
        assert_eq!(view.packet(), &bytes[..33]);
        let mut view = Ipv4View::new_checked(&mut bytes[..], 46).expect("valid");
        assert_eq!(view.payload_mut(), b"hello, world.");
    }

    #[test]
    fn payload_may_go_on_outside_the_buffer() {
        let mut bytes = PLAIN.to_vec();
        bytes.extend(*b"hello");
        let view = Ipv4View::new_checked(&bytes[..], 33).expect("valid");
        assert_eq!((view.payload(), view.payload_len()), (&b"hello"[..], 13));
    }

    #[test]
    fn rewrites_in_place() {
        let mut bytes = PLAIN;
        let mut view = Ipv4View::new_checked(&mut bytes[..], 33).expect("valid");
        view.set_src(plain().dst);
        view.set_dst(plain().src);
        view.set_ttl(63);
        assert!(!view.verify_checksum());
        view.fill_checksum();
        assert!(view.verify_checksum());
        let repr = Ipv4Repr {
            src: plain().dst,
            dst: plain().src,
            ttl: 63,
            ..plain()
        };
        assert_eq!(Ipv4Repr::parse(&view), repr);
    }

    #[test]
    fn tells_the_causes_of_rejection_apart() {
        let check = |bytes: &[u8], available| Ipv4View::new_checked(bytes, available).err();
        let first = |byte: u8| {
            let mut bytes = PLAIN;
            bytes[0] = byte;
            check(&bytes, 33)
        };
        assert_eq!(check(&PLAIN[..19], 33), Some(ParseError::Ipv4Truncated));
        assert_eq!(first(0x65), Some(ParseError::Ipv4Version));
        assert_eq!(first(0x44), Some(ParseError::Ipv4HeaderLength));
        assert_eq!(first(0x46), Some(ParseError::Ipv4OptionsTruncated));
        assert_eq!(check(&PLAIN, 32), Some(ParseError::Ipv4TotalLengthLong));
        assert!(Ipv4View::new_quoted(&PLAIN[..]).is_ok());
        let mut bytes = FRAGMENT;
        bytes[3] = 23;
        assert_eq!(check(&bytes, 37), Some(ParseError::Ipv4TotalLengthShort));
    }

    proptest! {
        /// What was written is read back, and verifies.
        #[test]
        fn round_trip(
            src: u32, dst: u32, protocol: u8, payload_len in 0u16..=65_515, ttl: u8, ident: u16,
            dont_fragment: bool, dscp in 0u8..64,
        ) {
            let repr = Ipv4Repr {
                src: src.into(), dst: dst.into(), protocol, payload_len, ttl, ident,
                dont_fragment, dscp,
            };
            let mut buf = [0xa5; MIN_HEADER_LEN];
            repr.emit(&mut buf);
            let view = Ipv4View::new_checked(&buf[..], 65_535).expect("emitted");
            prop_assert_eq!(Ipv4Repr::parse(&view), repr);
            prop_assert!(view.verify_checksum());
            prop_assert!(!view.is_fragment());
        }
    }
}
