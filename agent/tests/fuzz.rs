//! Whatever comes from outside, nobody panics, hangs or fills the memory: each
//! message of the wire and each format of a file is fed seeds of its own kind,
//! damaged in many ways.
//!
//! A run is short unless `WEIR_FUZZ_SECONDS` says how long each target gets
//! (`tests/fuzz`). Inputs depend on `WEIR_FUZZ_SEED` alone, which is printed. An
//! input that breaks something is written to `WEIR_FUZZ_FOLDER`, and printed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use libp2p_identity::Keypair;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use serde_bytes::ByteBuf;
use weir::config::{self, Config, Layers};
use weir::http::framing::{Found, Framing};
use weir::project;
use weir_federation::PeerId;
use weir_federation::catalogue::{Catalogue, CodeRef, Entry, Record};
use weir_federation::coordinates::Coordinate;
use weir_federation::copies::words::{self, Answered, Ended, Hand, Keep, Told};
use weir_federation::member::Member;
use weir_federation::membership::{Certificate, Rights, RootSecret, Token};
use weir_federation::message::{self, Forget, Handover, Leave, Message, Summary, Suspicion};
use weir_federation::replication::layers;
use weir_federation::report::{Load, Offer, Report, Role};
use weir_federation::roster::{Marks, Roster, mark};
use weir_federation::wire::{Arrived, CARRIAGE, Look, Looked, Reply, Travelling, put, take};
use weir_node::function::{ArtifactKind, CodeSource, FunctionSpec, Protocol, Scope};
use weir_node::id::{CallId, Digest};
use weir_node::layers::Layer;
use weir_node::resources::Resources;
use weir_node::store::{
    CallRecord, CopyNote, FunctionRecord, PendingCall, ResultRecord, StoredBody, VersionRecord,
};

/// Inputs for each target in a short run.
const SHORT: usize = 50_000;

/// Longest input that is made.
const LONGEST: usize = 64 << 10;

/// Longest time that one input may take; far beyond what any does.
const HANG: Duration = Duration::from_secs(20);

/// Something that reads what others wrote.
struct Target {
    name: &'static str,
    /// Reads it; what it makes of it does not matter.
    read: fn(&[u8]),
    /// Inputs as they should be.
    seeds: fn() -> Vec<Vec<u8>>,
}

