//! Every metric there is: its name, type, labels and meaning. `docs/metrics.md`
//! has a row for each.

/// What a metric's value does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows, and begins at 0 with the process or with what it counts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counters by upper bound, with their sum and count.
    Histogram,
}

impl Kind {
    /// The name in the exposition format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(PartialEq, Eq, Debug)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    /// In the order of a sample's label values.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident = $name:literal, $kind:ident, [$($label:literal),*]: $help:literal;)*) => {
        $(
            pub(super) const $id: Family = Family {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All metrics, in the order of the exposition.
        #[cfg(test)]
        pub(super) const ALL: &[&Family] = &[$(&$id,)*];
    };
}

families! {
    BUILD_INFO = "fullgate_build_info", Gauge, ["version"]:
        "Always 1; the version is in the label.";
    START_TIME = "fullgate_start_time_seconds", Gauge, []:
        "When the process started, seconds since 1970.";
    CONFIG_GENERATION = "fullgate_config_generation", Gauge, []:
        "Number of the newest configuration snapshot; grows with every change.";
    RELOAD_SUCCESSFUL = "fullgate_config_last_reload_successful", Gauge, []:
        "1 if the last reload was put in force (or there was none), 0 if it was refused.";
    RELOAD_TIME = "fullgate_config_last_reload_success_timestamp_seconds", Gauge, []:
        "When a configuration file was last put in force, seconds since 1970.";

    SERVICE_INFO = "fullgate_service_info", Gauge, ["service", "vip", "protocol", "scheduler"]:
        "Always 1; what the service is, in the labels.";
    SERVICE_REFUSED = "fullgate_service_refused_connections_total", Counter, ["service", "reason"]:
        "New connections refused: no usable server, no free local port, or a full table.";
    SERVICE_UNKNOWN = "fullgate_service_unknown_flow_packets_total", Counter, ["service"]:
        "Segments that belong to no connection.";
    SERVICE_SYN_MOVED = "fullgate_service_moved_syns_total", Counter, ["service"]:
        "SYNs sent to another server because the first did not answer.";
    SERVICE_IDLED_OUT = "fullgate_service_idled_out_connections_total", Counter, ["service"]:
        "Connections ended by their idle timeout.";
    SERVICE_ENDED = "fullgate_service_ended_connections_total", Counter, ["service", "cause"]:
        "Connections (UDP: flows) that are over: closed, reset, refused by the server, idle, server gone, replaced by the client, evicted (half-open, or UDP that nobody answered or that was idle) for want of room.";
    SERVICE_CONNECT = "fullgate_service_connect_duration_seconds", Histogram, ["service"]:
        "From the SYN to a real server to its SYN-ACK, in steps of a millisecond.";

    SERVER_INFO = "fullgate_server_info", Gauge, ["service", "server", "address"]:
        "Always 1; the server's address and port are in the label.";
    SERVER_STATE = "fullgate_server_state", Gauge, ["service", "server", "state"]:
        "1 for the state the server is in (up, draining, down), 0 for the others.";
    SERVER_WEIGHT = "fullgate_server_weight", Gauge, ["service", "server"]:
        "The server's weight.";
    SERVER_NEW = "fullgate_server_new_connections_total", Counter, ["service", "server"]:
        "Connections (UDP: flows) scheduled to the server.";
    SERVER_CONNECTIONS = "fullgate_server_connections", Gauge, ["service", "server", "state"]:
        "Connections in the table: active ones, and inactive ones (half-open, closing or over).";
    SERVER_FAILURES = "fullgate_server_failures_total", Counter, ["service", "server"]:
        "SYNs that the server answered with RST or not in time.";
    SERVER_PACKETS = "fullgate_server_packets_total", Counter, ["service", "server", "direction"]:
        "Packets sent on: in is client to server, out is server to client.";
    SERVER_BYTES = "fullgate_server_bytes_total", Counter, ["service", "server", "direction"]:
        "IP bytes sent on: in is client to server, out is server to client.";

    HEALTH_UP = "fullgate_health_up", Gauge, ["service", "server"]:
        "1 if the server passes its health checks, 0 if it does not.";
    HEALTH_SINCE = "fullgate_health_since_timestamp_seconds", Gauge, ["service", "server"]:
        "Since when the server passes or does not pass its health checks, seconds since 1970.";
    HEALTH_SHARE = "fullgate_health_weight_ratio", Gauge, ["service", "server"]:
        "Share of its weight that the server has: less than 1 while it starts slowly.";
    HEALTH_CHECKS = "fullgate_health_checks_total", Counter, ["service", "server", "result"]:
        "Health checks: success, failure, and unmade for a reason on the gateway's host.";
    HEALTH_TRANSITIONS = "fullgate_health_transitions_total", Counter, ["service", "server", "to"]:
        "How often the server began to pass its health checks (up), and ceased to (down).";
    HEALTH_FAILURES = "fullgate_health_check_failures_total", Counter, ["service", "cause"]:
        "Health checks that failed, by cause.";
    HEALTH_DURATION = "fullgate_health_check_duration_seconds", Histogram, ["service"]:
        "How long health checks took, those that failed included.";
    HEALTH_DELAY = "fullgate_health_change_delay_seconds", Histogram, []:
        "From the end of the check that changed a server's state until all workers had that in force.";

    POOL_PORTS = "fullgate_pool_ports", Gauge, ["pool", "server", "protocol", "state"]:
        "Local ports towards a server: used, resting (their connection is over), or free.";
    POOL_FREE_MIN = "fullgate_pool_ports_free_lowest", Gauge, ["pool", "server", "protocol"]:
        "Fewest free local ports towards the server within the last minute.";
    POOL_SHARE_MIN = "fullgate_pool_ports_free_lowest_ratio", Gauge, ["pool", "server", "protocol"]:
        "Least share of free local ports that any one worker had within the last minute, 0 to 1.";

    WORKER_CONNECTIONS = "fullgate_worker_connections", Gauge, ["worker"]:
        "Entries in the worker's connection table.";
    WORKER_TABLE = "fullgate_worker_connections_limit", Gauge, ["worker"]:
        "Entries that the worker's connection table has room for.";
    WORKER_HALF_OPEN = "fullgate_worker_half_open_connections", Gauge, ["worker"]:
        "Entries whose handshake is not complete.";
    WORKER_POLLS = "fullgate_worker_polls_total", Counter, ["worker"]:
        "Poll rounds.";
    WORKER_BUSY_POLLS = "fullgate_worker_busy_polls_total", Counter, ["worker"]:
        "Poll rounds that found work.";
    WORKER_CYCLES = "fullgate_worker_cycles_total", Counter, ["worker"]:
        "TSC cycles in all.";
    WORKER_BUSY_CYCLES = "fullgate_worker_busy_cycles_total", Counter, ["worker"]:
        "TSC cycles of poll rounds that found work; their share of all is the load.";
    WORKER_HANDED_OVER = "fullgate_worker_handed_over_packets_total", Counter, ["worker"]:
        "Packets handed to the worker that owns their flow.";
    WORKER_PENDING = "fullgate_worker_pending_packets", Gauge, ["worker"]:
        "Packets that wait for a next hop's MAC address.";
    WORKER_NEXT_HOPS = "fullgate_worker_next_hops", Gauge, ["worker", "kind", "state"]:
        "Next hops: real servers and routers of the configuration (configured), and clients on the ports' networks.";
    WORKER_NEXT_HOPS_LIMIT = "fullgate_worker_next_hops_limit", Gauge, ["worker"]:
        "Next hops that the worker has room for.";
    WORKER_HELD_SYNS = "fullgate_worker_held_syns", Gauge, ["worker"]:
        "SYNs kept for a second attempt.";
    WORKER_GENERATION = "fullgate_worker_config_generation", Gauge, ["worker"]:
        "Number of the configuration snapshot that the worker has in force.";
    WORKER_RING = "fullgate_worker_ring_entries", Gauge, ["worker", "ring"]:
        "Entries in a ring: commands to the worker, replies from it, packets handed to it (fullest).";
    WORKER_RING_LIMIT = "fullgate_worker_ring_entries_limit", Gauge, ["worker", "ring"]:
        "Entries that the ring has room for.";
    DROPPED = "fullgate_dropped_packets_total", Counter, ["worker", "reason"]:
        "Packets that went no further, by reason; docs/drops.md says what to do.";
    EVENTS = "fullgate_events_total", Counter, ["worker", "event"]:
        "Other things that workers did, among them how connections ended.";

    PORT_INFO = "fullgate_port_info", Gauge, ["port", "driver", "mac", "steering"]:
        "Always 1; what the port is, in the labels.";
    PORT_UP = "fullgate_port_up", Gauge, ["port"]:
        "1 if the port has a link.";
    PORT_SPEED = "fullgate_port_speed_bytes", Gauge, ["port"]:
        "Link speed, bytes a second, where the driver knows it.";
    PORT_PACKETS = "fullgate_port_packets_total", Counter, ["port", "worker", "direction"]:
        "Packets received (rx) and sent (tx) by a worker.";
    PORT_BYTES = "fullgate_port_bytes_total", Counter, ["port", "worker", "direction"]:
        "Ethernet bytes without FCS received (rx) and sent (tx) by a worker.";
    PORT_LOST = "fullgate_port_lost_packets_total", Counter, ["port", "reason"]:
        "Packets lost in NIC or driver: no descriptor, no buffer, receive and transmit errors.";
    PORT_KERNEL_PACKETS = "fullgate_port_kernel_packets_total", Counter, ["port", "interface", "direction"]:
        "Packets that the kernel's interface behind the port took (to) and sent (from).";
    PORT_KERNEL_REFUSED = "fullgate_port_kernel_refused_packets_total", Counter, ["port", "interface"]:
        "Packets that the kernel's interface did not take, as while it is down.";
    BUFFERS = "fullgate_packet_buffers", Gauge, ["mempool", "state"]:
        "Packet buffers by memory pool, free and used; those in descriptors are used.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_has_a_row_for_each() {
        let page = include_str!("../../docs/metrics.md");
        for family in ALL {
            let labels: Vec<String> = family.labels.iter().map(|l| format!("`{l}`")).collect();
            let row = format!(
                "| `{}` | {} | {} | {} |",
                family.name,
                family.kind.name(),
                labels.join(", "),
                family.help
            );
            assert!(page.contains(&row), "docs/metrics.md lacks the row:\n{row}");
        }
    }

    #[test]
    fn names_are_unique_and_say_what_counts() {
        let names: std::collections::HashSet<_> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len());
        for family in ALL {
            let counts = family.kind == Kind::Counter;
            assert_eq!(family.name.ends_with("_total"), counts, "{}", family.name);
        }
    }
}
