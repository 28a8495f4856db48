//! TCP (RFC 9293), with the options of RFC 2018 and RFC 7323.

use std::net::Ipv4Addr;
use std::ops::BitOr;

use super::checksum::{Delta, Sum};
use super::{Field, ParseError, get_u16, get_u32, set_u16, set_u32};

/// Length in bytes of a header without options.
pub const MIN_HEADER_LEN: usize = URGENT.end;
/// IP protocol number.
pub const PROTOCOL: u8 = 6;

const SRC_PORT: Field = 0..2;
const DST_PORT: Field = SRC_PORT.end..SRC_PORT.end + 2;
const SEQ: Field = DST_PORT.end..DST_PORT.end + 4;
const ACK: Field = SEQ.end..SEQ.end + 4;
const DATA_OFFSET: usize = ACK.end;
const FLAGS: usize = DATA_OFFSET + 1;
const WINDOW: Field = FLAGS + 1..FLAGS + 3;
const CHECKSUM: Field = WINDOW.end..WINDOW.end + 2;
const URGENT: Field = CHECKSUM.end..CHECKSUM.end + 2;

/// The control bits of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement field is significant.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// Whether every bit of `mask` is set.
    #[inline]
    pub const fn has(self, mask: Self) -> bool {
        self.0 & mask.0 == mask.0
    }

    /// ACK is set, and neither SYN, FIN nor RST.
    #[inline]
    pub const fn is_plain_ack(self) -> bool {
        self.0 & (Self::SYN.0 | Self::FIN.0 | Self::RST.0 | Self::ACK.0) == Self::ACK.0
    }

    /// A combination that no endpoint sends: SYN with FIN or RST, or nothing
    /// of SYN, RST and ACK (RFC 9293 §3.10.7.4 drops the latter unread).
    #[inline]
    pub const fn is_nonsense(self) -> bool {
        if self.has(Self::SYN) {
            self.has(Self::FIN) || self.has(Self::RST)
        } else {
            !self.has(Self::RST) && !self.has(Self::ACK)
        }
    }
}

impl BitOr for Flags {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A TCP segment, or its first bytes.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |          Source Port          |       Destination Port        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                        Sequence Number                        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                     Acknowledgment Number                     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Data |       |C|E|U|A|P|R|S|F|                               |
/// | Offset| Rsrvd |W|C|R|C|S|S|Y|I|            Window             |
/// |       |       |R|E|G|K|H|T|N|N|                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |           Checksum            |        Urgent Pointer         |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |               Options, padded to a multiple of 4              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TcpView<T> {
    buf: T,
}

impl<T: AsRef<[u8]>> TcpView<T> {
    /// A view of `buf`: the IP payload without Ethernet padding, at least as
    /// far as the end of the TCP options.
    ///
    /// # Errors
    /// The `Tcp…` variants of [`ParseError`]; options are not looked into.
    #[inline]
    pub fn new_checked(buf: T) -> Result<Self, ParseError> {
        let bytes = buf.as_ref();
        if bytes.len() < MIN_HEADER_LEN {
            return Err(ParseError::TcpTruncated);
        }
        let header_len = usize::from(bytes[DATA_OFFSET] >> 4) * 4;
        if header_len < MIN_HEADER_LEN {
            return Err(ParseError::TcpDataOffsetShort);
        }
        if header_len > bytes.len() {
            return Err(ParseError::TcpDataOffsetLong);
        }
        Ok(Self { buf })
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        get_u16(self.buf.as_ref(), SRC_PORT)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        get_u16(self.buf.as_ref(), DST_PORT)
    }

    /// Sequence number.
    #[inline]
    pub fn seq(&self) -> u32 {
        get_u32(self.buf.as_ref(), SEQ)
    }

    /// Acknowledgement number; significant with [`Flags::ACK`] only.
    #[inline]
    pub fn ack(&self) -> u32 {
        get_u32(self.buf.as_ref(), ACK)
    }

