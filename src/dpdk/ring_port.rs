//! A port whose wire is a pair of rings in memory.

use std::ffi::CString;
use std::sync::Arc;

use super::device::{Device, PortConfig};
use super::error::{Errno, Error};
use super::port::Port;
use super::ring::{Ring, RingEnd};
use super::setup::Attached;
use super::{Eal, Mempool};

/// A port of `queues` queues with a ring of `size` (a power of two; one less
/// fits) in each direction of each, and the far ends, in the queues' order.
/// `name` must be unique in the process.
///
/// # Errors
/// [`Error::Call`] where there is no memory or the name is taken.
pub fn ring_port(
    eal: &Eal,
    name: &str,
    queues: u16,
    size: u32,
    pool: &Mempool,
) -> Result<(Port, Vec<RingEnd>), Error> {
    // The name that DPDK gives the device.
    let ethdev = format!("net_ring_{name}");
    let ends = (0..queues)
        .map(|queue| {
            Ok(RingEnd {
                to_port: Ring::new(eal, &ethdev, &format!("{name}_rx{queue}"), size)?,
                from_port: Ring::new(eal, &ethdev, &format!("{name}_tx{queue}"), size)?,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let raw = |ring: &Arc<Ring>| ring.raw.as_ptr();
    let rx: Vec<_> = ends.iter().map(|end| raw(&end.to_port)).collect();
    let tx: Vec<_> = ends.iter().map(|end| raw(&end.from_port)).collect();
    let c_string = |value: &str| {
        CString::new(value).map_err(|_| Error::ZeroByte {
            what: "ring port",
            value: value.to_owned(),
        })
    };
    let short = c_string(name)?;
    // SAFETY: EAL is initialised; a terminated name, and as many rings as said,
    // which the port made of them keeps until it is closed.
    let id = unsafe {
        dpdk_sys::rte_eth_from_rings(
            short.as_ptr(),
            rx.as_ptr(),
            rx.len() as u32,
            tx.as_ptr(),
            tx.len() as u32,
            0,
        )
    };
    if id < 0 {
        return Err(Error::Call {
            port: ethdev,
            call: "rte_eth_from_rings",
            errno: Errno::last(),
        });
    }
    let attached = Attached {
        ethdev: c_string(&ethdev)?,
        on_vdev_bus: true,
    };
    let config = PortConfig {
        device: Device::Vdev(ethdev.clone()),
        queues,
        rx_desc: 512,
        tx_desc: 512,
        mtu: 1500,
        promiscuous: false,
        netns: None,
        rss_key: [0; 40],
        one_pool: true,
    };
    let rings = ends
        .iter()
        .flat_map(|end| [Arc::clone(&end.to_port), Arc::clone(&end.from_port)])
        .collect();
    let pools = std::slice::from_ref(pool);
    let port = Port::configure(eal, &config, pools, ethdev, None, attached, rings)?;
    Ok((port, ends))
}
