//! How a container is locked down.

use std::collections::HashMap;
use std::path::PathBuf;

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, ResourcesUlimits,
};

/// The label that everything carries which a node makes; its value is the
/// node's id.
pub(crate) const NODE_LABEL: &str = "weir.node";

/// The label that names the function of an instance.
const FUNCTION_LABEL: &str = "weir.function";

/// Who runs in a container whose image names nobody, or root: the user and
/// group `nobody` of most systems.
const NOBODY: &str = "65534:65534";

/// Processes and threads of one instance. Enough for a language runtime with
/// a thread pool, and too few to hurt the machine.
const PROCESSES: i64 = 128;

/// Bytes that an instance may keep in `/tmp`, and as many in `/dev/shm`. They
/// count against its memory.
const SCRATCH_BYTES: i64 = 16 << 20;

/// Files open at once in one process.
const OPEN_FILES: i64 = 1024;

/// Weight of an instance's processor time when the machine is full; a process
/// outside containers, such as the node, has 1024.
const CPU_SHARES: i64 = 256;

/// When the machine runs out of memory, instances go before what serves them.
const OOM_SCORE: i64 = 500;

/// Memory of a sandbox. Its process needs a few kilobytes; the engine's own,
/// which becomes that process, does not fit into the least that it allows.
const SANDBOX_BYTES: i64 = 24 << 20;

/// What an instance can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// Nothing but itself.
    #[default]
    None,
    /// A bridge of the node's own: the host and what lies behind it, but no
    /// other instance.
    Bridge,
}

/// One container, as a function needs it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For the label and the container's name.
    pub function: String,
    /// Reference or id of an image that the engine has.
    pub image: String,
    /// Environment, beside what the image sets.
    pub env: Vec<(String, String)>,
    /// Bytes that the instance may write to its root; `None` for a root that
    /// is read-only.
    pub root_bytes: Option<u64>,
    /// Limit of memory; there is no swap beyond it.
    pub memory_bytes: u64,
    /// Share of processors; `None` for what is free.
    pub cpu_millicores: Option<u32>,
    /// What it can reach.
    pub network: Network,
    /// Whether to run as the user that the image names, root included.
    pub image_user: bool,
    /// A path that answers 2xx once it takes calls; `None` for as soon as it
    /// listens.
    pub health: Option<String>,
    /// The port on which it answers; `None` for the one that its image
    /// exposes, or the usual one.
    pub port: Option<u16>,
    /// Folders of the host and where they appear, read-only.
    pub mounts: Vec<(PathBuf, &'static str)>,
}

impl Settings {
    /// What the engine is asked to create, in the network of `sandbox`.
    /// `image_user` is the one that the image names.
    pub(crate) fn body(
        &self,
        node: &str,
        sandbox: &str,
        image_user: &str,
        command: Option<Vec<String>>,
    ) -> ContainerCreateBody {
        let env = self
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let memory = i64::try_from(self.memory_bytes).unwrap_or(i64::MAX);
        let mounts = self.mounts.iter().map(|(source, target)| Mount {
            target: Some((*target).to_owned()),
            source: Some(source.display().to_string()),
            typ: Some(MountType::BIND),
            read_only: Some(true),
            ..Mount::default()
        });
        let is_root = matches!(image_user.split(':').next(), Some("" | "0" | "root") | None);
        let user = (is_root && !self.image_user).then(|| NOBODY.to_owned());
        let mut labels = labels(node);
        labels.insert(FUNCTION_LABEL.to_owned(), self.function.clone());
        ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: command,
            env: Some(env.collect()),
            user,
            labels: Some(labels),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            host_config: Some(HostConfig {
                network_mode: Some(format!("container:{sandbox}")),
                mounts: Some(mounts.collect()),
                memory: Some(memory),
                memory_swap: Some(memory),
                nano_cpus: self.cpu_millicores.map(|cpu| i64::from(cpu) * 1_000_000),
                cpu_shares: self.cpu_millicores.is_none().then_some(CPU_SHARES),
                oom_score_adj: Some(OOM_SCORE),
                pids_limit: Some(PROCESSES),
                tmpfs: Some(HashMap::from([(
                    "/tmp".to_owned(),
                    format!("rw,noexec,nosuid,nodev,mode=1777,size={SCRATCH_BYTES}"),
                )])),
                shm_size: Some(SCRATCH_BYTES),
                readonly_rootfs: Some(self.root_bytes.is_none()),
                storage_opt: self.root_bytes.map(root_limit),
                ..locked()
            }),
            ..ContainerCreateBody::default()
        }
    }
}