const TARGETS: &[Target] = &[
    Target {
        name: "message",
        read: |bytes| {
            if let Ok((writer, Message::Record(record))) = message::open(bytes) {
                hear(writer, *record, bytes);
            }
        },
        seeds: messages,
    },
    Target {
        name: "report",
        read: |bytes| _ = Report::decode(bytes),
        seeds: || vec![report().encode().expect("it is short")],
    },
    Target {
        name: "record",
        read: |bytes| {
            if let Ok(record) = cbor4ii::serde::from_slice::<Record>(bytes) {
                hear(id(), record, bytes);
            }
        },
        seeds: || vec![encode(&record(1)), encode(&removal())],
    },
    Target {
        name: "summary",
        read: |bytes| {
            if let Ok(summary) = cbor4ii::serde::from_slice::<Summary>(bytes) {
                _ = Catalogue::default().missing(&summary.marks, &[], summary.marks.len());
            }
        },
        seeds: || {
            let marks = vec![7; 64];
            vec![encode(&Summary { marks, ask: true })]
        },
    },
    Target {
        name: "roster",
        read: |bytes| {
            if let Ok(roster) = cbor4ii::serde::from_slice::<Roster>(bytes) {
                _ = roster.compare(&Marks::from([(mark(&id()), id())]));
            }
        },
        seeds: || {
            let known = Marks::from([(mark(&id()), id())]);
            let brief = Roster::brief(&known);
            let full = brief.compare(&Marks::new()).answer;
            vec![encode(&brief), encode(&full.expect("they differ"))]
        },
    },
    Target {
        name: "hello",
        read: |bytes| {
            _ = member().answer(id(), bytes).now_or_never();
        },
        seeds: || vec![member().hello()],
    },
    Target {
        name: "reply",
        read: |bytes| _ = member().judge(id(), bytes),
        seeds: || {
            let answer = |words: &[u8]| {
                let answer = member().answer(id(), words).now_or_never();
                answer.expect("no invite is written down").bytes
            };
            vec![answer(&member().hello()), answer(b"nothing")]
        },
    },
    Target {
        name: "token",
        read: |bytes| _ = String::from_utf8_lossy(bytes).parse::<Token>(),
        seeds: || {
            let places = vec!["/ip4/192.0.2.1/tcp/4001".to_owned()];
            let token = secret().invite([7; 16], 9, rights(), places);
            vec![token.to_string().into_bytes()]
        },
    },
    Target {
        name: "certificate",
        read: |bytes| {
            _ = Certificate::from_bytes(bytes);
            _ = member().introduce(id(), bytes);
            _ = member().may_have_written(id(), bytes);
            _ = member().hear_denial(bytes);
        },
        seeds: || vec![certificate(), secret().deny(id(), 9)],
    },
    Target {
        name: "call",
        read: |bytes| {
            let Ok(value) = http::HeaderValue::from_bytes(bytes) else {
                return;
            };
            let mut headers = http::HeaderMap::new();
            headers.insert(CARRIAGE, value.clone());
            if let Some(words) = take::<Travelling>(&mut headers) {
                _ = (words.id(), words.name(), words.path());
            }
            headers.insert(CARRIAGE, value.clone());
            if let Some(words) = take::<Arrived>(&mut headers) {
                _ = words.timing();
                _ = words.error(String::new(), Duration::ZERO);
            }
            headers.insert(CARRIAGE, value.clone());
            _ = take::<Look>(&mut headers);
            headers.insert(CARRIAGE, value);
            _ = take::<Looked>(&mut headers);
        },
        seeds: frames,
    },
    Target {
        name: "chunks",
        read: |bytes| {
            let code = CodeRef {
                bytes: bytes.len() as u64,
                ..code()
            };
            _ = code.is_list(bytes);
            _ = ArtifactKind::sniff(bytes);
            if let Ok(code) = cbor4ii::serde::from_slice::<CodeRef>(bytes) {
                _ = (code.count(), code.is_list(bytes));
            }
        },
        seeds: || {
            let bytes = u64::MAX;
            let endless = CodeRef { bytes, ..code() };
            vec![encode(&endless), vec![7; 64], b"\0asm\x01\0\0\0".to_vec()]
        },
    },
    Target {
        name: "heads",
        read: |bytes| {
            let whole = first_bare([bytes].into_iter());
            assert_eq!(first_bare(bytes.chunks(1)), whole, "byte by byte");
            assert_eq!(first_bare(bytes.chunks(7)), whole, "in sevens");
            assert!(whole.is_none_or(|at| bytes[at] == b'\n'));
            // The carriage return before one may be the last byte of a chunk.
            let mut names = bytes.windows(18);
            let chunks = names.any(|name| name.eq_ignore_ascii_case(b"transfer-encoding:"));
            let mut ends = (0..bytes.len()).filter(|&at| bytes[at] == b'\n');
            let strict = ends.all(|at| at > 0 && bytes[at - 1] == b'\r');
            assert!(chunks || !strict || whole.is_none(), "none is bare");
        },
        seeds: || {
            let head = "POST / HTTP/1.1\r\nHost: x\r\n";
            let long = format!("{head}Content-Length: 3\r\n\r\na\n\n");
            let chunks = format!("{head}Transfer-Encoding: chunked\r\n\r\n2;x\r\n\n\n\r\n");
            let ends = format!("{chunks}0\r\na: b\r\n\r\n");
            let asks = format!("{head}Upgrade: x\r\n\r\n{head}\r\n");
            let two = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\n".to_owned();
            let several = [long.as_str(), &ends, head, "\r\n", &long].concat();
            [long, chunks, ends, asks, two, several]
                .map(String::into_bytes)
                .to_vec()
        },
    },
    Target {
        name: "configuration",
        read: |bytes| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let layers = Layers {
                file: Some(("weir.toml".to_owned(), text)),
                ..Layers::default()
            };
            _ = config::load(defaults(), &layers, Resources::default());
        },
        seeds: || {
            let all = config::default_file(defaults());
            // As written, and with all that is commented out.
            vec![all.replace("\n#", "\n").into_bytes(), all.into_bytes()]
        },
    },
    Target {
        name: "project",
        read: |bytes| {
            let text = String::from_utf8_lossy(bytes);
            for name in ["weir.toml", "stack.yaml"] {
                let outside = project::Outside {
                    variable: &|name| (name.len() < 4).then(|| name.to_owned()),
                    file: &|_| Err("there are no files".to_owned()),
                };
                _ = project::parse(Path::new(name), &text, &outside);
            }
        },
        seeds: || {
            let toml = "[functions.shout]\nimage = \"shout.wasm\"\nmemory = \"64MiB\"\n";
            let yaml = "provider:\n  name: openfaas\nfunctions:\n  shout:\n    lang: wasm\n    \
                        image: ${IMAGE:-shout}\n    labels: &l\n      a: ${A:0:1}${B^^}\n    \
                        annotations:\n      <<: *l\n      b: ${C%%*.}\n";
            vec![toml.into(), yaml.into()]
        },
    },
    Target {
        name: "calls",
        read: |bytes| {
            let body = || {
                let body = Full::from(bytes.to_vec());
                body.map_err(|never| match never {}).boxed_unsync()
            };
            _ = words::unframe::<Keep>(body()).now_or_never();
            _ = words::unframe::<Hand>(body()).now_or_never();
            _ = words::unframe::<Ended>(body()).now_or_never();
            _ = words::unframe::<Answered>(body()).now_or_never();
            _ = words::unframe::<Vec<CallId>>(body()).now_or_never();
        },
        seeds: || {
            let note = CopyNote {
                id: CallId::new([7; 16]),
                owner: id(),
                turn: 1,
                copies: vec![id()],
            };
            let told = Told::new(&call(), jiff::Timestamp::UNIX_EPOCH);
            let keep = Keep {
                note,
                told: Some(told),
            };
            let ended = Ended {
                id: CallId::new([7; 16]),
                result: None,
            };
            vec![
                framed(&keep),
                framed(&ended),
                framed(&vec![CallId::new([7; 16])]),
            ]
        },
    },
    Target {
        name: "layers",
        read: |bytes| _ = layers::decode(bytes, 1 << 30),
        seeds: || {
            let layer = Layer {
                digest: Digest::new([7; 32]),
                at: 512,
                bytes: 1 << 20,
            };
            vec![layers::encode(&[layer, layer])]
        },
    },
    Target {
        name: "store",
        read: |bytes| {
            _ = cbor4ii::serde::from_slice::<FunctionRecord>(bytes);
            _ = cbor4ii::serde::from_slice::<CallRecord>(bytes);
            _ = cbor4ii::serde::from_slice::<PendingCall>(bytes);
            _ = cbor4ii::serde::from_slice::<ResultRecord>(bytes);
        },
        seeds: || {
            let moment = jiff::Timestamp::UNIX_EPOCH;
            let other = |version| {
                Some(Box::new(VersionRecord {
                    spec: spec(),
                    version,
                    checked: version < 8,
                }))
            };
            let function = FunctionRecord {
                spec: spec(),
                version: 7,
                created_at: moment,
                checked: true,
                untold: true,
                next: other(8),
                next_untold: true,
                previous: other(6),
            };
            let call = PendingCall {
                id: CallId::new([7; 16]),
                function: spec().name,
                class: Some("gold".to_owned()),
                deadline: Some(moment),
                accepted_at: moment,
                attempts: 3,
                durable: 1,
                copies: vec![PeerId::random()],
            };
            vec![encode(&function), encode(&call)]
        },
    },
];

