//! How much memory the process may have: the machine's, or less where a control group says so.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes that the process may have as things are now; `None` where the system does not tell.
pub(super) fn available_memory() -> Option<usize> {
    available_under(Path::new("/"))
}

/// As [`available_memory`], with the system's files under `root`.
fn available_under(root: &Path) -> Option<usize> {
    let machine = fs::read_to_string(root.join("proc/meminfo")).ok();
    let machine = machine.as_deref().and_then(total);
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let files = groups.lines().flat_map(|line| limit_files(root, line));
    let groups = files.filter_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        // Without a limit the second version says `max`, the first one a number beyond all memory.
        text.trim().parse().ok()
    });
    groups.chain(machine).min()
}

/// `MemTotal` of /proc/meminfo.
fn total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The files with the memory limits of a group and of those around it, as a line of /proc/self/cgroup
/// names it: `0::/path`, or in the first version `12:memory:/path`.
fn limit_files(root: &Path, line: &str) -> Vec<PathBuf> {
    let mut parts = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
    else {
        return Vec::new();
    };
    let (mount, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        controllers if controllers.split(',').any(|name| name == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    let mount = root.join(mount);
    // In a namespace of groups the path begins at the group itself.
    let own = Path::new(path.trim_start_matches('/'));
    own.ancestors()
        .map(|group| mount.join(group).join(file))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       8000000 kB\nMemFree:        1000 kB\n";

    #[test]
    fn the_tightest_limit_counts() {
        const MACHINE: usize = 8_000_000 * 1024;
        for (name, cgroup, files, available) in [
            ("no groups", "", &[][..], Some(MACHINE)),
            (
                "no limit",
                "0::/app\n",
                &[("sys/fs/cgroup/app/memory.max", "max\n")],
                Some(MACHINE),
            ),
            (
                "a limit of its own",
                "0::/app\n",
                &[("sys/fs/cgroup/app/memory.max", "1048576\n")],
                Some(1_048_576),
            ),
            (
                "one around it",
                "0::/apps/this\n",
                &[
                    ("sys/fs/cgroup/apps/this/memory.max", "max\n"),
                    ("sys/fs/cgroup/apps/memory.max", "4096\n"),
                ],
                Some(4096),
            ),
            (
                "in a namespace",
                "0::/\n",
                &[("sys/fs/cgroup/memory.max", "8192\n")],
                Some(8192),
            ),
            (
                "the first version",
                "5:cpu,cpuacct:/app\n4:memory:/app\n",
                &[(
                    "sys/fs/cgroup/memory/app/memory.limit_in_bytes",
                    "2097152\n",
                )],
                Some(2_097_152),
            ),
            (
                "the first version, no limit",
                "4:memory:/app\n",
                &[(
                    "sys/fs/cgroup/memory/app/memory.limit_in_bytes",
                    "9223372036854771712\n",
                )],
                Some(MACHINE),
            ),
        ] {
            let root = tempfile::tempdir().unwrap();
            let own = [("proc/meminfo", MEMINFO), ("proc/self/cgroup", cgroup)];
            for (path, text) in own.iter().chain(files) {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            assert_eq!(available_under(root.path()), available, "{name}");
        }
        let nothing = tempfile::tempdir().unwrap();
        assert_eq!(available_under(nothing.path()), None);
    }
}
