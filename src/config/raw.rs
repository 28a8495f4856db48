//! The file as written: every key optional and unchecked. The same structures
//! read TOML files and JSON admin requests, and write files back.

use serde::{Deserialize, Serialize};

macro_rules! raw {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub struct $name {
            $(
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$kind>,
            )*
        }

        impl $name {
            /// The keys, as written in the file.
            #[cfg(test)]
            pub(super) fn keys() -> Vec<String> {
                vec![$(stringify!($field).replace('_', "-")),*]
            }
        }
    };
    (editable $(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty,)* }) => {
        raw!($(#[$doc])* $name { $($field: $kind,)* });

        impl $name {
            /// Takes over every key that `edit` gives.
            pub(super) fn merge(&mut self, edit: Self) {
                $(
                    if edit.$field.is_some() {
                        self.$field = edit.$field;
                    }
                )*
            }
        }
    };
}

raw!(
    /// The whole file.
    RawConfig {
        runtime: RawRuntime,
        metrics: RawMetrics,
        announce: RawAnnounce,
        port: Vec<RawPort>,
        route: Vec<RawRoute>,
        pool: Vec<RawPool>,
        service: Vec<RawService>,
    }
);
raw!(
    /// `[runtime]`
    RawRuntime {
        workers: i64,
        cores: Vec<i64>,
        main_core: i64,
        hugepages: bool,
        memory: String,
        connections: i64,
        mbufs: i64,
        idle_sleep: String,
        instance: String,
        admin_socket: String,
        socket_group: String,
        socket_read_group: String,
        max_services: i64,
        max_servers: i64,
        neighbors: i64,
        fragments: i64,
        resets_per_second: i64,
        server_resets_per_second: i64,
        icmp_per_second: i64,
        echo_per_second: i64,
        path_mtu_per_second: i64,
        min_path_mtu: i64,
        reta_size: i64,
        local_ports: String,
    }
);
raw!(
    /// `[metrics]`
    RawMetrics {
        listen: String,
    }
);
raw!(
    /// `[announce]`
    RawAnnounce {
        route_protocol: i64,
        grace: String,
    }
);
raw!(
    /// `[[port]]`
    RawPort {
        name: String,
        device: String,
        netns: String,
        addresses: Vec<String>,
        gateway: String,
        mtu: i64,
        rx_descriptors: i64,
        tx_descriptors: i64,
        steering: String,
        rpf: String,
        kernel_interface: String,
        kernel_rate: i64,
        kernel_addresses: Vec<String>,
    }
);
raw!(
    /// `[[route]]`
    RawRoute {
        to: String,
        via: String,
    }
);
raw!(
    /// `[[pool]]`
    RawPool {
        name: String,
        addresses: Vec<String>,
    }
);
raw!(
    editable
    /// `[[service]]`
    RawService {
        name: String,
        vip: String,
        protocol: String,
        scheduler: String,
        pool: String,
        unknown_flow: String,
        on_expire: String,
        syn_retry_after: String,
        syn_retry_max: String,
        syn_attempts: i64,
        fail_after: i64,
        udp: String,
        announce: bool,
        timeouts: RawTimeouts,
        health: RawHealth,
        server: Vec<RawServer>,
    }
);
raw!(
    editable
    /// `[service.timeouts]`
    RawTimeouts {
        half_open: String,
        established: String,
        half_closed: String,
        time_wait: String,
        closed: String,
        udp: String,
        udp_one_way: String,
    }
);
raw!(
    editable
    /// `[service.health]`
    RawHealth {
        check: String,
        interval: String,
        timeout: String,
        rise: i64,
        fall: i64,
        port: i64,
        via: String,
        start: String,
        slow_start: String,
        on_down: String,
        all_down: String,
        method: String,
        path: String,
        host: String,
        status: String,
        body: String,
        sni: String,
        ca: String,
        send: String,
        expect: String,
    }
);
raw!(
    editable
    /// `[[service.server]]`
    RawServer {
        name: String,
        address: String,
        weight: i64,
        state: String,
        health_address: String,
    }
);
