//! Brings a device to the point where its port can be started: what the
//! configuration wants against what the driver reports.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::device::{Device, PortConfig};
use super::error::{Error, check};
use super::{Mempool, eal, rss};

/// What the driver reports, as far as it matters here.
pub(super) struct Caps {
    pub(super) driver: String,
    pub(super) raw: dpdk_sys::rte_eth_dev_info,
}

impl Caps {
    pub(super) fn read(port: &str, id: u16) -> Result<Self, Error> {
        let mut raw = MaybeUninit::<dpdk_sys::rte_eth_dev_info>::zeroed();
        // SAFETY: writes a structure of that type; refuses an unknown port.
        let code = unsafe { dpdk_sys::rte_eth_dev_info_get(id, raw.as_mut_ptr()) };
        check(port, "rte_eth_dev_info_get", code)?;
        // SAFETY: all-zero was a valid value already, and the driver filled it.
        let raw = unsafe { raw.assume_init() };
        let driver = if raw.driver_name.is_null() {
            "unknown".to_owned()
        } else {
            // SAFETY: a driver's name is a terminated string constant.
            unsafe { std::ffi::CStr::from_ptr(raw.driver_name) }
                .to_string_lossy()
                .into_owned()
        };
        Ok(Self { driver, raw })
    }
}

/// The names under which EAL knows a device that it has probed.
#[derive(Debug)]
pub(super) struct Attached {
    /// Of the Ethernet device.
    pub(super) ethdev: CString,
    /// Whether it has to be removed from the virtual bus at the end.
    pub(super) on_vdev_bus: bool,
}

/// Creates a virtual device; a PCI device is there since EAL started.
pub(super) fn attach(port: &str, device: &Device) -> Result<Attached, Error> {
    static NEXT_TAP: AtomicU32 = AtomicU32::new(0);
    let (name, arguments) = match device {
        Device::Pci(address) => {
            return Ok(Attached {
                ethdev: c_string("PCI address", &eal::full_pci_address(address))?,
                on_vdev_bus: false,
            });
        }
        Device::Tap { name } => {
            check_tap(port, name)?;
            let number = NEXT_TAP.fetch_add(1, Ordering::Relaxed);
            (format!("net_tap{number}"), format!("iface={name}"))
        }
        Device::Vdev(string) => {
            let (name, arguments) = string.split_once(',').unwrap_or((string, ""));
            (name.to_owned(), arguments.to_owned())
        }
    };
    let name = c_string("device", &name)?;
    let arguments = c_string("device arguments", &arguments)?;
    // SAFETY: three terminated strings, which EAL copies.
    let code = unsafe {
        dpdk_sys::rte_eal_hotplug_add(c"vdev".as_ptr(), name.as_ptr(), arguments.as_ptr())
    };
    check(port, "the device can't be created", code)?;
    Ok(Attached {
        ethdev: name,
        on_vdev_bus: true,
    })
}

/// Removes a virtual device that `attach` created.
pub(super) fn detach(port: &str, attached: &Attached) -> Result<(), Error> {
    if !attached.on_vdev_bus {
        return Ok(());
    }
    // SAFETY: two terminated strings; EAL refuses a device it does not have.
    let code =
        unsafe { dpdk_sys::rte_eal_hotplug_remove(c"vdev".as_ptr(), attached.ethdev.as_ptr()) };
    check(port, "rte_eal_hotplug_remove", code)
}

/// DPDK's number of the port.
pub(super) fn port_id(port: &str, attached: &Attached) -> Result<u16, Error> {
    let mut id = 0;
    // SAFETY: a terminated string in, a number out.
    let code = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(attached.ethdev.as_ptr(), &mut id) };
    if code != 0 {
        return Err(Error::NoDriver {
            port: port.to_owned(),
            said: eal::first_error(),
        });
    }
    Ok(id)
}

fn c_string(what: &'static str, value: &str) -> Result<CString, Error> {
    CString::new(value).map_err(|_| Error::ZeroByte {
        what,
        value: value.to_owned(),
    })
}

