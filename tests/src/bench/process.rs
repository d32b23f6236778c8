//! What processes cost, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU that these processes have used so far, of their own and in the kernel.
pub fn cpu(processes: &[u32]) -> Result<Duration> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let mut used = 0.0;
    for process in processes {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))
            .with_context(|| format!("process {process} has ended"))?;
        // The program's name may hold blanks; what follows its bracket does not.
        let (_, fields) = stat.rsplit_once(") ").context("a stat line has a name")?;
        for field in fields.split(' ').skip(11).take(2) {
            used += field.parse::<f64>()?;
        }
    }
    Ok(Duration::from_secs_f64(used / ticks))
}

/// Resident memory of a process, in megabytes.
#[derive(Debug, Clone, Copy)]
pub struct Resident {
    /// All of it.
    pub all: f64,
    /// What the kernel could not drop without writing: not mapped files.
    pub own: f64,
}

/// What a process holds in memory now.
pub fn resident(process: u32) -> Result<Resident> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let megabytes = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kibibytes.context("a process has memory")?.parse::<f64>()? * 1024.0 / 1e6)
    };
    Ok(Resident {
        all: megabytes("VmRSS:")?,
        own: megabytes("RssAnon:")?,
    })
}

/// Memory of a process in megabytes, with what it shares with others divided
/// among all who share it.
pub fn proportional(process: u32) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kibibytes
        .context("a process has memory")?
        .trim()
        .parse::<f64>()?
        * 1024.0
        / 1e6)
}

/// Bytes that went over the loopback interface so far, headers included.
pub fn loopback() -> Result<u64> {
    let devices = fs::read_to_string("/proc/net/dev")?;
    let mut lines = devices.lines();
    let line = lines.find_map(|line| line.trim().strip_prefix("lo:"));
    let received = line.and_then(|line| line.split_whitespace().next());
    Ok(received.context("there is a loopback interface")?.parse()?)
}
