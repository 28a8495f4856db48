//! Why a packet went no further: one value, one counter, one sentence.

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal : $meaning:literal, $remedy:literal;)*) => {
        /// Why a packet went no further. Each has a line in `docs/drops.md`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])* #[doc = $meaning] $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// Number of reasons.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in the CLI, the metrics and the documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the reason means, one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What an operator does about it, one sentence.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }
        }
    };
}

drop_reasons! {
    EthernetShort = "ethernet-short":
        "The frame is shorter than an Ethernet header.",
        "Look for a faulty sender or cable on the port.";
    NotForUs = "not-for-us":
        "The frame's destination MAC address is neither the port's nor a group address.",
        "Normal while a switch floods; if it grows steadily, check for a stale ARP entry elsewhere.";
    VlanTagged = "vlan-tagged":
        "The frame carries an 802.1Q tag of a VLAN; fullgate takes untagged and priority-tagged (VLAN 0) frames only.",
        "Make the switch port an access port, or set the VLAN as its native one.";
    EtherTypeUnsupported = "ethertype-unsupported":
        "The frame is neither ARP nor IPv4.",
        "Normal for LLDP, STP and IPv6 neighbour chatter.";
    ArpMalformed = "arp-malformed":
        "The ARP packet is truncated or not for Ethernet and IPv4.",
        "Look for a faulty host on the port's segment.";
    ArpNotForUs = "arp-not-for-us":
        "The ARP packet asks for or announces an address that is none of ours.",
        "Normal broadcast chatter.";
    ArpSender = "arp-sender":
        "The ARP packet's sender has a MAC or IP address that can't be a host's.",
        "Look for a faulty or hostile host on the port's segment.";
    ArpClaim = "arp-claim":
        "The ARP packet comes from one of our addresses; where another machine sent it, see `address-claimed`.",
        "Find the machine that uses the address (the log names its MAC), and give it another.";
    Ipv4Malformed = "ipv4-malformed":
        "The IPv4 header is truncated, or its lengths contradict each other.",
        "Look for a faulty or hostile sender.";
    Ipv4Checksum = "ipv4-checksum":
        "The IPv4 header checksum is wrong.",
        "Look for a faulty NIC, cable or router on the way.";
    Ipv4Martian = "ipv4-martian":
        "The source address can't be a host's: multicast, broadcast, loopback or 0.0.0.0/8.",
        "Look for a spoofing or misconfigured sender.";
    SourceOurs = "source-ours":
        "The source address is a VIP, a local address or a port's own.",
        "Look for a spoofing sender or a second host with the address; where a router sends the gateway's own packets back to it on purpose, set the port's rpf to \"off\".";
    SourceElsewhere = "source-elsewhere":
        "The source address is in a network behind another port, by the port's rpf.",
        "Look for a spoofing sender; where hosts of that network come this way on purpose, set the port's rpf to \"off\".";
    SourceRoute = "source-route":
        "The IPv4 header has a source route option.",
        "Look for somebody probing; no honest host sends them.";
    UnicastInBroadcast = "unicast-in-broadcast":
        "The frame went to a broadcast or multicast MAC address, the packet in it to a single address or a network's broadcast.",
        "Normal broadcast chatter; otherwise look for a forged frame, or a switch with a wrong static entry.";
    Ipv4Fragment = "ipv4-fragment":
        "The packet is a fragment whose first fragment did not come, or belongs to no connection; or of an ICMP message.",
        "Look for loss before fullgate; better, let path MTU discovery work, so that nothing has to be fragmented.";
    FragmentsFull = "fragments-full":
        "The fragment had come before its first one, and had to make room for others.",
        "Raise runtime.fragments, or look for a flood of fragments (fullgatectl show drops --last).";
    NotLocalAddress = "not-local-address":
        "The destination is neither a VIP, a local address nor a port's own address.",
        "Check the routes that lead to fullgate, and whether a service is missing.";
    TtlExpired = "ttl-expired":
        "The packet's TTL ran out at the gateway; ICMP time exceeded was sent.",
        "Normal for traceroute; otherwise look for a routing loop.";
    ProtocolUnsupported = "protocol-unsupported":
        "The IP protocol is neither TCP, UDP nor ICMP.",
        "ICMP protocol unreachable was sent; configure the peer not to use it.";
    TcpMalformed = "tcp-malformed":
        "The TCP header is truncated, or its data offset contradicts the length.",
        "Look for a faulty or hostile sender.";
    UdpMalformed = "udp-malformed":
        "The UDP header is truncated, or its length contradicts the packet's.",
        "Look for a faulty or hostile sender.";
    IcmpMalformed = "icmp-malformed":
        "The ICMP message is truncated, or its checksum is wrong.",
        "Look for a faulty or hostile sender.";
    IcmpUnsupported = "icmp-unsupported":
        "The ICMP type is none that a load balancer handles.",
        "Normal for timestamp and redirect messages.";
    IcmpUnmatched = "icmp-unmatched":
        "The ICMP error quotes a packet of no known connection.",
        "Normal shortly after connections end.";
    IcmpOutOfWindow = "icmp-out-of-window":
        "The ICMP error quotes a TCP segment that is not outstanding on its connection (RFC 5927).",
        "Look for somebody forging errors.";
    IcmpRate = "icmp-rate":
        "More ICMP errors about connections came in than icmp-per-second lets through.",
        "Look for somebody forging errors, or for a router with a failed link behind it.";
    PathMtuFloor = "path-mtu-floor":
        "The ICMP message tells of a path MTU below min-path-mtu about a packet that is no larger than that: the gateway fragments what follows on the connection.",
        "Normal where clients are behind very narrow links; many from one network are a try to slow servers down.";
    EchoWithheld = "echo-withheld":
        "A ping was not answered because of echo-per-second.",
        "Look for a flood; if the pings are meant, raise echo-per-second.";
    NoService = "no-service":
        "The VIP has no service on this port; TCP was reset, UDP got ICMP port unreachable.",
        "Add the service, or stop the clients that ask for it.";
    UnknownFlowClient = "unknown-flow-client":
        "A client's TCP segment belongs to no connection; by default it was answered with RST.",
        "Normal for clients that come back after an idle timeout.";
    UnknownFlowServer = "unknown-flow-server":
        "A real server's packet belongs to no connection; TCP was reset.",
        "Normal for servers that outlive an idle timeout.";
    NoServer = "no-server":
        "The service has no usable real server; TCP was reset, UDP got ICMP port unreachable.",
        "Bring a real server up, or give one a weight above 0.";
    NoLocalPort = "no-local-port":
        "All local ports towards the chosen real server are in use; TCP was reset.",
        "Add addresses to the service's pool.";
    TableFull = "table-full":
        "The worker's connection table is full; TCP was reset.",
        "Raise runtime.connections, or look for a flood.";
    TcpChecksum = "tcp-checksum":
        "The TCP checksum of a segment that would begin or end something is wrong; data is passed on as it is, for its receiver to judge.",
        "Look for a faulty NIC or cable on the way, or somebody forging segments.";
    UdpChecksum = "udp-checksum":
        "The UDP checksum of a datagram that would begin a flow is wrong.",
        "Look for a faulty NIC or cable on the way, or somebody forging datagrams.";
    TcpBadFlags = "tcp-bad-flags":
        "The TCP flags can't occur together, or none is set.",
        "Look for a scanner.";
    TcpRstOutOfWindow = "tcp-rst-out-of-window":
        "A RST failed the sequence check of RFC 5961; the connection goes on.",
        "Look for somebody forging resets.";
    TcpSynOutOfWindow = "tcp-syn-unacceptable":
        "A SYN inside a connection failed the checks of RFC 5961.",
        "Look for somebody forging segments.";
    TcpOldDuplicate = "tcp-old-duplicate":
        "A SYN repeats the initial sequence number of a connection that is over.",
        "Normal where packets are duplicated on the way.";
    TcpUnexpected = "tcp-unexpected":
        "The segment can't occur in the connection's state (such as a SYN-ACK for a sequence number never sent).",
        "Look for a faulty real server or somebody forging segments.";
    ServerAbandoned = "server-abandoned":
        "A real server answered a connection that had meanwhile moved elsewhere or begun anew, or out of an older one; it was reset.",
        "Normal now and then; if it grows steadily, the server answers SYNs too slowly (see syn-retry-after), or local ports are used again too soon: add addresses to the pool.";
    ConnectionEnded = "connection-ended":
        "The packet's connection was ended by the gateway (server removed or down, or idle for too long); it was answered with RST.",
        "Drain servers before removing them; see the service's timeouts.";
    ConnectionReset = "connection-reset":
        "The packet's connection had been ended by a RST of its client or server; it was answered with RST.",
        "Normal where clients or servers break off while data is under way.";
    NoRoute = "no-route":
        "No route leads to the packet's destination.",
        "Add a [[route]] or a gateway to the port.";
    MtuExceeded = "mtu-exceeded":
        "The packet is larger than the egress port's MTU and may not be fragmented; ICMP fragmentation needed was sent, unless it was a fragment but the first.",
        "Normal for path MTU discovery; otherwise align the ports' MTUs.";
    NeighborQueueFull = "neighbor-queue-full":
        "Too many packets wait for the next hop's MAC address.",
        "Check whether the next hop answers ARP.";
    NeighborUnreachable = "neighbor-unreachable":
        "The next hop does not answer ARP.",
        "Check the next hop's address, cable and VLAN.";
    NeighborTableFull = "neighbor-table-full":
        "The neighbour table has no room for another next hop.",
        "Put a router between fullgate and a very large segment.";
    NoBuffer = "no-buffer":
        "The mbuf pool is exhausted; a packet of the gateway's own, or a fragment, could not be made.",
        "Raise runtime.mbufs.";
    TxFull = "tx-full":
        "The driver's transmit ring is full.",
        "The port is slower than the traffic: look at the link speed and the peer's pause frames.";
    HandoverFull = "handover-full":
        "The ring to the worker that owns the flow is full.",
        "That worker is overloaded: look at fullgatectl show workers.";
    KernelRate = "kernel-rate":
        "More packets for the kernel's interface came in than the port's kernel-rate lets through.",
        "Look for a flood at the port's own address; if the traffic is meant, raise kernel-rate.";
    KernelRingFull = "kernel-ring-full":
        "The ring to the kernel's interfaces is full.",
        "The exception thread gets too little of its core: look at the load there, or lower kernel-rate.";
    KernelTooLong = "kernel-too-long":
        "The packet is for the kernel and longer than one packet buffer.",
        "Have the sender use an MTU of at most 2000, or path MTU discovery.";
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn names_are_unique_and_kebab_case() {
        let mut seen = std::collections::HashSet::new();
        for reason in DropReason::ALL {
            assert!(seen.insert(reason.name()), "{} twice", reason.name());
            assert!(
                reason
                    .name()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
        }
    }

    #[test]
    fn documentation_has_a_line_for_each() {
        let page = include_str!("../../docs/drops.md");
        for reason in DropReason::ALL {
            let row = format!(
                "| `{}` | {} | {} |",
                reason.name(),
                reason.meaning(),
                reason.remedy()
            );
            assert!(page.contains(&row), "docs/drops.md lacks the row:\n{row}");
        }
    }
}