/// The first bare line feed of a line in what comes on an HTTP/1.1 connection,
/// where every wish for another protocol is denied.
fn first_bare<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<usize> {
    let (mut framing, mut before) = (Framing::default(), 0);
    for piece in pieces {
        let mut at = 0;
        loop {
            match framing.follow(&piece[at..]) {
                Found::Fine => break,
                Found::Bare(bare) => return Some(before + at + bare),
                Found::Asked(end) => {
                    at += end;
                    framing.answered(false);
                }
            }
        }
        before += piece.len();
    }
    None
}

fn framed<T: serde::Serialize>(words: &T) -> Vec<u8> {
    let words = encode(words);
    let length = u32::try_from(words.len()).expect("they are short");
    [&length.to_be_bytes()[..], &words].concat()
}

fn call() -> CallRecord {
    CallRecord {
        id: CallId::new([7; 16]),
        function: spec().name,
        method: http::Method::POST,
        path: "/".to_owned(),
        headers: http::HeaderMap::new(),
        body: StoredBody::EMPTY,
        class: None,
        deadline: None,
        accepted_at: jiff::Timestamp::UNIX_EPOCH,
        callback: None,
        caller_id: None,
        attempts: 0,
        durable: 1,
    }
}

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    cbor4ii::serde::to_vec(Vec::new(), value).expect("plain values can be encoded")
}