    /// Length of the header with its options, 20 to 60 bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.buf.as_ref()[DATA_OFFSET] >> 4) * 4
    }

    /// Control bits.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.buf.as_ref()[FLAGS])
    }

    /// Window, not scaled.
    #[inline]
    pub fn window(&self) -> u16 {
        get_u16(self.buf.as_ref(), WINDOW)
    }

    /// Checksum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        get_u16(self.buf.as_ref(), CHECKSUM)
    }

    /// Urgent pointer; significant with [`Flags::URG`] only.
    #[inline]
    pub fn urgent(&self) -> u16 {
        get_u16(self.buf.as_ref(), URGENT)
    }

    /// Whether the checksum is right; the buffer is the whole segment.
    #[inline]
    pub fn verify_checksum(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        self.sum(src, dst).finish() == 0
    }

    /// The options, in order.
    #[inline]
    pub fn options(&self) -> TcpOptions<'_> {
        TcpOptions {
            header: &self.buf.as_ref()[..self.header_len()],
            at: MIN_HEADER_LEN,
        }
    }

    #[inline]
    fn sum(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Sum {
        let segment = self.buf.as_ref();
        // An IP payload is shorter than 2^16 bytes.
        Sum::pseudo_header(src, dst, PROTOCOL, segment.len() as u16).add_bytes(segment)
    }
}

impl<'a> TcpView<&'a [u8]> {
    /// The payload as far as the buffer holds it.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.buf[self.header_len()..]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> TcpView<T> {
    /// Sets the source port.
    #[inline]
    pub fn set_src_port(&mut self, port: u16) {
        set_u16(self.buf.as_mut(), SRC_PORT, port);
    }

    /// Sets the destination port.
    #[inline]
    pub fn set_dst_port(&mut self, port: u16) {
        set_u16(self.buf.as_mut(), DST_PORT, port);
    }

    /// Sets the sequence number.
    #[inline]
    pub fn set_seq(&mut self, seq: u32) {
        set_u32(self.buf.as_mut(), SEQ, seq);
    }

    /// Sets the acknowledgement number.
    #[inline]
    pub fn set_ack(&mut self, ack: u32) {
        set_u32(self.buf.as_mut(), ACK, ack);
    }

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        set_u16(self.buf.as_mut(), CHECKSUM, checksum);
    }

    /// Computes and sets the checksum; the buffer is the whole segment.
    #[inline]
    pub fn fill_checksum(&mut self, src: Ipv4Addr, dst: Ipv4Addr) {
        self.set_checksum(0);
        let checksum = self.sum(src, dst).finish();
        self.set_checksum(checksum);
    }

    /// Replaces a 32-bit number inside the options (a timestamp, a SACK edge)
    /// and adds the change to `delta`. `offset` is in bytes from the header's
    /// start. Nothing happens where it does not lie within the options.
    #[inline]
    pub fn replace_option_u32(&mut self, offset: usize, new: u32, delta: Delta) -> Delta {
        if offset < MIN_HEADER_LEN || offset > self.header_len().saturating_sub(4) {
            return delta;
        }
        let bytes = self.buf.as_mut();
        let old = get_u32(bytes, offset..offset + 4);
        set_u32(bytes, offset..offset + 4, new);
        delta.replace_u32_at(offset, old, new)
    }
}

const KIND_END: u8 = 0;
const KIND_NOP: u8 = 1;
const KIND_MSS: u8 = 2;
const KIND_WINDOW_SCALE: u8 = 3;
const KIND_SACK_PERMITTED: u8 = 4;
const KIND_SACK: u8 = 5;
const KIND_TIMESTAMPS: u8 = 8;

/// One TCP option. A known kind with another length than its definition's is
/// [`TcpOption::Other`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpOption<'a> {
    /// Maximum segment size (RFC 9293 §3.7.1), in bytes.
    Mss(u16),
    /// Window scale (RFC 7323 §2), as it was sent: may exceed 14.
    WindowScale(u8),
    /// Selective acknowledgements are welcome (RFC 2018 §2).
    SackPermitted,
    /// Selective acknowledgement (RFC 2018 §3): the blocks, 8 bytes each, left
    /// edge before right edge. They start 2 bytes behind the option's offset.
    Sack(&'a [u8]),
    /// Timestamps (RFC 7323 §3).
    Timestamps {
        /// TSval; lies [`TSVAL_AT`] bytes behind the option's offset.
        value: u32,
        /// TSecr; lies [`TSECR_AT`] bytes behind the option's offset.
        echo: u32,
    },
    /// Any other.
    Other {
        /// Kind.
        kind: u8,
        /// Length in bytes with kind and length octets.
        len: u8,
    },
}

/// Offset of TSval within its option, in bytes.
pub const TSVAL_AT: usize = 2;
/// Offset of TSecr within its option, in bytes.
pub const TSECR_AT: usize = 6;
/// Offset of the first edge within a SACK option, in bytes.
pub const SACK_EDGES_AT: usize = 2;

