//! Kollect watches the resource kinds that teams choose, extracts the attributes they name, keeps the rows in memory and
//! delivers them to databases and other stores, so that readers use exported data and never the API server.
//!
//! Data travels down this list and never turns back; a module may use only modules declared above it, and
//! `tests/it/layering.rs` fails otherwise.
//!
//! ```text
//!  API server ──list/watch──► dispatch ──► extract ──► store ──dirty──► schedule ──► export ──► sink ──► status
//! ```

// Vocabulary: no I/O, no client.
pub mod canonical;
pub mod duration;
pub mod error;
pub mod expr;
pub mod metrics;
pub mod model;
pub mod secret;

// What users write, and how the process is set up.
pub mod api;
pub mod config;
pub mod validate;

// Object to row, pure.
pub mod extract;

// Rows in memory, and what is handed to a sink.
pub mod export;
pub mod store;

// When.
pub mod schedule;

// Cluster to rows.
pub mod watch;

// Payload to the outside.
pub mod sinks;

// Rows to sinks.
pub mod deliver;

// Our own objects to all of the above, and back.
pub mod admission;
pub mod control;
pub mod lease;
pub mod status;

// The outside of the process.
pub mod cli;
pub mod http;
pub mod runtime;
pub mod telemetry;

// Real parts for tests, benches and the demo; never in a release.
#[cfg(feature = "lab")]
pub mod lab;