fn defaults() -> Config {
    Config::new("/nowhere".into(), Resources::default())
}

fn key() -> &'static Keypair {
    static KEY: OnceLock<Keypair> = OnceLock::new();
    KEY.get_or_init(|| Keypair::ed25519_from_bytes([7; 32]).expect("32 bytes"))
}

fn id() -> PeerId {
    key().public().to_peer_id()
}

fn secret() -> RootSecret {
    RootSecret::new([9; 32])
}

fn rights() -> Rights {
    Rights {
        role: Role::Edge,
        deploy: true,
    }
}

fn certificate() -> Vec<u8> {
    secret().certify(id(), rights(), 1, u64::MAX).to_bytes()
}

/// A member of the federation of [`secret`].
fn member() -> &'static Member {
    static MEMBER: OnceLock<(Member, tempfile::TempDir)> = OnceLock::new();
    let (member, _) = MEMBER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let life = Duration::from_secs(3_600);
        let member = Member::open(folder.path(), id(), rights(), None, life, [9; 32]);
        (member.expect("it is founded"), folder)
    });
    member
}

fn spec() -> FunctionSpec {
    let name = "shout".parse().expect("a name");
    let source = CodeSource::Artifact(code().artifact());
    FunctionSpec {
        scope: Scope::Federation,
        ..FunctionSpec::new(name, source, ArtifactKind::WasmModule, Protocol::Stdio)
    }
}

fn code() -> CodeRef {
    CodeRef {
        digest: *Digest::new([7; 32]).as_bytes(),
        bytes: 9,
        chunks: [8; 32],
    }
}

fn record(version: u64) -> Record {
    Record {
        name: spec().name.qualified(),
        version,
        topic: Some("weir/1/zone/lab".to_owned()),
        spec: Some(ByteBuf::from(encode(&spec()))),
        code: Some(code()),
        removed: None,
        certificate: ByteBuf::from(certificate()),
    }
}

fn removal() -> Record {
    Record {
        spec: None,
        code: None,
        removed: Some(9),
        ..record(2)
    }
}

