//! UDP (RFC 768).

use std::net::Ipv4Addr;

use super::checksum::{Sum, udp_nonzero};
use super::{Field, ParseError, get_u16, set_u16};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = CHECKSUM.end;
/// IP protocol number.
pub const PROTOCOL: u8 = 17;

const SRC_PORT: Field = 0..2;
const DST_PORT: Field = SRC_PORT.end..SRC_PORT.end + 2;
const LENGTH: Field = DST_PORT.end..DST_PORT.end + 2;
const CHECKSUM: Field = LENGTH.end..LENGTH.end + 2;

/// A UDP datagram, or its first bytes.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |          Source Port          |       Destination Port        |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |            Length             |           Checksum            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug)]
pub struct UdpView<T> {
    buf: T,
}

impl<T: AsRef<[u8]>> UdpView<T> {
    /// A view of `buf`, which starts at the header and holds at least all of
    /// it. `total_available` is the length of the IP payload in bytes, of which
    /// the buffer may hold less. For the first fragment of a packet, whose
    /// length field counts the whole, pass 65,535.
    ///
    /// # Errors
    /// The `Udp…` variants of [`ParseError`].
    #[inline]
    pub fn new_checked(buf: T, total_available: usize) -> Result<Self, ParseError> {
        let bytes = buf.as_ref();
        if bytes.len() < HEADER_LEN {
            return Err(ParseError::UdpTruncated);
        }
        let length = usize::from(get_u16(bytes, LENGTH));
        if length < HEADER_LEN {
            return Err(ParseError::UdpLengthShort);
        }
        if length > total_available {
            return Err(ParseError::UdpLengthLong);
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

    /// Length of the datagram with its header, in bytes.
    #[inline]
    pub fn length(&self) -> u16 {
        get_u16(self.buf.as_ref(), LENGTH)
    }

    /// Checksum; 0 means that the sender computed none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        get_u16(self.buf.as_ref(), CHECKSUM)
    }

    /// Whether the checksum is right or absent. False for a datagram that goes
    /// on outside the buffer and has a checksum.
    #[inline]
    pub fn verify_checksum(&self, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
        if self.checksum() == 0 {
            return true;
        }
        let Some(datagram) = self.buf.as_ref().get(..usize::from(self.length())) else {
            return false;
        };
        Sum::pseudo_header(src, dst, PROTOCOL, self.length())
            .add_bytes(datagram)
            .finish()
            == 0
    }
}

impl<'a> UdpView<&'a [u8]> {
    /// The payload as far as the buffer holds it.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.buf[HEADER_LEN..usize::from(self.length()).min(self.buf.len())]
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> UdpView<T> {
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

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        set_u16(self.buf.as_mut(), CHECKSUM, checksum);
    }

    /// Computes and sets the checksum of a datagram that lies in the buffer as
    /// a whole; otherwise sets "none".
    #[inline]
    pub fn fill_checksum(&mut self, src: Ipv4Addr, dst: Ipv4Addr) {
        self.set_checksum(0);
        let length = self.length();
        if let Some(datagram) = self.buf.as_ref().get(..usize::from(length)) {
            let sum = Sum::pseudo_header(src, dst, PROTOCOL, length).add_bytes(datagram);
            self.set_checksum(udp_nonzero(sum.finish()));
        }
    }
}
