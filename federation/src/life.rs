//! The life of a function's record, whatever it says: it arrives, calls are
//! decided about and offered, its code is brought and run. It may be refused at
//! each step, and breaks nothing.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libp2p_identity::{Keypair, PeerId};
use proptest::prelude::*;
use serde_bytes::ByteBuf;
use tokio::runtime::Runtime;
use weir_node::Node;
use weir_node::clock::call_id;
use weir_node::config::NodeConfig;
use weir_node::function::{ArtifactKind, CodeSource, Durability, FunctionSpec, Protocol, Scope};
use weir_node::id::{Digest, FunctionName};
use weir_node::invocation::{Invocation, InvokeError};
use weir_node::panics;
use weir_node::resources::{Cpu, Memory, Resources};
use weir_overlay::{Host as _, Verdict};

use crate::catalogue::{CodeRef, Record, sha256};
use crate::dispatch::{Dispatch, Rules, whole};
use crate::federated::{Federated, Settings};
use crate::member::Member;
use crate::message::{self, Message};
use crate::policy;
use crate::replication::Replication;
use crate::report::{Load, Offer, Report};

pub(crate) const MODEL: &str = r#"{"simulated": {
    "processor": {"name": "any", "speed": 1e12, "cores": 4, "memory": 536870912},
    "workers": 4, "operations": {"offset": 1}, "memory": {}, "output": "copy-input"
}}"#;

/// A call's deadline: what takes longer is not what is looked for.
const DEADLINE: Duration = Duration::from_millis(20);

/// A node, and a member that deploys for it and says that it runs everything.
struct World {
    runtime: Runtime,
    node: Node,
    dispatch: Dispatch,
    replication: Replication,
    peer: Keypair,
    certificate: Vec<u8>,
    code: CodeRef,
    count: AtomicU64,
    _folder: tempfile::TempDir,
}

fn name() -> FunctionName {
    "shout".parse().expect("a name")
}

pub(crate) fn settings(folder: &std::path::Path) -> Settings {
    Settings {
        folder: folder.join("federation"),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
        zone: "lab".to_owned(),
        follows_regions: false,
        ..Settings::default()
    }
}

/// Lets `peer` into the federation of `federated`; its certificate.
pub(crate) async fn admitted(
    federated: &Federated,
    peer: PeerId,
    folder: &std::path::Path,
) -> Vec<u8> {
    let own = federated.member();
    let rights = own.own_rights().expect("it founded one");
    let day = Duration::from_secs(86_400);
    let token = own.invite([7; 16], day, rights, Vec::new());
    let token = token.expect("whoever founds invites");
    let joined = Member::open(folder, peer, rights, Some(token), day, [7; 32]);
    let joined = joined.expect("a folder can be written");
    let hello = joined.hello();
    let answer = own.answer(peer, &hello).await;
    let judged = joined.judge(federated.shared.id, &answer.bytes);
    judged.expect("it is let in");
    joined.certificate().expect("it was given one")
}