/// The container that holds a network namespace open.
pub(crate) fn sandbox_body(
    node: &str,
    image: &str,
    network: &str,
    folder: &std::path::Path,
) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(image.to_owned()),
        cmd: Some(vec!["/sandbox".to_owned()]),
        // It dials a socket that only the node's own user may write to.
        user: Some(NOBODY.to_owned()),
        labels: Some(labels(node)),
        host_config: Some(HostConfig {
            network_mode: Some(network.to_owned()),
            mounts: Some(vec![Mount {
                target: Some("/run/weir".to_owned()),
                source: Some(folder.display().to_string()),
                typ: Some(MountType::BIND),
                read_only: Some(true),
                ..Mount::default()
            }]),
            memory: Some(SANDBOX_BYTES),
            memory_swap: Some(SANDBOX_BYTES),
            pids_limit: Some(4),
            ..locked()
        }),
        ..ContainerCreateBody::default()
    }
}

/// A container that is never started, and whose root is bounded.
pub(crate) fn root_body(node: &str, image: &str, bytes: u64) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(image.to_owned()),
        // An image without a command could not be created.
        cmd: Some(vec!["none".to_owned()]),
        labels: Some(labels(node)),
        host_config: Some(HostConfig {
            storage_opt: Some(root_limit(bytes)),
            ..locked()
        }),
        ..ContainerCreateBody::default()
    }
}

fn root_limit(bytes: u64) -> HashMap<String, String> {
    HashMap::from([("size".to_owned(), bytes.to_string())])
}

pub(crate) fn labels(node: &str) -> HashMap<String, String> {
    HashMap::from([(NODE_LABEL.to_owned(), node.to_owned())])
}

/// What no container of ours may have.
fn locked() -> HostConfig {
    let limit = |name: &str, value| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(value),
        hard: Some(value),
    };
    HostConfig {
        privileged: Some(false),
        readonly_rootfs: Some(true),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        ipc_mode: Some("private".to_owned()),
        // What is written goes to the node, over the connection that attaches
        // to it, and is bounded there; nothing is kept by the engine.
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        ulimits: Some(vec![
            limit("nofile", OPEN_FILES),
            limit("fsize", SCRATCH_BYTES),
            limit("core", 0),
        ]),
        ..HostConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            function: "f".to_owned(),
            image: "image".to_owned(),
            env: vec![("A".to_owned(), "b=c".to_owned())],
            root_bytes: None,
            memory_bytes: 64 << 20,
            cpu_millicores: Some(500),
            network: Network::None,
            image_user: false,
            health: None,
            port: None,
            mounts: vec![(PathBuf::from("/data/1"), "/run/weir")],
        }
    }

    #[test]
    fn nobody_runs_what_would_run_as_root() {
        let check = |named: &str, image_user, expected: Option<&str>| {
            let settings = Settings {
                image_user,
                ..settings()
            };
            let body = settings.body("node", "sandbox", named, None);
            assert_eq!(body.user.as_deref(), expected, "{named}");
        };
        check("", false, Some(NOBODY));
        check("0:0", false, Some(NOBODY));
        check("root", false, Some(NOBODY));
        check("1000", false, None);
        check("app:app", false, None);
        check("", true, None);
    }

    #[test]
    fn container_can_do_little() {
        let body = settings().body("node", "sandbox", "", None);
        let host = body.host_config.expect("a host configuration");
        assert_eq!(host.network_mode.as_deref(), Some("container:sandbox"));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!(host.memory, host.memory_swap);
        assert_eq!(host.nano_cpus, Some(500_000_000));
        let mounts = host.mounts.expect("mounts");
        assert!(mounts.iter().all(|mount| mount.read_only == Some(true)));
    }
}
