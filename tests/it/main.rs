//! The integration tests: real parts, one binary, one module per topic.
//!
//! `cargo test --features lab --test it` starts one lab for all tests; each test works in a namespace and a database of
//! its own (`support::Ground`). What breaks a part for a while takes a lab of its own.

// Each module says `cfg(test)`, though all of this is a test, for that is how clippy knows that it may `unwrap`.
#[cfg(test)]
mod admission;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod chart;
#[cfg(test)]
mod cluster_kinds;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod extraction;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod filters;
#[cfg(test)]
mod git;
#[cfg(test)]
mod gitops;
#[cfg(test)]
mod guarantees;
#[cfg(test)]
mod high_availability;
#[cfg(test)]
mod kafka;
#[cfg(test)]
mod kinds;
#[cfg(test)]
mod knowledge;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod layering;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod loadtest;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod nats;
#[cfg(test)]
mod object;
#[cfg(test)]
mod operator;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod profiles;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod runbook;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod scopes;
#[cfg(test)]
mod sinks;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tenant;
#[cfg(test)]
mod troubleshooting;
#[cfg(test)]
mod verify;
