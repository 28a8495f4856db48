//! From the configuration to open ports: EAL, buffers, devices, steering.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use fullgate::config::{self, Config};
use fullgate::dpdk::{
    self, Device, Eal, EalConfig, Memory, Mempool, PoolConfig, Port, PortConfig, RssStatus,
};
use fullgate::exception;
use fullgate::host::kernel::{self, Kernel};
use fullgate::ids::PortIx;
use fullgate::management::patience::Patience;
use fullgate::management::steer::{self, Asked, Impossible};
use fullgate::service::snapshot::PortInfo;
use fullgate::snat::steering::Steering;
use fullgate::snat::toeplitz::DEFAULT_KEY;
use fullgate::stats::readings::PortSteering;
use fullgate::wire::ethernet::MacAddr;

use super::{Failure, Mistake};

/// Bytes of a packet buffer with its headroom: a frame of the usual MTU.
const DATA_ROOM: u16 = 2_176;

pub(super) fn eal_config(config: &Config) -> EalConfig {
    let megabytes = (config.memory() >> 20) as u32;
    EalConfig {
        memory: match config.runtime.hugepages {
            true => Memory::Hugepages {
                reserve_mb: megabytes,
            },
            false => Memory::Ordinary {
                total_mb: megabytes,
            },
        },
        pci: config
            .pci_ports()
            .map(|(_, address)| address.to_owned())
            .collect(),
        main_core: config.runtime.main_core.map(u32::from),
        file_prefix: config.runtime.instance.clone(),
        ..EalConfig::default()
    }
}

/// The pool that each worker's packets come from: one for all workers of a
/// NUMA node.
pub(super) fn pools(eal: &Eal, config: &Config) -> Result<Vec<Mempool>, Failure> {
    let cores = config.runtime.cores.as_deref().unwrap_or_default();
    let sockets: Vec<Option<u32>> = (0..usize::from(config.runtime.workers))
        .map(|worker| dpdk::socket_of(u32::from(*cores.get(worker)?)))
        .collect();
    let processor_only = config.ports.iter().all(|port| device(port).copies());
    let mut made: BTreeMap<Option<u32>, Mempool> = BTreeMap::new();
    for &socket in &sockets {
        if made.contains_key(&socket) {
            continue;
        }
        let workers = sockets.iter().filter(|other| **other == socket).count() as u32;
        let config = PoolConfig {
            name: socket.map_or("packets".into(), |socket| format!("packets-{socket}")),
            count: workers * config.mbufs() - 1,
            data_room: DATA_ROOM,
            socket,
            processor_only,
        };
        made.insert(socket, Mempool::new(eal, &config)?);
    }
    Ok(sockets.iter().map(|socket| made[socket].clone()).collect())
}

/// What a port is on, as the driver layer says it.
pub(super) fn device(port: &config::Port) -> Device {
    match &port.device {
        config::Device::Tap(name) => Device::Tap { name: name.clone() },
        config::Device::Pci(address) => Device::Pci(address.clone()),
        config::Device::Vdev(device) => Device::Vdev(device.clone()),
    }
}

/// The ports, started; each queue receives into its worker's pool.
pub(super) fn open_ports(
    eal: &Eal,
    config: &Config,
    pools: &[Mempool],
    patience: &Patience,
) -> Result<Vec<Port>, Failure> {
    let one_pool = pools
        .windows(2)
        .all(|pair| pair[0].name() == pair[1].name());
    let mut ports = Vec::with_capacity(config.ports.len());
    for port in &config.ports {
        let wanted = PortConfig {
            device: device(port),
            queues: config.runtime.workers.into(),
            rx_desc: port.rx_descriptors,
            tx_desc: port.tx_descriptors,
            mtu: port.mtu,
            promiscuous: false,
            netns: port.netns.clone(),
            rss_key: DEFAULT_KEY,
            one_pool,
        };
        let failed = |error: dpdk::Error| -> Failure {
            let line = format!("port {}: {error}", port.name);
            match error.is_permanent() {
                true => Mistake(line).into(),
                false => line.into(),
            }
        };
        patience.step(format!("opening port {} ({})", port.name, wanted.device));
        let mut opened = Port::open(eal, &wanted, pools).map_err(failed)?;
        let driver = opened.driver().to_owned();
        patience.step(format!(
            "starting port {} ({}, driver {driver})",
            port.name, wanted.device
        ));
        opened.start().map_err(failed)?;
        ports.push(opened);
    }
    Ok(ports)
}

