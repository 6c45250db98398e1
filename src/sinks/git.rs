//! Rows into a git repository: files in a branch, and a ref that says which of them are whose.
//!
//! See `docs/adr/0002-git-ownership.md` for what is kept where.

mod config;
mod error;
mod transport;

pub use config::{Author, Challenge, Credentials, GitConfig, MessageTemplate, PushPolicy};
