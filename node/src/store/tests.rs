use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use libp2p_identity::PeerId;
use tempfile::TempDir;

use super::engine::{COPIES, ENDED, ENDINGS, FORMAT};
use super::*;
use crate::clock;
use crate::executor::Body;
use crate::function::{ArtifactKind, FunctionSpec, Protocol};
use crate::id::Digest;

/// Names the folder in which the child of the crash test works.
const CHILD: &str = "WEIR_TEST_STORE_CHILD";

fn bounds() -> StoreConfig {
    StoreConfig::from(&AsyncConfig::default())
}

fn open(dir: &Path) -> (Store, Recovered) {
    Store::open(dir, bounds()).expect("opens")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("temporary folder")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("in range")
}

fn function(name: &str) -> FunctionRecord {
    let name = name.parse().expect("name");
    let digest = Digest::of(b"code");
    let spec = FunctionSpec::new(name, digest, ArtifactKind::WasmModule, Protocol::Stdio);
    let older = VersionRecord {
        spec: spec.clone(),
        version: 1,
        checked: true,
    };
    FunctionRecord {
        spec,
        version: 2,
        created_at: at(0),
        checked: false,
        untold: true,
        next: Some(Box::new(VersionRecord {
            version: 3,
            checked: false,
            ..older.clone()
        })),
        next_untold: true,
        previous: Some(Box::new(older)),
    }
}

fn call(second: i64) -> CallRecord {
    CallRecord {
        id: clock::call_id(),
        function: "f".parse().expect("name"),
        method: Method::POST,
        path: "/a?b=c".to_owned(),
        headers: HeaderMap::from_iter([(http::header::ACCEPT, "*/*".parse().expect("header"))]),
        body: StoredBody::EMPTY,
        class: Some("fast".to_owned()),
        deadline: Some(at(second + 60)),
        accepted_at: at(second),
        callback: None,
        caller_id: None,
        attempts: 0,
        durable: 0,
    }
}

fn result(second: i64) -> ResultRecord {
    ResultRecord {
        function: "f".parse().expect("name"),
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: StoredBody::EMPTY,
        error: None,
        accepted_at: at(0),
        ended_at: at(second),
        duration: Duration::from_millis(3),
        attempts: 1,
        caller_id: None,
        callback: CallbackState::Unwanted,
    }
}

fn short(text: &'static str) -> WrittenBody {
    WrittenBody::inline(text)
}

fn body(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes))
        .map_err(|never| match never {})
        .boxed_unsync()
}

async fn read_all(store: &Store, id: CallId, part: BodyPart, stored: &StoredBody) -> Bytes {
    let body = store.open_body(id, part, stored).await.expect("opens");
    body.collect().await.expect("reads").to_bytes()
}

/// The body files, without their serials.
fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("bodies")).expect("folder");
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("entry").file_name().into_string();
    let plain = |name: String| match name.splitn(3, '.').collect::<Vec<_>>()[..] {
        [id, _, part] => format!("{id}.{part}"),
        _ => name,
    };
    entries
        .map(|entry| plain(name(entry).expect("text")))
        .collect()
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let dir = folder();
    let (store, recovered) = open(dir.path());
    assert!(recovered.functions.is_empty() && recovered.pending.is_empty());
    let shop: Namespace = "shop".parse().expect("name");
    let labels = NamespaceRecord {
        labels: [("a".into(), "b".into())].into(),
        ..Default::default()
    };
    store.put_namespace(&shop, &labels).await.expect("kept");
    for name in ["f", "g.shop", "gone"] {
        store.put_function(&function(name)).await.expect("kept");
    }
    assert!(
        store
            .remove_function(&"gone".parse().expect("name"))
            .await
            .expect("removed")
    );
    assert!(
        !store
            .remove_function(&"gone".parse().expect("name"))
            .await
            .expect("looked")
    );
    let (first, second, done) = (call(1), call(2), call(0));
    for call in [&second, &first, &done] {
        store
            .accept(call.clone(), short("in"))
            .await
            .expect("accepted");
    }
    store.begin_attempt(first.id, 2).await.expect("noted");
    assert!(
        store
            .complete(done.id, result(3), short("out"))
            .await
            .expect("kept")
    );
    drop(store);

    let (store, recovered) = open(dir.path());
    let names: Vec<_> = recovered
        .functions
        .iter()
        .map(|f| f.spec.name.qualified())
        .collect();
    assert_eq!(names, ["f.openfaas-fn", "g.shop"]);
    assert_eq!(recovered.functions[0], function("f"));
    assert_eq!(recovered.namespaces, [(shop, labels)]);
    let pending: Vec<_> = recovered
        .pending
        .iter()
        .map(|call| (call.id, call.attempts))
        .collect();
    assert_eq!(pending, [(first.id, 2), (second.id, 0)]);
    let read = store.call(first.id).await.expect("read").expect("there");
    let expected = CallRecord {
        body: StoredBody::Inline(Bytes::from_static(b"in")),
        attempts: 2,
        ..first
    };
    assert_eq!(read, expected);
    assert_eq!(store.call(done.id).await.expect("read"), None);
    let kept = store.result(done.id).await.expect("read").expect("there");
    assert_eq!(
        read_all(&store, done.id, BodyPart::Result, &kept.body).await,
        "out"
    );
    assert_eq!(
        store.counts().await.expect("read"),
        Counts {
            pending: 2,
            results: 1
        }
    );
}

