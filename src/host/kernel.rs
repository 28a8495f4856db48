//! What the kernel beside the gateway has because of it: the interfaces of the
//! exception path with the addresses of their ports, and a route to each VIP
//! that is announced, which a routing daemon tells to others.
//!
//! Set up before the gateway starts; kept up to date by a thread of its own,
//! since the kernel may let a request wait for seconds. The interfaces belong
//! to whoever holds their files; this only configures them. The routes go by
//! the first interface: when the process ends, however it does, the kernel
//! takes the interface away and the routes with it.

mod netlink;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use ipnet::Ipv4Net;

use self::netlink::Netlink;
use crate::api;
use crate::config::Config;
use crate::health::HostRoutes;
use crate::host::privileges;
use crate::wire::ethernet::MacAddr;
use crate::worker::kernel::MTU_MAX;

/// Between two looks whether the routes are still there: they are gone when
/// somebody has taken the interface down and up again.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// An interface to set up.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name; it exists.
    pub name: String,
    /// The MAC address of its port.
    pub mac: MacAddr,
    /// The MTU of its port.
    pub mtu: u16,
}

/// What the kernel is to have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Wanted {
    /// The addresses of each interface.
    addresses: Vec<Vec<Ipv4Net>>,
    /// VIPs with a route.
    announced: BTreeSet<Ipv4Addr>,
}

impl Wanted {
    fn of(config: &Config, announced: BTreeSet<Ipv4Addr>) -> Self {
        let with_interface = config.ports.iter().filter(|port| port.kernel.is_some());
        Self {
            addresses: with_interface.map(|port| port.addresses.clone()).collect(),
            announced,
        }
    }
}

/// The kernel's routes, for what is sent through its interfaces.
pub struct KernelRoutes(Netlink);

impl KernelRoutes {
    /// Those of the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel has no socket to ask it by.
    pub fn open() -> io::Result<Self> {
        Netlink::open().map(Self)
    }
}

impl HostRoutes for KernelRoutes {
    fn has_router(&mut self, interface: &str, to: Ipv4Addr) -> io::Result<bool> {
        let index = self.0.index_of(interface)?;
        self.0.has_router(index, to)
    }
}

/// The thread that keeps the kernel up to date. Without interfaces there is
/// none.
pub struct Kernel {
    thread: Option<(Sender<Wanted>, JoinHandle<()>)>,
    wanted: Wanted,
    withdrawn: bool,
}

impl Kernel {
    /// Nothing of the kernel's.
    pub fn none() -> Self {
        Self {
            thread: None,
            wanted: Wanted::default(),
            withdrawn: false,
        }
    }

    /// Sets up the interfaces of the configuration's ports, in their order, in
    /// the network namespace of the calling thread, and starts the thread.
    /// Nothing is announced yet.
    ///
    /// # Errors
    /// One line: what the kernel refused, and about which interface.
    pub fn start(interfaces: Vec<Interface>, config: &Config) -> Result<Self, String> {
        if interfaces.is_empty() {
            return Ok(Self::none());
        }
        let wanted = Wanted::of(config, BTreeSet::new());
        let keeper = Keeper::new(interfaces, &wanted, config.announce.route_protocol)?;
        let (sender, receiver) = mpsc::channel();
        let kept = privileges::running(config);
        let thread = thread::Builder::new()
            .name("kernel".into())
            .spawn(move || {
                if let Err(error) = privileges::keep(kept) {
                    log::warn!("the thread for the kernel's interfaces: {error}");
                }
                keeper.run(&receiver);
            })
            .map_err(|error| format!("the thread for the kernel's interfaces: {error}"))?;
        Ok(Self {
            thread: Some((sender, thread)),
            wanted,
            withdrawn: false,
        })
    }

    /// The configuration in force, or the VIPs to announce, are others. Never
    /// blocks.
    pub(crate) fn published(&mut self, config: &Config, announced: BTreeSet<Ipv4Addr>) {
        if !self.withdrawn {
            self.want(Wanted::of(config, announced));
        }
    }