/// The options of a header: each with its offset in bytes from the header's
/// start. Ends at the end-of-options octet, at the header's end, or after the
/// first malformed length, which it reports.
#[derive(Clone, Debug)]
pub struct TcpOptions<'a> {
    header: &'a [u8],
    at: usize,
}

impl<'a> Iterator for TcpOptions<'a> {
    type Item = Result<(usize, TcpOption<'a>), ParseError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        // Each turn consumes at least one byte, or returns.
        loop {
            let at = self.at;
            let rest = self.header.get(at..)?;
            match *rest.first()? {
                KIND_END => {
                    self.at = self.header.len();
                    return None;
                }
                KIND_NOP => self.at += 1,
                kind => {
                    let len = rest.get(1).copied().unwrap_or(0);
                    // RFC 9293 §3.2: a length that can't be right ends the walk.
                    let Some(option) = rest.get(..usize::from(len)).filter(|o| o.len() >= 2) else {
                        self.at = self.header.len();
                        return Some(Err(ParseError::TcpOptionLength));
                    };
                    self.at += option.len();
                    return Some(Ok((at, TcpOption::parse(kind, len, &option[2..]))));
                }
            }
        }
    }
}

impl<'a> TcpOption<'a> {
    #[inline]
    fn parse(kind: u8, len: u8, data: &'a [u8]) -> Self {
        match (kind, data.len()) {
            (KIND_MSS, 2) => Self::Mss(get_u16(data, 0..2)),
            (KIND_WINDOW_SCALE, 1) => Self::WindowScale(data[0]),
            (KIND_SACK_PERMITTED, 0) => Self::SackPermitted,
            (KIND_SACK, 8 | 16 | 24 | 32) => Self::Sack(data),
            (KIND_TIMESTAMPS, 8) => Self::Timestamps {
                value: get_u32(data, 0..4),
                echo: get_u32(data, 4..8),
            },
            _ => Self::Other { kind, len },
        }
    }
}

/// The header of a segment without options and data, as a value: what the
/// gateway sends is resets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpRepr {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Window, not scaled.
    pub window: u16,
}

impl TcpRepr {
    /// The header that `view` shows, as far as the value can say it.
    #[inline]
    pub fn parse<T: AsRef<[u8]>>(view: &TcpView<T>) -> Self {
        Self {
            src_port: view.src_port(),
            dst_port: view.dst_port(),
            seq: view.seq(),
            ack: view.ack(),
            flags: view.flags(),
            window: view.window(),
        }
    }

