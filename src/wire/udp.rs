//! UDP (RFC 768).

use std::net::Ipv4Addr;

use super::checksum::{Sum, nonzero};
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
            self.set_checksum(nonzero(sum.finish()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SRC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const DST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

    /// 192.0.2.1:53000 → 198.51.100.2:53, "hello".
    const HELLO: [u8; 13] = [
        0xcf, 0x08, 0x00, 0x35, 0x00, 0x0d, 0x00, 0x8d, 0x68, 0x65, 0x6c, 0x6c, 0x6f,
    ];

    #[test]
    fn reads_a_datagram() {
        let view = UdpView::new_checked(&HELLO[..], HELLO.len()).expect("valid");
        assert_eq!((view.src_port(), view.dst_port()), (53000, 53));
        assert_eq!((view.length(), view.checksum()), (13, 0x008d));
        assert_eq!(view.payload(), b"hello");
        assert!(view.verify_checksum(SRC, DST));
        assert!(!view.verify_checksum(SRC, SRC));
    }

    #[test]
    fn padding_behind_the_length_is_no_payload() {
        let mut bytes = HELLO.to_vec();
        bytes.extend([0xa5; 9]);
        let view = UdpView::new_checked(&bytes[..], bytes.len()).expect("valid");
        assert_eq!(view.payload(), b"hello");
        assert!(view.verify_checksum(SRC, DST));
    }

    #[test]
    fn payload_may_go_on_outside_the_buffer() {
        let mut bytes = HELLO;
        let mut view = UdpView::new_checked(&mut bytes[..10], 13).expect("valid");
        assert!(!view.verify_checksum(SRC, DST));
        view.fill_checksum(SRC, DST);
        assert_eq!(view.checksum(), 0);
        let view = UdpView::new_checked(&bytes[..10], 13).expect("valid");
        assert_eq!(view.payload(), b"he");
    }

    #[test]
    fn no_checksum_is_a_right_one() {
        let mut bytes = HELLO;
        let mut view = UdpView::new_checked(&mut bytes[..], 13).expect("valid");
        view.set_checksum(0);
        assert!(view.verify_checksum(DST, DST));
        view.fill_checksum(SRC, DST);
        assert_eq!(bytes, HELLO);
    }

    #[test]
    fn a_computed_zero_is_sent_as_all_ones() {
        // The port that makes the sum of everything else 0xffff.
        let mut bytes = HELLO;
        let mut view = UdpView::new_checked(&mut bytes[..], 13).expect("valid");
        view.set_src_port(0xcf08 + 0x008d);
        view.fill_checksum(SRC, DST);
        assert_eq!(view.checksum(), 0xffff);
        assert!(view.verify_checksum(SRC, DST));
    }

    #[test]
    fn rewrites_ports() {
        let mut bytes = HELLO;
        let mut view = UdpView::new_checked(&mut bytes[..], 13).expect("valid");
        view.set_src_port(0x0102);
        view.set_dst_port(0x0304);
        assert_eq!(bytes[..4], [1, 2, 3, 4]);
        assert_eq!(bytes[4..], HELLO[4..]);
    }

    #[test]
    fn tells_the_causes_of_rejection_apart() {
        let check = |bytes: &[u8], available| UdpView::new_checked(bytes, available).err();
        assert_eq!(check(&HELLO[..7], 13), Some(ParseError::UdpTruncated));
        assert_eq!(check(&HELLO, 12), Some(ParseError::UdpLengthLong));
        let mut bytes = HELLO;
        bytes[5] = 7;
        assert_eq!(check(&bytes, 13), Some(ParseError::UdpLengthShort));
    }
}