impl World {
    fn get() -> &'static World {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(World::new)
    }

    fn new() -> World {
        panics::watch();
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = Runtime::new().expect("a runtime");
        let capacity = Resources {
            cpu: Cpu::cores(4),
            memory: Memory::mebibytes(256),
        };
        let config = NodeConfig::new(folder.path().join("node"), capacity);
        let digest = sha256(MODEL.as_bytes());
        let code = CodeRef {
            digest,
            bytes: MODEL.len() as u64,
            chunks: sha256(&digest),
        };
        let _entered = runtime.enter();
        let node = runtime.block_on(async {
            let node = Box::pin(Node::start(config)).await.expect("it starts");
            let put = node.put_artifact(Digest::new(digest), None, whole(MODEL.into()));
            put.await.expect("it is small");
            node
        });
        let started = Federated::start(&node, settings(folder.path()));
        let (federated, _) = started.expect("a federation of its own");
        let rules = Rules {
            default: (&policy::Choice::default()).into(),
            by_class: BTreeMap::new(),
        };
        let peer = Keypair::generate_ed25519();
        let id = peer.public().to_peer_id();
        let joined = folder.path().join("peer");
        let certificate = runtime.block_on(admitted(&federated, id, &joined));
        let world = World {
            replication: Replication::new(node.clone(), federated.clone()),
            dispatch: Dispatch::new(node.clone(), federated, rules),
            node,
            runtime,
            peer,
            certificate,
            code,
            count: AtomicU64::new(1),
            _folder: folder,
        };
        let introduction = Message::Introduction(world.certificate.clone());
        assert_eq!(world.hear(&introduction), Verdict::Accept);
        world
    }

    fn hear(&self, message: &Message) -> Verdict {
        let sealed = message::seal(message, &self.peer).expect("it is short");
        self.dispatch.federated().shared.hear(&sealed)
    }

    /// The peer says how it is: idle, with these times.
    fn report(&self, sequence: u64, service_micros: u64, start_micros: u64) {
        let load = Load {
            cpu_total: 100_000_000,
            cpu_free: 100_000_000,
            waiting: 10_000_000,
            guest_cpu: 1_000,
            guest_cpu_long: 1_000,
            disk_free: 1 << 30,
            ..Load::default()
        };
        let offer = Offer {
            function: name().qualified(),
            warm: 1_000,
            startable: 1_000,
            full: false,
            running: 0,
            service_micros,
            start_micros,
        };
        let report = Report {
            epoch: 1,
            sequence,
            zone: Some("lab".to_owned()),
            region: None,
            executors: vec!["simulated".to_owned()],
            load,
            // Nobody listens there: the call comes back at once.
            carriage: vec!["127.0.0.1:1".to_owned()],
            offers: vec![offer],
            ..weir_federation_core::samples::report()
        };
        // One whose numbers nobody believes is refused, which is as good.
        self.hear(&Message::Report(Box::new(report)));
    }

    fn invocation(&self, deadline: Option<Duration>) -> Invocation {
        Invocation {
            id: call_id(),
            function: name(),
            request: http::Request::new(whole("hello".into())),
            class: None,
            deadline: deadline.map(|deadline| self.node.clock().now() + deadline),
            persists_until: None,
        }
    }

    async fn live(&self, spec: FunctionSpec, [service, start]: [u64; 2]) -> Result<(), String> {
        let version = self.count.fetch_add(1, Ordering::Relaxed);
        self.report(version, service, start);
        // As it was signed: this node is not who writes it.
        let bytes = cbor4ii::serde::to_vec(Vec::new(), &spec).expect("it can be encoded");
        let record = Record {
            name: name().qualified(),
            version,
            topic: None,
            spec: Some(ByteBuf::from(bytes)),
            code: Some(self.code),
            removed: None,
            certificate: ByteBuf::from(self.certificate.clone()),
        };
        // It arrives.
        if self.hear(&Message::Record(Box::new(record))) != Verdict::Accept {
            return Err("an honest shape is taken".to_owned());
        }
        let federated = self.dispatch.federated();
        let entry = federated.entry(&name()).ok_or("it is known")?;
        let kept = entry.spec.ok_or("it is a function")?;
        if *kept != spec.clone().clamped() {
            return Err(format!("{kept:?} is not what was said"));
        }
        let fits = self.dispatch.fits(&kept);
        // Decided about, offered, and perhaps brought and run.
        let shorter = kept.timeout.min(DEADLINE);
        for deadline in [DEADLINE, shorter] {
            let call = self.invocation(Some(deadline));
            let outcome = self.dispatch.invoke(call, Some("why".to_owned())).await;
            if let Err(InvokeError::Internal(panicked)) = outcome {
                return Err(panicked.to_string());
            }
        }
        // Brought, and run here.
        let brought = self.replication.adopt(&name(), true).await;
        if brought.is_ok() != fits.is_ok() {
            return Err(format!("{brought:?}, though {fits:?}"));
        }
        let call = self.node.invoke(self.invocation(Some(DEADLINE))).await;
        match (brought.is_ok(), call) {
            (_, Err(InvokeError::Internal(panicked))) => Err(panicked.to_string()),
            (true, Err(error @ InvokeError::Unknown(_))) => Err(error.to_string()),
            (_, Ok(_) | Err(_)) => Ok(()),
        }
    }
}

/// Durations at which somebody goes wrong.
fn duration() -> impl Strategy<Value = Duration> {
    let edges = [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_secs(30),
        Duration::from_secs(3_600),
        Duration::from_secs(3_601),
        FunctionSpec::LONGEST,
        Duration::from_secs(u64::MAX / 2),
        Duration::from_secs(u64::MAX),
        Duration::MAX,
    ];
    prop_oneof![
        prop::sample::select(edges.to_vec()),
        any::<u64>().prop_map(Duration::from_nanos),
        any::<u64>().prop_map(Duration::from_secs),
    ]
}

fn count() -> impl Strategy<Value = u32> {
    let edges = vec![0, 1, 2, 10_000_000, u32::MAX - 1, u32::MAX];
    prop_oneof![prop::sample::select(edges), any::<u32>()]
}

fn times() -> impl Strategy<Value = [u64; 2]> {
    let edges = vec![0, 1, 1_000_000, u64::MAX / 2, u64::MAX];
    let time = prop_oneof![prop::sample::select(edges), any::<u64>()];
    [time.clone(), time]
}

prop_compose! {
    fn spec()(
        (timeout, keep_alive) in (duration(), duration()),
        (concurrency, max) in (prop::option::of(count()), prop::option::of(count())),
        (min, rate) in (count(), prop::option::of(count())),
        (memory, cpu) in (any::<u64>(), prop::option::of(count())),
        (copies, durable) in (any::<u8>(), any::<u8>()),
        (prefetch, idempotent, small) in (any::<bool>(), any::<bool>(), any::<bool>()),
    ) -> FunctionSpec {
        let code = CodeSource::Artifact(Digest::new(sha256(MODEL.as_bytes())));
        let kind = ArtifactKind::SimulatedModel;
        let usual = FunctionSpec::new(name(), code, kind, Protocol::Stdio);
        let rate = rate.map(|rate| ("dfaas.maxrate".to_owned(), rate.to_string()));
        FunctionSpec {
            timeout,
            keep_alive,
            concurrency,
            min: if small { min % 2 } else { min },
            max: if small { None } else { max },
            memory: Memory::bytes(memory),
            cpu: cpu.map(Cpu::millicores),
            labels: rate.into_iter().collect(),
            idempotent,
            scope: Scope::Federation,
            copies,
            prefetch,
            durability: Durability { copies: durable, best_effort: true },
            ..usual
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_record_says_it_breaks_nothing(spec in spec(), times in times()) {
        let world = World::get();
        let before = panics::count();
        let lived = world.runtime.block_on(world.live(spec, times));
        prop_assert_eq!(lived, Ok(()));
        prop_assert_eq!(panics::count(), before);
    }
}
