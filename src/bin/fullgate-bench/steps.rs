//! The packets of a short connection.

use fullgate::wire::tcp::Flags;

use super::wire::Side;

const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);
const FIN_ACK: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);
const PSH_ACK: Flags = Flags(Flags::PSH.0 | Flags::ACK.0);

/// A connection's packets: from where, control bits, bytes.
pub const STEPS: [(Side, Flags, usize); 8] = [
    (Side::Clients, Flags::SYN, 0),
    (Side::Servers, SYN_ACK, 0),
    (Side::Clients, Flags::ACK, 0),
    (Side::Clients, PSH_ACK, 100),
    (Side::Servers, PSH_ACK, 100),
    (Side::Clients, FIN_ACK, 0),
    (Side::Servers, FIN_ACK, 0),
    (Side::Clients, Flags::ACK, 0),
];
