//! Compiles the program of sandbox containers with the C compiler of the
//! machine. It needs no C library, so no development package of one either.

use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "sandbox/sandbox.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CC");
    let target = std::env::var("TARGET").expect("cargo names the target");
    let output = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo names a folder"));
    let compiler = std::env::var(format!("CC_{}", target.replace('-', "_")))
        .or_else(|_| std::env::var("CC"))
        .unwrap_or_else(|_| "cc".to_owned());
    let built = Command::new(&compiler)
        .args([
            "-static",
            "-nostdlib",
            "-ffreestanding",
            "-fno-pie",
            "-no-pie",
            "-Os",
        ])
        .args(["-fno-stack-protector", "-fno-asynchronous-unwind-tables"])
        // Or the compiler turns loops into calls of a library that is not there.
        .arg("-fno-tree-loop-distribute-patterns")
        .args([
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wl,--build-id=none",
            "-s",
            "-o",
        ])
        .arg(output.join("sandbox"))
        .arg(SOURCE)
        .status();
    match built {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{compiler} cannot compile {SOURCE} for {target}: {status}"),
        Err(error) => panic!("cannot run the C compiler {compiler} (set CC): {error}"),
    }
}
