//! Kollect watches the resource kinds that teams choose, extracts the attributes they name, keeps the rows in memory and
//! delivers them to databases and other stores, so that readers use exported data and never the API server.
//!
//! Data travels down this list and never turns back; a module may use only modules declared above it, and
//! `tests/it/layering.rs` fails otherwise.
//!
//! ```text
//!  API server ──list/watch──► dispatch ──► extract ──► store ──dirty──► schedule ──► export ──► sink ──► status
//! ```

pub mod canonical;
pub mod error;
pub mod export;
pub mod expr;
#[cfg(feature = "lab")]
pub mod lab;
pub mod model;
pub mod secret;

pub mod api;
pub mod validate;

pub mod extract;

pub mod sinks;

pub mod cli;
