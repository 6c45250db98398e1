//! The program: allocator, arguments, run, exit code.

use std::process::ExitCode;

/// Serves the libraries in C as well, by the names of `malloc` and `free`: of the C library's own, librdkafka takes two
/// thirds of the time that it takes to send a message, for what one of its threads allocates another one frees.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Settings that jemalloc reads before the first line of `main`: memory that rows gave back returns to the system after a
/// second, by a thread of its own, and two arenas keep the sum of half-filled pages small. One allocation in 512 KiB is
/// noted with its stack for `/debug/pprof/heap`, which could not tell about what came before otherwise.
#[expect(unsafe_code, reason = "jemalloc finds its settings by the name of a symbol; nothing else defines this one")]
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 98] =
    b"background_thread:true,dirty_decay_ms:1000,narenas:2,prof:true,prof_active:true,lg_prof_sample:19\0";

fn main() -> ExitCode {
    // Fails only when a provider is installed already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    kollect::cli::run(std::env::args_os())
}
