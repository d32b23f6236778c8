//! What a call costs of the lock that all calls of a node share.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};

use super::*;
use crate::admission::Prospect;
use crate::config::NodeConfig;
use crate::function::{ArtifactKind, FunctionSpec, Protocol};
use crate::id::Digest;
use crate::node::timers::LOCKED;
use crate::node::{DeployMode, Wants};
use crate::resources::{Cpu, Memory, Resources};

/// Calls that are counted. Who looks after the node locks too, now and then, on
/// the same thread: the fewest of them all are those of the call alone.
const CALLS: usize = 50;

const MODEL: &str = r#"{"simulated": {
    "processor": {"name": "one", "speed": 1000.0, "cores": 4, "memory": 1000},
    "workers": 4,
    "operations": {"offset": 0.0},
    "output": {"fixed": "hi"}
}}"#;

fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn invocation() -> Invocation {
    Invocation {
        id: CallId::new([1; 16]),
        function: "hello".parse().expect("a name"),
        request: http::Request::new(body("")),
        class: None,
        deadline: None,
        persists_until: None,
    }
}

/// A node with a function that is warm.
async fn warm(folder: &std::path::Path) -> Node {
    let capacity = Resources {
        cpu: Cpu::cores(4),
        memory: Memory::mebibytes(1024),
    };
    let node = Node::start(NodeConfig::new(folder.to_owned(), capacity)).await;
    let node = node.expect("starts");
    let digest = Digest::of(MODEL.as_bytes());
    let put = node.put_artifact(digest, None, body(MODEL));
    put.await.expect("artifact is taken");
    let name = "hello".parse().expect("a name");
    let spec = FunctionSpec::new(name, digest, ArtifactKind::SimulatedModel, Protocol::Stdio);
    let deployed = node.deploy(spec, DeployMode::CreateOrReplace).await;
    deployed.expect("deployed");
    node.invoke(invocation()).await.expect("answers");
    node
}

/// How often the scheduler is locked for a call at the least.
async fn fewest_locks(mut call: impl AsyncFnMut()) -> u64 {
    let mut fewest = u64::MAX;
    for _ in 0..CALLS {
        let before = LOCKED.get();
        call().await;
        fewest = fewest.min(LOCKED.get() - before);
    }
    fewest
}

#[tokio::test]
async fn a_warm_call_locks_the_scheduler_when_it_comes_and_when_it_ends() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let node = warm(folder.path()).await;
    let alone = async || {
        node.invoke(invocation()).await.expect("answers");
    };
    assert_eq!(fewest_locks(alone).await, 2);
    // Whoever decides where it runs has its place with the first look.
    let wants = Wants {
        place: true,
        room: true,
    };
    let placed = async || {
        let found = node.find(&invocation().function).expect("it is deployed");
        let look = node.look(&found, &invocation(), wants);
        let look = look.expect("no class is named");
        let place = look.expect("it is deployed").place.expect("it is warm");
        let answer = node.invoke_at(invocation(), place).await;
        assert!(matches!(
            answer
                .unwrap_or_else(|_| panic!("it has a place"))
                .response
                .into_body(),
            AnswerBody::Whole(_)
        ));
    };
    assert_eq!(fewest_locks(placed).await, 2);
    let function = invocation().function;
    let told = async || {
        let (_, places) = node.capability_for(&function);
        assert!(places.is_some_and(|places| places.warm > 0));
    };
    assert_eq!(fewest_locks(told).await, 1);
    node.drain(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_place_that_was_kept_in_vain_is_free_again() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let node = warm(folder.path()).await;
    let function = invocation().function;
    let before = node.capability_for(&function);
    let wants = Wants {
        place: true,
        room: true,
    };
    let found = node.find(&function).expect("it is deployed");
    let look = node.look(&found, &invocation(), wants);
    let look = look.expect("no class is named").expect("it is deployed");
    assert_eq!(look.outlook.prospect, Prospect::Warm);
    // The call itself is not counted in what is seen.
    assert_eq!(look.room.map(|(_, places)| places), before.1);
    assert!(look.place.is_some());
    assert_ne!(node.capability_for(&function).1, before.1);
    drop(look);
    assert_eq!(node.capability_for(&function).1, before.1);
    node.drain(Duration::from_secs(60)).await;
}
