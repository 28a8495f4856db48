//! `[metrics]`.

use std::net::SocketAddr;

use super::Metrics;
use super::problem::{Place, Problem};
use super::raw::RawMetrics;

impl Metrics {
    pub(super) fn from_raw(
        at: &Place<'_>,
        raw: &RawMetrics,
        warnings: &mut Vec<Problem>,
    ) -> Result<Self, Problem> {
        let Some(text) = &raw.listen else {
            return Ok(Self::default());
        };
        let at = at.key("listen");
        let listen: SocketAddr = text.parse().ok().filter(|a: &SocketAddr| a.port() != 0).ok_or_else(|| {
            at.problem(format!(
                "{text:?} is no address and port; give those of the host, such as \"127.0.0.1:9091\""
            ))
        })?;
        if listen.ip().is_unspecified() {
            warnings.push(at.problem(
                "is every address of the host, those of kernel interfaces too, and nobody is asked for a password; give one address",
            ));
        }
        Ok(Self {
            listen: Some(listen),
        })
    }

    pub(super) fn to_raw(&self) -> Option<RawMetrics> {
        self.listen.map(|listen| RawMetrics {
            listen: Some(listen.to_string()),
        })
    }
}
