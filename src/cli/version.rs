//! Which build this is: `<version> (commit <sha>, built <RFC 3339 UTC>)`.
//!
//! The build sets `KOLLECT_VERSION`, `KOLLECT_COMMIT` and `KOLLECT_BUILT` in its environment; a build without them is a
//! developer's.

/// Version, with its `v`.
pub const VERSION: &str = match option_env!("KOLLECT_VERSION") {
    Some(version) => version,
    None => "dev",
};

/// Commit.
pub const COMMIT: &str = match option_env!("KOLLECT_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Time of the build.
const BUILT: &str = match option_env!("KOLLECT_BUILT") {
    Some(built) => built,
    None => "unknown",
};

/// Returns the line that `--version` prints.
pub fn line() -> String {
    format!("{VERSION} (commit {COMMIT}, built {BUILT})")
}
