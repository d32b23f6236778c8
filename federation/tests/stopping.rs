//! A federated node is started and stopped several times in one process, and
//! leaves nothing behind: no task, thread or socket, and a folder that the next
//! start can use. One test, in a process of its own: it counts.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use weir_federation::dispatch::{Dispatch, Rules};
use weir_federation::federated::{Federated, Settings};
use weir_federation::policy;
use weir_node::Node;
use weir_node::config::NodeConfig;
use weir_node::resources::{Cpu, Memory, Resources};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// A port that is free for both kinds of socket.
fn free_port() -> u16 {
    let free = (0..100).find_map(|_| {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let port = tcp.local_addr().ok()?.port();
        UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        Some(port)
    });
    free.expect("some port is free")
}

fn settings(folder: &Path, port: u16) -> Settings {
    let listen = [
        format!("/ip4/127.0.0.1/tcp/{port}"),
        format!("/ip4/127.0.0.1/udp/{port}/quic-v1"),
    ];
    let listen = listen.iter().map(|text| text.parse().expect("an address"));
    Settings {
        folder: folder.join("federation"),
        listen: listen.collect(),
        zone: "lab".to_owned(),
        follows_regions: false,
        ..Settings::default()
    }
}

/// Names of this process' threads that belong to a federation.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let names = tasks.flatten().filter_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        Some(name.trim().to_owned())
    });
    let ours = ["overlay", "federation", "files"];
    names.filter(|name| ours.contains(&name.as_str())).collect()
}

/// Sockets that this process holds.
fn sockets() -> usize {
    let files = std::fs::read_dir("/proc/self/fd").expect("Linux").flatten();
    let targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    let sockets = targets.filter(|target| target.to_string_lossy().starts_with("socket:"));
    sockets.count()
}

/// Files that a write left unfinished.
fn unfinished(folder: &Path) -> Vec<String> {
    let files = std::fs::read_dir(folder.join("federation")).expect("it was made");
    let names = files.flatten().map(|file| file.file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".new")).collect()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// Waits until no more than so many tasks are alive: one that was dropped ends
/// when the runtime comes to it, and some of the node's own end by themselves.
async fn settles(count: usize, what: &str) {
    let settled = async {
        while tasks() > count {
            tokio::task::yield_now().await;
        }
    };
    let settled = tokio::time::timeout(LONG, settled).await;
    assert!(
        settled.is_ok(),
        "{} tasks are alive, {count} were: {what}",
        tasks()
    );
}

/// Every task of a federation is begun by what counts it, so that nothing runs
/// on once it has stopped.
#[test]
fn tasks_are_begun_where_they_are_counted() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut begun) = (vec![sources.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("text");
            if text.contains("tokio::spawn(") {
                let name = path.strip_prefix(&sources).expect("it is there");
                begun.push(name.to_string_lossy().into_owned());
            }
        }
    }
    assert_eq!(begun, ["federated/stopping.rs"]);
}

#[tokio::test]
async fn a_federated_node_starts_and_stops_three_times_in_one_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let (before, held) = (tasks(), sockets());
    let mut ids = Vec::new();
    for round in 1..=3 {
        let capacity = Resources {
            cpu: Cpu::cores(1),
            memory: Memory::mebibytes(64),
        };
        let config = NodeConfig::new(folder.path().join("node"), capacity);
        let node = Box::pin(Node::start(config)).await;
        let node = node.unwrap_or_else(|error| panic!("start {round} of the node: {error}"));
        let alone = tasks();
        let (federated, streams) = Federated::start(&node, settings(folder.path(), port))
            .unwrap_or_else(|error| panic!("start {round} of the federation: {error}"));
        let bootstrap = federated.settled_bootstrap().await;
        assert!(!bootstrap.is_empty(), "it does not listen");
        let rules = Rules {
            default: (&policy::Choice::default()).into(),
            by_class: BTreeMap::new(),
        };
        let dispatch = Dispatch::new(node.clone(), federated.clone(), rules);
        ids.push(federated.member().federation());
        assert!(tasks() > alone);
        assert!(threads().contains(&"overlay".to_owned()));
        federated.leave();
        federated.stop().await;
        assert_eq!(threads(), [""; 0], "threads of round {round} are left");
        settles(alone, "the federation has stopped").await;
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        assert!(bound.is_ok(), "round {round}: {bound:?}");
        let bound = UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
        assert!(bound.is_ok(), "round {round}: {bound:?}");
        assert_eq!(unfinished(folder.path()), [""; 0]);
        // To stop twice is no mistake.
        federated.stop().await;
        node.drain(LONG).await;
        drop((dispatch, federated, streams, node));
        settles(before, "the node has stopped").await;
    }
    assert_eq!(sockets(), held);
    assert!(
        ids.windows(2).all(|two| two[0] == two[1]),
        "it founded anew"
    );
}