/// Who delivers packets to their workers, and what each port has to do with it.
pub(super) fn steering(
    config: &Config,
    ports: &[Port],
) -> Result<(Steering, Vec<PortSteering>), Failure> {
    let ports = config.ports.iter().zip(ports);
    let asked = ports.map(|(port, opened)| Asked {
        port: &port.name,
        choice: port.steering,
        nic: match opened.rss() {
            RssStatus::Unavailable(why) => Err(why.clone()),
            RssStatus::Active { flows, .. } if !(flows.ipv4_tcp && flows.ipv4_udp) => {
                Err("the NIC does not hash both TCP and UDP by ports".into())
            }
            RssStatus::Active { reta, .. } => Ok(reta.clone()),
        },
    });
    let asked: Vec<Asked<'_>> = asked.collect();
    let runtime = &config.runtime;
    let decision =
        steer::decide(&asked, runtime.workers, runtime.reta_size).map_err(|error| -> Failure {
            match error.downcast::<Impossible>() {
                Ok(impossible) => Mistake(impossible.to_string()).into(),
                Err(other) => other,
            }
        })?;
    for (port, steering) in asked.iter().zip(&decision.ports) {
        match &steering.reason {
            None => log::info!("port {}: {}", port.port, steering.nic),
            Some(why) => {
                log::info!("port {}: packets are steered by software: {why}", port.port);
            }
        }
    }
    let steering = Steering::new(DEFAULT_KEY, decision.reta, decision.mode)?;
    Ok((steering, decision.ports))
}

/// What EAL does at start, in words: it asks the drivers of PCI devices about them.
pub(super) fn probing(config: &Config) -> String {
    let devices: Vec<&str> = config.pci_ports().map(|(_, address)| address).collect();
    match devices.as_slice() {
        [] => "starting DPDK".to_owned(),
        devices => format!("starting DPDK, which asks {}", devices.join(", ")),
    }
}

/// Each worker's queues, one on every port.
pub(super) fn take_queues(ports: &mut [Port]) -> Result<Vec<Vec<dpdk::Queue>>, dpdk::Error> {
    let mut queues: Vec<Vec<dpdk::Queue>> = Vec::new();
    for port in ports {
        let taken = port.take_queues()?;
        queues.resize_with(taken.len(), Vec::new);
        for (worker, queue) in queues.iter_mut().zip(taken) {
            worker.push(queue);
        }
    }
    Ok(queues)
}

pub(super) fn port_infos(config: &Config, ports: &[Arc<Port>]) -> Vec<PortInfo> {
    let info = |(port, opened): (&config::Port, &Arc<Port>)| {
        PortInfo::opened(&port.name, MacAddr(opened.mac()), opened.mtu())
    };
    config.ports.iter().zip(ports).map(info).collect()
}

/// The kernel's interfaces of the ports that have one, up and with addresses.
pub(super) fn kernel_interfaces(
    config: &Config,
    infos: &[PortInfo],
) -> Result<(Kernel, Vec<exception::Interface>), Failure> {
    let (mut interfaces, mut set_ups) = (Vec::new(), Vec::new());
    for (ix, (port, info)) in config.ports.iter().zip(infos).enumerate() {
        let Some(wanted) = &port.kernel else { continue };
        let name = wanted.name.clone();
        let file = dpdk::open_tap(&name).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::ResourceBusy => "an interface of this name exists".to_owned(),
                _ => error.to_string(),
            };
            format!("port {}: kernel-interface {name}: {why}", port.name)
        })?;
        set_ups.push(kernel::Interface {
            name: name.clone(),
            mac: info.mac,
            mtu: info.mtu,
        });
        interfaces.push(exception::Interface {
            port: PortIx(ix as u8),
            name,
            file,
            counters: Arc::default(),
        });
    }
    Ok((Kernel::start(set_ups, config)?, interfaces))
}
