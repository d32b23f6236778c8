//! A node through its way in, with simulated functions: what they take is
//! declared, so that each test knows what must happen without timing it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use libp2p_identity::PeerId;
use tokio::task::JoinHandle;
use weir_node::Node;
use weir_node::admission::Prospect;
use weir_node::config::{ClassConfig, NodeConfig};
use weir_node::executor::{AnswerBody, Body};
use weir_node::function::{ArtifactKind, FunctionSpec, Protocol};
use weir_node::id::{CallId, Digest, FunctionName};
use weir_node::invocation::{Answer, Invocation, InvokeError, Phase, Refusal, Start};
use weir_node::node::{
    CallState, ChangeError, Copied, Declined, DeployMode, Moves, Router, Submission, SubmitError,
    Wants,
};
use weir_node::resources::{Cpu, Memory, Resources};
use weir_node::store::CallRecord;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

fn config(dir: &Path) -> NodeConfig {
    let capacity = Resources {
        cpu: Cpu::cores(4),
        memory: Memory::mebibytes(1024),
    };
    NodeConfig::new(dir.to_owned(), capacity)
}

/// A model whose calls take `seconds` on a processor of their own.
fn model(seconds: f64, answer: &str) -> Vec<u8> {
    serde_json::json!({"simulated": {
        "processor": {"name": format!("of {seconds} {answer}"), "speed": 1000.0, "cores": 64, "memory": 1000},
        "workers": 64,
        "operations": {"offset": seconds * 1000.0},
        "output": {"fixed": answer},
    }})
    .to_string()
    .into_bytes()
}

fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

async fn upload(node: &Node, code: &[u8]) -> Digest {
    let digest = Digest::of(code);
    node.put_artifact(digest, None, body(code.to_vec()))
        .await
        .expect("artifact is taken");
    digest
}

fn spec(name: &str, code: Digest) -> FunctionSpec {
    let name = name.parse().expect("valid name");
    FunctionSpec::new(name, code, ArtifactKind::SimulatedModel, Protocol::Stdio)
}

async fn deploy(node: &Node, name: &str, code: &[u8]) {
    let digest = upload(node, code).await;
    node.deploy(spec(name, digest), DeployMode::CreateOrReplace)
        .await
        .expect("deployed");
}

fn invocation(name: &str, number: u8) -> Invocation {
    Invocation {
        id: CallId::new([number; 16]),
        function: name.parse().expect("valid name"),
        request: http::Request::new(body("")),
        class: None,
        deadline: None,
        persists_until: None,
    }
}

async fn call(node: &Node, name: &str) -> Result<(String, Start), InvokeError> {
    let answer = node.invoke(invocation(name, 0)).await?;
    let AnswerBody::Whole(bytes) = answer.response.into_body() else {
        panic!("a simulated answer comes whole");
    };
    Ok((String::from_utf8_lossy(&bytes).into_owned(), answer.start))
}

async fn until<T>(mut fact: impl AsyncFnMut() -> Option<T>) -> T {
    let waited = tokio::time::timeout(LONG, async {
        loop {
            if let Some(found) = fact().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("the fact comes true in time")
}

#[tokio::test]
async fn first_call_is_cold_and_the_next_is_warm() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(config(dir.path())).await.expect("starts");
    deploy(&node, "hello", &model(0.0, "hi")).await;
    assert_eq!(
        call(&node, "hello").await.expect("answers"),
        ("hi".to_owned(), Start::Cold)
    );
    assert_eq!(
        call(&node, "hello").await.expect("answers"),
        ("hi".to_owned(), Start::Warm)
    );
    assert_eq!(
        node.function(&"hello".parse().expect("name"))
            .expect("there")
            .invocations,
        2
    );
}

#[tokio::test]
async fn deployments_survive_a_restart_and_removals_too() {
    let dir = tempfile::tempdir().expect("temporary directory");
    {
        let node = Node::start(config(dir.path())).await.expect("starts");
        deploy(&node, "stays", &model(0.0, "still here")).await;
        deploy(&node, "goes", &model(0.0, "gone")).await;
        node.remove(&"goes".parse().expect("name"))
            .await
            .expect("removed");
        node.drain(LONG).await;
    }
    let node = Node::start(config(dir.path())).await.expect("starts again");
    assert_eq!(call(&node, "stays").await.expect("answers").0, "still here");
    assert!(matches!(
        call(&node, "goes").await,
        Err(InvokeError::Unknown(_))
    ));
}

#[tokio::test]
async fn a_data_directory_serves_one_node_only() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let _node = Node::start(config(dir.path())).await.expect("starts");
    let second = Node::start(config(dir.path()))
        .await
        .err()
        .expect("refused");
    assert!(second.to_string().contains("in use"), "{second}");
}

#[tokio::test]
async fn updating_what_is_not_there_creates_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(config(dir.path())).await.expect("starts");
    let digest = upload(&node, &model(0.0, "")).await;
    let refused = node.deploy(spec("new", digest), DeployMode::Replace).await;
    assert!(
        matches!(refused, Err(ChangeError::NotFound(_))),
        "{refused:?}"
    );
    assert!(node.functions(None).is_empty());
}

