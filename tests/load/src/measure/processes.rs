//! CPU time and memory of a process and all its descendants, from `/proc`.
//!
//! CPU time is the sum of what the scheduler accounted to each thread, in nanoseconds. A thread that
//! ends between two readings takes its account along; the ticks of `stat`, which count the dead but
//! only in hundredths of a second, show it, and then they are the figure.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::failure::{Failure, Result};

/// A reading of the CPU time that a process tree has used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuReading {
    threads: Duration,
    ticks: Duration,
}

impl CpuReading {
    /// Reads the tree under `root`.
    ///
    /// # Errors
    /// When the root is gone.
    pub(crate) fn take(root: u32) -> Result<CpuReading> {
        let mut reading = CpuReading {
            threads: Duration::ZERO,
            ticks: Duration::ZERO,
        };
        for process in tree(root)? {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let fields = after_name(&stat);
            // utime, stime, and those of children that were waited for.
            let ticks: u64 = fields[11.min(fields.len())..15.min(fields.len())]
                .iter()
                .filter_map(|field| field.parse::<u64>().ok())
                .sum();
            reading.ticks += TICK * u32::try_from(ticks).unwrap_or(u32::MAX);
            let threads = fs::read_dir(format!("/proc/{process}/task"));
            for thread in threads.into_iter().flatten().flatten() {
                let accounts = fs::read_to_string(thread.path().join("schedstat"));
                let nanos = accounts
                    .ok()
                    .and_then(|text| text.split_whitespace().next()?.parse().ok());
                reading.threads += Duration::from_nanos(nanos.unwrap_or(0));
            }
        }
        Ok(reading)
    }

    /// CPU time used since an `earlier` reading.
    pub(crate) fn since(&self, earlier: &CpuReading) -> Duration {
        let threads = self.threads.saturating_sub(earlier.threads);
        let ticks = self.ticks.saturating_sub(earlier.ticks);
        if ticks > threads + ROUNDING {
            ticks
        } else {
            threads
        }
    }
}

/// Proportional set size of the tree under `root`, in bytes.
///
/// # Errors
/// When the root is gone or its memory may not be read.
pub(crate) fn memory(root: u32) -> Result<u64> {
    let mut total = 0;
    for process in tree(root)? {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))
            .map_err(Failure::of("cannot read the proxy's memory"))?;
        let kib: u64 = rollup
            .lines()
            .find_map(|line| {
                line.strip_prefix("Pss:")?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .ok_or_else(|| Failure::new("no Pss in smaps_rollup"))?;
        total += kib * 1024;
    }
    Ok(total)
}

/// `root` and all its living descendants.
///
/// # Errors
/// When the root is gone.
pub(crate) fn tree(root: u32) -> Result<Vec<u32>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = after_name(&stat);
        if let Some(parent) = fields.get(1).and_then(|field| field.parse::<u32>().ok()) {
            parents.insert(id, (parent, fields[0] == "Z"));
        }
    }
    if parents.get(&root).is_none_or(|(_, dead)| *dead) {
        return Err(Failure::new("the proxy is gone"));
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&process) = found.get(next) {
        next += 1;
        found.extend(
            parents
                .iter()
                .filter(|(_, (parent, dead))| *parent == process && !dead)
                .map(|(child, _)| *child),
        );
    }
    Ok(found)
}

/// The fields of a `stat` that follow the name, which may itself hold blanks and brackets.
fn after_name(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .collect()
}

/// USER_HZ is 100 on every Linux that this runs on.
const TICK: Duration = Duration::from_millis(10);
/// utime and stime of a process may each hide a tick.
const ROUNDING: Duration = Duration::from_millis(40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spent_by_a_thread_that_ended_is_not_lost() {
        let me = std::process::id();
        let before = CpuReading::take(me).unwrap();
        std::thread::spawn(|| {
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_millis(300) {
                std::hint::spin_loop();
            }
        })
        .join()
        .unwrap();
        let used = CpuReading::take(me).unwrap().since(&before);
        assert!(used > Duration::from_millis(50), "{used:?}");
    }

    #[test]
    fn this_process_has_memory_and_a_process_that_is_gone_has_none() {
        assert!(memory(std::process::id()).unwrap() > 100_000);
        assert!(memory(u32::MAX).is_err());
    }

    #[test]
    fn a_name_with_brackets_is_no_trap() {
        assert_eq!(after_name("12 (a) b) S 1 2"), ["S", "1", "2"]);
    }
}
