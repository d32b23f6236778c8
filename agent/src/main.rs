//! The program `weir`; everything is in the library beside it.

use std::process::ExitCode;

/// Small allocations from many threads are most of what a node does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    weir::cli::main()
}
