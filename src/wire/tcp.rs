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
