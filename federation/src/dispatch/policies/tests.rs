//! A policy that learns, held by a node among members: it observes, ticks, tells
//! and hears notes, is probed for, and keeps what it learned.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use libp2p_identity::Keypair;
use tokio::sync::mpsc;
use weir_node::Node;
use weir_node::clock::call_id;
use weir_node::config::NodeConfig;
use weir_node::function::{ArtifactKind, CodeSource, Protocol};
use weir_node::id::Digest;
use weir_node::invocation::Invocation;
use weir_node::node::DeployMode;
use weir_node::resources::{Cpu, Memory, Resources};
use weir_overlay::{Host as _, Verdict};

use super::*;
use crate::catalogue::sha256;
use crate::dispatch::{Dispatch, whole};
use crate::life::{MODEL, admitted, settings};
use crate::message::{self, Message};
use crate::policy::{Case, Decision, Ending, Malformed, Outcome, Reaches, Reason};

/// Runs all here, counts, and says what happened to it.
struct Counting {
    /// Calls that were answered.
    answered: AtomicU32,
    said: mpsc::UnboundedSender<Said>,
    /// Whom it wishes to probe.
    probes: PeerId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Observed(Ending),
    Ticked,
    Probed(bool),
    Heard(PeerId),
    Restored(u32),
}

impl Counting {
    fn say(&self, said: Said) {
        // The test may have ended.
        let _ = self.said.send(said);
    }
}

impl Policy for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn reaches(&self) -> Reaches {
        Reaches::default()
    }

    fn decide(&self, case: &mut Case<'_>) -> Decision {
        let none = Decision::Reject(Reason::NoRoom);
        case.run_here().unwrap_or(none)
    }

    fn observe(&self, outcome: &Outcome<'_>) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.say(Said::Observed(outcome.ending));
    }

    fn tick(&self, field: &Field<'_>, wishes: &mut Wishes) -> Time {
        wishes.probe(self.probes);
        wishes.tell(b"hello".to_vec());
        self.say(Said::Ticked);
        // Once is enough.
        let _ = field.now;
        Time::NEVER
    }

    fn probed(&self, probed: &Probed) {
        self.say(Said::Probed(probed.load.is_some()));
    }

    fn hear(&self, from: PeerId, note: &[u8], _: Time) -> Result<(), Malformed> {
        if note != b"hello" {
            return Err(Malformed);
        }
        self.say(Said::Heard(from));
        Ok(())
    }

    fn save(&self) -> Option<Vec<u8>> {
        let answered = self.answered.load(Ordering::Relaxed);
        (answered > 0).then(|| answered.to_le_bytes().to_vec())
    }

    fn restore(&self, saved: &[u8], _: Time) -> Result<(), Malformed> {
        let saved = saved.try_into().map_err(|_| Malformed)?;
        let answered = u32::from_le_bytes(saved);
        self.answered.store(answered, Ordering::Relaxed);
        self.say(Said::Restored(answered));
        Ok(())
    }
}

fn counting(probes: PeerId) -> (Rules, mpsc::UnboundedReceiver<Said>) {
    let (said, heard) = mpsc::unbounded_channel();
    let policy = Counting {
        answered: AtomicU32::new(0),
        said,
        probes,
    };
    let rules = Rules {
        default: Rule {
            text: "counting".to_owned(),
            policy: Arc::new(policy),
        },
        by_class: BTreeMap::new(),
    };
    (rules, heard)
}

struct World {
    folder: tempfile::TempDir,
    node: Node,
    federated: Federated,
    peer: Keypair,
}

impl World {
    async fn new() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let capacity = Resources {
            cpu: Cpu::cores(4),
            memory: Memory::mebibytes(256),
        };
        let config = NodeConfig::new(folder.path().join("node"), capacity);
        let node = Box::pin(Node::start(config)).await.expect("it starts");
        let digest = Digest::new(sha256(MODEL.as_bytes()));
        let put = node.put_artifact(digest, None, whole(MODEL.into()));
        put.await.expect("it is small");
        let code = CodeSource::Artifact(digest);
        let name = "shout".parse().expect("a name");
        let spec = FunctionSpec::new(name, code, ArtifactKind::SimulatedModel, Protocol::Stdio);
        let deployed = node.deploy(spec, DeployMode::CreateOrReplace);
        deployed.await.expect("it is deployed");
        let started = Federated::start(&node, settings(folder.path()));
        let (federated, _) = started.expect("a federation of its own");
        let peer = Keypair::generate_ed25519();
        let id = peer.public().to_peer_id();
        let certificate = admitted(&federated, id, &folder.path().join("peer")).await;
        let world = World {
            folder,
            node,
            federated,
            peer,
        };
        let introduction = Message::Introduction(certificate);
        assert_eq!(world.hear(&introduction), Verdict::Accept);
        world
    }

    fn id(&self) -> PeerId {
        self.peer.public().to_peer_id()
    }

    fn hear(&self, message: &Message) -> Verdict {
        let sealed = message::seal(message, &self.peer).expect("it is short");
        self.federated.shared.hear(&sealed)
    }

    fn note(&self, policy: &str, sequence: u64, body: &'static [u8]) -> Message {
        Message::Note(Note {
            policy: policy.to_owned(),
            scope: String::new(),
            epoch: 1,
            sequence,
            body: ByteBuf::from(body),
        })
    }
}

