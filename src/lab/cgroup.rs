//! A memory control group of its own for one process: the limit that a container has, with what the kernel counted in it.
//!
//! Version 1 only, and it takes root. The group lies at the root of the hierarchy that is mounted, which in a container is
//! the container's own. It is removed when it is dropped, and by the [`Guard`] when nobody is left to drop it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use super::process::Guard;

/// Where version 1 has the memory groups.
const HIERARCHY: &str = "/sys/fs/cgroup/memory";

/// Makes a process its own member of the group, and then the program that it was to be: nothing of it is counted elsewhere.
const JOIN: &str = r#"echo $$ >"$0/cgroup.procs" && exec "$@""#;

static NUMBER: AtomicU32 = AtomicU32::new(1);

/// A group with a limit. Has to outlive the processes in it.
#[derive(Debug)]
pub struct MemoryGroup {
    dir: PathBuf,
}

/// What the kernel counted in a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryUse {
    /// The most that was in use at a time, pages of files that could have been given back included.
    pub peak_mib: f64,
    /// How often the limit was reached, and pages of files were given back.
    pub limit_hits: u64,
    /// Processes that the kernel ended for want of memory.
    pub oom_kills: u64,
}

impl MemoryGroup {
    /// Tells whether this machine has memory groups of version 1 at all, writable or not.
    pub fn hierarchy_exists() -> bool {
        Path::new(HIERARCHY).exists()
    }

    /// Makes a group with this limit, of memory and swap together.
    pub fn new(limit_mib: u64, guard: &Guard) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = Path::new(HIERARCHY).join(format!("kollect-lab-{}-{number}", std::process::id()));
        // Told first, so that there is no moment in which nobody would remove it.
        guard.remove_group_at_end(&dir)?;
        fs::create_dir(&dir).with_context(|| format!("failed to make the memory group {}", dir.display()))?;
        let group = Self { dir };
        let limit = (limit_mib << 20).to_string();
        group.write("memory.limit_in_bytes", &limit)?;
        // A kernel without accounting of swap has no such file.
        if group.dir.join("memory.memsw.limit_in_bytes").exists() {
            group.write("memory.memsw.limit_in_bytes", &limit)?;
        }
        Ok(group)
    }

    /// Returns a command that joins the group and then becomes the program.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", JOIN]).arg(&self.dir).arg(program);
        command
    }

    /// Returns what was counted so far.
    pub fn usage(&self) -> Result<MemoryUse> {
        let number = |file: &str| -> Result<u64> { Ok(self.read(file)?.trim().parse()?) };
        let control = self.read("memory.oom_control")?;
        let kills = control.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(MemoryUse {
            peak_mib: number("memory.max_usage_in_bytes")? as f64 / f64::from(1 << 20),
            limit_hits: number("memory.failcnt")?,
            oom_kills: kills.context("the kernel does not count the processes that it ended")?.trim().parse()?,
        })
    }

    /// Returns the processes in it.
    pub fn members(&self) -> Result<Vec<u32>> {
        self.read("cgroup.procs")?.lines().map(|line| line.parse().context("an odd number in cgroup.procs")).collect()
    }

    /// Returns its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn read(&self, file: &str) -> Result<String> {
        let file = self.dir.join(file);
        fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let file = self.dir.join(file);
        fs::write(&file, text).with_context(|| format!("failed to write {}", file.display()))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.dir); // one that still has members stays until the guard has ended them
    }
}