#[tokio::test]
async fn secrets_are_listed_by_namespace_and_read_by_name() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let [shop, shop2]: [Namespace; 2] = ["shop", "shop2"].map(|name| name.parse().expect("name"));
    let [key, pass]: [SecretName; 2] = ["api.key", "pass"].map(|name| name.parse().expect("name"));
    store
        .put_secret(&shop, &pass, &SecretValue::new("1"))
        .await
        .expect("kept");
    store
        .put_secret(&shop, &key, &SecretValue::new("2"))
        .await
        .expect("kept");
    store
        .put_secret(&shop2, &key, &SecretValue::new("3"))
        .await
        .expect("kept");
    assert_eq!(
        store.secrets(&shop).await.expect("listed"),
        [key.clone(), pass.clone()]
    );
    let value = store
        .secret(&shop2, &key)
        .await
        .expect("read")
        .expect("there");
    assert_eq!(value.reveal(), b"3");
    assert!(store.remove_secret(&shop, &key).await.expect("removed"));
    assert_eq!(store.secret(&shop, &key).await.expect("read"), None);
    let long = SecretValue::new(vec![0; SecretValue::MAX_BYTES + 1]);
    let refused = store.put_secret(&shop, &pass, &long).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
}

#[tokio::test]
async fn long_body_is_a_file_that_goes_with_its_record() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let mut call = call(0);
    call.callback = Some("https://example.org/".to_owned());
    let long = vec![7; INLINE_BODY + 1];
    let keep = |part| store.keep_body(call.id, part, body(long.clone()), 1 << 20);
    let request = keep(BodyPart::Request).await.expect("kept");
    store.accept(call.clone(), request).await.expect("accepted");
    assert_eq!(files(dir.path()), [format!("{}.request", call.id)]);
    let read = store.call(call.id).await.expect("read").expect("there");
    assert_eq!(read.body.bytes(), long.len() as u64);
    assert_eq!(
        read_all(&store, call.id, BodyPart::Request, &read.body).await,
        long
    );

    let answer = keep(BodyPart::Result).await.expect("kept");
    assert!(
        store
            .complete(call.id, result(1), answer)
            .await
            .expect("kept")
    );
    assert_eq!(files(dir.path()), [format!("{}.result", call.id)]);
    let read = store.result(call.id).await.expect("read").expect("there");
    assert_eq!(read.callback, CallbackState::Pending);
    assert_eq!(
        read_all(&store, call.id, BodyPart::Result, &read.body).await,
        long
    );

    assert_eq!(store.expire(at(24 * 3600)).await.expect("expired"), 0);
    assert_eq!(store.expire(at(24 * 3600 + 2)).await.expect("expired"), 1);
    assert_eq!(store.result(call.id).await.expect("read"), None);
    assert!(files(dir.path()).is_empty());
    drop(store);
    assert!(open(dir.path()).1.callbacks.is_empty());
}

