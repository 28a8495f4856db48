//! Routes: connected networks, static routes, default gateways. Looked up when
//! a connection is made or a next hop changes, never per packet.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::ids::PortIx;

/// One route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Destinations it is for.
    pub to: Ipv4Net,
    /// The router, or `None` where the destination itself is on the segment.
    pub via: Option<Ipv4Addr>,
    /// The port it leads out of.
    pub port: PortIx,
}

/// Where a packet goes next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NextHop {
    /// The egress port.
    pub port: PortIx,
    /// The address whose MAC the frame goes to.
    pub addr: Ipv4Addr,
}

/// A routing table, longest prefix first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// Orders the routes; of two with the same prefix the earlier one wins.
    pub fn new(mut routes: Vec<Route>) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.to.prefix_len()));
        Self(routes)
    }

    /// The next hop towards `destination`.
    pub fn lookup(&self, destination: Ipv4Addr) -> Option<NextHop> {
        self.0
            .iter()
            .find(|route| route.to.contains(&destination))
            .map(|route| NextHop {
                port: route.port,
                addr: route.via.unwrap_or(destination),
            })
    }

    /// The routers, by route: one may be there several times.
    pub fn routers(&self) -> impl Iterator<Item = NextHop> {
        self.0.iter().filter_map(|route| {
            Some(NextHop {
                port: route.port,
                addr: route.via?,
            })
        })
    }

    /// The routes, longest prefix first.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("a network")
    }

    #[test]
    fn the_longest_prefix_wins() {
        let gateway = Ipv4Addr::new(10, 0, 0, 254);
        let routes = Routes::new(vec![
            Route {
                to: net("0.0.0.0/0"),
                via: Some(gateway),
                port: PortIx(0),
            },
            Route {
                to: net("10.0.0.0/24"),
                via: None,
                port: PortIx(0),
            },
            Route {
                to: net("10.0.0.128/25"),
                via: None,
                port: PortIx(1),
            },
        ]);
        let hop = |addr: [u8; 4]| {
            routes
                .lookup(addr.into())
                .map(|hop| (hop.port.0, hop.addr.octets()))
        };
        assert_eq!(hop([10, 0, 0, 1]), Some((0, [10, 0, 0, 1])));
        assert_eq!(hop([10, 0, 0, 200]), Some((1, [10, 0, 0, 200])));
        assert_eq!(hop([8, 8, 8, 8]), Some((0, [10, 0, 0, 254])));
        assert_eq!(Routes::default().lookup(gateway), None);
    }
}