#[tokio::test]
async fn an_absent_artifact_is_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(config(dir.path())).await.expect("starts");
    let digest = Digest::of(b"never uploaded");
    let refused = node
        .deploy(spec("new", digest), DeployMode::CreateOrReplace)
        .await;
    let text = refused.expect_err("refused").to_string();
    assert!(text.contains(&digest.hex()), "{text}");
}

#[tokio::test]
async fn running_calls_end_on_the_code_they_began_with() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(config(dir.path())).await.expect("starts");
    deploy(&node, "changing", &model(0.5, "old")).await;
    let old = tokio::spawn({
        let node = node.clone();
        async move { call(&node, "changing").await }
    });
    until(async || (node.status().running == 1).then_some(())).await;
    deploy(&node, "changing", &model(0.0, "new")).await;
    assert_eq!(call(&node, "changing").await.expect("answers").0, "new");
    assert_eq!(old.await.expect("no panic").expect("answers").0, "old");
    assert_eq!(
        node.function(&"changing".parse().expect("name"))
            .expect("there")
            .version,
        2
    );
}

#[tokio::test]
async fn a_call_beyond_the_maximum_waits_and_one_beyond_the_queue_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut config = config(dir.path());
    config.classes = vec![ClassConfig {
        queue: 1,
        ..ClassConfig::default()
    }];
    let node = Node::start(config).await.expect("starts");
    let digest = upload(&node, &model(0.5, "done")).await;
    let mut narrow = spec("narrow", digest);
    narrow.max = Some(1);
    node.deploy(narrow, DeployMode::CreateOrReplace)
        .await
        .expect("deployed");
    let spawn = || {
        let node = node.clone();
        tokio::spawn(async move { call(&node, "narrow").await })
    };
    let first = spawn();
    until(async || (node.status().running == 1).then_some(())).await;
    let second = spawn();
    until(async || (node.status().classes[0].waiting == 1).then_some(())).await;
    let third = call(&node, "narrow").await;
    assert!(
        matches!(
            third,
            Err(InvokeError::Refused {
                reason: Refusal::QueueFull,
                ..
            })
        ),
        "{third:?}"
    );
    first.await.expect("no panic").expect("answers");
    second.await.expect("no panic").expect("answers");
    assert_eq!(node.status().running, 0);
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_queue_says_so() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(config(dir.path())).await.expect("starts");
    let digest = upload(&node, &model(600.0, "never")).await;
    let mut narrow = spec("narrow", digest);
    narrow.max = Some(1);
    narrow.timeout = Duration::from_secs(600);
    node.deploy(narrow, DeployMode::CreateOrReplace)
        .await
        .expect("deployed");
    let blocker = tokio::spawn({
        let node = node.clone();
        async move { node.invoke(invocation("narrow", 1)).await.map(drop) }
    });
    until(async || (node.status().running == 1).then_some(())).await;
    let mut hasty = invocation("narrow", 2);
    hasty.deadline = Some(node.clock().now() + Duration::from_millis(20));
    let late = node.invoke(hasty).await.map(drop);
    assert!(
        matches!(
            late,
            Err(InvokeError::Late {
                phase: Phase::Queue,
                ..
            })
        ),
        "{late:?}"
    );
    blocker.abort();
    until(async || (node.status().running == 0).then_some(())).await;
}

#[tokio::test]
async fn a_call_over_its_time_is_late() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(config(dir.path())).await.expect("starts");
    let digest = upload(&node, &model(600.0, "never")).await;
    let mut slow = spec("slow", digest);
    slow.timeout = Duration::from_millis(20);
    node.deploy(slow, DeployMode::CreateOrReplace)
        .await
        .expect("deployed");
    let late = call(&node, "slow").await;
    assert!(
        matches!(
            late,
            Err(InvokeError::Late {
                phase: Phase::Run,
                ..
            })
        ),
        "{late:?}"
    );
}

