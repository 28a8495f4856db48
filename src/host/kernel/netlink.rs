//! What fullgate asks of the kernel's networking (rtnetlink(7)): interfaces,
//! their addresses, and routes. Each call is a request and its answer; it
//! blocks for as long as the kernel's network lock is taken by others.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::wire::ethernet::MacAddr;

/// Messages and their lengths begin at multiples of so many bytes.
const ALIGNMENT: usize = 4;

/// A socket in the network namespace of the thread that opened it.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Dumps are then of what was asked for only; older kernels say too much,
        // and every answer is looked at anyway.
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// The index of an interface.
    pub(super) fn index_of(&mut self, name: &str) -> io::Result<u32> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let answers = self.request(RouteNetlinkMessage::GetLink(link), 0)?;
        let index = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
            _ => None,
        });
        index.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Gives an interface that is down its MAC address and MTU, and no IPv6
    /// address when it comes up: fullgate does not carry IPv6.
    pub(super) fn configure(&mut self, index: u32, mac: MacAddr, mtu: u16) -> io::Result<()> {
        let mut without_ipv6 = LinkMessage::default();
        without_ipv6.header.index = index;
        without_ipv6.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
        )])];
        // Fails where the kernel has no IPv6 at all.
        let _ = self.request(RouteNetlinkMessage::SetLink(without_ipv6), NLM_F_ACK);
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(mtu.into()),
        ];
        self.request(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)?;
        Ok(())
    }

    /// Brings an interface up.
    pub(super) fn bring_up(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)?;
        Ok(())
    }

    /// Gives an interface an address; nothing happens if it has it.
    pub(super) fn add_address(&mut self, index: u32, net: Ipv4Net) -> io::Result<()> {
        let mut address = address(index, net);
        let broadcast = AddressAttribute::Broadcast(net.broadcast());
        address.attributes.push(broadcast);
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        or_errno(
            self.request(RouteNetlinkMessage::NewAddress(address), flags),
            libc::EEXIST,
        )
    }

    /// Takes an address from an interface; nothing happens if it lacks it.
    pub(super) fn remove_address(&mut self, index: u32, net: Ipv4Net) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelAddress(address(index, net));
        or_errno(self.request(message, NLM_F_ACK), libc::EADDRNOTAVAIL)
    }

    /// Makes a route to one address by an interface; false where there is a
    /// route to it already.
    pub(super) fn add_route(&mut self, to: Ipv4Addr, index: u32, protocol: u8) -> io::Result<bool> {
        let message = RouteNetlinkMessage::NewRoute(route(to, index, protocol));
        match self.request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes a route of [`Netlink::add_route`] away; nothing happens if there
    /// is none.
    pub(super) fn remove_route(
        &mut self,
        to: Ipv4Addr,
        index: u32,
        protocol: u8,
    ) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelRoute(route(to, index, protocol));
        or_errno(self.request(message, NLM_F_ACK), libc::ESRCH)
    }

    /// Whether the kernel sends what is for `to` and leaves by an interface
    /// through a router. Where it has no route it takes `to` for a neighbour.
    pub(super) fn has_router(&mut self, index: u32, to: Ipv4Addr) -> io::Result<bool> {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.destination_prefix_length = 32;
        route.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(to)),
            RouteAttribute::Oif(index),
        ];
        let answers = self.request(RouteNetlinkMessage::GetRoute(route), 0)?;
        let is_router = |attribute: &RouteAttribute| {
            matches!(
                attribute,
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_)
            )
        };
        Ok(answers.iter().any(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => route.attributes.iter().any(is_router),
            _ => false,
        }))
    }

    /// Sends a request and reads its answers.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut left = &bytes[..];
            while !left.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(left)
                    .map_err(|error| io::Error::other(error.to_string()))?;
                let len = (answer.header.length as usize).next_multiple_of(ALIGNMENT);
                left = left.get(len.max(ALIGNMENT)..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => {
                        answers.push(inner);
                        // One question without a dump has one answer.
                        if flags & (NLM_F_ACK | NLM_F_DUMP) == 0 {
                            return Ok(answers);
                        }
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }
}

fn address(index: u32, net: Ipv4Net) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = net.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    let address = IpAddr::V4(net.addr());
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

fn route(to: Ipv4Addr, index: u32, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: 32,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::from(protocol),
        scope: RouteScope::Link,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(to)),
        RouteAttribute::Oif(index),
    ];
    message
}

/// One error that means there was nothing to do.
fn or_errno<T>(result: io::Result<T>, fine: i32) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() != Some(fine) => Err(error),
        _ => Ok(()),
    }
}
