//! The program `weir`: command line, configuration and doors of a node.
//!
//! * [`cli`]: one file per command; [`output`] is what they print,
//!   [`client`] their way to a node, [`deployment`] what they deploy and
//!   [`project`] the files that say so.
//! * [`config`]: the one list of settings, over [`setting`] and [`document`].
//! * [`run`]: a node and its doors, from a [`config::Config`].
//! * [`http`] serves connections, [`door`] finds the [`dialect`] that answers
//!   and turns requests into calls; [`auth`], [`tls`] and [`metrics`] help.

// Any duration may come from outside: see .clippy.toml.
#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

use std::ffi::OsString;
use std::process::ExitCode;

pub mod auth;
pub mod cli;
pub mod client;
pub mod config;
pub mod deployment;
pub mod dialect;
pub mod document;
pub mod door;
pub mod http;
pub mod local;
pub mod metrics;
pub mod output;
pub mod problems;
pub mod project;
pub mod run;
pub mod setting;
pub mod shutdown;
pub mod telemetry;
pub mod tls;

/// Compiles one artifact: what `weir` is when a node starts it as its own
/// short-lived compiler.
pub fn compile_artifact(arguments: Vec<OsString>) -> ExitCode {
    #[cfg(feature = "wasm")]
    return weir_node::executor::wasm::compile_child(arguments);
    #[cfg(not(feature = "wasm"))]
    {
        let _ = arguments;
        output::note("weir: error: this build compiles nothing");
        ExitCode::FAILURE
    }
}
