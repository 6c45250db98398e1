//! Child processes that never outlive their owner.
//!
//! Every [`Process`] leads a process group of its own and is recorded with a [`Guard`], a small shell that holds a pipe
//! from us: when the pipe closes, by an orderly end or because we were killed, it ends all recorded groups. Signals go
//! through `sh`, since sending one is the only thing here that the standard library has no safe call for.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use parking_lot::Mutex;

use super::wait::wait_for;

/// How long a process may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(20);

/// Unit of the times in `/proc/PID/stat`: `USER_HZ`, which Linux fixes at 100 for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// A signal that the lab sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Asks to end.
    Term,
    /// Ends at once, without a chance to clean up.
    Kill,
    /// PostgreSQL's immediate shutdown: the postmaster ends its children, which are not in its group.
    Quit,
    /// PostgreSQL's fast shutdown.
    Int,
    /// Freezes the process.
    Stop,
    /// Lets it go on.
    Cont,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Kill => "KILL",
            Self::Quit => "QUIT",
            Self::Int => "INT",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }
}

/// Sends a signal to a process group. A group that is gone already is not an error.
pub fn signal_group(group: u32, signal: Signal) -> Result<()> {
    send(&format!("-{group}"), signal)
}

/// Sends a signal to one process. A process that is gone already is not an error.
pub fn signal_process(pid: u32, signal: Signal) -> Result<()> {
    send(&pid.to_string(), signal)
}

fn send(to: &str, signal: Signal) -> Result<()> {
    Command::new("sh")
        .args(["-c", r#"kill -s "$0" -- "$1" 2>/dev/null || :"#, signal.name(), to])
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("failed to send {} to {to}", signal.name()))?;
    Ok(())
}

/// The process that cleans up after us, whatever happens to us.
#[derive(Debug)]
pub struct Guard {
    pipe: Mutex<Option<ChildStdin>>,
    shell: Mutex<Child>,
}

impl Guard {
    /// Starts a guard with nothing to do yet.
    pub fn start() -> Result<Self> {
        let mut shell = Command::new("sh")
            .args(["-c", include_str!("guard.sh")])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C reaches the group of the terminal; the guard has to survive it.
            .process_group(0)
            .spawn()
            .context("failed to start the guard process")?;
        let pipe = shell.stdin.take();
        Ok(Self { pipe: Mutex::new(pipe), shell: Mutex::new(shell) })
    }

    /// Has a file or directory removed at the end, after all processes.
    pub fn remove_at_end(&self, path: &Path) -> Result<()> {
        self.tell(&format!("remove {}\n", path.display()))
    }

    /// Mounts a file system in memory of this size at an empty directory, until the end. Takes root.
    pub fn mount_memory(&self, path: &Path, bytes: u64) -> Result<()> {
        // Told first, so that there is no moment in which nobody would unmount it.
        self.tell(&format!("unmount {}\n", path.display()))?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "kollect-lab"]).arg(path))
            .map(drop)
    }

    /// Has a control group removed at the end, when the processes in it are gone.
    pub(super) fn remove_group_at_end(&self, dir: &Path) -> Result<()> {
        self.tell(&format!("group {}\n", dir.display()))
    }

    fn record(&self, group: u32, signal: Signal) -> Result<()> {
        self.tell(&format!("{} {group}\n", signal.name()))
    }

    fn forget(&self, group: u32) {
        // A guard that is gone has ended the group itself, so there is nothing to forget.
        let _ = self.tell(&format!("forget {group}\n"));
    }

    fn tell(&self, line: &str) -> Result<()> {
        let mut pipe = self.pipe.lock();
        let pipe = pipe.as_mut().context("the guard process has no pipe")?;
        pipe.write_all(line.as_bytes()).context("the guard process is gone")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.lock().take());
        // It exits by itself; what it could not end or remove is beyond us too.
        let _ = self.shell.lock().wait();
    }
}

/// A running program: leader of its process group, its output in a log file. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    at_end: Signal,
    guard: Arc<Guard>,
}

impl Process {
    /// Starts a command; output is appended to `log`. `at_end` is the signal which ends it when it is dropped.
    pub fn spawn(name: &str, command: &mut Command, log: &Path, at_end: Signal, guard: &Arc<Guard>) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("failed to open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("failed to start {name} ({})", command.get_program().to_string_lossy()))?;
        let process = Self { name: name.to_owned(), child, log: log.to_owned(), at_end, guard: guard.clone() };
        process.guard.record(process.pid(), at_end)?;
        Ok(process)
    }

