//! Profiles of this process under the paths and in the form that `go tool pprof` knows.
//!
//! `/debug/pprof/profile?seconds=N` shows where CPU time went during N seconds (see [`sampler`]), `/debug/pprof/heap` who
//! holds the memory that is in use now: the allocator notes a stack for every 512 KiB or so that it hands out, from the
//! first line of `main` on. Names and lines are put in here, so that a reader needs neither the program nor its sources.
//!
//! One profile of a kind is made at a time, and a second request is told so. Nothing here asks who is asking: the address
//! is off by default, no Service names it, and whoever may forward a port of the pod may read profiles.

mod sampler;

use std::error::Error;
use std::fs;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use jemalloc_pprof::{Mapping, PROF_CTL, StackProfile, WeightedStack};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::sampler::{Samples, Sampling, SamplingError};
use crate::error::chain;

/// Length of a CPU profile for which none is asked, as in Go.
const SECONDS: u64 = 30;
/// The longest one: what is noted lies in memory until the end.
const MAX_SECONDS: u64 = 120;

/// With this header `go tool pprof` shows the text of an error and not its number alone.
const EXPLAINED: HeaderName = HeaderName::from_static("x-go-pprof");

const INDEX: &str = "\
profile?seconds=N  where CPU time goes in the next N seconds, 1 to 120, 30 by default
heap               who holds the memory that is in use

  go tool pprof -top http://localhost:6060/debug/pprof/profile?seconds=10
  go tool pprof -top http://localhost:6060/debug/pprof/heap
";

/// `go tool pprof` asks for names that it misses, of the C library's code without any perhaps, and takes no error for an answer.
const NO_SYMBOLS: &str = "num_symbols: 0\n";

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
enum PprofError {
    #[error("seconds: write a whole number from 1 to {MAX_SECONDS}")]
    Seconds,
    #[error("failed to take a CPU profile")]
    Cpu(#[from] SamplingError),
    #[error("another profile of the memory is being written; try again when it is done")]
    HeapBusy,
    #[error("memory is not profiled in this process: its allocator was told so, perhaps by prof:false in MALLOC_CONF")]
    HeapOff,
    #[error("failed to write a profile of the memory; it takes a directory for temporary files, /tmp or TMPDIR")]
    Heap(#[source] Box<dyn Error + Send + Sync>),
    #[error("{0}: not in this build; there are profile (CPU) and heap (memory)")]
    NotServed(String),
    #[error("the process is about to end")]
    Stopping,
    #[error("making the profile ended in a panic")]
    Panic(#[from] JoinError),
}

impl IntoResponse for PprofError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Seconds => StatusCode::BAD_REQUEST,
            Self::Cpu(SamplingError::Busy) | Self::HeapBusy => StatusCode::CONFLICT,
            Self::HeapOff | Self::NotServed(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Cpu(SamplingError::Refused(_)) | Self::Heap(_) | Self::Panic(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (EXPLAINED, "1")];
        (status, headers, chain(&self) + "\n").into_response()
    }
}

/// Returns the routes. A profile that is being taken when `stop` is cancelled is given up.
pub fn router(stop: CancellationToken) -> Router {
    Router::new()
        .route("/debug/pprof", get(|| async { Redirect::permanent("/debug/pprof/") }))
        .route("/debug/pprof/", get(|| async { INDEX }))
        .route("/debug/pprof/profile", get(cpu))
        .route("/debug/pprof/heap", get(heap))
        .route("/debug/pprof/symbol", get(NO_SYMBOLS).post(NO_SYMBOLS))
        .route("/debug/pprof/{name}", get(|Path(name)| async { PprofError::NotServed(name) }))
        .with_state(stop)
}

async fn cpu(State(stop): State<CancellationToken>, RawQuery(query): RawQuery) -> Result<Response, PprofError> {
    let length = length(query.as_deref().unwrap_or_default())?;
    // Dropped with this request when the reader goes away.
    let sampling = Sampling::start()?;
    if stop.run_until_cancelled(sleep(length)).await.is_none() {
        return Err(PprofError::Stopping);
    }
    let samples = sampling.finish();
    if samples.lost > 0 {
        warn!(lost = samples.lost, "CPU profile is cut short: there was no room for more");
    }
    // Reading the names of a program of this size takes a second or so.
    Ok(download("profile", spawn_blocking(move || encode(samples)).await?))
}

async fn heap() -> Result<Response, PprofError> {
    let profile = spawn_blocking(|| {
        let control = PROF_CTL.as_ref().ok_or(PprofError::HeapOff)?;
        let mut control = control.try_lock().map_err(|_| PprofError::HeapBusy)?;
        let profile = control.dump_pprof().map_err(|error| PprofError::Heap(error.into()));
        forget_names();
        profile
    });
    Ok(download("heap", profile.await??))
}

/// Reads `seconds` from a query; other parameters are left alone.
fn length(query: &str) -> Result<Duration, PprofError> {
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("seconds="));
    match asked.map_or(Ok(SECONDS), str::parse) {
        Ok(seconds @ 1..=MAX_SECONDS) => Ok(Duration::from_secs(seconds)),
        _ => Err(PprofError::Seconds),
    }
}

/// Puts in names and lines, and compresses the lot.
fn encode(samples: Samples) -> Vec<u8> {
    let mut profile = StackProfile::default();
    // A profile without a list of files, or with one that no address lies in, is taken for one without names.
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default(); // read a moment ago
    for code in maps.lines().filter_map(sampler::code) {
        if samples.stacks.keys().flatten().any(|address| code.range.contains(address)) {
            profile.push_mapping(Mapping {
                memory_start: code.range.start,
                memory_end: code.range.end,
                memory_offset: code.offset,
                file_offset: 0,
                pathname: code.file.into(),
                build_id: None,
            });
        }
    }
    for (mut addrs, count) in samples.stacks {
        // Outermost first is what it takes.
        addrs.reverse();
        profile.push_stack(WeightedStack { addrs, weight: (count * sampler::PERIOD).as_nanos() as f64 }, None);
    }
    let encoded = profile.to_pprof(("cpu", "nanoseconds"), ("cpu", "nanoseconds"), None);
    forget_names();
    encoded
}

/// Lets go of what was read of the program for the names. It would stay for the next profile, which hardly ever comes, and
/// a pod with a small limit would be nearer to its end from the first one on.
fn forget_names() {
    backtrace::clear_symbol_cache();
}

fn download(name: &str, profile: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}.pb.gz\"")),
    ];
    (headers, profile).into_response()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_cpu_profile_takes_from_one_second_to_two_minutes() {
        for (query, seconds) in [("", 30), ("seconds=1", 1), ("debug=0&seconds=120", 120), ("minutes=5", 30)] {
            assert_eq!(length(query).unwrap(), Duration::from_secs(seconds), "{query}");
        }
        for query in ["seconds=0", "seconds=121", "seconds=", "seconds=-1", "seconds=1.5", "seconds=many"] {
            assert!(matches!(length(query), Err(PprofError::Seconds)), "{query}");
        }
    }

    #[test]
    fn whoever_comes_at_the_wrong_time_may_come_again() {
        let status = |error: PprofError| error.into_response().status().as_u16();
        assert_eq!(status(SamplingError::Busy.into()), 409);
        assert_eq!(status(SamplingError::Refused(io::ErrorKind::Unsupported.into()).into()), 500);
        assert_eq!(status(PprofError::HeapBusy), 409);
        assert_eq!(status(PprofError::Stopping), 503);
    }
}
