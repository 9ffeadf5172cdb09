//! The machine: which processor does what, how many descriptors there are, and what to print of it.

use std::fmt;
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
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .unwrap_or_default();
        Places::among(&processors(allowed))
    }

    fn among(processors: &[usize]) -> Places {
        match *processors {
            [] | [_] => Places::default(),
            [proxy, generator, ref rest @ ..] => Places {
                proxy: Some(proxy),
                generator: Some(generator),
                backend: Some(rest.first().copied().unwrap_or(generator)),
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

/// As `2 processors (AMD EPYC)`.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.processors == 1 { "" } else { "s" };
        write!(
            f,
            "{} processor{plural} ({})",
            self.processors, self.processor
        )
    }
}

/// Keeps this thread, and whatever it starts from now on, on one processor.
///
/// # Errors
/// When there is no such processor.
#[expect(unsafe_code, reason = "the standard library chooses no processor")]
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

/// The numbers of a list such as `0-2,8`.
fn processors(list: &str) -> Vec<usize> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    list.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(number(first)?..=number(last)?)
        })
        .flatten()
        .take(libc::CPU_SETSIZE as usize)
        .collect()
}

/// Two for each tunnel of the largest row, and as many again.
const WANTED_DESCRIPTORS: u64 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_gets_a_processor_as_long_as_there_are_some() {
        for (list, proxy, generator, backend) in [
            ("\t0-1", Some(0), Some(1), Some(1)),
            ("4-6,9", Some(4), Some(5), Some(6)),
            ("2,5,7", Some(2), Some(5), Some(7)),
            ("3", None, None, None),
            ("", None, None, None),
        ] {
            let places = Places::among(&processors(list));
            let expected = Places {
                proxy,
                generator,
                backend,
            };
            assert_eq!(places, expected, "{list}");
        }
    }
}