fn hear(writer: PeerId, record: Record, bytes: &[u8]) {
    let sealed = Bytes::copy_from_slice(bytes);
    if let Some((name, entry)) = Entry::new(writer, record, sealed) {
        let mut catalogue = Catalogue::default();
        catalogue.merge(name.clone(), entry.clone());
        catalogue.merge(name, entry);
        let ours = catalogue.summary(&[]);
        assert!(catalogue.missing(&ours, &[], 3).is_empty());
    }
}

fn report() -> Report {
    Report {
        epoch: 1,
        sequence: 2,
        role: Role::Edge,
        zone: Some("lab".to_owned()),
        region: None,
        architecture: "x86_64".to_owned(),
        executors: vec!["wasm".to_owned()],
        labels: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
        draining: false,
        abilities: 3,
        load: Load::default(),
        coordinate: Coordinate::default(),
        addresses: vec!["/ip4/192.0.2.1/tcp/4001".to_owned()],
        carriage: vec!["192.0.2.1:4002".to_owned()],
        brief: false,
        forgotten: 8,
        offers: vec![Offer {
            function: "shout.openfaas-fn".to_owned(),
            warm: 1,
            startable: 3,
            full: false,
            running: 0,
            service_micros: 900,
            start_micros: 120,
        }],
    }
}

fn messages() -> Vec<Vec<u8>> {
    let all = [
        Message::Report(Box::new(report())),
        Message::Suspicion(Suspicion::new(id(), 4)),
        Message::Leave(Leave { epoch: 4 }),
        Message::Introduction(certificate()),
        Message::Denial(secret().deny(id(), 9)),
        Message::Handover(Handover {
            succession: secret().hand_over(secret().federation(), 9),
            certificate: certificate(),
        }),
        Message::Record(Box::new(record(1))),
        Message::Summary(Summary {
            marks: vec![7; 64],
            ask: true,
        }),
        Message::Forget(Forget::new(id(), 4, certificate())),
        Message::Roster(Roster::brief(&Marks::from([(mark(&id()), id())]))),
    ];
    let sealed = all.iter().map(|message| message::seal(message, key()));
    sealed.map(|sealed| sealed.expect("it is short")).collect()
}

fn frames() -> Vec<Vec<u8>> {
    let travelling = Travelling {
        function: "shout.openfaas-fn".to_owned(),
        call: CallId::new([7; 16]).to_string(),
        visited: vec![ByteBuf::from(id().to_bytes())],
        hops: 2,
        left: Some(1_500),
        class: Some("gold".to_owned()),
        region: None,
        zone: Some("lab".to_owned()),
        version: 3,
        wait: 40,
        service: 900,
    };
    let told = Reply {
        load: Some(Load::default()),
        places: Some(3),
        held: 1,
        streams: true,
        why: Some("node-full".to_owned()),
        ready_in: 40,
        level: Some(64),
    };
    let arrived = Arrived {
        kind: "answer".to_owned(),
        told: told.clone(),
        cold: true,
        micros: [1, 2, 3],
        ran_on: Some(id().to_string()),
    };
    let mut headers = http::HeaderMap::new();
    put(&mut headers, &travelling);
    let one = headers[CARRIAGE].as_bytes().to_vec();
    put(&mut headers, &arrived);
    let two = headers[CARRIAGE].as_bytes().to_vec();
    let look = Look {
        function: "shout.openfaas-fn".to_owned(),
        version: 3,
        bring: true,
        most: 4,
        wait: 1_000,
        service: 900,
    };
    put(&mut headers, &look);
    let three = headers[CARRIAGE].as_bytes().to_vec();
    let text = "it is full".to_owned();
    put(&mut headers, &Looked { told, text });
    vec![one, two, three, headers[CARRIAGE].as_bytes().to_vec()]
}

/// Bytes at which readers go wrong.
const EDGES: [u8; 12] = [
    0, 1, 0x17, 0x18, 0x1f, 0x5f, 0x7f, 0x80, 0x9f, 0xbf, 0xfb, 0xff,
];

