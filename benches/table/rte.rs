//! DPDK's `rte_hash` as the third layout.

use std::hint::black_box;
use std::sync::OnceLock;

use fullgate::conntrack::entry::FlowTuple;
use fullgate::conntrack::table::ConnTable;
use fullgate::dpdk::{CuckooHash, Eal, EalConfig, Error, Key, Memory};

use super::{REVERSE, connection, sizes};

/// `rte_hash` with one of the two hashes.
pub struct Layout {
    pub name: &'static str,
    /// By the table's hash, cut to the 32 bits that `rte_hash` takes. Else by
    /// its own CRC, as fast as any but with collisions for everyone to choose.
    keyed: bool,
    rte: CuckooHash,
}

/// Both, with both tuples of all connections of `table`.
pub fn layouts(connections: u32, table: &ConnTable) -> [Layout; 2] {
    [("rte_hash", false), ("rte_hash-keyed", true)].map(|(name, keyed)| {
        let rte = CuckooHash::new(eal(), name, 2 * connections).expect("memory");
        let mut layout = Layout { name, keyed, rte };
        for n in 0..connections {
            let entry = connection(n);
            let client = FlowTuple::from(&entry.client_tuple());
            let server = FlowTuple::from(&entry.server_tuple());
            let hash = table.hash(&client);
            let (slot, _) = table.find(hash, &client).expect("inserted");
            layout.insert(&client, hash, slot.0);
            layout.insert(&server, table.hash(&server), slot.0 | REVERSE);
            assert_eq!(layout.lookup(&[client], table), (1, [slot.0]));
        }
        layout
    })
}

impl Layout {
    /// The values of `tuples`, and a bit for each that was found.
    #[inline(always)]
    pub fn lookup<const N: usize>(
        &self,
        tuples: &[FlowTuple; N],
        table: &ConnTable,
    ) -> (u64, [u32; N]) {
        let keys = tuples.map(|tuple| key(&tuple));
        if self.keyed {
            let hashes = tuples.map(|tuple| table.hash(&tuple) as u32);
            self.rte.lookup(&keys, Some(&hashes))
        } else {
            self.rte.lookup(&keys, None)
        }
    }

    fn insert(&mut self, tuple: &FlowTuple, hash: u64, value: u32) {
        let hash = self.keyed.then_some(hash as u32);
        self.rte.insert(&key(tuple), hash, value).expect("room");
    }

    /// Takes a tuple out and puts it in again.
    #[inline(always)]
    pub fn replace(&mut self, tuple: &FlowTuple, hash: u64, value: u32) {
        let hash = self.keyed.then_some(hash as u32);
        let key = key(tuple);
        black_box(self.rte.remove(&key, hash));
        black_box(self.rte.insert(&key, hash, value)).expect("room");
    }

    pub fn bytes(&self) -> usize {
        self.rte.bytes() as usize
    }
}

/// A tuple as the 16 bytes that `rte_hash` compares by one instruction.
#[inline(always)]
fn key(tuple: &FlowTuple) -> Key {
    let addresses = u128::from(tuple.src.to_bits()) << 32 | u128::from(tuple.dst.to_bits());
    let ports = u128::from(tuple.src_port) << 16 | u128::from(tuple.dst_port);
    (addresses << 64 | u128::from(tuple.protocol) << 32 | ports).to_ne_bytes()
}

/// EAL with memory for the largest table: huge pages, or where too few are
/// reserved ordinary ones.
fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        let largest = sizes().into_iter().max().unwrap_or_default();
        // Of each tuple: a key with its value, and up to twice a place in a
        // bucket and one in the ring of free keys; all of it in two tables.
        let tuple_bytes = 2 * (32 + 2 * (8 + 4));
        let tables_bytes = 2 * u64::from(largest) * tuple_bytes;
        let megabytes = 64 + (tables_bytes >> 20) as u32;
        let init = |memory| {
            Eal::init(&EalConfig {
                memory,
                file_prefix: format!("fullgate-table-{}", std::process::id()),
                ..EalConfig::default()
            })
        };
        let huge = Memory::Hugepages {
            reserve_mb: megabytes,
        };
        match init(huge) {
            Err(error @ Error::Hugepages { .. }) => {
                println!("rte_hash is on small pages: {error}");
                init(Memory::Ordinary {
                    total_mb: megabytes,
                })
            }
            other => other,
        }
        .expect("EAL starts")
    })
}
