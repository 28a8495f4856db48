//! What tests are built from: networks, gateways, servers, clients.

pub mod capture;
pub mod delay;
pub mod dice;
pub mod echo;
pub mod fabric;
pub mod flood;
pub mod fullgate;
pub mod gateway;
pub mod honest;
pub mod http;
pub mod machine;
pub mod netns;
pub mod nginx;
pub mod pattern;
pub mod plan;
pub mod process;
pub mod raw;
pub mod slow;
pub mod tcp;
pub mod topology;