/// Damages an input in a few of the usual ways, one after the other.
fn damage(input: &mut Vec<u8>, others: &[Vec<u8>], chance: &mut StdRng) {
    for _ in 0..chance.random_range(1..=4) {
        let at = chance.random_range(0..=input.len());
        let end = (at + chance.random_range(0..=32)).min(input.len());
        match chance.random_range(0..9) {
            0 if at < input.len() => input[at] ^= 1 << chance.random_range(0..8),
            1 if at < input.len() => input[at] = EDGES[chance.random_range(0..EDGES.len())],
            2 => input.truncate(at),
            3 => _ = input.drain(at..end),
            4 => input.insert(at, chance.random()),
            5 => {
                let again = input[at..end].repeat(chance.random_range(1..=8));
                input.splice(at..at, again);
            }
            6 => {
                let other = &others[chance.random_range(0..others.len())];
                let from = chance.random_range(0..=other.len());
                input.splice(at..end, other[from..].iter().copied());
            }
            // Lengths and numbers far too large.
            7 => {
                let head = [0x1b, 0x5b, 0x7b, 0x9b, 0xbb][chance.random_range(0..5)];
                let number = chance.random::<u64>() >> chance.random_range(0..64);
                let bytes = [&[head], number.to_be_bytes().as_slice()].concat();
                input.splice(at..end, bytes);
            }
            // Deep inside itself.
            _ => {
                let deep = [0x81, 0xa1, 0xd8, b'[', b'{'][chance.random_range(0..5)];
                input.splice(at..at, vec![deep; chance.random_range(1..2_000)]);
            }
        }
        input.truncate(LONGEST);
    }
}

fn attack(target: &Target, seed: u64, time: Option<Duration>) -> usize {
    let mut chance = StdRng::seed_from_u64(seed);
    let seeds = (target.seeds)();
    let mut kept = seeds.clone();
    let began = Instant::now();
    let mut count = 0;
    loop {
        let enough = match time {
            Some(time) => began.elapsed() >= time,
            None => count >= SHORT + seeds.len(),
        };
        if enough {
            return count;
        }
        let mut input = match seeds.get(count) {
            Some(seed) => seed.clone(),
            None => kept[chance.random_range(0..kept.len())].clone(),
        };
        if count >= seeds.len() {
            damage(&mut input, &kept, &mut chance);
        }
        let started = Instant::now();
        let read = catch_unwind(AssertUnwindSafe(|| (target.read)(&input)));
        if read.is_err() || started.elapsed() > HANG {
            let name = format!("{}-{seed}-{count}", target.name);
            if let Some(folder) = std::env::var_os("WEIR_FUZZ_FOLDER") {
                let _ = std::fs::write(Path::new(&folder).join(&name), &input);
            }
            panic!("{name} broke it, in {:?}: {input:02x?}", started.elapsed());
        }
        // Damage upon damage goes further than any from the seeds alone.
        if chance.random_range(0..64) == 0 {
            match kept.len() < 256 {
                true => kept.push(input),
                false => {
                    let at = chance.random_range(seeds.len()..kept.len());
                    kept[at] = input;
                }
            }
        }
        count += 1;
    }
}

#[test]
fn whatever_comes_from_outside_is_read_or_refused() {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = number("WEIR_FUZZ_SEED").unwrap_or_else(|| rand::rng().next_u64());
    let time = number("WEIR_FUZZ_SECONDS").map(Duration::from_secs);
    let only = std::env::var("WEIR_FUZZ_TARGET").ok();
    println!("WEIR_FUZZ_SEED={seed}");
    let wanted = TARGETS
        .iter()
        .filter(|target| only.as_ref().is_none_or(|only| only == target.name));
    let mut tried = 0;
    for target in wanted {
        let count = attack(target, seed, time);
        println!("{}: {count} inputs", target.name);
        tried += 1;
    }
    assert!(tried > 0, "there is no target {only:?}");
}