#[tokio::test]
async fn a_class_must_be_open_to_the_functions_callers() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut config = config(dir.path());
    let gold = ClassConfig {
        name: "gold".to_owned(),
        ..ClassConfig::default()
    };
    config.classes.push(gold);
    let node = Node::start(config).await.expect("starts");
    let digest = upload(&node, &model(0.0, "ok")).await;
    node.deploy(spec("plain", digest), DeployMode::CreateOrReplace)
        .await
        .expect("deployed");
    let mut open = spec("open", digest);
    open.classes = vec!["default".to_owned(), "gold".to_owned()];
    node.deploy(open, DeployMode::CreateOrReplace)
        .await
        .expect("deployed");
    let ask = |name: &str| Invocation {
        class: Some("gold".to_owned()),
        ..invocation(name, 3)
    };
    assert!(matches!(
        node.invoke(ask("plain")).await,
        Err(InvokeError::Class(_))
    ));
    assert!(node.invoke(ask("open")).await.is_ok());
    let mut unknown = spec("unknown", digest);
    unknown.classes = vec!["platinum".to_owned()];
    let refused = node.deploy(unknown, DeployMode::CreateOrReplace).await;
    assert!(
        matches!(refused, Err(ChangeError::Invalid(_))),
        "{refused:?}"
    );
}

/// Waiting calls that may go to one peer, and whether they went.
struct OnlyTo(PeerId, AtomicBool);

impl OnlyTo {
    fn new(peer: PeerId) -> Arc<OnlyTo> {
        Arc::new(OnlyTo(peer, AtomicBool::new(false)))
    }

    fn went(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }
}

impl Moves for OnlyTo {
    fn go(&self, peer: &PeerId) -> bool {
        let goes = *peer == self.0;
        self.1.fetch_or(goes, Ordering::SeqCst);
        goes
    }
}

/// A node on which a call runs for ever that holds the only place of its
/// function, and that call.
async fn held(config: NodeConfig) -> (Node, JoinHandle<()>) {
    let node = Node::start(config).await.expect("starts");
    let digest = upload(&node, &model(600.0, "never")).await;
    let mut narrow = spec("narrow", digest);
    narrow.max = Some(1);
    narrow.timeout = Duration::from_secs(600);
    narrow
        .labels
        .insert("dfaas.maxrate".to_owned(), "3".to_owned());
    node.deploy(narrow, DeployMode::CreateOrReplace)
        .await
        .expect("deployed");
    let holder = tokio::spawn({
        let node = node.clone();
        async move {
            let _ = node.invoke(invocation("narrow", 1)).await;
        }
    });
    until(async || (node.status().running == 1).then_some(())).await;
    (node, holder)
}

async fn waiting(node: &Node, calls: usize) {
    until(async || (node.status().classes[0].waiting == calls).then_some(())).await;
}

#[tokio::test]
async fn a_waiting_call_leaves_for_a_free_place_elsewhere_and_comes_back_to_its_seat() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (node, holder) = held(config(dir.path())).await;
    let (near, far) = (PeerId::random(), PeerId::random());
    let moves = OnlyTo::new(near);
    let deadline = node.clock().now() + LONG;
    let first = tokio::spawn({
        let (node, moves) = (node.clone(), moves.clone());
        let mut call = invocation("narrow", 2);
        call.deadline = Some(deadline);
        async move { node.wait(call, Some(moves), None).await }
    });
    waiting(&node, 1).await;
    assert!(node.has_movable());
    assert!(!node.offer_place(&far) && !moves.went());
    assert!(node.offer_place(&near) && moves.went());
    let Err(Declined::Left(call, seat)) = first.await.expect("no panic") else {
        panic!("it left");
    };
    assert_eq!(call.deadline, Some(deadline), "it is what it was");
    assert!(!node.has_movable() && !node.offer_place(&near));
    waiting(&node, 0).await;

    // Another comes meanwhile, and is behind it when it is back.
    let second = tokio::spawn({
        let (node, moves) = (node.clone(), OnlyTo::new(far));
        async move { node.wait(invocation("narrow", 3), Some(moves), None).await }
    });
    waiting(&node, 1).await;
    let both = OnlyTo::new(far);
    let first = tokio::spawn({
        let (node, moves) = (node.clone(), both.clone());
        async move { node.wait(*call, Some(moves), Some(seat)).await }
    });
    waiting(&node, 2).await;
    assert!(
        node.offer_place(&far) && both.went(),
        "the older one goes first"
    );
    assert!(matches!(
        first.await.expect("no panic"),
        Err(Declined::Left(..))
    ));
    second.abort();
    waiting(&node, 0).await;
    assert!(!node.has_movable());
    holder.abort();
    until(async || (node.status().running == 0).then_some(())).await;
}

