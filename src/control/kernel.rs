//! What the kernel beside the gateway has because of it: the interfaces of the
//! exception path with the addresses of their ports.
//!
//! Set up before the gateway starts; kept up to date by a thread of its own,
//! since the kernel may let a request wait for seconds. The interfaces belong
//! to whoever holds their files; this only configures them.

mod netlink;

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::{io, thread};

use ipnet::Ipv4Net;

use self::netlink::Netlink;
use super::config::Config;
use crate::wire::ethernet::MacAddr;
use crate::worker::kernel::MTU_MAX;

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
}

impl Wanted {
    fn of(config: &Config) -> Self {
        let with_interface = config.ports.iter().filter(|port| port.kernel.is_some());
        Self {
            addresses: with_interface.map(|port| port.addresses.clone()).collect(),
        }
    }
}

/// The thread that keeps the kernel up to date. Without interfaces there is
/// none.
pub struct Kernel {
    thread: Option<(Sender<Wanted>, JoinHandle<()>)>,
    wanted: Wanted,
}

impl Kernel {
    /// Nothing of the kernel's.
    pub fn none() -> Self {
        Self {
            thread: None,
            wanted: Wanted::default(),
        }
    }

    /// Sets up the interfaces of the configuration's ports, in their order, in
    /// the network namespace of the calling thread, and starts the thread.
    ///
    /// # Errors
    /// One line: what the kernel refused, and about which interface.
    pub fn start(interfaces: Vec<Interface>, config: &Config) -> Result<Self, String> {
        if interfaces.is_empty() {
            return Ok(Self::none());
        }
        let wanted = Wanted::of(config);
        let keeper = Keeper::new(interfaces, &wanted)?;
        let (sender, receiver) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("kernel".into())
            .spawn(move || keeper.run(&receiver))
            .map_err(|error| format!("the thread for the kernel's interfaces: {error}"))?;
        Ok(Self {
            thread: Some((sender, thread)),
            wanted,
        })
    }

    /// The configuration in force is another one. Never blocks.
    pub(super) fn published(&mut self, config: &Config) {
        let Some((sender, _)) = &self.thread else {
            return;
        };
        let wanted = Wanted::of(config);
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
    interfaces: Vec<Kept>,
}

struct Kept {
    name: String,
    index: u32,
    addresses: Vec<Ipv4Net>,
}

impl Keeper {
    fn new(interfaces: Vec<Interface>, wanted: &Wanted) -> Result<Self, String> {
        let failed = |what: &str, error: io::Error| format!("kernel interface {what}: {error}");
        let mut netlink = Netlink::open().map_err(|error| failed("netlink", error))?;
        let mut kept = Vec::with_capacity(interfaces.len());
        for interface in interfaces {
            let Interface { name, mac, mtu } = interface;
            let set_up = netlink.index_of(&name).and_then(|index| {
                netlink.set_up(index, mac, mtu.min(MTU_MAX))?;
                Ok(index)
            });
            kept.push(Kept {
                index: set_up.map_err(|error| failed(&name, error))?,
                name,
                addresses: Vec::new(),
            });
        }
        let mut keeper = Self {
            netlink,
            interfaces: kept,
        };
        for (interface, addresses) in keeper.interfaces.iter_mut().zip(&wanted.addresses) {
            interface
                .give(&mut keeper.netlink, addresses)
                .map_err(|error| failed(&interface.name, error))?;
        }
        Ok(keeper)
    }

    fn run(mut self, wanted: &Receiver<Wanted>) {
        while let Ok(wanted) = wanted.recv() {
            for (interface, addresses) in self.interfaces.iter_mut().zip(&wanted.addresses) {
                if let Err(error) = interface.give(&mut self.netlink, addresses) {
                    log::error!("kernel interface {}: {error}", interface.name);
                }
            }
        }
    }
}

impl Kept {
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
