use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tempfile::TempDir;

use super::*;

fn config() -> ArtifactConfig {
    let keep_unreferenced = Duration::from_secs(3600);
    ArtifactConfig {
        max_bytes: 1 << 20,
        disk_bytes: 2 << 20,
        keep_unreferenced,
    }
}

fn open() -> (TempDir, Artifacts) {
    let dir = tempfile::tempdir().expect("temporary folder");
    let artifacts = Artifacts::open(&dir.path().join("artifacts"), config()).expect("opens");
    (dir, artifacts)
}

fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn broken(bytes: &'static [u8]) -> Body {
    let frames = [
        Ok(Frame::data(Bytes::from_static(bytes))),
        Err("gone".into()),
    ];
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

fn files(dir: &TempDir) -> usize {
    fs::read_dir(dir.path().join("artifacts"))
        .expect("folder")
        .count()
}

async fn kept(artifacts: &Artifacts, bytes: &'static [u8]) -> Digest {
    let digest = Digest::of(bytes);
    artifacts
        .put(digest, None, body(bytes))
        .await
        .expect("kept");
    digest
}

fn later(seconds: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(seconds)
}

#[tokio::test]
async fn artifact_is_there_after_reopening() {
    let (dir, artifacts) = open();
    let digest = Digest::of(b"(module)");
    let put = || artifacts.put(digest, Some(8), body("(module)"));
    assert!(!artifacts.has(&digest));
    assert_eq!(put().await.expect("kept"), Put::Created);
    assert_eq!(put().await.expect("kept"), Put::Existed);
    fs::write(artifacts.path(&digest).with_extension("0.tmp"), "half").expect("written");
    drop(artifacts);

    let artifacts = Artifacts::open(&dir.path().join("artifacts"), config()).expect("opens");
    assert_eq!(artifacts.size(&digest), Some(8));
    assert_eq!(
        artifacts.kind(&digest).expect("read"),
        Some(ArtifactKind::WasmText)
    );
    assert_eq!((files(&dir), artifacts.stored_bytes()), (1, 8));
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_behind() {
    let (dir, artifacts) = open();
    let digest = Digest::of(b"right");
    let wrong = artifacts.put(digest, None, body("wrong")).await;
    let got = Digest::of(b"wrong");
    assert!(matches!(wrong, Err(PutError::DigestMismatch { got: found, .. }) if found == got));
    let cut = artifacts.put(digest, Some(5), broken(b"rig")).await;
    assert!(matches!(cut, Err(PutError::Body(_))));
    let long = artifacts
        .put(digest, None, body(vec![0; (1 << 20) + 1]))
        .await;
    assert!(matches!(long, Err(PutError::TooLarge { .. })));
    let announced = artifacts.put(digest, Some((1 << 20) + 1), body("")).await;
    assert!(matches!(announced, Err(PutError::TooLarge { .. })));
    assert_eq!(files(&dir), 0);
    assert_eq!(artifacts.inner.ledger().promised, 0);
}

#[tokio::test]
async fn uploads_under_way_count_against_the_budget() {
    let (dir, artifacts) = open();
    let pending = || StreamBody::new(futures_util::stream::pending()).boxed_unsync();
    let size = Some(1 << 20);
    let [first, second] = [b"a", b"b"].map(|bytes| Digest::of(bytes));
    let mut first = Box::pin(artifacts.put(first, size, pending()));
    let mut second = Box::pin(artifacts.put(second, size, pending()));
    while artifacts.inner.ledger().promised < 2 << 20 {
        let _ = futures_util::poll!(&mut first);
        let _ = futures_util::poll!(&mut second);
        tokio::task::yield_now().await;
    }
    let third = artifacts.put(Digest::of(b"c"), None, body("c")).await;
    assert!(
        matches!(third, Err(PutError::DiskBudget { .. })),
        "{third:?}"
    );
    drop((first, second));
    kept(&artifacts, b"c").await;
    assert_eq!(files(&dir), 1);
    artifacts.set_compiled_bytes(2 << 20);
    let beyond = artifacts.put(Digest::of(b"d"), Some(1), body("d")).await;
    assert!(
        matches!(beyond, Err(PutError::DiskBudget { .. })),
        "{beyond:?}"
    );
}

#[tokio::test]
async fn concurrent_uploads_of_one_digest_make_one_file() {
    let (dir, artifacts) = open();
    // All of them fit beside the one that is kept.
    let bytes = Bytes::from(vec![7; 400_000]);
    let put = |_| artifacts.put(Digest::of(&bytes), None, body(bytes.clone()));
    let done = futures_util::future::join_all((0..4).map(put)).await;
    let created = done
        .iter()
        .filter(|put| matches!(put, Ok(Put::Created)))
        .count();
    assert!(done.iter().all(Result::is_ok) && created == 1, "{done:?}");
    assert_eq!((files(&dir), artifacts.stored_bytes()), (1, 400_000));
}

#[tokio::test]
async fn unreferenced_artifact_goes_after_its_time_and_no_earlier() {
    let (dir, artifacts) = open();
    let digest = kept(&artifacts, b"code").await;
    assert!(artifacts.retain(&digest) && artifacts.retain(&digest));
    assert_eq!(artifacts.sweep(later(100_000)), []);
    artifacts.release(&digest, later(0));
    assert_eq!(artifacts.sweep(later(100_000)), []);
    artifacts.release(&digest, later(10_000));
    assert_eq!(artifacts.sweep(later(13_000)), []);
    drop(artifacts);
    // The time of the release is in the file.
    let artifacts = Artifacts::open(&dir.path().join("artifacts"), config()).expect("opens");
    assert_eq!(artifacts.sweep(later(13_000)), []);
    assert_eq!(artifacts.sweep(later(13_700)), [digest]);
    assert!(!artifacts.has(&digest) && !artifacts.retain(&digest));
    assert_eq!((files(&dir), artifacts.stored_bytes()), (0, 0));
}

#[tokio::test]
async fn artifact_retained_while_a_sweep_runs_is_not_lost() {
    let (_dir, artifacts) = open();
    for _ in 0..200 {
        let digest = kept(&artifacts, b"code").await;
        let sweeping = artifacts.clone();
        let sweep = std::thread::spawn(move || sweeping.sweep(later(4000)));
        let retained = artifacts.retain(&digest);
        let swept = sweep.join().expect("swept");
        assert_eq!(swept.is_empty(), retained);
        assert_eq!(artifacts.path(&digest).exists(), retained);
        artifacts.release(&digest, SystemTime::now());
    }
}