#[tokio::test]
async fn what_does_not_run_costs_nothing_of_its_functions_rate() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (node, holder) = held(config(dir.path())).await;
    // Three a second, of which one is taken.
    for _ in 0..10 {
        let declined = node.invoke_now(invocation("narrow", 2)).await;
        assert!(matches!(declined, Err(Declined::NoRoom(_))));
        let narrow = invocation("narrow", 2);
        let found = node.find(&narrow.function).expect("it is here");
        let look = node.look(&found, &narrow, Wants::default());
        let look = look.expect("its class").expect("it is here");
        let prospect = look.outlook.prospect;
        assert!(matches!(prospect, Prospect::Wait { .. }), "{prospect:?}");
    }
    let peer = PeerId::random();
    for _ in 0..10 {
        let call = tokio::spawn({
            let (node, moves) = (node.clone(), OnlyTo::new(peer));
            async move { node.wait(invocation("narrow", 3), Some(moves), None).await }
        });
        waiting(&node, 1).await;
        assert!(node.offer_place(&peer));
        assert!(matches!(
            call.await.expect("no panic"),
            Err(Declined::Left(..))
        ));
    }
    holder.abort();
}

#[tokio::test]
async fn a_default_deadline_is_fixed_before_a_call_is_given_back() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut config = config(dir.path());
    config.classes[0].deadline = Some(LONG);
    let (node, holder) = held(config).await;
    let name = "narrow".parse().expect("valid name");
    assert_eq!(node.class_deadline(None), Some(LONG));
    assert_eq!(node.class_deadline(Some("default")), Some(LONG));
    assert_eq!(node.class_deadline(Some("other")), None);
    assert_eq!(node.default_deadline(&name, None), Some(LONG));
    let before = node.clock().now();
    let declined = node.invoke_now(invocation("narrow", 2)).await;
    let Err(Declined::NoRoom(call)) = declined else {
        panic!("there is no room");
    };
    let deadline = call.deadline.expect("its class has one");
    assert!(deadline >= before + LONG && deadline <= node.clock().now() + LONG);
    holder.abort();
}

#[tokio::test]
async fn a_time_out_teaches_its_length_and_a_function_at_its_maximum_says_so() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (node, holder) = held(config(dir.path())).await;
    let name = "narrow".parse().expect("valid name");
    assert_eq!(node.function_full(&name), Some(true));
    assert_eq!(node.capability().contending, 0, "it waits for nobody else");
    assert_eq!(node.service(&name).expect("it is here").samples, 0);
    holder.abort();
    until(async || (node.function_full(&name) == Some(false)).then_some(())).await;
    let mut hasty = invocation("narrow", 2);
    hasty.deadline = Some(node.clock().now() + Duration::from_millis(50));
    let late = node.invoke(hasty).await.map(drop);
    assert!(
        matches!(
            late,
            Err(InvokeError::Late {
                phase: Phase::Run,
                ..
            })
        ),
        "{late:?}"
    );
    let service = node.service(&name).expect("it is here");
    assert_eq!(service.samples, 1);
    assert!(service.mean >= Duration::from_millis(40), "{service:?}");
}

fn submission(name: &str, number: u8) -> Submission {
    Submission {
        invocation: invocation(name, number),
        body_bytes: 1 << 20,
        callback: None,
        caller_id: None,
    }
}

#[tokio::test]
async fn an_accepted_call_has_a_result_later() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(config(dir.path())).await.expect("starts");
    deploy(&node, "later", &model(0.0, "worth the wait")).await;
    let id = node.submit(submission("later", 7)).await.expect("accepted");
    let result = until(async || match node.call(id.call).await.expect("readable") {
        Some(CallState::Done(result)) => Some(result),
        Some(CallState::Pending) | None => None,
    });
    let result = result.await;
    let text = result.body.collect().await.expect("body").to_bytes();
    assert_eq!(
        (result.status.as_u16(), text.as_ref()),
        (200, b"worth the wait".as_slice())
    );
    assert_eq!(result.attempts, 1);
}

/// Sends calls on to the node, save those of one function: they break it.
struct Broken(Node);

impl Router for Broken {
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'_, Result<Answer, InvokeError>> {
        Box::pin(async move {
            assert_ne!(invocation.function.name(), "broken", "it breaks the node");
            self.0.invoke(invocation).await
        })
    }

    fn knows(&self, _: &FunctionName) -> bool {
        false
    }

    fn copy<'a>(&'a self, _: &'a CallRecord) -> BoxFuture<'a, Result<Copied, SubmitError>> {
        Box::pin(async { Ok(Copied::default()) })
    }

    fn ended(&self, _: CallId, _: bool) {}
}

