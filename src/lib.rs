//! Kollect watches the resource kinds that teams choose, extracts the attributes they name, keeps the rows in memory and
//! delivers them to databases and other stores, so that readers use exported data and never the API server.
//!
//! Data travels down this list and never turns back; a module may use only modules declared above it, and
//! `tests/it/layering.rs` fails otherwise.
//!
//! ```text
//!  API server ──list/watch──► dispatch ──► extract ──► store ──dirty──► schedule ──► export ──► sink ──► status
//! ```

pub mod cli;
pub mod config;
pub mod duration;
pub mod error;
pub mod export;
pub mod http;
pub mod metrics;
pub mod model;
pub mod runtime;
pub mod secret;
pub mod sinks;
pub mod telemetry;
