//! The last dropped packets of each reason: what `show drops --last` shows.
//!
//! A fixed block of memory, made with the worker and written by it alone. The
//! management core asks for a copy by message.

use super::Worker;
use super::message::dropped::{Dropped, KEPT, KEPT_BYTES};
use super::message::{DropScan, Reply};
use crate::ids::PortIx;
use crate::io::{BurstIo, PacketBuf};
use crate::stats::DropReason;

/// Reasons whose packets are copied between two bursts: some 8 kB.
const REASONS_PER_POLL: usize = 4;

/// The last packets of one reason.
#[derive(Clone, Copy, Debug)]
struct Last {
    packets: [Dropped; KEPT],
    next: u8,
    used: u8,
}

/// The last packets of every reason.
#[derive(Debug)]
pub(super) struct LastDrops(Box<[Last]>);

impl LastDrops {
    pub(super) fn new() -> Self {
        let last = Last {
            packets: [Dropped::NONE; KEPT],
            next: 0,
            used: 0,
        };
        Self(vec![last; DropReason::COUNT].into())
    }

    fn note(
        &mut self,
        reason: DropReason,
        tsc: u64,
        port: Option<PortIx>,
        frame: &[u8],
        total_len: usize,
    ) {
        let last = &mut self.0[reason as usize];
        let place = &mut last.packets[usize::from(last.next)];
        let len = frame.len().min(KEPT_BYTES);
        place.tsc = tsc;
        place.port = port;
        place.total_len = total_len.try_into().unwrap_or(u16::MAX);
        place.len = len as u8;
        place.bytes[..len].copy_from_slice(&frame[..len]);
        last.next = (last.next + 1) % KEPT as u8;
        last.used = (last.used + 1).min(KEPT as u8);
    }

    /// Those of one reason, oldest first.
    fn of(&self, reason: DropReason) -> impl Iterator<Item = &Dropped> {
        let last = &self.0[reason as usize];
        let first = usize::from(last.next) + KEPT - usize::from(last.used);
        (first..first + usize::from(last.used)).map(|at| &last.packets[at % KEPT])
    }
}

impl<Io: BurstIo> Worker<Io> {
    /// Frees a packet that goes no further, counts why, and keeps its headers.
    #[cold]
    #[inline(never)]
    pub(super) fn discard(&mut self, packet: Io::Buf, reason: DropReason) {
        let (tsc, port) = (self.last_tsc, self.receiving);
        let (frame, total_len) = (packet.bytes(), packet.total_len());
        self.last_drops.note(reason, tsc, port, frame, total_len);
        if self.captures.is_on() {
            self.capture_drop(&packet, reason);
        }
        drop(packet);
        self.stats.drop_counter(reason).add(1);
    }

    /// Counts a packet of the gateway's own that could not be made or sent.
    #[cold]
    pub(super) fn not_made(&mut self, reason: DropReason) {
        let tsc = self.last_tsc;
        self.last_drops.note(reason, tsc, None, &[], 0);
        self.stats.drop_counter(reason).add(1);
    }

    pub(super) fn start_drop_scan(&mut self, scan: Box<DropScan>) {
        if let Some(unfinished) = self.drop_scan.replace(scan) {
            self.tell(Reply::LastDrops(unfinished));
        }
    }

    /// Goes on with a copy of the last drops, if one is under way.
    pub(super) fn drop_scan(&mut self) -> usize {
        let Some(mut scan) = self.drop_scan.take() else {
            return 0;
        };
        let end = (scan.cursor + REASONS_PER_POLL).min(DropReason::COUNT);
        for &reason in &DropReason::ALL[scan.cursor..end] {
            if scan.reason.is_none_or(|wanted| wanted == reason) {
                for dropped in self.last_drops.of(reason) {
                    if scan.found.len() < scan.found.capacity() {
                        scan.found.push((reason, *dropped));
                    }
                }
            }
        }
        scan.cursor = end;
        if end == DropReason::COUNT {
            self.tell(Reply::LastDrops(scan));
        } else {
            self.drop_scan = Some(scan);
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_oldest_first() {
        let mut drops = LastDrops::new();
        let reason = DropReason::NoRoute;
        assert_eq!(drops.of(reason).count(), 0);
        let times = |drops: &LastDrops| drops.of(reason).map(|d| d.tsc).collect::<Vec<_>>();
        drops.note(reason, 1, None, &[1; 200], 9_000);
        drops.note(DropReason::TxFull, 2, None, &[], 0);
        drops.note(reason, 3, Some(PortIx(1)), &[2; 20], 20);
        assert_eq!(times(&drops), [1, 3]);
        let kept: Vec<_> = drops.of(reason).collect();
        assert_eq!(kept[0].bytes(), [1; KEPT_BYTES]);
        assert_eq!((kept[0].total_len, kept[1].total_len), (9_000, 20));
        assert_eq!(
            (kept[1].port, kept[1].bytes()),
            (Some(PortIx(1)), &[2; 20][..])
        );
        for tsc in 10..100 {
            drops.note(reason, tsc, None, &[], 0);
        }
        let last = 100 - KEPT as u64;
        assert_eq!(times(&drops), (last..100).collect::<Vec<_>>());
    }
}
