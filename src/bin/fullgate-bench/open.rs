//! Opens the connections that a measurement runs on.

use fullgate::conntrack::entry::State;
use fullgate::ids::SlotIx;

use super::Failure;
use super::args::{Packets, Proto};
use super::gateway::Gateway;
use super::handshake::establish;
use super::report::drops;
use super::source::Source;

/// Opens all connections and makes sure that the table has them.
pub fn open_all(
    gateway: &mut Gateway,
    source: &mut Source<'_>,
    args: &Packets,
) -> Result<(), Failure> {
    let protocol = source.protocol();
    let bursts = usize::from(args.common.ahead);
    establish(gateway, &mut source.flows, protocol, bursts)
        .map_err(|failure| format!("{failure}: {:?}", drops(&gateway.stats)))?;
    let open = match args.proto {
        Proto::Tcp => State::Established,
        Proto::Udp => State::UdpTwoWay,
    };
    let table = gateway.worker.table();
    let opened = table
        .slots(SlotIx(0), table.slots_end())
        .filter(|&slot| table.get(slot).state == open)
        .count();
    if opened != source.flows.len() {
        let drops = drops(&gateway.stats);
        return Err(format!("only {opened} connections are open: {drops:?}").into());
    }
    Ok(())
}
