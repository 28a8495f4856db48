use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const CONFIG: &str = r#"
[runtime]
workers = 2
cores = [2, 3]
main-core = 1
memory = "256M"

[[port]]
name = "wan"
device = "0000:03:00.0"
addresses = ["198.51.100.2/24"]

[[port]]
name = "lan"
device = "0000:03:00.1"
addresses = ["10.20.0.2/16"]

[[pool]]
name = "default"
addresses = ["10.20.0.10"]
"#;

const GOOD: &[(&str, &str)] = &[
    (
        "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
        "256\n",
    ),
    (
        "sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages",
        "200\n",
    ),
    ("sys/devices/system/node/node0/cpulist", "0-3\n"),
    (
        "proc/self/status",
        "Name:\tfullgate\nCapEff:\t0000000000000000\n",
    ),
    (
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units\nMax locked memory         unlimited            unlimited            bytes\n",
    ),
    ("sys/bus/pci/devices/0000:03:00.0/vendor", "0x8086\n"),
    ("sys/bus/pci/devices/0000:03:00.0/numa_node", "0\n"),
    (
        "sys/bus/pci/devices/0000:03:00.0/driver",
        "-> ../../../bus/pci/drivers/vfio-pci",
    ),
    ("sys/bus/pci/devices/0000:03:00.1/vendor", "0x15b3\n"),
    ("sys/bus/pci/devices/0000:03:00.1/numa_node", "0\n"),
    (
        "sys/bus/pci/devices/0000:03:00.1/driver",
        "-> ../../../bus/pci/drivers/mlx5_core",
    ),
    ("sys/module/vfio_pci/refcnt", "1\n"),
    ("sys/module/vfio/refcnt", "1\n"),
    (
        "etc/dpdk/interfaces",
        "# bus id driver\npci\t0000:03:00.0 vfio-pci\n",
    ),
    (
        "etc/systemd/system/multi-user.target.wants/dpdk.service",
        "[Unit]\n",
    ),
    ("sys/kernel/iommu_groups/0/type", "DMA\n"),
    ("sys/devices/system/cpu/online", "0-3\n"),
    ("sys/devices/system/cpu/isolated", "2-3\n"),
    ("sys/devices/system/cpu/cpu2/node0/cpulist", "0-3\n"),
    ("sys/devices/system/cpu/cpu3/node0/cpulist", "0-3\n"),
    (
        "sys/devices/system/cpu/cpu2/topology/thread_siblings_list",
        "2\n",
    ),
    (
        "sys/devices/system/cpu/cpu3/topology/thread_siblings_list",
        "3\n",
    ),
    (
        "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor",
        "performance\n",
    ),
    (
        "sys/devices/system/cpu/cpu3/cpufreq/scaling_governor",
        "performance\n",
    ),
    (
        "sys/devices/system/clocksource/clocksource0/current_clocksource",
        "tsc\n",
    ),
    (
        "proc/cpuinfo",
        "vendor_id\t: GenuineIntel\nflags\t\t: fpu tsc constant_tsc nonstop_tsc\n",
    ),
];

/// What differs on a host where hardly anything is done; an empty text takes
/// the file away.
const BAD: &[(&str, &str)] = &[
    (
        "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
        "16\n",
    ),
    (
        "sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages",
        "16\n",
    ),
    ("sys/devices/system/node/node1/cpulist", "4-7\n"),
    (
        "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
        "0\n",
    ),
    (
        "proc/self/limits",
        "Max locked memory         8388608              8388608              bytes\n",
    ),
    ("sys/bus/pci/devices/0000:03:00.0/numa_node", "1\n"),
    (
        "sys/bus/pci/devices/0000:03:00.0/driver",
        "-> ../../../bus/pci/drivers/ixgbe",
    ),
    ("sys/bus/pci/devices/0000:03:00.0/net/enp3s0/mtu", "1500\n"),
    ("sys/bus/pci/devices/0000:03:00.1/driver", ""),
    ("sys/module/vfio_pci/refcnt", ""),
    ("sys/kernel/iommu_groups/0/type", ""),
    ("sys/devices/system/cpu/isolated", "\n"),
    (
        "sys/devices/system/cpu/cpu2/topology/thread_siblings_list",
        "2-3\n",
    ),
    (
        "sys/devices/system/cpu/cpu3/topology/thread_siblings_list",
        "2-3\n",
    ),
    (
        "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor",
        "powersave\n",
    ),
    (
        "sys/devices/system/cpu/cpu3/cpufreq/scaling_governor",
        "schedutil\n",
    ),
    (
        "proc/cpuinfo",
        "vendor_id\t: GenuineIntel\nflags\t\t: fpu tsc\n",
    ),
];