#[tokio::test]
async fn body_that_is_refused_or_forgotten_leaves_no_file() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let id = clock::call_id();
    let keep = |limit| store.keep_body(id, BodyPart::Request, body(vec![0; 100_000]), limit);
    assert!(matches!(
        keep(99_999).await,
        Err(KeepBodyError::TooLarge { limit: 99_999 })
    ));
    drop(keep(100_000).await.expect("kept"));
    assert!(files(dir.path()).is_empty());

    let ended = keep(100_000).await.expect("kept");
    assert!(!store.complete(id, result(0), ended).await.expect("looked"));
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn result_that_comes_twice_leaves_the_first_whole() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let call = call(0);
    store
        .accept(call.clone(), short(""))
        .await
        .expect("accepted");
    let keep = |byte| store.keep_body(call.id, BodyPart::Result, body(vec![byte; 50_000]), 1 << 20);
    let (first, second) = (keep(1).await.expect("kept"), keep(2).await.expect("kept"));
    assert!(
        store
            .complete(call.id, result(1), first)
            .await
            .expect("kept")
    );
    assert!(
        !store
            .complete(call.id, result(2), second)
            .await
            .expect("looked")
    );
    let kept = store.result(call.id).await.expect("read").expect("there");
    assert_eq!(
        read_all(&store, call.id, BodyPart::Result, &kept.body).await,
        vec![1; 50_000]
    );
    assert_eq!(files(dir.path()).len(), 1);
}

#[tokio::test]
async fn bodies_of_no_record_are_swept_at_the_next_start() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let kept = call(0);
    let written = store.keep_body(kept.id, BodyPart::Request, body(vec![1; 50_000]), 1 << 20);
    store
        .accept(kept.clone(), written.await.expect("kept"))
        .await
        .expect("accepted");
    drop(store);
    let bodies = dir.path().join("bodies");
    let stranger = clock::call_id();
    for name in [
        format!("{stranger}.0000000000000001.request"),
        format!("{stranger}.0000000000000001.result.tmp"),
        // Of an attempt that lost: the record names another file.
        format!("{}.0000000000000001.request", kept.id),
        "notes".into(),
    ] {
        fs::write(bodies.join(name), "x").expect("written");
    }
    let (mut store, _) = open(dir.path());
    // Waits for the sweep, and for it alone: the writer ends with its sender.
    let inner = Arc::get_mut(&mut store.inner).expect("not shared");
    inner
        .threads
        .pop()
        .expect("the sweeper")
        .join()
        .expect("swept");
    let mut left = files(dir.path());
    left.sort();
    let mut expected = [format!("{}.request", kept.id), "notes".into()];
    expected.sort();
    assert_eq!(left, expected);
}

#[tokio::test]
async fn callback_is_recovered_until_it_is_done() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let mut call = call(0);
    call.callback = Some("https://example.org/".to_owned());
    store
        .accept(call.clone(), short(""))
        .await
        .expect("accepted");
    store
        .complete(call.id, result(1), short(""))
        .await
        .expect("kept");
    drop(store);

    let (store, recovered) = open(dir.path());
    let url = "https://example.org/".to_owned();
    assert_eq!(recovered.callbacks, [PendingCallback { id: call.id, url }]);
    assert!(
        store
            .callback_done(call.id, CallbackState::Delivered)
            .await
            .expect("noted")
    );
    let kept = store.result(call.id).await.expect("read").expect("there");
    assert_eq!(kept.callback, CallbackState::Delivered);
    drop(store);
    assert!(open(dir.path()).1.callbacks.is_empty());
}

#[tokio::test]
async fn oldest_results_go_when_there_are_too_many() {
    let dir = folder();
    let config = StoreConfig {
        max_results: 2,
        ..bounds()
    };
    let (store, _) = Store::open(dir.path(), config).expect("opens");
    let mut ids = Vec::new();
    for second in 0..4 {
        let call = call(second);
        store
            .accept(call.clone(), short(""))
            .await
            .expect("accepted");
        store
            .complete(call.id, result(second), short(""))
            .await
            .expect("kept");
        ids.push(call.id);
    }
    let mut there = Vec::new();
    for id in ids {
        there.push(store.result(id).await.expect("read").is_some());
    }
    assert_eq!(there, [false, false, true, true]);
}

