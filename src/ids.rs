//! Newtypes for every index that crosses a module boundary, so that a queue
//! number can't be passed where a port number is meant.

macro_rules! index_type {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(transparent)]
        pub struct $name(pub $raw);

        impl $name {
            /// The index as a subscript.
            #[inline(always)]
            pub const fn ix(self) -> usize {
                self.0 as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index_type!(
    /// A `[[port]]` of the configuration, in file order. Not the DPDK port id.
    PortIx(u8)
);
index_type!(
    /// A worker, numbered from 0; also its RX and TX queue on every port.
    WorkerIx(u8)
);
index_type!(
    /// A service's slot in the snapshot. A slot keeps its meaning until no
    /// worker holds a connection of the service any more.
    ServiceIx(u32)
);
index_type!(
    /// A real server's slot in the snapshot; same life as [`ServiceIx`].
    ServerIx(u32)
);
index_type!(
    /// A local-port set: one per (local address, real server address, real
    /// server port, protocol) and worker.
    SetIx(u32)
);
index_type!(
    /// A slot of one worker's connection table.
    SlotIx(u32)
);
index_type!(
    /// An entry of one worker's neighbour table.
    NeighborIx(u16)
);