/// The report on a host with these files; later ones replace earlier ones, and
/// those that start with `-> ` are links.
fn report(files: &[&[(&str, &str)]], config: &str) -> Report {
    let root = tempfile::tempdir().expect("a directory");
    let merged: std::collections::BTreeMap<&str, &str> = files
        .iter()
        .flat_map(|files| files.iter().copied())
        .collect();
    for (path, content) in merged {
        if content.is_empty() {
            continue;
        }
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        match content.strip_prefix("-> ") {
            Some(target) => symlink(target, path).expect("a link"),
            None => fs::write(path, content).expect("a file"),
        }
    }
    let config = Config::parse("test", config)
        .expect("a configuration")
        .config;
    preflight(root.path(), &config)
}

#[test]
fn a_good_host() {
    let report = report(&[GOOD], CONFIG);
    assert!(report.is_ready());
    assert_eq!(
        report.to_string(),
        "\
ok      hugepages  node 0: 200 of 256 pages of 2 MB are free
ok      memlock    the limit is unlimited
ok      iommu      vfio-pci is loaded
ok      iommu      the IOMMU is on
ok      driver     port wan: 0000:03:00.0 is bound to vfio-pci
ok      boot       port wan: 0000:03:00.0: /etc/dpdk/interfaces binds it to vfio-pci
ok      driver     port lan: 0000:03:00.1 stays with mlx5_core
ok      cores      2,3 are online
ok      isolation  the workers' cores are isolated
ok      numa       port wan: node 0, as its workers
ok      numa       port lan: node 0, as its workers
ok      governor   no core saves power
ok      tsc        constant, and never stops
ready: 0 wrong, 0 could be better
"
    );
}