#[tokio::test]
async fn backlog_is_bounded_and_a_refusal_costs_no_flush() {
    let dir = folder();
    let config = StoreConfig {
        backlog: 1,
        ..bounds()
    };
    let (store, _) = Store::open(dir.path(), config).expect("opens");
    let first = call(0);
    store
        .accept(first.clone(), short(""))
        .await
        .expect("accepted");
    let commits = store.commits();
    let refused = store.accept(call(1), short("")).await;
    assert!(matches!(refused, Err(StoreError::BacklogFull)));
    assert_eq!(store.commits(), commits);
    assert!(store.cancel(first.id).await.expect("cancelled"));
    assert!(!store.cancel(first.id).await.expect("looked"));
    store.accept(call(1), short("")).await.expect("accepted");
}

#[tokio::test]
async fn waiting_writes_share_a_transaction() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let accept = |second| store.accept(call(second), short("x"));
    let accepted = futures_util::future::join_all((0..512).map(accept)).await;
    assert!(accepted.iter().all(Result::is_ok));
    // All are sent before the first is answered: the first batch takes what it
    // finds, the second the rest; slack for a thread that wakes at odd times.
    assert!(
        store.commits() <= 64,
        "{} commits for 512 calls",
        store.commits()
    );
}

#[tokio::test]
async fn full_disk_is_an_error_until_there_is_room() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let before = call(0);
    store
        .accept(before.clone(), short("x"))
        .await
        .expect("accepted");
    let faults = store.inner.shared.engine.faults().clone();
    faults.set_full(true);
    for second in 1..4 {
        let refused = store.accept(call(second), short("x")).await;
        assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    }
    faults.set_full(false);
    let after = call(9);
    store
        .accept(after.clone(), short("x"))
        .await
        .expect("accepted again");
    assert!(store.call(before.id).await.expect("read").is_some());
    drop(store);
    let ids: Vec<_> = open(dir.path())
        .1
        .pending
        .iter()
        .map(|call| call.id)
        .collect();
    assert!(
        ids.contains(&before.id) && ids.contains(&after.id),
        "{ids:?}"
    );
}

#[tokio::test]
async fn result_that_found_no_room_is_kept_when_there_is() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let call = call(0);
    store
        .accept(call.clone(), short(""))
        .await
        .expect("accepted");
    let long = vec![3; 50_000];
    let kept = store
        .keep_body(call.id, BodyPart::Result, body(long.clone()), 1 << 20)
        .await;
    let kept = Arc::new(kept.expect("kept"));
    let faults = store.inner.shared.engine.faults().clone();
    faults.set_full(true);
    for _ in 0..2 {
        let refused = store.complete(call.id, result(1), kept.clone()).await;
        assert!(matches!(refused, Err(StoreError::Full)), "{refused:?}");
    }
    faults.set_full(false);
    assert!(
        store
            .complete(call.id, result(1), kept)
            .await
            .expect("kept")
    );
    let kept = store.result(call.id).await.expect("read").expect("there");
    assert_eq!(
        read_all(&store, call.id, BodyPart::Result, &kept.body).await,
        long
    );
}

