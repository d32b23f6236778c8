//! The compiling child of the tests: what `weir` does in its subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_wasm::compile_child(std::env::args_os().skip(1))
}