fn call() -> Invocation {
    Invocation {
        id: call_id(),
        function: "shout".parse().expect("a name"),
        request: http::Request::new(whole(Bytes::from_static(b"hello"))),
        class: None,
        deadline: None,
        persists_until: None,
    }
}

async fn next(said: &mut mpsc::UnboundedReceiver<Said>) -> Said {
    said.recv().await.expect("the policy is held")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_learns_tells_hears_probes_and_remembers() {
    let world = World::new().await;
    let (rules, mut said) = counting(world.id());
    let dispatch = Dispatch::new(world.node.clone(), world.federated.clone(), rules);
    // The tick comes by itself, and what it wished for is done: nobody answers
    // for a peer that is not there.
    assert_eq!(next(&mut said).await, Said::Ticked);
    assert_eq!(next(&mut said).await, Said::Probed(false));
    dispatch.invoke(call(), None).await.expect("it is answered");
    assert_eq!(next(&mut said).await, Said::Observed(Ending::Answered));

    // A note reaches the policy that it is for, once; what that cannot read is not
    // passed on, and what is for others is.
    let id = world.id();
    let hears = |policy, sequence, body| world.hear(&world.note(policy, sequence, body));
    assert_eq!(hears("counting", 20, b"hello"), Verdict::Accept);
    assert_eq!(next(&mut said).await, Said::Heard(id));
    assert_eq!(hears("counting", 21, b"nonsense"), Verdict::Ignore);
    assert_eq!(hears("another", 22, b"nonsense"), Verdict::Accept);
    assert_eq!(hears("counting", 2, b"hello"), Verdict::Ignore, "it is old");
    // A fifth within the second is too much.
    let more: Vec<Verdict> = (23..40).map(|at| hears("another", at, b"")).collect();
    assert!(more.contains(&Verdict::Ignore), "{more:?}");

    // A member that asks is told how loaded this node is, and not too often.
    let shared = &world.federated.shared;
    let told = shared.probed(id).expect("it may ask");
    let load: Load = cbor4ii::serde::from_slice(&told).expect("it is a load");
    assert!(load.is_plausible() && load.cpu_total > 0);
    assert!(told.len() <= weir_overlay::PROBE_BYTES_MAX);
    assert!((0..100).any(|_| shared.probed(id).is_none()));

    // What it learned is there in its next life.
    dispatch.keep_what_was_learned().await;
    let (rules, mut said) = counting(id);
    let again = Policies::new(rules, &world.federated, Time::ZERO);
    assert_eq!(next(&mut said).await, Said::Restored(1));
    again.keep();
    // And is not written again where nothing changed.
    let written = world.folder.path().join("federation").join(FILE);
    assert_eq!(
        read(&std::fs::read(&written).expect("it is there")).len(),
        1
    );
    // Whatever the disk has.
    for damaged in [&b"nonsense"[..], &[0xff; 64], &[]] {
        assert!(read(damaged).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_has_its_own_policy_until_its_label_changes() {
    let world = World::new().await;
    let (rules, _said) = counting(world.id());
    let policies = Policies::new(rules, &world.federated, Time::ZERO);
    let spec = world.node.spec(&"shout".parse().expect("a name"));
    let mut spec = FunctionSpec::clone(&*spec.expect("it is deployed"));
    let name = |spec: &FunctionSpec| policies.of(Some(spec), None, Time::ZERO).name();
    assert_eq!(name(&spec), "counting");
    for (label, expected) in [
        ("local-only", "local-only"),
        ("spill", "spill"),
        // This version knows no such policy.
        ("of-tomorrow:alpha=1", "counting"),
    ] {
        spec.labels
            .insert(POLICY_LABEL.to_owned(), label.to_owned());
        assert_eq!(name(&spec), expected);
        let held = |spec: &FunctionSpec| match policies.of(Some(spec), None, Time::ZERO) {
            Chosen::Own(policy) => Some(Arc::as_ptr(&policy).addr()),
            Chosen::Usual(_) => None,
        };
        // It is held, and not made for each call.
        assert_eq!(held(&spec), held(&spec));
    }
    let held = policies.held();
    assert_eq!(held.len(), 1, "one that is not known is not held");
    spec.labels
        .insert(POLICY_LABEL.to_owned(), "spill".to_owned());
    assert_eq!(name(&spec), "spill");
    let scopes: Vec<String> = policies.held().into_iter().map(|held| held.scope).collect();
    assert_eq!(scopes, ["", "function/shout.openfaas-fn"]);
    assert!(policies.named("spill", &scopes[1]).is_some());
    assert!(policies.named("counting", &scopes[1]).is_none());
    policies.retain(|_| false);
    assert_eq!(policies.held().len(), 1);
}