/// Looks at what net_tap would answer with "Invalid argument", whatever is wrong.
fn check_tap(port: &str, name: &str) -> Result<(), Error> {
    let blank = |c: char| c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > 15 || name.contains(['/', ',', '=']) || name.contains(blank)
    {
        return Err(Error::InterfaceName(name.to_owned()));
    }
    const TUN: &str = "/dev/net/tun";
    if let Err(source) = std::fs::metadata(Path::new(TUN)) {
        return Err(Error::File {
            port: port.to_owned(),
            path: TUN.to_owned(),
            source,
        });
    }
    const CAP_NET_ADMIN: u32 = 12;
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    if effective.is_some_and(|mask| mask & (1 << CAP_NET_ADMIN) == 0) {
        return Err(Error::Capability {
            port: port.to_owned(),
            capability: "CAP_NET_ADMIN",
        });
    }
    Ok(())
}

/// What was settled with the driver.
pub(super) struct Settled {
    pub(super) driver: String,
    /// Hash functions to be activated once the port is started, or why none.
    pub(super) rss: Result<u64, String>,
    pub(super) scatter: bool,
}

/// Configures the port and sets its queues up.
pub(super) fn configure(
    port: &str,
    id: u16,
    config: &PortConfig,
    pools: &[Mempool],
) -> Result<Settled, Error> {
    let queues = config.queues;
    let all_pools = pools.len() == usize::from(queues) || pools.len() == 1;
    if queues == 0 || !all_pools {
        return Err(Error::Pools {
            port: port.to_owned(),
            given: pools.len(),
            queues,
        });
    }
    let Caps { driver, raw: info } = Caps::read(port, id)?;
    let available = info.max_rx_queues.min(info.max_tx_queues);
    if queues > available {
        return Err(Error::Queues {
            port: port.to_owned(),
            driver,
            asked: queues,
            available,
        });
    }
    check_mtu(port, &driver, &info, config.mtu)?;
    let scatter = !fits_one_buffer(&info, config.mtu, pools);
    if scatter {
        check_scatter(port, &driver, &info, config.mtu, pools)?;
    }

    let mut conf = MaybeUninit::<dpdk_sys::rte_eth_conf>::zeroed();
    // SAFETY: DPDK's examples start from all-zero, too: numbers, null pointers
    // and enumerations of which 0 is a value.
    let conf = unsafe { conf.assume_init_mut() };
    conf.rxmode.mtu = config.mtu.into();
    conf.rxmode.offloads = info.rx_offload_capa & dpdk_sys::FULLGATE_RX_OFFLOAD_IPV4_CKSUM;
    if scatter {
        conf.rxmode.offloads |= dpdk_sys::FULLGATE_RX_OFFLOAD_SCATTER;
        conf.txmode.offloads |= info.tx_offload_capa & dpdk_sys::FULLGATE_TX_OFFLOAD_MULTI_SEGS;
    } else if config.one_pool {
        conf.txmode.offloads |= info.tx_offload_capa & dpdk_sys::FULLGATE_TX_OFFLOAD_FAST_FREE;
    }
    let rss = rss::plan(&driver, info.flow_type_rss_offloads, queues);
    let mut key = rss::key_of_length(&config.rss_key, info.hash_key_size);
    if let Ok(functions) = rss {
        conf.rxmode.mq_mode = dpdk_sys::FULLGATE_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
        conf.rx_adv_conf.rss_conf.rss_key_len = key.len() as u8;
        conf.rx_adv_conf.rss_conf.rss_hf = functions;
    }
    // SAFETY: the port exists and is stopped; the key outlives the call, which
    // copies the configuration and, in the driver, the key.
    let code = unsafe { dpdk_sys::rte_eth_dev_configure(id, queues, queues, conf) };
    check(port, "rte_eth_dev_configure", code)?;

    let (mut rx, mut tx) = (config.rx_desc, config.tx_desc);
    // SAFETY: two numbers in and out.
    let code = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &mut rx, &mut tx) };
    check(port, "rte_eth_dev_adjust_nb_rx_tx_desc", code)?;
    let mut rx_conf = info.default_rxconf;
    rx_conf.offloads = conf.rxmode.offloads;
    let mut tx_conf = info.default_txconf;
    tx_conf.offloads = conf.txmode.offloads;
    for queue in 0..queues {
        let pool = &pools[usize::from(queue) % pools.len()];
        let socket = pool.socket() as u32;
        // SAFETY: the port is configured with that many queues; the pool is kept
        // by the port until it is closed; the configurations are copied.
        let (rx_code, tx_code) = unsafe {
            (
                dpdk_sys::rte_eth_rx_queue_setup(id, queue, rx, socket, &rx_conf, pool.raw()),
                dpdk_sys::rte_eth_tx_queue_setup(id, queue, tx, socket, &tx_conf),
            )
        };
        check(port, "rte_eth_rx_queue_setup", rx_code)?;
        check(port, "rte_eth_tx_queue_setup", tx_code)?;
    }
    Ok(Settled {
        driver,
        rss,
        scatter,
    })
}

