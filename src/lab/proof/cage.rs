//! A memory cgroup for the operator alone, of version 1 or 2.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// A group and a program that enters it. Dropping it removes the group, once nobody is in it.
#[derive(Debug)]
pub(super) struct Cage {
    group: PathBuf,
    entrance: PathBuf,
}

impl Cage {
    /// Makes a group of this size, and in `dir` a script that runs the program in it.
    ///
    /// # Errors
    /// When this account may not make groups.
    pub(super) fn new(program: &Path, mib: u64, dir: &Path) -> Result<Self> {
        let version_1 = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = if version_1.is_dir() {
            (version_1, "memory.limit_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let group = root.join(format!("kollect-proof-{}", std::process::id()));
        let what = || format!("failed to make the memory cgroup {}; it takes root", group.display());
        fs::create_dir(&group).with_context(what)?;
        let cage = Self { entrance: dir.join("kollect-in-cgroup"), group: group.clone() };
        fs::write(group.join(limit), (mib << 20).to_string()).with_context(what)?;
        let script =
            format!("#!/bin/sh\necho $$ >'{}/cgroup.procs' && exec '{}' \"$@\"\n", group.display(), program.display());
        fs::write(&cage.entrance, script)?;
        fs::set_permissions(&cage.entrance, fs::Permissions::from_mode(0o755))?;
        Ok(cage)
    }

    /// Returns the program to start in place of the one that shall be inside.
    pub(super) fn program(&self) -> &Path {
        &self.entrance
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // The kernel lets a group go a moment after its last process. One that stays is empty and harms nobody.
        for _ in 0..20 {
            if fs::remove_dir(&self.group).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