    /// Returns the process id, which is also the id of its group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the file with everything that it printed.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Returns how it ended, or `None` while it runs.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("failed to ask after {}", self.name))
    }

    /// Waits until `probe` succeeds. Fails at once, with the end of the log, when the process ends before.
    pub async fn ready<F>(&mut self, limit: Duration, mut probe: impl FnMut() -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let name = self.name.clone();
        let what = format!("{name} to be ready");
        let outcome = wait_for(&what, limit, || {
            let exited = self.exited();
            let attempt = probe();
            async move {
                match exited? {
                    // Ends the wait: an outer success that carries the failure.
                    Some(status) => Ok(Err(status)),
                    None => attempt.await.map(Ok),
                }
            }
        });
        outcome
            .await
            .and_then(|ready| ready.map_err(|status| anyhow!("{name} ended with {status} before it was ready")))
            .with_context(|| format!("the log of {name} ends with\n{}", tail(&self.log, 15)))
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_process(self.pid(), signal)
    }

    /// Sends a signal and waits for the end; kills what does not heed it.
    pub async fn stop(mut self, signal: Signal) -> Result<ExitStatus> {
        signal_group(self.pid(), signal)?;
        let what = format!("{} to end", self.name);
        let ended = wait_for(&what, GRACE, || {
            let status = self.exited();
            async move { status?.context("it still runs") }
        });
        match ended.await {
            Ok(status) => Ok(status),
            Err(error) => {
                signal_group(self.pid(), Signal::Kill)?;
                self.child.wait()?;
                Err(error)
            }
        }
    }

    /// Returns user and system seconds that it has used.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.pid())
    }

    /// Returns the highest resident memory that it ever had, in MiB.
    pub fn peak_rss_mib(&self) -> Result<f64> {
        status_mib(self.pid(), "VmHWM:")
    }

    /// Has the kernel forget the peak: [`Self::peak_rss_mib`] is the highest since then.
    pub fn forget_peak_rss(&self) -> Result<()> {
        // 5 in this file is just that; see proc(5).
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5")
            .context("failed to reset the peak of the memory")
    }

    /// Returns its resident memory now, in MiB.
    pub fn rss_mib(&self) -> Result<f64> {
        status_mib(self.pid(), "VmRSS:")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Best effort: what fails here is left to the guard.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = signal_group(self.pid(), self.at_end);
            let deadline = Instant::now() + GRACE;
            while matches!(self.child.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = signal_group(self.pid(), Signal::Kill);
                    let _ = self.child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.guard.forget(self.pid());
    }
}

/// Returns the last lines of a log.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_else(|error| format!("({}: {error})", log.display()));
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a command to its end and returns what it printed; a failure carries its error output.
pub fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("failed to start {program}"))?;
    if !output.status.success() {
        bail!("{program} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns a loopback port which nobody listens on.
///
/// Taken below the range from which the kernel serves outgoing connections, else one of these could steal the port
/// before its server binds it; never handed out twice by one process.
pub fn free_port() -> Result<u16> {
    const FIRST: u16 = 15_000;
    const COUNT: u16 = 15_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Labs that run side by side, mostly with ids that follow each other, begin far apart.
    let start = u16::try_from(u64::from(std::process::id()) * 7_919 % u64::from(COUNT))?;
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free loopback port between {FIRST} and {}", FIRST + COUNT)
}

/// Returns the processes that a process started and that have not been awaited yet.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).context("the process is gone")?;
    text.split_whitespace().map(|child| child.parse().context("an odd number in /proc")).collect()
}

/// Tells whether a process runs. A zombie does not: only its parent has not looked yet.
pub fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

/// Returns user and system seconds that a process has used.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process is gone")?;
    // The second field is the name in parentheses and may hold anything; counted from behind it, utime is the 12th.
    let (_, fields) = text.rsplit_once(')').context("/proc/PID/stat names no program")?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    let (Some(Ok(user)), Some(Ok(system))) = (times.next(), times.next()) else {
        bail!("/proc/PID/stat has no times");
    };
    Ok((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

/// Returns a size from the status of a process, such as `VmRSS:`, in MiB.
pub fn status_mib(pid: u32, field: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line =
        text.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field} in /proc"))?;
    let kib: f64 = line.split_whitespace().next().context("an empty field in /proc")?.parse()?;
    Ok(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(log: &Path, guard: &Arc<Guard>) -> Process {
        Process::spawn("sleeper", Command::new("sleep").arg("600"), log, Signal::Term, guard).unwrap()
    }

    #[test]
    fn dropping_a_process_ends_it() {
        let guard = Arc::new(Guard::start().unwrap());
        let process = sleeper(Path::new("/dev/null"), &guard);
        let pid = process.pid();
        assert!(runs(pid));
        drop(process);
        assert!(!runs(pid));
    }

    #[tokio::test]
    async fn guard_ends_processes_whose_owner_vanished_and_removes_the_directory() {
        let dir = std::env::temp_dir().join(format!("kollect-guard-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let guard = Arc::new(Guard::start().unwrap());
        guard.remove_at_end(&dir).unwrap();
        let mut process = sleeper(&dir.join("log"), &guard);
        let pid = process.pid();

        // What the kernel does when we are killed: the pipe closes, and nobody calls a destructor.
        drop(guard.pipe.lock().take());
        let reap = wait_for("the guard to end the sleeper", Duration::from_secs(5), || {
            let status = process.exited();
            async move { status?.context("it still runs") }
        });
        reap.await.unwrap();
        guard.shell.lock().wait().unwrap();

        assert!(!runs(pid));
        assert!(!dir.exists());
    }

    #[tokio::test]
    async fn process_that_ends_early_is_reported_with_its_log() {
        let log = std::env::temp_dir().join(format!("kollect-early-{}.log", std::process::id()));
        let guard = Arc::new(Guard::start().unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such flag; exit 3"]);
        let mut process = Process::spawn("server", &mut command, &log, Signal::Term, &guard).unwrap();

        let error = process.ready(Duration::from_secs(5), || async { bail!("not listening") }).await.unwrap_err();

        let text = format!("{error:#}");
        assert!(text.contains("no such flag") && text.contains("exit status: 3"), "{text}");
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn own_process_has_cpu_and_memory() {
        assert!(cpu_seconds(std::process::id()).unwrap() >= 0.0);
        assert!(status_mib(std::process::id(), "VmHWM:").unwrap() > 1.0);
    }

    #[test]
    fn ports_are_not_handed_out_twice() {
        let ports: std::collections::BTreeSet<u16> = (0..20).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 20);
    }
}