#[tokio::test]
async fn small_disk_fills_and_is_used_again_when_emptied() {
    let dir = folder();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(dir.path())
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: a small file system cannot be mounted here");
        return;
    }
    let ballast = dir.path().join("ballast");
    let outcome = async {
        let (store, _) = open(dir.path());
        fs::write(&ballast, vec![0; 2 << 20]).expect("room at first");
        let mut accepted = Vec::new();
        let full = loop {
            let call = call(accepted.len() as i64);
            let body = WrittenBody::inline(vec![0; 10_000]);
            match store.accept(call.clone(), body).await {
                Ok(()) => accepted.push(call.id),
                Err(error) => break error,
            }
            assert!(accepted.len() < 10_000, "the disk never filled");
        };
        assert!(matches!(full, StoreError::Full), "{full:?}");
        let long = store.keep_body(
            clock::call_id(),
            BodyPart::Request,
            body(vec![0; 4 << 20]),
            8 << 20,
        );
        let refused = long.await;
        assert!(
            matches!(refused, Err(KeepBodyError::Store(StoreError::Full))),
            "{refused:?}"
        );
        fs::remove_file(&ballast).expect("removed");
        let call = call(0);
        store
            .accept(call.clone(), short("x"))
            .await
            .expect("accepted again");
        accepted.push(call.id);
        for id in accepted {
            assert!(
                store.call(id).await.expect("read").is_some(),
                "{id} was acknowledged"
            );
        }
    };
    // A failed assertion must not leave the mount behind.
    let outcome =
        futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(outcome)).await;
    let unmounted = Command::new("umount").arg("-l").arg(dir.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[tokio::test]
async fn directory_in_use_is_refused_by_name() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let refused = Store::open(dir.path(), bounds()).err().expect("refused");
    assert!(
        refused
            .to_string()
            .contains(&format!("process {}", std::process::id())),
        "{refused}"
    );
    drop(store);
    open(dir.path());
}

#[tokio::test]
async fn newer_format_is_refused() {
    let dir = folder();
    drop(open(dir.path()));
    let database = redb::Database::open(dir.path().join("store.redb")).expect("opens");
    let txn = database.begin_write().expect("begins");
    txn.open_table(engine::META)
        .expect("table")
        .insert("version", FORMAT + 1)
        .expect("written");
    txn.commit().expect("commits");
    drop(database);
    let refused = Store::open(dir.path(), bounds()).err().expect("refused");
    assert!(
        matches!(refused, OpenError::Newer { found, .. } if found == FORMAT + 1),
        "{refused}"
    );
}

#[tokio::test]
async fn damaged_file_is_an_error_and_never_a_panic() {
    let dir = folder();
    let (store, _) = open(dir.path());
    for second in 0..200 {
        store
            .accept(call(second), short("some words to fill a page or two"))
            .await
            .expect("kept");
    }
    drop(store);
    let path = dir.path().join("store.redb");
    let whole = fs::read(&path).expect("read");
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        Store::open(dir.path(), bounds()).err()
    };
    for length in [0, 1, 100, 4096, 10_000, whole.len() / 2] {
        let error = refused(&whole[..length]).expect("refused");
        assert!(
            matches!(error, OpenError::Damaged { .. }),
            "{length} bytes: {error:?}"
        );
        assert!(
            error.to_string().contains("store.redb is damaged"),
            "{error}"
        );
    }
    let error = refused(
        b"not a database, but long enough to be read as one"
            .repeat(500)
            .as_slice(),
    );
    assert!(
        matches!(error, Some(OpenError::Damaged { .. })),
        "{error:?}"
    );
    // A flipped bit may or may not be noticed at once; it must never panic.
    for at in (0..whole.len()).step_by(whole.len() / 97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        let _ = refused(&bytes);
    }
    assert!(refused(&whole).is_none());
}

#[test]
fn unreadable_record_does_not_keep_the_others_from_being_read() {
    let dir = folder();
    drop(open(dir.path()));
    let database = redb::Database::open(dir.path().join("store.redb")).expect("opens");
    let txn = database.begin_write().expect("begins");
    let mut functions = txn.open_table(FUNCTIONS).expect("table");
    functions
        .insert("n\0bad", b"\xff".as_slice())
        .expect("written");
    functions
        .insert("n\0good", encode(&function("good")).as_slice())
        .expect("written");
    drop(functions);
    txn.commit().expect("commits");
    drop(database);
    assert_eq!(open(dir.path()).1.functions, [function("good")]);
}

#[test]
fn acknowledged_calls_survive_a_killed_process() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return accept_until_killed(Path::new(&dir));
    }
    let dir = folder();
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "store::tests::acknowledged_calls_survive_a_killed_process",
            "--nocapture",
        ])
        .env(CHILD, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut acknowledged: Vec<CallId> = Vec::new();
    for line in lines {
        // The test harness talks too.
        acknowledged.extend(line.expect("text").parse::<CallId>());
        if acknowledged.len() == 200 {
            child.kill().expect("killed");
        }
    }
    child.wait().expect("ended");
    assert!(
        acknowledged.len() >= 200,
        "only {} acknowledged",
        acknowledged.len()
    );
    let (_store, recovered) = open(dir.path());
    let there: std::collections::BTreeSet<_> =
        recovered.pending.iter().map(|call| call.id).collect();
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|id| !there.contains(id))
        .collect();
    assert!(lost.is_empty(), "{} lost: {lost:?}", lost.len());
}

