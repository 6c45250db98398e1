//! The memory limit of the container, read from its control groups, version 1 or 2.

use std::fs;
use std::path::{Path, PathBuf};

/// Version 1 writes "no limit" as the largest multiple of a page; nothing of this size is a limit.
const NO_LIMIT: u64 = 1 << 60;

/// Returns the least memory limit that applies to this process, in bytes; `None` without one.
///
/// `root` is `/`, or the root of a copy in tests. A limit of any parent group counts too. What cannot be read is no limit:
/// outside a container that is the normal case.
pub(super) fn limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    groups.lines().filter_map(|line| group_limit(root, line)).min()
}

/// Returns the least limit on the way from one line of `/proc/self/cgroup` up to the root of its hierarchy.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    // hierarchy-id:controllers:path
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (mount, file) = if controllers.is_empty() {
        (root.join("sys/fs/cgroup"), "memory.max")
    } else if controllers.split(',').any(|controller| controller == "memory") {
        (root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes")
    } else {
        return None;
    };
    // Inside a container the mount is already the container's own group, and the path may name one that only the host
    // sees; each level is tried, so both cases are met.
    let group: PathBuf = mount.join(path.trim_start_matches('/'));
    group
        .ancestors()
        .take_while(|level| level.starts_with(&mount))
        .filter_map(|level| read_limit(&level.join(file)))
        .min()
}

fn read_limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own that is removed at the end.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("kollect-memory-{}-{name}", std::process::id()));
            for (file, text) in files {
                let file = root.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0); // the test's verdict is in already
        }
    }

    #[test]
    fn version_2_counts_the_parents_too() {
        let root = Root::new(
            "v2",
            &[
                ("proc/self/cgroup", "0::/pod/container\n"),
                ("sys/fs/cgroup/pod/container/memory.max", "max\n"),
                ("sys/fs/cgroup/pod/memory.max", "268435456\n"),
            ],
        );
        assert_eq!(limit(&root.0), Some(256 << 20));
    }

    #[test]
    fn version_2_inside_a_namespace_is_the_root() {
        let root = Root::new("v2ns", &[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "201326592\n")]);
        assert_eq!(limit(&root.0), Some(192 << 20));
    }

    #[test]
    fn version_1_knows_its_own_word_for_no_limit() {
        let root = Root::new(
            "v1",
            &[
                ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/kollect\n0::/\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/memory/kollect/memory.limit_in_bytes", "134217728\n"),
            ],
        );
        assert_eq!(limit(&root.0), Some(128 << 20));
    }

    #[test]
    fn without_control_groups_there_is_no_limit() {
        let root = Root::new("none", &[("proc/self/cgroup", "0::/\n")]);
        assert_eq!(limit(&root.0), None);
        assert_eq!(limit(Path::new("/nonexistent")), None);
    }
}
