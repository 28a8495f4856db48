//! IP protocol numbers, of those that the gateway knows.

/// ICMP (RFC 792).
pub const ICMP: u8 = 1;
/// TCP (RFC 9293).
pub const TCP: u8 = 6;
/// UDP (RFC 768).
pub const UDP: u8 = 17;

/// As people read and write it; the number of one that has no name here.
pub fn name(protocol: u8) -> String {
    match protocol {
        ICMP => "icmp".into(),
        TCP => "tcp".into(),
        UDP => "udp".into(),
        other => other.to_string(),
    }
}