fn accept_until_killed(dir: &Path) {
    let (store, _) = open(dir);
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let client = |number: i64| {
        let store = store.clone();
        async move {
            for second in 0..100_000 {
                let call = call(second);
                let bytes = if number == 0 { 20_000 } else { 100 };
                let request = body(vec![0; bytes]);
                let request = store
                    .keep_body(call.id, BodyPart::Request, request, 1 << 20)
                    .await;
                store
                    .accept(call.clone(), request.expect("kept"))
                    .await
                    .expect("accepted");
                println!("{}", call.id);
            }
        }
    };
    let clients: Vec<_> = (0..16)
        .map(|number| runtime.spawn(client(number)))
        .collect();
    runtime.block_on(futures_util::future::join_all(clients));
}

#[tokio::test]
async fn a_full_store_opens_quickly_after_a_crash() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let names: Vec<_> = (0..1000)
        .map(|number| function(&format!("f{number}")))
        .collect();
    let functions = names.iter().map(|function| store.put_function(function));
    futures_util::future::join_all(functions).await;
    for _ in 0..10 {
        let accept = |second| store.accept(call(second), WrittenBody::inline(vec![1; 1000]));
        futures_util::future::join_all((0..1000).map(accept)).await;
    }
    // A copy of the files of a running process is what a crash leaves.
    let crashed = folder();
    fs::copy(
        dir.path().join("store.redb"),
        crashed.path().join("store.redb"),
    )
    .expect("copied");
    let started = std::time::Instant::now();
    let (_, recovered) = open(crashed.path());
    let took = started.elapsed();
    assert_eq!(
        (recovered.functions.len(), recovered.pending.len()),
        (1000, 10_000)
    );
    println!("opened in {took:?}");
    // Wide slack: the figure belongs to the benchmarks.
    assert!(took < Duration::from_secs(2), "took {took:?}");
}

fn note(of: &CallRecord) -> CopyNote {
    CopyNote {
        id: of.id,
        owner: PeerId::random(),
        turn: 1,
        copies: vec![PeerId::random()],
    }
}

async fn standing(store: &Store, id: CallId) -> CallStanding {
    store.standings(vec![id]).await.expect("read")[0]
}

#[tokio::test]
async fn a_copy_outlives_a_restart_is_taken_over_and_never_comes_back() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let long = vec![7; 100_000];
    let call = CallRecord {
        durable: 1,
        ..call(1)
    };
    let kept = store.keep_body(call.id, BodyPart::Request, body(long.clone()), 1 << 20);
    let kept = kept.await.expect("kept");
    let first = note(&call);
    let keeping = store.keep_copy(&first, call.clone(), kept).await;
    assert_eq!(keeping.expect("kept"), CopyKept::Kept);
    assert_eq!(standing(&store, call.id).await, CallStanding::Copied);
    drop(store);

    let (store, recovered) = open(dir.path());
    assert_eq!(recovered.copies, [first]);
    assert!(recovered.pending.is_empty(), "a copy is not run");
    // A new note replaces the first one; the body stays.
    let second = note(&call);
    let again = store.keep_copy(&second, call.clone(), short("other")).await;
    assert_eq!(again.expect("kept"), CopyKept::Kept);
    let taken = store.take_over(call.id).await.expect("taken");
    assert_eq!(taken.expect("a copy").durable, 1);
    assert_eq!(store.take_over(call.id).await.expect("looked"), None);
    assert_eq!(standing(&store, call.id).await, CallStanding::Pending);
    let ours = store.renote_copy(&second).await.expect("looked");
    assert_eq!(ours, Some(CopyKept::Ours));
    let read = store.call(call.id).await.expect("read").expect("there");
    let bytes = read_all(&store, call.id, BodyPart::Request, &read.body).await;
    assert_eq!(bytes, long);
    let done = store.complete(call.id, result(3), short("out")).await;
    assert!(done.expect("kept"));
    store.expire(at(10_000_000)).await.expect("expired");
    assert!(store.result(call.id).await.expect("read").is_none());
    let long_after = standing(&store, call.id).await;
    assert_eq!(
        long_after,
        CallStanding::Unknown,
        "eight days have passed too"
    );
    assert!(files(dir.path()).is_empty());
}

