//! Who is at the other end of a Unix socket.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// Groups at most: `NGROUPS_MAX` of Linux (credentials(7)).
const GROUPS_MAX: usize = 65_536;

/// The supplementary groups that the peer had when it connected
/// (`SO_PEERGROUPS`, Linux 4.13).
///
/// # Errors
/// The kernel does not tell.
pub fn peer_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut bytes = size_of_val(&groups[..]) as libc::socklen_t;
        // SAFETY: the descriptor is open; the kernel writes at most `bytes`
        // bytes, all of `groups`, and to `bytes` how many it has.
        let outcome = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut bytes,
            )
        };
        let count = bytes as usize / size_of::<u32>();
        if outcome == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too many for the buffer: the kernel said how many there are.
        if error.raw_os_error() != Some(libc::ERANGE)
            || !(groups.len()..=GROUPS_MAX).contains(&count)
        {
            return Err(error);
        }
        groups.resize(count + 1, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_those_that_the_kernel_lists() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let mut groups = peer_groups(&one).expect("groups");
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("the status");
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
        let mut expected: Vec<u32> = line
            .expect("a line")
            .split_whitespace()
            .map(|group| group.parse().expect("a number"))
            .collect();
        groups.sort_unstable();
        expected.sort_unstable();
        assert_eq!(groups, expected);
    }
}