    /// Announces nothing any more. Whether anything was announced. Never blocks.
    pub(crate) fn withdraw(&mut self) -> bool {
        let was_announced = !self.wanted.announced.is_empty();
        self.want(Wanted {
            announced: BTreeSet::new(),
            ..self.wanted.clone()
        });
        self.withdrawn = true;
        was_announced
    }

    /// Adds to a listing which services are announced.
    pub(crate) fn show(&self, config: &Config, services: &mut api::Services) {
        for service in config.services.iter().filter(|service| service.announce) {
            let protocol = service.protocol.name();
            let mut listed = services.services.iter_mut();
            let row = listed.find(|row| row.vip == service.vip && row.protocol == protocol);
            if let Some(row) = row {
                row.announced = Some(self.wanted.announced.contains(service.vip.ip()));
            }
        }
    }

    fn want(&mut self, wanted: Wanted) {
        let Some((sender, _)) = &self.thread else {
            return;
        };
        if wanted != self.wanted {
            // The thread ends with the sender only.
            let _ = sender.send(wanted.clone());
            self.wanted = wanted;
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.thread.take() {
            drop(sender);
            // A panic of the thread has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// What the thread owns.
struct Keeper {
    netlink: Netlink,
    /// At least one.
    interfaces: Vec<Kept>,
    route_protocol: u8,
    /// VIPs whose route the kernel took.
    announced: BTreeSet<Ipv4Addr>,
    /// VIPs whose route it did not take, which was said.
    refused: BTreeSet<Ipv4Addr>,
}

struct Kept {
    name: String,
    index: u32,
    addresses: Vec<Ipv4Net>,
}

impl Keeper {
    fn new(
        interfaces: Vec<Interface>,
        wanted: &Wanted,
        route_protocol: u8,
    ) -> Result<Self, String> {
        let failed = |what: &str, error: io::Error| format!("kernel interface {what}: {error}");
        let mut netlink = Netlink::open().map_err(|error| failed("netlink", error))?;
        let mut kept = Vec::with_capacity(interfaces.len());
        for (interface, addresses) in interfaces.into_iter().zip(&wanted.addresses) {
            let name = interface.name.clone();
            let set_up = Kept::set_up(&mut netlink, interface, addresses);
            kept.push(set_up.map_err(|error| failed(&name, error))?);
        }
        Ok(Self {
            netlink,
            interfaces: kept,
            route_protocol,
            announced: BTreeSet::new(),
            refused: BTreeSet::new(),
        })
    }

    fn run(mut self, receiver: &Receiver<Wanted>) {
        let mut wanted = BTreeSet::new();
        loop {
            match receiver.recv_timeout(LOOK_EVERY) {
                Ok(Wanted {
                    addresses,
                    announced,
                }) => {
                    // First: routers that turn away are to do so at once.
                    self.announce(&announced);
                    self.give_addresses(&addresses);
                    wanted = announced;
                }
                Err(RecvTimeoutError::Timeout) => self.announce(&wanted),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.announce(&BTreeSet::new());
    }

    fn give_addresses(&mut self, addresses: &[Vec<Ipv4Net>]) {
        for (interface, addresses) in self.interfaces.iter_mut().zip(addresses) {
            if interface.addresses == *addresses {
                continue;
            }
            if let Err(error) = interface.give(&mut self.netlink, addresses) {
                log::error!("kernel interface {}: {error}", interface.name);
            }
        }
    }

    /// Has the kernel have routes to these VIPs, and to no others.
    fn announce(&mut self, wanted: &BTreeSet<Ipv4Addr>) {
        let Self {
            netlink,
            interfaces,
            route_protocol,
            announced,
            refused,
        } = self;
        let index = interfaces[0].index;
        announced.retain(|vip| {
            if wanted.contains(vip) {
                return true;
            }
            match netlink.remove_route(*vip, index, *route_protocol) {
                Ok(()) => log::info!("{vip}: withdrawn"),
                Err(error) => {
                    log::error!("{vip}: the kernel does not take its route back: {error}")
                }
            }
            false
        });
        refused.retain(|vip| wanted.contains(vip));
        for vip in wanted {
            let is_new = !announced.contains(vip);
            let problem = match netlink.add_route(*vip, index, *route_protocol) {
                Ok(true) => {
                    log::info!("{vip}: announced");
                    announced.insert(*vip);
                    refused.remove(vip);
                    continue;
                }
                // As expected of our own.
                Ok(false) if !is_new => continue,
                Ok(false) => "the kernel has another route to it".to_owned(),
                Err(error) => error.to_string(),
            };
            if refused.insert(*vip) {
                log::error!("{vip}: is not announced: {problem}");
            }
        }
    }
}

impl Kept {
    /// Configures an interface, and brings it up when it has its addresses:
    /// BIRD's BFD tries to use them at once, and only then.
    fn set_up(
        netlink: &mut Netlink,
        interface: Interface,
        addresses: &[Ipv4Net],
    ) -> io::Result<Self> {
        let Interface { name, mac, mtu } = interface;
        let index = netlink.index_of(&name)?;
        netlink.configure(index, mac, mtu.min(MTU_MAX))?;
        let mut kept = Self {
            name,
            index,
            addresses: Vec::new(),
        };
        kept.give(netlink, addresses)?;
        netlink.bring_up(index)?;
        Ok(kept)
    }

    /// Takes the addresses that are not wanted away and gives those that are.
    fn give(&mut self, netlink: &mut Netlink, wanted: &[Ipv4Net]) -> io::Result<()> {
        let unwanted: Vec<_> = self
            .addresses
            .extract_if(.., |net| !wanted.contains(net))
            .collect();
        for net in unwanted {
            netlink.remove_address(self.index, net)?;
        }
        // All of them: with the first of a network the kernel takes the others
        // away too.
        for &net in wanted {
            netlink.add_address(self.index, net)?;
        }
        self.addresses = wanted.to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[[port]]
name = "wan"
device = "tap:fg0"
addresses = ["10.0.0.1/24"]
kernel-interface = "k0"

[[port]]
name = "lan"
device = "tap:fg1"
addresses = ["10.0.1.1/24"]

[[pool]]
name = "default"
addresses = ["10.0.1.10"]

[[service]]
name = "web"
vip = "203.0.113.1:80"
announce = true

[[service.server]]
address = "10.0.1.101:80"
"#;

    /// One whose thread is the test.
    fn kernel() -> (Kernel, Receiver<Wanted>) {
        let (sender, receiver) = mpsc::channel();
        let kernel = Kernel {
            thread: Some((sender, thread::spawn(|| {}))),
            wanted: Wanted::default(),
            withdrawn: false,
        };
        (kernel, receiver)
    }

    fn config() -> Config {
        let checked = Config::parse("f", FILE);
        checked.unwrap_or_else(|problem| panic!("{problem}")).config
    }

    #[test]
    fn only_what_changes_is_told() {
        let (mut kernel, told) = kernel();
        let (mut config, vip) = (config(), Ipv4Addr::new(203, 0, 113, 1));
        kernel.published(&config, BTreeSet::from([vip]));
        let first = told.try_recv().expect("news");
        let own: Ipv4Net = "10.0.0.1/24".parse().expect("a network");
        assert_eq!(
            first.addresses,
            [[own]],
            "of the port that has an interface"
        );
        assert_eq!(first.announced, BTreeSet::from([vip]));
        kernel.published(&config, BTreeSet::from([vip]));
        assert!(told.try_recv().is_err());
        let other: Ipv4Net = "10.0.0.3/24".parse().expect("a network");
        config.ports[0].addresses = vec![other];
        kernel.published(&config, BTreeSet::from([vip]));
        assert_eq!(told.try_recv().expect("news").addresses, [[other]]);
    }

    #[test]
    fn what_is_withdrawn_stays_so() {
        let (mut kernel, told) = kernel();
        let (config, vip) = (config(), Ipv4Addr::new(203, 0, 113, 1));
        kernel.published(&config, BTreeSet::from([vip]));
        let first = told.try_recv().expect("news");
        assert!(kernel.withdraw());
        let last = told.try_recv().expect("news");
        assert_eq!(last.addresses, first.addresses);
        assert!(last.announced.is_empty());
        kernel.published(&config, BTreeSet::from([vip]));
        assert!(told.try_recv().is_err());
        assert!(!kernel.withdraw(), "there is nothing any more");
        assert!(!Kernel::none().withdraw());
    }
}
