//! An Ethernet port: what the management core holds, while workers hold its
//! queues.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::device::PortConfig;
use super::error::{Error, check};
use super::netns::{self, Netns};
use super::ring::Ring;
use super::rss::{self, RssStatus};
use super::setup::{self, Attached, Caps};
use super::shared::Shared;
use super::{Eal, Mempool, Queue, removal};

/// State of the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Whether there is one.
    pub up: bool,
    /// Megabits per second, where the driver knows.
    pub speed_mbps: Option<u32>,
    /// Both directions at once.
    pub full_duplex: bool,
}

/// The driver's counters since the port was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets the NIC dropped, as the queues were full.
    pub rx_missed: u64,
    /// Damaged frames.
    pub rx_errors: u64,
    /// Packets dropped for want of a buffer.
    pub rx_no_buffer: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
}

/// A port. Dropped, it is stopped and closed (and its virtual device removed) as
/// soon as no worker holds a queue of it.
///
/// Link and counters may be read from any thread while workers run.
#[derive(Debug)]
pub struct Port {
    shared: Arc<Shared>,
    driver: String,
    mac: [u8; 6],
    mtu: u16,
    queues: u16,
    rss_key: [u8; 40],
    rss_plan: Result<u64, String>,
    rss: RssStatus,
    scatter: bool,
}

impl Port {
    /// Creates the device where it is virtual, and configures it: its queues
    /// receive into `pools`, one for each or one for all. The port is stopped.
    ///
    /// # Errors
    /// What the checks before find (names, namespace, capability), what the
    /// driver can't do ([`Error::Queues`], [`Error::Mtu`], [`Error::NoScatter`]),
    /// or [`Error::Call`].
    pub fn open(eal: &Eal, config: &PortConfig, pools: &[Mempool]) -> Result<Self, Error> {
        let name = config.device.to_string();
        let netns = match &config.netns {
            Some(netns) => Some(Netns::open(&name, netns)?),
            None => None,
        };
        let attached = netns::run_in(netns.as_ref(), || setup::attach(&name, &config.device))?;
        Self::configure(eal, config, pools, name, netns, attached, Vec::new())
    }

    /// Configures an attached device.
    pub(super) fn configure(
        eal: &Eal,
        config: &PortConfig,
        pools: &[Mempool],
        name: String,
        netns: Option<Netns>,
        attached: Attached,
        rings: Vec<Arc<Ring>>,
    ) -> Result<Self, Error> {
        let id = match setup::port_id(&name, &attached) {
            Ok(id) => id,
            Err(error) => {
                setup::detach(&name, &attached)?;
                return Err(error);
            }
        };
        // From here on, dropping it closes the port.
        let shared = Arc::new(Shared {
            id,
            name,
            attached,
            netns,
            started: AtomicBool::new(false),
            control: Mutex::new(()),
            _rings: rings,
            pools: pools.to_vec(),
            _eal: eal.clone(),
        });
        let name = &shared.name;
        // net_tap opens the interface anew for every queue: here, too, the
        // namespace counts.
        let settled = netns::run_in(shared.netns.as_ref(), || {
            let settled = setup::configure(name, id, config, pools)?;
            set_filter(name, id, config.promiscuous)?;
            Ok(settled)
        })?;
        let mut mac = dpdk_sys::rte_ether_addr::default();
        // SAFETY: the port exists; writes an address.
        let code = unsafe { dpdk_sys::rte_eth_macaddr_get(id, &mut mac) };
        check(name, "rte_eth_macaddr_get", code)?;
        let rss = RssStatus::Unavailable(match &settled.rss {
            Ok(_) => "the port is not started".to_owned(),
            Err(reason) => reason.clone(),
        });
        Ok(Self {
            driver: settled.driver,
            mac: mac.addr_bytes,
            mtu: config.mtu,
            queues: config.queues,
            rss_key: config.rss_key,
            rss_plan: settled.rss,
            rss,
            scatter: settled.scatter,
            shared,
        })
    }

    /// Starts receiving, and settles whether the NIC spreads by RSS.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Call`].
    pub fn start(&mut self) -> Result<(), Error> {
        if self.started() {
            return Ok(());
        }
        let shared = self.exclusive()?;
        netns::run_in(shared.netns.as_ref(), || {
            // SAFETY: the port is configured, and nobody holds a queue.
            let code = unsafe { dpdk_sys::rte_eth_dev_start(shared.id) };
            check(&shared.name, "rte_eth_dev_start", code)
        })?;
        shared.started.store(true, Ordering::Release);
        let (id, caps) = (shared.id, Caps::read(&shared.name, shared.id)?);
        if let Ok(functions) = self.rss_plan {
            let reta_size = caps.raw.reta_size;
            self.rss = rss::activate(id, self.queues, &self.rss_key, functions, reta_size);
        }
        Ok(())
    }

    /// Stops receiving.
    ///
    /// # Errors
    /// [`Error::Busy`] while workers hold queues; [`Error::Call`].
    pub fn stop(&mut self) -> Result<(), Error> {
        let shared = self.exclusive()?;
        netns::run_in(shared.netns.as_ref(), || {
            // SAFETY: nobody holds a queue.
            let code = unsafe { dpdk_sys::rte_eth_dev_stop(shared.id) };
            check(&shared.name, "rte_eth_dev_stop", code)
        })?;
        shared.started.store(false, Ordering::Release);
        Ok(())
    }

