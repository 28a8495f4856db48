//! Who delivers packets to their workers: what was asked of each port, what its
//! NIC answered, and what follows for all of them. Pure; called once, at start.

use crate::config::SteeringChoice;
use crate::ids::WorkerIx;
use crate::snat::steering::{Reta, SteeringError, SteeringMode};
use crate::stats::readings::PortSteering;

/// A port before it is decided.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// Its name.
    pub port: &'a str,
    /// What the configuration asks for.
    pub choice: SteeringChoice,
    /// The queue of each slot of the NIC's redirection table, or why the NIC does
    /// not spread packets by its hash.
    pub nic: Result<Vec<u16>, String>,
}

/// What holds for all ports.
#[derive(Debug)]
pub struct Decision {
    /// The redirection table in force.
    pub reta: Reta,
    /// Who acts on it.
    pub mode: SteeringMode,
    /// In the order of the ports.
    pub ports: Vec<PortSteering>,
}

/// The configuration asks for what the NIC can't do.
#[derive(Debug, thiserror::Error)]
#[error("port {port}: steering = \"rss\" is not possible: {reason}")]
pub struct Impossible {
    port: String,
    reason: String,
}

/// By the NICs' hash where all of them spread alike; else the workers hand
/// packets over, by a table of `slots` slots.
///
/// # Errors
/// [`Impossible`]; a number of slots that no table has.
pub fn decide(
    asked: &[Asked<'_>],
    workers: u8,
    slots: u16,
) -> Result<Decision, Box<dyn std::error::Error>> {
    let mut table: Option<(Reta, &str)> = None;
    let mut own: Vec<Option<String>> = Vec::with_capacity(asked.len());
    for port in asked {
        let usable = usable(port, workers, table.as_ref());
        let reason = match (port.choice, usable) {
            (SteeringChoice::Software, _) => Some("software is asked for".to_owned()),
            (_, Ok(reta)) => {
                table.get_or_insert((reta, port.port));
                None
            }
            (SteeringChoice::Rss, Err(reason)) => {
                return Err(Box::new(Impossible {
                    port: port.port.to_owned(),
                    reason,
                }));
            }
            (SteeringChoice::Auto, Err(reason)) => Some(reason),
        };
        own.push(reason);
    }
    let first = asked
        .iter()
        .zip(&own)
        .find_map(|(port, reason)| reason.is_some().then_some(port.port));
    let ports = asked
        .iter()
        .zip(own)
        .map(|(port, own)| PortSteering {
            asked: port.choice.name().to_owned(),
            nic: match &port.nic {
                Ok(table) => format!("RSS over {} slots", table.len()),
                Err(reason) => format!("no RSS: {reason}"),
            },
            reason: own.or_else(|| {
                first.map(|other| format!("port {other} does not, and all ports do it alike"))
            }),
        })
        .collect();
    let (reta, mode) = match (first, table) {
        (None, Some((reta, _))) => (reta, SteeringMode::Rss),
        _ => (Reta::even(slots.into(), workers)?, SteeringMode::Software),
    };
    Ok(Decision { reta, mode, ports })
}

/// The port's table if its NIC can deliver by it.
fn usable(port: &Asked<'_>, workers: u8, before: Option<&(Reta, &str)>) -> Result<Reta, String> {
    if workers < 2 {
        return Err("there is one worker".to_owned());
    }
    let queues = port.nic.clone()?;
    let queues = queues.iter().map(|&queue| WorkerIx(queue as u8)).collect();
    let reta = Reta::new(queues).map_err(|error: SteeringError| error.to_string())?;
    match before {
        Some((table, other)) if *table != reta => Err(format!(
            "its redirection table differs from that of port {other}"
        )),
        _ => Ok(reta),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(slots: u16) -> Result<Vec<u16>, String> {
        Ok((0..slots).map(|slot| slot % 2).collect())
    }

    fn decided(
        ports: &[(SteeringChoice, Result<Vec<u16>, String>)],
        workers: u8,
    ) -> Result<(SteeringMode, Vec<Option<String>>), String> {
        let names = ["wan", "lan"];
        let asked: Vec<Asked<'_>> = ports
            .iter()
            .zip(names)
            .map(|((choice, nic), port)| Asked {
                port,
                choice: *choice,
                nic: nic.clone(),
            })
            .collect();
        let decision = decide(&asked, workers, 128).map_err(|error| error.to_string())?;
        let reasons = decision.ports.into_iter().map(|port| port.reason);
        Ok((decision.mode, reasons.collect()))
    }

    #[test]
    fn each_port_says_why_not() {
        use SteeringChoice::{Auto, Rss, Software};
        let none = || Err("the driver net_tap has none that works".to_owned());
        let said = |text: &str| Some(text.to_owned());
        let alike = |port: &str| said(&format!("port {port} does not, and all ports do it alike"));

        let (mode, reasons) = decided(&[(Auto, nic(128)), (Rss, nic(128))], 2).expect("rss");
        assert_eq!((mode, reasons), (SteeringMode::Rss, vec![None, None]));
        let (mode, reasons) = decided(&[(Auto, nic(128)), (Auto, none())], 2).expect("software");
        assert_eq!(mode, SteeringMode::Software);
        assert_eq!(
            reasons,
            [alike("lan"), said("the driver net_tap has none that works")]
        );
        let (_, reasons) = decided(&[(Auto, nic(128)), (Auto, nic(64))], 2).expect("software");
        assert_eq!(
            reasons,
            [
                alike("lan"),
                said("its redirection table differs from that of port wan")
            ]
        );
        let (_, reasons) = decided(&[(Software, nic(128)), (Auto, nic(128))], 2).expect("software");
        assert_eq!(reasons, [said("software is asked for"), alike("wan")]);
        let (_, reasons) = decided(&[(Auto, nic(128))], 1).expect("software");
        assert_eq!(reasons, [said("there is one worker")]);
        // A table that workers can't index is no reason to stay away.
        let (mode, reasons) = decided(&[(Auto, nic(100))], 2).expect("software");
        assert_eq!(mode, SteeringMode::Software);
        assert!(
            reasons[0]
                .as_ref()
                .is_some_and(|why| why.contains("100 slots")),
            "{reasons:?}"
        );

        let refused = decided(&[(Rss, none())], 2).expect_err("impossible");
        assert_eq!(
            refused,
            "port wan: steering = \"rss\" is not possible: the driver net_tap has none that works"
        );
    }
}
