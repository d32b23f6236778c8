//! A node with many functions. Deploying them takes minutes and is no case's
//! subject, so it is done once, and each case gets a copy of the data.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use crate::guests::{Guest, guest};
use crate::node::{Function, Setup};

use super::load::{Connection, post};

/// Data of a node with many functions deployed and compiled.
#[derive(Debug)]
pub struct Many {
    folder: TempDir,
    count: usize,
}

/// A case's copy of the data of many functions.
#[derive(Debug)]
pub struct Copy {
    folder: TempDir,
}

impl Many {
    /// Deploys functions, each the same C program under a digest of its own, to
    /// a node, and ends the node as a power cut would.
    pub async fn deploy(count: usize) -> Result<Many> {
        eprintln!("    deploying {count} functions, once for all cases");
        let folder = tempfile::tempdir()?;
        let mut node = Setup::new().data(folder.path().join("data")).start().await;
        let echo = guest("echo");
        for number in 0..count {
            let function = Function::of(&name(number), stamped(&echo, number));
            node.create(&function).await.expect_status(202);
        }
        for number in 0..count {
            let state = node.settled(&name(number)).await;
            ensure!(state == "ready", "{} is {state}", name(number));
        }
        node.kill().await;
        Ok(Many { folder, count })
    }

    /// How many functions there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// A copy of the data, for one case to use up.
    pub async fn copy(&self) -> Result<Copy> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new("cp");
        command.args(["--archive", "--reflink=auto"]);
        command.arg(self.folder.path().join("data"));
        let status = command.arg(folder.path()).status().await;
        let status = status.context("run cp")?;
        ensure!(status.success(), "cp ended with {status}");
        Ok(Copy { folder })
    }
}

impl Copy {
    /// A node on this copy. The copy must outlive it.
    pub fn setup(&self) -> Setup {
        Setup::new().data(self.path())
    }

    /// Where the data lies.
    pub fn path(&self) -> std::path::PathBuf {
        Path::join(self.folder.path(), "data")
    }
}

/// The name of a function by its number.
pub fn name(number: usize) -> String {
    format!("many{number}")
}

/// The path that calls a function by its number.
pub fn path(number: usize) -> String {
    format!("/function/many{number}")
}

/// Calls each of the first `count` functions once.
pub async fn call_each(connection: &mut Connection, count: usize) -> Result<()> {
    for number in 0..count {
        let answer = connection.exchange(&post(&path(number), "x")).await?;
        ensure!(answer.status == 200, "{}: {}", name(number), answer.status);
    }
    Ok(())
}

/// The same module with a section that nothing reads, and so another digest.
fn stamped(code: &Guest, number: usize) -> Guest {
    let stamp = format!("number {number}");
    let mut bytes = code.bytes.to_vec();
    // A custom section: kind 0, its length, the length of its name, its name.
    let length = u8::try_from(stamp.len()).expect("a stamp is short");
    bytes.extend([0, length + 1, length]);
    bytes.extend(stamp.bytes());
    Guest::from_bytes(&name(number), bytes)
}
