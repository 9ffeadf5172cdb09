//! The `sluicegate` command. Everything is in [`sluicegate::cli`].

use std::process::ExitCode;

/// It gives memory back: the system's keeps what eight thousand closed connections have held, and
/// pays for the alignment of every task in small holes.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    sluicegate::cli::main()
}