    /// Writes the header with its checksum, which covers the addresses.
    #[inline]
    pub fn emit(&self, src: Ipv4Addr, dst: Ipv4Addr, buf: &mut [u8; MIN_HEADER_LEN]) {
        set_u16(buf, SRC_PORT, self.src_port);
        set_u16(buf, DST_PORT, self.dst_port);
        set_u32(buf, SEQ, self.seq);
        set_u32(buf, ACK, self.ack);
        buf[DATA_OFFSET] = (MIN_HEADER_LEN as u8 / 4) << 4;
        buf[FLAGS] = self.flags.0;
        set_u16(buf, WINDOW, self.window);
        set_u16(buf, CHECKSUM, 0);
        set_u16(buf, URGENT, 0);
        let sum = Sum::pseudo_header(src, dst, PROTOCOL, MIN_HEADER_LEN as u16);
        let checksum = sum.add_bytes(buf.as_slice()).finish();
        set_u16(buf, CHECKSUM, checksum);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

    /// 192.0.2.1:40000 → 198.51.100.2:443, SYN.
    const SYN: [u8; 40] = [
        0x9c, 0x40, 0x01, 0xbb, 0x11, 0x22, 0x33, 0x44, 0x00, 0x00, 0x00,
        0x00, // ports, seq, ack
        0xa0, 0x02, 0xfa, 0xf0, 0x7a, 0x70, 0x00,
        0x00, // offset, flags, window, checksum, urgent
        0x02, 0x04, 0x05, 0xb4, // MSS 1460
        0x04, 0x02, // SACK permitted
        0x08, 0x0a, 0x01, 0x02, 0x03, 0x04, 0x00, 0x00, 0x00, 0x00, // timestamps
        0x01, // no-operation
        0x03, 0x03, 0x07, // window scale 7
    ];

    /// 198.51.100.2:443 → 192.0.2.1:40000, RST ACK: the refusal of `SYN`.
    const RST: [u8; 20] = [
        0x01, 0xbb, 0x9c, 0x40, 0x00, 0x00, 0x00, 0x00, 0x11, 0x22, 0x33, 0x45, //
        0x50, 0x14, 0x00, 0x00, 0xe1, 0x36, 0x00, 0x00,
    ];

    fn rst() -> TcpRepr {
        TcpRepr {
            src_port: 443,
            dst_port: 40000,
            seq: 0,
            ack: 0x1122_3345,
            flags: Flags::RST | Flags::ACK,
            window: 0,
        }
    }

    #[test]
    fn reads_a_syn() {
        let view = TcpView::new_checked(&SYN[..]).expect("valid");
        assert_eq!((view.src_port(), view.dst_port()), (40000, 443));
        assert_eq!((view.seq(), view.ack()), (0x1122_3344, 0));
        assert_eq!((view.header_len(), view.payload().len()), (40, 0));
        assert_eq!(view.flags(), Flags::SYN);
        assert!(view.flags().has(Flags::SYN) && !view.flags().has(Flags::SYN | Flags::ACK));
        assert_eq!(
            (view.window(), view.checksum(), view.urgent()),
            (64240, 0x7a70, 0)
        );
        assert!(view.verify_checksum(CLIENT, SERVER));
        assert!(!view.verify_checksum(CLIENT, CLIENT));
        let options: Vec<_> = view.options().collect();
        assert_eq!(
            options,
            [
                Ok((20, TcpOption::Mss(1460))),
                Ok((24, TcpOption::SackPermitted)),
                Ok((
                    26,
                    TcpOption::Timestamps {
                        value: 0x0102_0304,
                        echo: 0
                    }
                )),
                Ok((37, TcpOption::WindowScale(7))),
            ]
        );
    }

    #[test]
    fn writes_a_reset() {
        let mut buf = [0xa5; MIN_HEADER_LEN];
        rst().emit(SERVER, CLIENT, &mut buf);
        assert_eq!(buf, RST);
        assert_eq!(
            TcpRepr::parse(&TcpView::new_checked(&buf[..]).expect("valid")),
            rst()
        );
    }

    #[test]
    fn rewrites_in_place() {
        let mut bytes = SYN;
        let mut view = TcpView::new_checked(&mut bytes[..]).expect("valid");
        view.set_src_port(1);
        view.set_dst_port(2);
        view.set_seq(3);
        view.set_ack(4);
        view.fill_checksum(SERVER, CLIENT);
        let view = TcpView::new_checked(&bytes[..]).expect("valid");
        assert_eq!(
            (view.src_port(), view.dst_port(), view.seq(), view.ack()),
            (1, 2, 3, 4)
        );
        assert!(view.verify_checksum(SERVER, CLIENT));
        assert_eq!(bytes[20..], SYN[20..]);
    }

    #[test]
    fn tells_the_causes_of_rejection_apart() {
        let check = |bytes: &[u8]| TcpView::new_checked(bytes).err();
        assert_eq!(check(&SYN[..19]), Some(ParseError::TcpTruncated));
        assert_eq!(check(&SYN[..39]), Some(ParseError::TcpDataOffsetLong));
        let mut bytes = RST;
        bytes[DATA_OFFSET] = 0x4f;
        assert_eq!(check(&bytes), Some(ParseError::TcpDataOffsetShort));
        assert_eq!(check(&RST), None);
    }

    fn with_options(options: &[u8]) -> Vec<u8> {
        let mut bytes = RST.to_vec();
        bytes.extend_from_slice(options);
        bytes.resize(20 + options.len().next_multiple_of(4), 0);
        bytes[DATA_OFFSET] = (bytes.len() as u8 / 4) << 4;
        bytes
    }

    fn options_of(options: &[u8]) -> Vec<Result<(usize, TcpOption<'static>), ParseError>> {
        let bytes: &'static [u8] = with_options(options).leak();
        let view: &'static _ = Box::leak(Box::new(TcpView::new_checked(bytes).expect("valid")));
        view.options().collect()
    }

    #[test]
    fn malformed_options_end_the_walk() {
        let bad = Err(ParseError::TcpOptionLength);
        // Length 0, length 1, beyond the header, and no room for a length.
        assert_eq!(options_of(&[8, 0, 3, 3]), [bad]);
        assert_eq!(options_of(&[8, 1, 3, 3]), [bad]);
        assert_eq!(
            options_of(&[4, 2, 8, 10]),
            [Ok((20, TcpOption::SackPermitted)), bad]
        );
        assert_eq!(options_of(&[1, 1, 1, 8]), [bad]);
        // Nothing behind the end counts.
        assert_eq!(options_of(&[0, 8, 0, 0]), []);
        assert_eq!(options_of(&[1, 1, 1, 1]), []);
    }

    #[test]
    fn known_kinds_of_other_lengths_are_passed_over() {
        assert_eq!(
            options_of(&[2, 3, 1, 3, 4, 1, 2, 5, 6, 0, 0, 0, 0, 253, 2, 0]),
            [
                Ok((20, TcpOption::Other { kind: 2, len: 3 })),
                Ok((23, TcpOption::Other { kind: 3, len: 4 })),
                Ok((27, TcpOption::Other { kind: 5, len: 6 })),
                Ok((33, TcpOption::Other { kind: 253, len: 2 })),
            ]
        );
    }

    #[test]
    fn sack_blocks_are_whole() {
        let option = [5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4];
        assert_eq!(
            options_of(&option),
            [Ok((20, TcpOption::Sack(&option[2..])))]
        );
        assert_eq!(SACK_EDGES_AT, 2);
    }

    #[test]
    fn numbers_outside_the_options_stay() {
        let mut bytes = SYN;
        let mut view = TcpView::new_checked(&mut bytes[..]).expect("valid");
        for offset in (0..20).chain(37..64).chain([usize::MAX]) {
            let delta = view.replace_option_u32(offset, 0xffff_ffff, Delta::new());
            assert_eq!(delta.apply(0x1234), 0x1234);
        }
        assert_eq!(bytes, SYN);
    }

    proptest! {
        /// What was written is read back, and verifies.
        #[test]
        fn round_trip(
            src_port: u16, dst_port: u16, seq: u32, ack: u32, flags: u8, window: u16,
            src: u32, dst: u32,
        ) {
            let repr = TcpRepr { src_port, dst_port, seq, ack, flags: Flags(flags), window };
            let mut buf = [0xa5; MIN_HEADER_LEN];
            repr.emit(src.into(), dst.into(), &mut buf);
            let view = TcpView::new_checked(&buf[..]).expect("emitted");
            prop_assert_eq!(TcpRepr::parse(&view), repr);
            prop_assert!(view.verify_checksum(src.into(), dst.into()));
        }

        /// A timestamp and a SACK edge replaced at any alignment: the updated
        /// checksum is the one computed from scratch.
        #[test]
        fn replaced_option_numbers_verify(
            pad in 0usize..4, val: u32, ecr: u32, edge: u32, new: [u32; 3],
        ) {
            let mut options = vec![KIND_NOP; pad];
            options.extend([KIND_TIMESTAMPS, 10]);
            options.extend(val.to_be_bytes());
            options.extend(ecr.to_be_bytes());
            options.extend([KIND_SACK, 10]);
            options.extend(edge.to_be_bytes());
            options.extend(edge.to_be_bytes());
            let mut bytes = with_options(&options);
            let mut view = TcpView::new_checked(&mut bytes[..]).expect("valid");
            view.fill_checksum(CLIENT, SERVER);

            let ts = MIN_HEADER_LEN + pad;
            let sack = ts + 10;
            let mut delta = Delta::new();
            delta = view.replace_option_u32(ts + TSVAL_AT, new[0], delta);
            delta = view.replace_option_u32(ts + TSECR_AT, new[1], delta);
            delta = view.replace_option_u32(sack + SACK_EDGES_AT + 4, new[2], delta);
            let updated = delta.apply(view.checksum());
            view.fill_checksum(CLIENT, SERVER);
            prop_assert_eq!(updated, view.checksum());

            let blocks = [edge.to_be_bytes(), new[2].to_be_bytes()].concat();
            let options: Vec<_> = view.options().collect();
            prop_assert_eq!(options, vec![
                Ok((ts, TcpOption::Timestamps { value: new[0], echo: new[1] })),
                Ok((sack, TcpOption::Sack(&blocks))),
            ]);
        }

        /// The walk ends, in order, and every option lies within the header.
        #[test]
        fn walks_any_options(options in proptest::collection::vec(0u8..12, 0..=40)) {
            let bytes = with_options(&options);
            let view = TcpView::new_checked(&bytes[..]).expect("valid");
            let mut last = MIN_HEADER_LEN - 1;
            let mut walk = view.options();
            for option in walk.by_ref() {
                let Ok((at, _)) = option else { break };
                prop_assert!(at > last && at < view.header_len());
                last = at;
            }
            prop_assert_eq!(walk.next(), None);
        }
    }
}
