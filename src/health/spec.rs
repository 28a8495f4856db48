//! What a check is. Values only, made by the configuration.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::probe::tls;
pub use super::probe::tls::{Authorities, Tls};

/// What is asked, how often, and how many answers decide.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    pub ask: Ask,
    /// From the start of one check to the start of the next.
    pub interval: Duration,
    /// At most `interval`.
    pub timeout: Duration,
    /// Successes in a row that bring a server back.
    pub rise: u16,
    /// Failures in a row that take it out.
    pub fall: u16,
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// To accept a connection.
    Tcp,
    Http(Arc<Http>),
    Udp(Udp),
    /// To answer an echo request.
    Icmp,
}

impl Ask {
    /// The name in the configuration and in listings.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(http) if http.tls.is_none() => "http",
            Self::Http(_) => "https",
            Self::Udp(_) => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// A request over HTTP/1.1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Http {
    /// A token (RFC 9110 §9.1).
    pub method: String,
    /// Path and query; begins with a slash, has no blanks.
    pub path: String,
    /// The `Host` field; the address asked where it is `None`.
    pub host: Option<String>,
    /// Which status is a success.
    pub status: StatusRanges,
    /// What the body has to contain.
    pub body: Option<String>,
    /// With TLS.
    pub tls: Option<Tls>,
}

/// Status codes, as ranges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusRanges(pub Vec<(u16, u16)>);

impl StatusRanges {
    /// Whether `status` is in one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0
            .iter()
            .any(|&(first, last)| (first..=last).contains(&status))
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{first}")?;
            if first != last {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
    }
}

/// A datagram and its answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Udp {
    pub send: Vec<u8>,
    /// What an answer has to contain; `None`: nothing has to come, as long as
    /// no ICMP error does.
    pub expect: Option<Vec<u8>>,
}

/// A check as it is made, the same for all servers of a service.
#[derive(Debug)]
pub struct Check {
    pub spec: Spec,
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl PartialEq for Check {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}

impl Eq for Check {}

impl Check {
    /// Prepares what all checks of it share.
    pub fn new(spec: Spec) -> Self {
        let tls = match &spec.ask {
            Ask::Http(http) => http.tls.as_ref().map(tls::client),
            _ => None,
        };
        Self { spec, tls }
    }
}