pub(super) fn check_mtu(
    port: &str,
    driver: &str,
    info: &dpdk_sys::rte_eth_dev_info,
    mtu: u16,
) -> Result<(), Error> {
    let by_frame = info.max_rx_pktlen.saturating_sub(overhead(info));
    let max = info.max_mtu.min(by_frame.min(u16::MAX.into()) as u16);
    if (info.min_mtu..=max).contains(&mtu) {
        return Ok(());
    }
    Err(Error::Mtu {
        port: port.to_owned(),
        driver: driver.to_owned(),
        asked: mtu,
        min: info.min_mtu,
        max,
    })
}

/// Bytes by which a frame is longer than its IP packet, as the driver counts.
fn overhead(info: &dpdk_sys::rte_eth_dev_info) -> u32 {
    // Ethernet header and checksum, where the driver does not say.
    const USUAL: u32 = 14 + 4;
    match info.max_mtu {
        u16::MAX => USUAL,
        max => info.max_rx_pktlen.saturating_sub(max.into()).max(USUAL),
    }
}

/// Whether a frame of that MTU fits a buffer of every pool.
pub(super) fn fits_one_buffer(
    info: &dpdk_sys::rte_eth_dev_info,
    mtu: u16,
    pools: &[Mempool],
) -> bool {
    // Drivers that say nonsense about one of the two lengths don't decide.
    let frame = u32::from(mtu) + overhead(info).min(64);
    pools.iter().all(|pool| frame <= pool.frame_room())
}

/// Drivers that offer to receive a frame into several buffers and can't. DPDK's
/// vmxnet3 leaves `maxNumRxSG` of its device at 0: one descriptor a frame, and what
/// is longer comes as an error.
const ONE_BUFFER: [&str; 1] = ["net_vmxnet3"];

/// Refuses where frames need several buffers and the driver can't do that.
fn check_scatter(
    port: &str,
    driver: &str,
    info: &dpdk_sys::rte_eth_dev_info,
    mtu: u16,
    pools: &[Mempool],
) -> Result<(), Error> {
    let receives = info.rx_offload_capa & dpdk_sys::FULLGATE_RX_OFFLOAD_SCATTER != 0;
    let sends = info.tx_offload_capa & dpdk_sys::FULLGATE_TX_OFFLOAD_MULTI_SEGS != 0;
    if receives && sends && !ONE_BUFFER.contains(&driver) {
        return Ok(());
    }
    Err(Error::NoScatter {
        port: port.to_owned(),
        driver: driver.to_owned(),
        mtu,
        room: frame_room(pools),
    })
}

/// Bytes that a frame can have in one buffer of any pool.
pub(super) fn frame_room(pools: &[Mempool]) -> u32 {
    pools.iter().map(Mempool::frame_room).min().unwrap_or(0)
}