#[test]
fn a_bad_host() {
    let report = report(&[GOOD, BAD], CONFIG);
    assert!(!report.is_ready());
    assert_eq!(
        report.to_string(),
        r#"ok      hugepages  node 0: 16 of 16 pages of 2 MB are free
wrong   hugepages  32 MB are free, 256 MB are needed
                -> echo 112 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages
wrong   memlock    the limit is 8388608 bytes, and a NIC needs 256 MB locked
                -> ulimit -l unlimited (LimitMEMLOCK=infinity in a systemd unit)
wrong   iommu      the module vfio-pci is not loaded
                -> modprobe vfio-pci && echo vfio-pci > /etc/modules-load.d/fullgate.conf
wrong   iommu      it is off, or there is none
                -> add "intel_iommu=on iommu=pt" to the kernel command line; a virtual machine needs one from its host (this kernel's vfio does not work without), or the driver uio_pci_generic, which no IOMMU guards
wrong   driver     port wan: 0000:03:00.0 belongs to the kernel's driver ixgbe (interface enp3s0)
                -> ip link set enp3s0 down && dpdk-devbind.py --bind=vfio-pci 0000:03:00.0
wrong   driver     port lan: 0000:03:00.1 has to stay with its kernel driver
                -> dpdk-devbind.py --bind=mlx5_core 0000:03:00.1
ok      cores      2,3 are online
advice  isolation  the kernel schedules other threads on core 2,3
                -> add "isolcpus=2,3 nohz_full=2,3 rcu_nocbs=2,3" to the kernel command line
advice  threads    cores 2 and 3 are threads of one physical core
                -> give each worker a physical core (lscpu -e=CPU,CORE,NODE)
advice  numa       port wan: node 1, but core 2,3 is on another
                -> give runtime.cores out of 4-7
ok      numa       port lan: node 0, as its workers
advice  governor   core 2,3 changes its frequency by load
                -> echo performance | tee /sys/devices/system/cpu/cpu{2,3}/cpufreq/scaling_governor
advice  tsc        not said to be constant (no constant_tsc); timers go by it
                -> in a virtual machine, give it the host's CPU model (host-passthrough)
not ready: 6 wrong, 5 could be better
"#
    );
}

/// One thing at a time on a host that is good otherwise.
#[test]
fn single_findings() {
    let tap = "[runtime]\nhugepages = false\n[[port]]\nname = \"net\"\ndevice = \"tap:fg0\"\naddresses = [\"10.0.0.1/24\"]\n";
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str, bool);
    let rows: &[Row<'_>] = &[
        (
            &[("dev/net/tun", "x")],
            tap,
            "ok      tap        /dev/net/tun is there",
            true,
        ),
        (
            &[],
            tap,
            "ok      hugepages  not used: hugepages = false",
            false,
        ),
        (
            &[],
            tap,
            "wrong   tap        port net: there is no /dev/net/tun",
            false,
        ),
        (
            &[
                ("proc/self/status", "CapEff:\t0000000000004000\n"),
                ("proc/self/limits", "x"),
            ],
            CONFIG,
            "ok      memlock    may lock memory without limit (CAP_IPC_LOCK)",
            true,
        ),
        (
            &[("sys/devices/system/cpu/online", "0-2\n")],
            CONFIG,
            "wrong   cores      core 3 is not online",
            false,
        ),
        (
            &[
                ("sys/kernel/iommu_groups/0/type", ""),
                (
                    "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
                    "Y\n",
                ),
            ],
            CONFIG,
            "advice  iommu      there is none, and vfio works without: a NIC can write to any memory",
            true,
        ),
        // The kernel's virtio interfaces are a directory deeper.
        (
            &[
                (
                    "sys/bus/pci/devices/0000:03:00.0/driver",
                    "-> ../drivers/virtio-pci",
                ),
                (
                    "sys/bus/pci/devices/0000:03:00.0/virtio3/net/ens4/mtu",
                    "1500\n",
                ),
            ],
            CONFIG,
            "                -> ip link set ens4 down && dpdk-devbind.py --bind=vfio-pci 0000:03:00.0",
            false,
        ),
        (
            &[
                ("sys/kernel/iommu_groups/0/type", ""),
                (
                    "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
                    "N\n",
                ),
            ],
            CONFIG,
            "                -> add \"intel_iommu=on iommu=pt\" to the kernel command line; without an IOMMU: \
             modprobe vfio && echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
            false,
        ),
        (
            &[
                ("sys/kernel/iommu_groups/0/type", ""),
                ("sys/module/vfio/refcnt", ""),
                ("proc/sys/kernel/osrelease", "6.9-x\n"),
                (
                    "boot/config-6.9-x",
                    "CONFIG_VFIO=m\nCONFIG_VFIO_NOIOMMU=y\n",
                ),
            ],
            CONFIG,
            "                -> add \"intel_iommu=on iommu=pt\" to the kernel command line; without an IOMMU: \
             modprobe vfio && echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
            false,
        ),
        (
            &[("etc/dpdk/interfaces", "#pci 0000:03:00.0 vfio-pci\n")],
            CONFIG,
            "advice  boot       port wan: 0000:03:00.0: nothing binds it to vfio-pci after the next boot",
            true,
        ),
        (
            &[(
                "etc/systemd/system/multi-user.target.wants/dpdk.service",
                "",
            )],
            CONFIG,
            "advice  boot       port wan: 0000:03:00.0: /etc/dpdk/interfaces binds it, but dpdk.service is not enabled",
            true,
        ),
        (
            &[
                ("etc/dpdk/interfaces", ""),
                ("etc/driverctl.d/0000:03:00.0", "vfio-pci\n"),
            ],
            CONFIG,
            "ok      boot       port wan: 0000:03:00.0: /etc/driverctl.d binds it to vfio-pci",
            true,
        ),
        (
            &[
                ("etc/dpdk/interfaces", ""),
                ("sys/bus/pci/devices/0000:03:00.0/device", "0x10fb\n"),
                (
                    "proc/cmdline",
                    "quiet vfio-pci.ids=1af4:1041,8086:10FB ro\n",
                ),
            ],
            CONFIG,
            "ok      boot       port wan: 0000:03:00.0: vfio-pci.ids binds it to vfio-pci",
            true,
        ),
        (
            &[
                ("etc/dpdk/interfaces", ""),
                ("sys/bus/pci/devices/0000:03:00.0/device", "0x10fb\n"),
                (
                    "etc/modprobe.d/nic.conf",
                    "options vfio-pci disable_vga=1 ids=8086:10fb\n",
                ),
            ],
            CONFIG,
            "ok      boot       port wan: 0000:03:00.0: vfio-pci.ids binds it to vfio-pci",
            true,
        ),
        (
            &[(
                "sys/bus/pci/devices/0000:03:00.0/driver",
                "-> ../drivers/uio_pci_generic",
            )],
            CONFIG,
            "advice  driver     port wan: 0000:03:00.0 is bound to uio_pci_generic, which no IOMMU guards",
            true,
        ),
        (
            &[
                ("sys/bus/pci/devices/0000:03:00.0/driver", ""),
                ("sys/bus/pci/devices/0000:03:00.0/vendor", ""),
                ("sys/bus/pci/devices/0000:03:00.0/numa_node", ""),
            ],
            CONFIG,
            "wrong   driver     port wan: 0000:03:00.0 is no PCI device of this host",
            false,
        ),
        (
            &[(
                "sys/devices/system/clocksource/clocksource0/current_clocksource",
                "hpet",
            )],
            CONFIG,
            "advice  tsc        the kernel trusts hpet instead: see dmesg for why",
            true,
        ),
        (
            &[(
                "proc/meminfo",
                "MemTotal: 9 kB\nMemAvailable:     1048576 kB\n",
            )],
            CONFIG,
            "ok      memory     1024 MB are available, 294 MB are needed",
            true,
        ),
        (
            &[("proc/meminfo", "MemAvailable:     204800 kB\n")],
            CONFIG,
            "wrong   memory     294 MB of memory are needed (294 MB for runtime.connections = \
             1000000 of 2 workers), and 200 MB are available (MemAvailable of /proc/meminfo)",
            false,
        ),
        (
            &[
                ("proc/meminfo", "MemAvailable:     1048576 kB\n"),
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/memory.max", "max\n"),
                ("sys/fs/cgroup/a/memory.max", "268435456\n"),
                ("sys/fs/cgroup/a/memory.current", "104857600\n"),
                (
                    "sys/fs/cgroup/a/memory.stat",
                    "file 1\ninactive_file 52428800\n",
                ),
            ],
            CONFIG,
            "wrong   memory     294 MB of memory are needed (294 MB for runtime.connections = \
             1000000 of 2 workers), and 206 MB are available (/sys/fs/cgroup/a/memory.max)",
            false,
        ),
        (
            &[("proc/cpuinfo", "flags : constant_tsc")],
            CONFIG,
            "advice  tsc        it may stop in deep sleep (no nonstop_tsc)",
            true,
        ),
        (
            &[
                ("sys/devices/system/cpu/cpu2/node0/cpulist", ""),
                ("sys/devices/system/cpu/cpu2/node1/cpulist", "2\n"),
                (
                    "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages",
                    "0\n",
                ),
            ],
            CONFIG,
            "advice  hugepages  none is free on node 1, which has ports or workers",
            true,
        ),
    ];
    for (files, config, line, ready) in rows {
        let report = report(&[GOOD, files], config);
        let text = report.to_string();
        assert!(
            text.lines().any(|found| found == *line),
            "no {line:?} in\n{text}"
        );
        assert_eq!(report.is_ready(), *ready, "{text}");
    }
}
