//! What a container has used of processors, as the kernel counts it, or the
//! engine where the node cannot see the host's control groups.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::query_parameters::StatsOptionsBuilder;
use futures_util::StreamExt as _;

use crate::engine::Engine;

/// Threads of one container whose waiting is read: more make a look dear, and
/// tell no more.
const THREADS: usize = 64;

/// Time between two questions to the engine about one container: each costs it a
/// few milliseconds.
const ENGINE_INTERVAL: Duration = Duration::from_secs(2);

/// Where control groups are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// What a container has used since it was started.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Processor time of all its threads.
    pub cpu: Duration,
    /// How long threads of it could have run and did not, as far as they lived
    /// when they were looked at.
    pub waited: Duration,
}

/// How one container is looked at.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    group: Option<Group>,
    /// What each thread had waited at the last look, in nanoseconds.
    threads: HashMap<u32, u64>,
    waited: u64,
    /// When the engine was asked last.
    asked: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Group {
    /// The first version's folder.
    First(PathBuf),
    /// The second's.
    Second(PathBuf),
    /// Neither is to be seen from here.
    Hidden,
}

impl Group {
    /// Where the engine has put a container, by either of its drivers.
    fn find(container: &str) -> Group {
        let scope = format!("docker-{container}.scope");
        let places = [
            Path::new("docker").join(container),
            Path::new("system.slice").join(scope),
        ];
        let first = ["cpuacct", "cpu,cpuacct"].iter().flat_map(|kind| {
            let root = Path::new(GROUPS).join(kind);
            places.clone().map(|place| root.join(place))
        });
        if let Some(found) = first
            .into_iter()
            .find(|at| at.join("cpuacct.usage").exists())
        {
            return Group::First(found);
        }
        let second = places.map(|place| Path::new(GROUPS).join(place));
        match second.into_iter().find(|at| at.join("cpu.stat").exists()) {
            Some(found) => Group::Second(found),
            None => Group::Hidden,
        }
    }

    fn cpu(&self) -> Option<Duration> {
        match self {
            Group::First(folder) => {
                let text = fs::read_to_string(folder.join("cpuacct.usage")).ok()?;
                text.trim().parse().ok().map(Duration::from_nanos)
            }
            Group::Second(folder) => {
                let text = fs::read_to_string(folder.join("cpu.stat")).ok()?;
                let used = text
                    .lines()
                    .find_map(|line| line.strip_prefix("usage_usec "))?;
                used.trim().parse().ok().map(Duration::from_micros)
            }
            Group::Hidden => None,
        }
    }

    fn threads(&self) -> Vec<u32> {
        let text = match self {
            Group::First(folder) => fs::read_to_string(folder.join("tasks")),
            Group::Second(folder) => fs::read_to_string(folder.join("cgroup.threads")),
            Group::Hidden => return Vec::new(),
        };
        let text = text.unwrap_or_default();
        text.lines()
            .filter_map(|line| line.parse().ok())
            .take(THREADS)
            .collect()
    }
}

impl Looks {
    /// Looks once; blocks for some tens of microseconds. `None` where nothing is
    /// to be seen.
    pub(crate) fn look(&mut self, container: &str) -> Option<Usage> {
        let group = self.group.get_or_insert_with(|| Group::find(container));
        let cpu = group.cpu()?;
        let before = std::mem::take(&mut self.threads);
        for thread in group.threads() {
            let Some(waited) = waited(thread) else {
                continue;
            };
            let last = before.get(&thread).copied().unwrap_or_default();
            self.waited = self.waited.saturating_add(waited.saturating_sub(last));
            self.threads.insert(thread, waited);
        }
        Some(Usage {
            cpu,
            waited: Duration::from_nanos(self.waited),
        })
    }

    /// Whether the engine may be asked again, which it then is.
    pub(crate) fn may_ask(&mut self, now: Instant) -> bool {
        let rested = |asked: Instant| now.duration_since(asked) >= ENGINE_INTERVAL;
        let may = self.asked.is_none_or(rested);
        if may {
            self.asked = Some(now);
        }
        may
    }
}

/// How long a thread was runnable and did not run, in nanoseconds: the second
/// number of its scheduling statistics.
fn waited(thread: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

impl Engine {
    /// What the engine says that a container has used.
    pub(crate) async fn used(&self, container: &str) -> Option<Usage> {
        let docker = self.docker().await.ok()?;
        let options = StatsOptionsBuilder::default()
            .stream(false)
            .one_shot(true)
            .build();
        let mut told = docker.stats(container, Some(options));
        let told = told.next().await?.ok()?;
        let used = told.cpu_stats?.cpu_usage?.total_usage?;
        Some(Usage {
            cpu: Duration::from_nanos(used),
            waited: Duration::ZERO,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_waited_is_read_of_this_very_thread() {
        let own = std::process::id();
        assert!(
            waited(own).is_some(),
            "the kernel keeps scheduling statistics"
        );
        assert_eq!(waited(u32::MAX), None);
    }
}
