//! Certificates for nodes that speak TLS to clients, and a client that says what
//! the test tells it to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;

use crate::node::text;
use crate::within;

/// A certificate for localhost as openssl makes it without being told more, with
/// its key.
pub fn certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let path = |end: &str| folder.join(format!("{name}.{end}"));
    let (certificate, key) = (path("pem"), path("key"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
        .args([
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-subj",
            "/CN=localhost",
        ])
        .args([
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", text(&made.stderr));
    (certificate, key)
}

/// Says `words` over TLS, keeps its side open, and returns what it was told until
/// the other side closed.
pub async fn said_over_tls(to: SocketAddr, words: &str) -> String {
    let mut client = tokio::process::Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &to.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl is installed");
    let mut says = client.stdin.take().expect("it is piped");
    // Where nobody listens it has ended by now.
    let _ = says.write_all(words.as_bytes()).await;
    let told = within("the other side closes", client.wait_with_output()).await;
    drop(says);
    text(&told.expect("it can be waited for").stdout)
}
