//! Images: pulled from a registry, removed when nobody needs them, refused.

use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;
use weir_tests::engine::{self, docker};
use weir_tests::eventually;
use weir_tests::node::{Function, Setup, free_address, text};

/// Debian's registry on loopback.
struct Registry {
    process: Child,
    address: std::net::SocketAddr,
    _folder: TempDir,
}

impl Registry {
    async fn start() -> Registry {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let address = free_address();
        let config = folder.path().join("config.yml");
        let settings = json!({
            "version": "0.1",
            "log": { "level": "error" },
            "storage": { "filesystem": { "rootdirectory": folder.path().join("data") } },
            "http": { "addr": address.to_string() },
        });
        // JSON is YAML too.
        std::fs::write(&config, settings.to_string()).expect("a file can be written");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry runs (tests/run installs it)");
        eventually("the registry listens", async || {
            std::net::TcpStream::connect(address).ok()
        })
        .await;
        Registry {
            process,
            address,
            _folder: folder,
        }
    }

    /// Puts the test's server there under `name`, and nowhere else.
    fn push(&self, name: &str, mark: &str) -> String {
        let reference = format!("{}/{name}", self.address);
        let made = docker(&["create", "--label", mark, engine::server()]);
        // Another id than the server's, so that nobody else has this image.
        let change = format!("LABEL mark={mark}");
        docker(&["commit", "--change", &change, &made, &reference]);
        docker(&["rm", &made]);
        docker(&["push", &reference]);
        docker(&["rmi", &reference]);
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn is_there(reference: &str) -> bool {
    !docker(&["images", "--quiet", reference]).is_empty()
}

#[tokio::test]
async fn an_image_is_pulled_and_leaves_when_nobody_needs_it() {
    let registry = Registry::start().await;
    let wanted = registry.push("wanted:1", "wanted");
    let known = registry.push("known:1", "known");
    docker(&["pull", &known]);
    let setup = Setup::new().containers();
    let node = setup.config("docker.spare-images = \"0B\"").start().await;
    let output = node.weir(["deploy", "pulled", "--image", &wanted]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = node
        .weir(["deploy", "known", "--image", &known, "--pull", "always"])
        .await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    for name in ["pulled", "known"] {
        node.call(name, name).await.expect_status(200);
    }
    // A new image under the same name is had by asking.
    let renewed = registry.push("wanted:2", "renewed");
    let never = ["deploy", "second", "--image", &renewed, "--pull", "never"];
    let output = node.weir(never).await;
    assert!(!output.status.success(), "it is in the registry alone");
    // While a function needs it, it stays, also beyond the node's own end.
    let node = node.into_setup().start().await;
    node.call("pulled", "again").await.expect_status(200);
    assert!(is_there(&wanted));
    for name in ["pulled", "known"] {
        let removed = node.weir(["remove", name]).await;
        assert!(removed.status.success(), "{}", text(&removed.stderr));
    }
    // What is tidied every minute is tidied at a start as well.
    let node = node.into_setup().start().await;
    eventually("the image is removed", async || {
        (!is_there(&wanted)).then_some(())
    })
    .await;
    // What was in the engine before the node came is not the node's.
    assert!(is_there(&known));
    docker(&["rmi", &known]);
    drop(node);
}

#[tokio::test]
async fn a_root_that_cannot_be_bounded_is_not_given() {
    let node = Setup::new().containers().start().await;
    let name = engine::server();
    let arguments = ["deploy", "writer", "--image", name, "--pull", "never"];
    let output = node.weir(arguments.iter().chain(&["--read-write"])).await;
    // Whether an engine can do so depends on its disk; that it is asked does not.
    match output.status.success() {
        true => {
            let written = node.get("/function/writer/write").send().await;
            let written = written.expect_status(200).json();
            let bytes = written["/file"].as_u64().expect("a number");
            assert!((1 << 20..1 << 30).contains(&bytes), "{written}");
        }
        false => {
            let said = text(&output.stderr);
            assert!(
                said.contains("cannot bound") && said.contains("leave --read-write out"),
                "{said}"
            );
        }
    }
}

#[tokio::test]
async fn an_engine_that_this_user_may_not_use_is_told_so() {
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let socket = folder.path().join("docker.sock");
    let _engine = std::os::unix::net::UnixListener::bind(&socket).expect("a socket can be made");
    let owner = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&socket, owner).expect("modes can be set");
    let given = std::os::unix::fs::chown(&socket, Some(65534), Some(65534));
    given.expect("root can give files away");
    let setup = Setup::new().config(&format!(
        "docker.socket = {:?}",
        socket.display().to_string()
    ));
    let node = setup.bound_by_modes().start().await;
    node.create(&Function::image("boxed", "weir-test/server:1"))
        .await
        .expect_status(202);
    let reply = node.call("boxed", "").await.expect_error(503);
    assert!(
        reply.text().contains("this user may not use"),
        "{}",
        reply.text()
    );
    node.deploy(Function::new("echo", "echo")).await;
    node.call("echo", "a").await.expect_status(200);
}