#[tokio::test]
async fn a_result_takes_the_place_of_its_copy_and_is_marked_for_days() {
    let dir = folder();
    let (store, _) = open(dir.path());
    let call = call(1);
    store
        .keep_copy(&note(&call), call.clone(), short("in"))
        .await
        .expect("kept");
    let ended = Some((result(3), Arc::new(short("out"))));
    assert!(
        store
            .end_copy(call.id, ended.clone(), at(3))
            .await
            .expect("kept")
    );
    assert!(!store.end_copy(call.id, ended, at(4)).await.expect("looked"));
    assert_eq!(standing(&store, call.id).await, CallStanding::Done);
    // Its result expires after a day; that it ended does not.
    store.expire(at(2 * 24 * 3_600)).await.expect("expired");
    assert!(store.result(call.id).await.expect("read").is_none());
    assert_eq!(standing(&store, call.id).await, CallStanding::Done);
    let late = store
        .keep_copy(&note(&call), call.clone(), short("in"))
        .await;
    assert_eq!(late.expect("looked"), CopyKept::Ended);
    store.expire(at(9 * 24 * 3_600)).await.expect("expired");
    assert_eq!(standing(&store, call.id).await, CallStanding::Unknown);
}

#[tokio::test]
async fn an_owner_lets_a_peer_run_its_call_and_drops_what_nobody_wants() {
    let dir = folder();
    let config = StoreConfig {
        backlog: 2,
        ..bounds()
    };
    let (store, _) = Store::open(dir.path(), config).expect("opens");
    let own = call(1);
    let peers = vec![PeerId::random()];
    store
        .accept_copied(own.clone(), peers.clone(), short("in"))
        .await
        .expect("accepted");
    let pending = store.pending(own.id).await.expect("read").expect("there");
    assert_eq!(pending.copies, peers);
    assert!(store.set_copies(own.id, Vec::new()).await.expect("kept"));
    assert!(store.demote(&note(&own)).await.expect("kept"));
    assert!(!store.demote(&note(&own)).await.expect("looked"));
    assert_eq!(standing(&store, own.id).await, CallStanding::Copied);
    let copied = store.copied(own.id).await.expect("read").expect("there");
    assert_eq!(copied.function, own.function);
    // As many copies as the backlog may have calls.
    let (second, third) = (call(2), call(3));
    let keep = |call: CallRecord| {
        let store = store.clone();
        async move { store.keep_copy(&note(&call), call, short("in")).await }
    };
    keep(second.clone()).await.expect("kept");
    let refused = keep(third.clone()).await.expect_err("too many");
    assert!(matches!(refused, StoreError::BacklogFull), "{refused}");
    let dropped = store.drop_copies(vec![own.id, second.id, third.id]).await;
    assert_eq!(dropped.expect("dropped"), 2);
    assert_eq!(standing(&store, own.id).await, CallStanding::Unknown);
}

#[tokio::test]
async fn a_store_of_an_earlier_program_gets_the_tables_that_it_lacks() {
    let dir = folder();
    let (store, _) = open(dir.path());
    store.put_function(&function("f")).await.expect("kept");
    drop(store);
    let path = dir.path().join("store.redb");
    let database = redb::Database::open(&path).expect("opens");
    let txn = database.begin_write().expect("begins");
    for table in [COPIES, NOTES] {
        assert!(txn.delete_table(table).expect("deleted"));
    }
    assert!(txn.delete_table(ENDED).expect("deleted"));
    assert!(txn.delete_table(ENDINGS).expect("deleted"));
    txn.commit().expect("committed");
    drop(database);

    let (store, recovered) = open(dir.path());
    assert_eq!(recovered.functions.len(), 1);
    assert_eq!(standing(&store, call(1).id).await, CallStanding::Unknown);
}
