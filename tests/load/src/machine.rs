//! The machine: which processor does what, how many descriptors there are, and what to print of it.

use std::fs;
use std::io;
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::failure::{Failure, Result};

/// Which processor each side has for itself; all `None` without pinning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) proxy: Option<usize>,
    pub(crate) generator: Option<usize>,
    pub(crate) backend: Option<usize>,
}

/// What the figures were measured on.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) kernel: String,
}

impl Places {
    /// One processor for the proxy, another for the generator, a third for the backend if there is
    /// one. With a single processor there is nothing to choose.
    pub(crate) fn choose() -> Places {
        match thread::available_parallelism().map_or(1, usize::from) {
            1 => Places::default(),
            count => Places {
                proxy: Some(0),
                generator: Some(1),
                backend: Some(if count > 2 { 2 } else { 1 }),
            },
        }
    }
}

impl Machine {
    pub(crate) fn examine() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or("unknown", |(_, name)| name.trim());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            processor: processor.to_owned(),
            processors: thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
        }
    }
}

/// Keeps this thread, and whatever it starts from now on, on one processor.
///
/// # Errors
/// When there is no such processor.
pub(crate) fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else {
        return Ok(());
    };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(Failure::new(format!("there is no processor {cpu}")));
    }
    // SAFETY: a `cpu_set_t` is an array of integers, for which zeros are a value: the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE, as was just checked, so the bit lies within the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer is to a live `cpu_set_t` of the size given; the call only reads it.
    let failed =
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if failed != 0 {
        return Err(Failure::of("cannot choose the processor")(
            io::Error::last_os_error(),
        ));
    }
    Ok(())
}

/// Raises the limit of open descriptors as far as it goes, for this process and its children;
/// returns where it is then.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let most = fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok())
        .map_or(WANTED_DESCRIPTORS, |most| most.min(WANTED_DESCRIPTORS));
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(most);
    for goal in [most.max(hard), hard] {
        let raised = Rlimit {
            current: Some(goal),
            maximum: Some(goal),
        };
        // Above the hard limit only root may go; then the hard limit itself is what there is.
        if setrlimit(Resource::Nofile, raised).is_ok() {
            return goal;
        }
    }
    limit.current.unwrap_or(hard)
}

/// Two for each tunnel of the largest row, and as many again.
const WANTED_DESCRIPTORS: u64 = 65_536;
