//! Things the gateway did that an operator wants to see counted, and that are
//! not the drop of a packet.

macro_rules! events {
    ($($variant:ident = $name:literal : $meaning:literal;)*) => {
        /// Something a worker did.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Event {
            $(#[doc = $meaning] $variant,)*
        }

        impl Event {
            /// All events, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// Number of events.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in the CLI, the metrics and the documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What happened, one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

events! {
    ResetUnknownClient = "reset-unknown-client":
        "RST to a client whose segment matched no connection.";
    ResetUnknownServer = "reset-unknown-server":
        "RST to a real server whose segment matched no connection.";
    ResetRefused = "reset-refused":
        "RST to a client whose connection could not be made (no service, server, local port or room).";
    ResetIdle = "reset-idle":
        "RST to one end of a connection that idled out.";
    ResetServerGone = "reset-server-gone":
        "RST to one end of a connection whose real server was removed or is down.";
    ResetEnded = "reset-ended":
        "RST to the sender of a segment whose connection a RST had ended.";
    ResetReplaced = "reset-replaced":
        "RST to a real server whose connection the client replaced by a new one.";
    ResetEvicted = "reset-evicted":
        "RST to a real server whose half-open connection gave its local port to a new one.";
    ResetAbandoned = "reset-abandoned":
        "RST to a real server that answered after its connection had moved elsewhere.";
    ResetWithheld = "reset-withheld":
        "A RST to the sender of a segment, not sent because of the rate limit.";
    ResetWithheldIdle = "reset-withheld-idle":
        "RSTs to the ends of connections that idled out, not sent because of the rate limit.";
    ResetWithheldGone = "reset-withheld-gone":
        "RSTs to the ends of connections whose real server is gone, not sent because of the rate limit.";
    IcmpSent = "icmp-sent":
        "ICMP errors the gateway sent.";
    IcmpWithheld = "icmp-withheld":
        "ICMP errors not sent because of the rate limit.";
    IcmpTranslated = "icmp-translated":
        "ICMP errors translated and passed on.";
    PathMtuClamped = "path-mtu-clamped":
        "ICMP messages that tell of a path MTU below min-path-mtu, passed on to real servers with that instead.";
    EchoReplies = "echo-replies":
        "Pings to our addresses answered.";
    ClientPortReused = "client-port-reused":
        "New connections begun on the client port of one that was over or half-closed.";
    LocalPortStolen = "local-port-stolen":
        "Local ports re-used before their rest, with sequence numbers moved.";
    SynMoved = "syn-moved":
        "SYNs sent to another real server because the first did not answer.";
    LateAnswer = "late-answer":
        "SYN-ACKs of servers that had been given up, taken since no other had answered yet.";
    SynReplayed = "syn-replayed":
        "Held SYNs replayed as a new connection after the old one was reset.";
    SynResent = "syn-resent":
        "Held SYNs sent again because their next hop had taken another MAC address.";
    SynHoldFull = "syn-hold-full":
        "SYNs not held, or no longer, because the store was full or they were too long.";
    StaleServer = "stale-server":
        "Real servers that answered a SYN out of an old connection; reset and asked again.";
    SynOnEstablished = "syn-on-established":
        "SYNs with a new sequence number on an established connection.";
    ServerRefused = "server-refused":
        "Connections a real server answered with RST, or that an ICMP error says could not reach it.";
    HalfOpenEvicted = "half-open-evicted":
        "Half-open connections given up because the table was full.";
    RestingEvicted = "resting-evicted":
        "Finished connections given up early because the table was full.";
    UdpMoved = "udp-moved":
        "UDP flows that left a real server that can't be reached: their next datagram goes to another.";
    UdpResent = "udp-resent":
        "Datagrams that did not reach their real server and were sent to another.";
    UdpEvicted = "udp-evicted":
        "UDP flows given up because the table was full: unanswered ones first, then idle ones.";
    HalfOpenPortTaken = "half-open-port-taken":
        "Half-open connections whose local port went to a new one, since none was free or resting.";
    UdpPortTaken = "udp-port-taken":
        "UDP flows whose local port went to a new one, since none was free: unanswered ones first, then idle ones.";
    LocalPortElsewhere = "local-port-elsewhere":
        "Connections that went to another real server because the chosen one had no local port left.";
    LocalPortBorrowed = "local-port-borrowed":
        "Connections on a local port of another worker, since their own had none free or resting.";
    IdledOut = "idled-out":
        "Connections ended by their idle timeout.";
    ArpRequests = "arp-requests":
        "ARP requests sent.";
    ArpReplies = "arp-replies":
        "ARP replies sent.";
    AddressClaimed = "address-claimed":
        "ARP packets of another machine that claims one of our addresses.";
    Announced = "announced":
        "Gratuitous ARP packets sent.";
    GuestReplaced = "guest-replaced":
        "Clients on the ports' networks whose place in the neighbour table another one took.";
    NeighborHeld = "neighbor-held":
        "Packets that waited for a next hop and were sent.";
    Fragmented = "fragments-forwarded":
        "IP fragments forwarded with the mapping of their first fragment.";
    FragmentsMade = "fragments-made":
        "IP fragments made of packets larger than the way out's MTU.";
    ToKernel = "to-kernel":
        "Packets for the kernel's own addresses, given to its interfaces.";
    FromKernel = "from-kernel":
        "Packets that the kernel sent through its interfaces.";
}

#[cfg(test)]
mod tests {
    use super::Event;

    #[test]
    fn names_are_unique() {
        let names: std::collections::HashSet<_> = Event::ALL.iter().map(|e| e.name()).collect();
        assert_eq!(names.len(), Event::COUNT);
    }
}