    /// Changes the MTU, for which a started port is stopped and started.
    ///
    /// # Errors
    /// [`Error::Busy`] while workers hold queues; [`Error::Mtu`];
    /// [`Error::OneBuffer`] where the port was opened for frames of one buffer
    /// and these would need more; [`Error::Call`].
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), Error> {
        let (driver, scatter) = (self.driver.clone(), self.scatter);
        let shared = self.exclusive()?;
        let caps = Caps::read(&shared.name, shared.id)?;
        setup::check_mtu(&shared.name, &driver, &caps.raw, mtu)?;
        if !scatter && !setup::fits_one_buffer(&caps.raw, mtu, &shared.pools) {
            return Err(Error::OneBuffer {
                port: shared.name.clone(),
                mtu,
                room: setup::frame_room(&shared.pools),
            });
        }
        let was_started = self.started();
        if was_started {
            self.stop()?;
        }
        let shared = self.exclusive()?;
        let set = netns::run_in(shared.netns.as_ref(), || {
            // SAFETY: the port is stopped.
            let code = unsafe { dpdk_sys::rte_eth_dev_set_mtu(shared.id, mtu) };
            check(&shared.name, "rte_eth_dev_set_mtu", code)
        });
        if was_started {
            self.start()?;
        }
        set?;
        self.mtu = mtu;
        Ok(())
    }

    /// The port's queues, in the order of the workers. There is one of each:
    /// they can be had again when all have been dropped.
    ///
    /// # Errors
    /// [`Error::NotStarted`]; [`Error::Busy`].
    pub fn take_queues(&mut self) -> Result<Vec<Queue>, Error> {
        self.exclusive()?;
        if !self.started() {
            return Err(Error::NotStarted(self.shared.name.clone()));
        }
        let queues = (0..self.queues)
            .map(|index| Queue::new(Arc::clone(&self.shared), index))
            .collect();
        Ok(queues)
    }

    /// Proof that no worker holds a queue.
    fn exclusive(&mut self) -> Result<&mut Shared, Error> {
        let name = self.shared.name.clone();
        Arc::get_mut(&mut self.shared).ok_or(Error::Busy(name))
    }

    /// Whether it is started.
    pub fn started(&self) -> bool {
        self.shared.started.load(Ordering::Acquire)
    }

    /// The device, as the configuration names it.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The driver's name.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The port's own MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Bytes of the largest IP packet.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Queues in each direction.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// Whether the NIC spreads packets by RSS; settled by [`Port::start`].
    pub fn rss(&self) -> &RssStatus {
        &self.rss
    }

    /// State of the link now.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn link(&self) -> Result<Link, Error> {
        let mut raw = dpdk_sys::fullgate_link::default();
        let code = {
            let _one = self.shared.control();
            // SAFETY: the port exists; writes a link.
            unsafe { dpdk_sys::fullgate_link(self.shared.id, &mut raw) }
        };
        check(&self.shared.name, "rte_eth_link_get_nowait", code)?;
        let speed = raw.speed;
        Ok(Link {
            up: raw.up,
            speed_mbps: (speed != 0 && speed != dpdk_sys::FULLGATE_SPEED_UNKNOWN).then_some(speed),
            full_duplex: raw.full_duplex,
        })
    }

    /// Whether somebody asked for the device back.
    pub fn removal_asked(&self) -> bool {
        removal::is_asked(&self.shared.attached.ethdev, self.shared.id)
    }

    /// The driver's counters now.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn stats(&self) -> Result<PortStats, Error> {
        let mut raw = dpdk_sys::rte_eth_stats::default();
        let code = {
            let _one = self.shared.control();
            // SAFETY: the port exists; writes a set of counters.
            unsafe { dpdk_sys::rte_eth_stats_get(self.shared.id, &mut raw) }
        };
        check(&self.shared.name, "rte_eth_stats_get", code)?;
        Ok(PortStats {
            rx_packets: raw.ipackets,
            rx_bytes: raw.ibytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            rx_no_buffer: raw.rx_nombuf,
            tx_packets: raw.opackets,
            tx_bytes: raw.obytes,
            tx_errors: raw.oerrors,
        })
    }
}

/// Frames to the own address and broadcast come in anyway; neighbour discovery
/// needs multicast. Drivers that filter nothing have none of these calls.
fn set_filter(port: &str, id: u16, promiscuous: bool) -> Result<(), Error> {
    // SAFETY: the port exists.
    let (all, one) = unsafe {
        let one = if promiscuous {
            dpdk_sys::rte_eth_promiscuous_enable(id)
        } else {
            dpdk_sys::rte_eth_promiscuous_disable(id)
        };
        (dpdk_sys::rte_eth_allmulticast_enable(id), one)
    };
    for (call, code) in [
        ("rte_eth_promiscuous_enable", one),
        ("rte_eth_allmulticast_enable", all),
    ] {
        if code != -libc::ENOTSUP {
            check(port, call, code)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::dpdk::Device;

    #[test]
    fn devices_that_only_the_processor_serves() {
        let vdev = |text: &str| Device::Vdev(text.to_owned());
        for copies in [
            Device::Tap { name: "a".into() },
            vdev("net_af_xdp0,iface=veth0"),
            vdev("net_memif1,role=server,id=0"),
            vdev("net_null"),
        ] {
            assert!(copies.copies(), "{copies}");
        }
        for other in [
            Device::Pci("0000:00:05.0".into()),
            vdev("net_virtio_user0,path=/dev/vhost-net"),
            vdev("net_vhost0,iface=/tmp/sock"),
            vdev("net_memif0,role=client,zero-copy=yes"),
            vdev("net_af_xdp_of_another_kind"),
            vdev(""),
        ] {
            assert!(!other.copies(), "{other}");
        }
    }
}
