//! The signals by which net_tap learns that packets have come.
//!
//! The kernel sends the process a real-time signal for every packet on a TAP;
//! the driver's handler counts, and its receive function reads a queue only
//! when the count is another than at its last look. The count is no atomic: of
//! two threads that are in the handler at once one may put it back, and a packet
//! then waits in its queue until another one comes, which is when its sender's
//! retransmission timer has run out. So one thread alone takes these signals:
//! one that polls, since the count then moves whenever that thread runs.

use std::ptr;

use super::Eal;

/// Blocks the drivers' signals in the calling thread and those it starts.
pub(super) fn block() {
    change(libc::SIG_BLOCK);
}

/// From now on the calling thread takes the drivers' signals. Without any that
/// does, TAP ports receive nothing.
pub fn take_signals(_eal: &Eal) {
    change(libc::SIG_UNBLOCK);
}

fn change(how: libc::c_int) {
    // SAFETY: all-zero is a valid place for a signal set, which sigemptyset then
    // initialises; the signals are in the range that the C library gives away,
    // and the thread's old mask is not asked for.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        for signal in libc::SIGRTMIN()..=libc::SIGRTMAX() {
            libc::sigaddset(&mut signals, signal);
        }
        libc::pthread_sigmask(how, &signals, ptr::null_mut());
    }
}
