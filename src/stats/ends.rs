//! How connections end.

/// Why a connection (UDP: a flow) is over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EndCause {
    /// Both sides have sent FIN.
    Closed,
    /// A RST of either side.
    Reset,
    /// The real server answered the SYN with RST.
    Refused,
    /// Its idle timeout.
    Idle,
    /// The real server was removed or is down.
    ServerGone,
    /// The client began another one from the same port.
    Replaced,
    /// Half-open, or an unanswered or idle UDP flow, and given up because the
    /// table was full or no local port was left.
    Evicted,
}

impl EndCause {
    /// All, in the order of their counters.
    pub const ALL: [Self; 7] = [
        Self::Closed,
        Self::Reset,
        Self::Refused,
        Self::Idle,
        Self::ServerGone,
        Self::Replaced,
        Self::Evicted,
    ];
    /// Number of causes.
    pub const COUNT: usize = Self::ALL.len();

    /// The name in the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::Idle => "idle",
            Self::ServerGone => "server-gone",
            Self::Replaced => "replaced",
            Self::Evicted => "evicted",
        }
    }
}