#[tokio::test]
async fn an_accepted_call_that_breaks_the_node_fails_and_others_go_on() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut config = config(dir.path());
    // One place, which none of them may keep.
    config.asynchronous.parallel = 1;
    let node = Node::start(config).await.expect("starts");
    node.route(Arc::new(Broken(node.clone())));
    for name in ["broken", "sound"] {
        deploy(&node, name, &model(0.0, "well")).await;
    }
    for (number, name, status) in [(1, "broken", 500), (2, "broken", 500), (3, "sound", 200)] {
        let id = node.submit(submission(name, number)).await;
        let id = id.expect("accepted").call;
        let result = until(async || match node.call(id).await.expect("readable") {
            Some(CallState::Done(result)) => Some(result),
            Some(CallState::Pending) | None => None,
        });
        assert_eq!(result.await.status.as_u16(), status, "{name}");
    }
    assert_eq!(node.status().backlog, 0);
}

#[tokio::test]
async fn accepted_calls_are_run_by_the_next_life_of_the_node() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let id = {
        let node = Node::start(config(dir.path())).await.expect("starts");
        deploy(&node, "slow", &model(600.0, "never")).await;
        let id = node.submit(submission("slow", 8)).await.expect("accepted");
        until(async || (node.status().running == 1).then_some(())).await;
        deploy(&node, "slow", &model(0.0, "at last")).await;
        node.drain(Duration::ZERO).await;
        id
    };
    // The directory is free once the cut call has let go of it.
    let node = until(async || Node::start(config(dir.path())).await.ok()).await;
    let result = until(async || match node.call(id.call).await.expect("readable") {
        Some(CallState::Done(result)) => Some(result),
        Some(CallState::Pending) | None => None,
    });
    let text = result.await.body.collect().await.expect("body").to_bytes();
    assert_eq!(text.as_ref(), b"at last");
}

#[tokio::test]
async fn a_draining_node_refuses_and_lets_running_calls_end() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(config(dir.path())).await.expect("starts");
    deploy(&node, "brief", &model(0.5, "in time")).await;
    let running = tokio::spawn({
        let node = node.clone();
        async move { call(&node, "brief").await }
    });
    until(async || (node.status().running == 1).then_some(())).await;
    let draining = tokio::spawn({
        let node = node.clone();
        async move { node.drain(LONG).await }
    });
    until(async || node.status().draining.then_some(())).await;
    let refused = call(&node, "brief").await;
    assert!(
        matches!(
            refused,
            Err(InvokeError::Refused {
                reason: Refusal::Draining,
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(
        running.await.expect("no panic").expect("answers").0,
        "in time"
    );
    draining.await.expect("drained");
}

#[tokio::test]
async fn secrets_and_namespaces_follow_their_rules() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(config(dir.path())).await.expect("starts");
    let (shop, key) = ("shop".parse().expect("name"), "key".parse().expect("name"));
    let missing = node.replace_secret(shop, key, b"v".to_vec()).await;
    assert!(matches!(missing, Err(ChangeError::NotFound(_))));
    let (shop, key) = ("shop".parse().expect("name"), "key".parse().expect("name"));
    node.create_secret(shop, key, b"v".to_vec())
        .await
        .expect("made");
    let (shop, key) = ("shop".parse().expect("name"), "key".parse().expect("name"));
    let twice = node.create_secret(shop, key, b"w".to_vec()).await;
    assert!(matches!(twice, Err(ChangeError::Exists(_))));
    node.create_namespace("shop".parse().expect("name"), Default::default())
        .await
        .expect("made");
    let full = node.remove_namespace(&"shop".parse().expect("name")).await;
    assert!(matches!(full, Err(ChangeError::Exists(_))), "{full:?}");
    let (shop, key) = ("shop".parse().expect("name"), "key".parse().expect("name"));
    node.remove_secret(&shop, &key).await.expect("removed");
    node.remove_namespace(&shop).await.expect("removed");
}

#[tokio::test]
async fn thousand_calls_at_once_are_all_answered_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let node = Node::start(config(dir.path())).await.expect("starts");
    deploy(&node, "busy", &model(0.001, "ok")).await;
    let mut calls = tokio::task::JoinSet::new();
    let node = Arc::new(node);
    for _ in 0..1000 {
        let node = node.clone();
        calls.spawn(async move { call(&node, "busy").await.map(|(text, _)| text) });
    }
    let answers = calls.join_all().await;
    assert_eq!(answers.len(), 1000);
    for answer in answers {
        assert_eq!(answer.expect("answers"), "ok");
    }
    assert_eq!(node.status().running, 0);
    assert_eq!(node.status().held, Resources::ZERO);
}
