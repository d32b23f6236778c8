//! The sample functions that the program brings.

use std::process::{Command, Stdio};

use weir_tests::guests::hex;
use weir_tests::node::{Node, text};

const NAMES: [&str; 8] = [
    "banner",
    "hash",
    "sieve",
    "fibonacci",
    "matrix",
    "thumbnail",
    "wordcount",
    "sleep",
];

#[tokio::test]
async fn all_samples_are_deployed_and_answer() {
    let node = Node::start().await;
    let output = node.weir(["samples", "deploy"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = text(&output.stdout);
    for name in NAMES {
        assert!(lines.contains(&format!("/function/{name}")), "{lines}");
    }
    let call = async |name: &str, body: Vec<u8>| node.call(name, body).await.expect_status(200);
    let banner = call("banner", b"Hi".to_vec()).await.text();
    let expected = "#   #  ###\n#   #   #\n#####   #\n#   #   #\n#   #  ###\n\n";
    assert_eq!(banner, expected);
    for length in [0, 3, 55, 56, 64, 1000] {
        let body = vec![b'x'; length];
        let expected = hex(&body);
        assert_eq!(
            call("hash", body).await.text().trim(),
            expected,
            "{length} bytes"
        );
    }
    let primes = call("sieve", b"{\"n\": 100}".to_vec()).await.json();
    assert_eq!(
        (&primes["primes"], &primes["largest"]),
        (&25.into(), &97.into())
    );
    assert_eq!(call("fibonacci", b"20".to_vec()).await.text(), "6765\n");
    let product = call("matrix", b"2".to_vec()).await.json();
    assert_eq!(product["size"], 2);
    let counted = call("wordcount", b"one two\nthree\n".to_vec()).await.json();
    let expected = serde_json::json!({ "lines": 2, "words": 3, "bytes": 14 });
    assert_eq!(counted, expected);
    let slept = call("sleep", b"20".to_vec()).await;
    assert_eq!(slept.json()["slept_ms"], 20);
    // Too much is refused with a reason in the log, and no more.
    node.call("fibonacci", "1000").await.expect_error(502);
    let logs = node.weir(["logs", "fibonacci"]).await;
    assert!(text(&logs.stdout).contains("larger than this sample takes"));
}

/// A picture whose left half is red and whose right half is blue.
fn halves(width: usize, height: usize) -> Vec<[u8; 3]> {
    let pixel = |at: usize| match at % width < width / 2 {
        true => [255, 0, 0],
        false => [0, 0, 255],
    };
    (0..width * height).map(pixel).collect()
}

#[tokio::test]
async fn pictures_of_both_kinds_become_small() {
    let node = Node::start().await;
    let output = node.weir(["samples", "deploy", "thumbnail"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (width, height) = (512, 256);
    let mut ppm = format!("P6\n# two halves\n{width} {height}\n255\n").into_bytes();
    ppm.extend(halves(width, height).concat());
    let mut bmp = b"BM".to_vec();
    let numbers = [54 + width * height * 3, 0, 54, 40, width, height];
    bmp.extend(
        numbers
            .iter()
            .flat_map(|number| u32::try_from(*number).expect("small").to_le_bytes()),
    );
    bmp.extend([1, 0, 24, 0]);
    bmp.extend([0; 24]);
    bmp.extend(
        halves(width, height)
            .iter()
            .flat_map(|[r, g, b]| [*b, *g, *r]),
    );
    let mut expected = b"P6\n128 64\n255\n".to_vec();
    expected.extend(halves(128, 64).concat());
    for picture in [ppm, bmp] {
        let reply = node.call("thumbnail", picture).await.expect_status(200);
        assert!(reply.body == expected, "the picture is as it should be");
    }
    // Pictures that lie about themselves fail, and say so.
    for broken in [
        "P6\n9000 9000\n255\n",
        "P6\n10 10\n255\nshort",
        "GIF89a",
        "BM",
        "P6",
    ] {
        node.call("thumbnail", broken).await.expect_error(502);
    }
}

#[test]
fn what_the_program_brings_is_made_of_its_sources() {
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let samples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/samples");
    let built = Command::new(samples.join("build"))
        .arg("--output")
        .arg(folder.path())
        .stdin(Stdio::null())
        .output()
        .expect("the script runs");
    assert!(built.status.success(), "{}", text(&built.stderr));
    let version = Command::new("clang").arg("--version").output();
    let version = text(&version.expect("clang runs (tests/run installs it)").stdout);
    for name in NAMES {
        let file = format!("{name}.wasm");
        let read = |folder: &std::path::Path| std::fs::read(folder.join(&file)).expect("a module");
        let (kept, made) = (read(&samples), read(folder.path()));
        assert!(made.starts_with(b"\0asm"), "{file}");
        // Other compilers make other bytes.
        if version.contains("clang version 14.0.6") {
            assert!(kept == made, "{file} is old: run images/samples/build");
        }
    }
}

#[tokio::test]
async fn samples_are_listed_and_strangers_refused() {
    let node = Node::start().await;
    let output = node.weir(["samples", "list"]).await;
    let listed = text(&output.stdout);
    for name in NAMES {
        assert!(listed.contains(name), "{listed}");
    }
    let output = node.weir(["samples", "deploy", "banner", "sonnet"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("sonnet") && said.contains("wordcount"),
        "{said}"
    );
    let listed = node.weir(["list", "--output", "json"]).await;
    assert_eq!(text(&listed.stdout).trim(), "[]", "nothing is half done");
}
