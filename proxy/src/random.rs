//! Random bytes that nobody can guess, cheap enough for one request each: the source that guests and
//! the host have too.

use std::io;

use sluicegate_plugin_services::random;

/// `N` random bytes.
///
/// # Errors
/// When the operating system has none to give.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    random::fill(&mut bytes)?;
    Ok(bytes)
}
