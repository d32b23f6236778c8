//! Builds every guest, so that a missing tool shows before the first test.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for name in weir_tests::guests::names() {
        match weir_tests::guests::build(&name) {
            Ok(guest) => println!("{name}: {} bytes", guest.bytes.len()),
            Err(error) => {
                eprintln!("{name}: {error:#}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
