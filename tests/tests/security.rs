//! Who may do what: tokens, passwords, hosts, origins, TLS, addresses.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use weir_tests::eventually;
use weir_tests::federation::Member;
use weir_tests::guests::guest;
use weir_tests::node::{Function, Node, Setup, free_address, text, weir};

/// Routes that manage the node, with a method that each one has.
const MANAGED: [(&str, &str); 15] = [
    ("GET", "/system/functions"),
    ("POST", "/system/functions"),
    ("PUT", "/system/functions"),
    ("DELETE", "/system/functions"),
    ("GET", "/system/function/hello"),
    ("POST", "/system/scale-function/hello"),
    ("GET", "/system/info"),
    ("GET", "/system/namespaces"),
    ("POST", "/system/namespace/tenant"),
    ("GET", "/system/secrets"),
    ("POST", "/system/secrets"),
    ("GET", "/system/logs?name=hello"),
    ("GET", "/weir/v1/status"),
    ("POST", "/weir/v1/rollback/hello"),
    (
        "HEAD",
        "/weir/v1/artifacts/0000000000000000000000000000000000000000000000000000000000000000",
    ),
];

#[tokio::test]
async fn management_needs_the_token_and_calling_does_not() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    for (method, path) in MANAGED {
        for credentials in [
            None,
            Some("Bearer "),
            Some("Bearer wrong"),
            Some("Basic eDp5"),
            Some("Basic !!"),
            Some("Digest x"),
            Some(""),
        ] {
            let ask = node.ask(method, path);
            let ask = match credentials {
                Some(credentials) => ask.header("authorization", credentials),
                None => ask,
            };
            let reply = ask.send().await.expect_status(401);
            assert_eq!(
                reply.header("www-authenticate"),
                "Basic realm=\"Restricted\"",
                "{method} {path} {credentials:?}"
            );
        }
    }
    for path in ["/healthz", "/metrics", "/function/hello"] {
        node.get(path).send().await.expect_status(200);
    }
    let location = node.submit("hello", "x").await;
    node.result(&location).await.expect_status(200);
    // Credentials that nobody asked for do no harm.
    node.get("/function/hello")
        .bearer("whatever")
        .send()
        .await
        .expect_status(200);
}

/// A file that its owner alone can read.
fn private(path: &Path, text: &str) {
    fs::write(path, text).expect("a file can be written");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("it is ours");
}

#[tokio::test]
async fn a_token_that_others_may_read_or_that_is_short_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("token");
    let setup = || Setup::new().variable("WEIR_AUTH_TOKEN_FILE", &path.display().to_string());
    for (mode, token, advice) in [
        (0o644, "0123456789abcdef", "chmod 600"),
        (0o600, "0123456789abcde", "at least 16"),
        (0o600, "", "empty"),
    ] {
        private(&path, token);
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
        let output = setup().refused().await;
        let said = text(&output.stderr);
        assert!(said.contains(advice), "{said}");
    }
}

#[tokio::test]
async fn settings_are_listed_without_their_secrets() {
    let first = Member::found().await;
    let token = first.token(&[]).await;
    let mut command = weir(["config"]);
    let output = command.env("WEIR_FEDERATION_JOIN", &token).output();
    let output = output.await.expect("weir can be run");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let listed = text(&output.stdout);
    assert!(!listed.contains(&token), "{listed}");
    let line = listed.lines().find(|line| line.contains("federation.join"));
    let line = line.expect("it is among them");
    assert!(
        line.contains("set, not shown") && line.contains("env WEIR_FEDERATION_JOIN"),
        "{line}"
    );
}

#[tokio::test]
async fn the_token_is_the_same_for_longer_and_shorter_guesses_refused() {
    let node = Node::start().await;
    assert!(node.token.len() >= 43, "256 bits: {}", node.token.len());
    for guess in [
        &node.token[..node.token.len() - 1],
        &format!("{}0", node.token),
        &node.token.to_uppercase(),
    ] {
        if guess == node.token {
            continue;
        }
        node.get("/system/functions")
            .bearer(guess)
            .send()
            .await
            .expect_status(401);
    }
    node.get("/system/functions")
        .bearer(&node.token)
        .send()
        .await
        .expect_status(200);
}

#[tokio::test]
async fn basic_credentials_work_as_openfaas_clients_send_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let password = folder.path().join("password");
    private(&password, "secret\n");
    let config = format!(
        "[auth]\nuser = \"admin\"\npassword-file = \"{}\"",
        password.display()
    );
    let node = Setup::new().config(&config).start().await;
    // admin:secret, admin:wrong, root:secret
    for (credentials, status) in [
        ("YWRtaW46c2VjcmV0", 200),
        ("YWRtaW46d3Jvbmc=", 401),
        ("cm9vdDpzZWNyZXQ=", 401),
    ] {
        let reply = node
            .get("/system/functions")
            .header("authorization", &format!("Basic {credentials}"))
            .send()
            .await;
        assert_eq!(reply.status, status, "{credentials}");
    }
    node.manage("GET", "/system/functions")
        .send()
        .await
        .expect_status(200);

    let mut command = weir(["list", "--user", "admin", "--password-file"]);
    let output = command
        .arg(&password)
        .env("WEIR_NODE", node.url())
        .output()
        .await
        .expect("weir can be started");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test]
async fn calling_functions_can_be_protected_too() {
    let node = Setup::new()
        .config("[auth]\nfunctions = true")
        .start()
        .await;
    node.deploy(Function::new("hello", "echo")).await;
    for path in [
        "/function/hello",
        "/async-function/hello",
        "/function/nobody",
    ] {
        node.post(path).send().await.expect_status(401);
    }
    node.manage("POST", "/function/hello")
        .body("x")
        .send()
        .await
        .expect_status(200);
    node.manage("POST", "/async-function/hello")
        .send()
        .await
        .expect_status(202);
    node.get("/healthz").send().await.expect_status(200);
}

#[tokio::test]
async fn a_function_does_not_see_the_credentials_that_protect_it() {
    let node = Setup::new()
        .config("[auth]\nfunctions = true")
        .start()
        .await;
    node.deploy(Function::new("see", "variables")).await;
    let lines = node
        .manage("POST", "/function/see")
        .send()
        .await
        .expect_status(200)
        .text();
    assert!(!lines.contains(&node.token), "{lines}");
}

#[tokio::test]
async fn a_foreign_host_or_origin_is_403_where_the_node_is_managed() {
    let node = Setup::new()
        .config("[http]\nallowed-hosts = [\"edge.example\"]")
        .start()
        .await;
    node.deploy(Function::new("hello", "echo")).await;
    let port = node.address.port();
    for path in ["/system/functions", "/weir/v1/status"] {
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:80",
        ] {
            let told = node
                .manage("GET", path)
                .header("host", host)
                .send()
                .await
                .expect_error(403)
                .text();
            assert!(told.contains("allowed-hosts"), "{told}");
        }
        for origin in [
            "http://evil.example",
            "null",
            "https://edge.example.evil.example",
        ] {
            node.manage("GET", path)
                .header("origin", origin)
                .send()
                .await
                .expect_error(403);
        }
        for host in [
            format!("localhost:{port}"),
            format!("127.0.0.1:{port}"),
            "edge.example".into(),
            "EDGE.example:443".into(),
        ] {
            node.manage("GET", path)
                .header("host", &host)
                .send()
                .await
                .expect_status(200);
        }
        node.manage("GET", path)
            .header("origin", &format!("http://127.0.0.1:{port}"))
            .send()
            .await
            .expect_status(200);
        node.manage("GET", path)
            .header("origin", "https://edge.example")
            .send()
            .await
            .expect_status(200);
    }
    // Functions are for everyone.
    node.get("/function/hello")
        .header("host", "any.example")
        .header("origin", "http://any.example")
        .send()
        .await
        .expect_status(200);
}

#[tokio::test]
async fn calls_by_id_need_nothing_but_the_id_and_ids_are_not_guessable() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let first = node.submit("hello", "1").await;
    let second = node.submit("hello", "2").await;
    let id = |location: &str| {
        location
            .rsplit('/')
            .next()
            .expect("a path has a last part")
            .to_owned()
    };
    let (first, second) = (id(&first), id(&second));
    assert!(first.len() >= 20, "{first}");
    let alike = first
        .bytes()
        .zip(second.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    assert!(alike < 12, "{first} and {second} differ too late");
}

#[tokio::test]
async fn listening_beyond_loopback_without_credentials_needs_a_word() {
    let address: SocketAddr = format!("0.0.0.0:{}", free_address().port())
        .parse()
        .expect("an address");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = Setup::new()
        .data(folder.path().join("data"))
        .address(address)
        .refused()
        .await;
    let told = text(&output.stderr) + &text(&output.stdout);
    assert!(told.contains("insecure"), "{told}");
    let node = Setup::new()
        .config("[http]\ninsecure = true")
        .address(address)
        .start()
        .await;
    node.get("/system/functions")
        .send()
        .await
        .expect_status(401);
}

#[tokio::test]
async fn tls_is_spoken_when_configured_and_the_command_line_trusts_a_given_authority() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (certificate, key) = (
        folder.path().join("certificate.pem"),
        folder.path().join("key.pem"),
    );
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", text(&made.stderr));
    let config = format!(
        "[http]\ntls-certificate = \"{}\"\ntls-key = \"{}\"",
        certificate.display(),
        key.display()
    );
    let data = folder.path().join("data");
    let setup = Setup::new().config(&config).data(&data);
    let address = free_address();
    // Its health cannot be asked in plain HTTP, so it is started by hand.
    let mut child = setup
        .command(address)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("weir can be started");
    let trusting = async |arguments: &[&str]| {
        let mut command = weir(arguments);
        command
            .arg("--ca")
            .arg(&certificate)
            .env("WEIR_NODE", format!("https://localhost:{}", address.port()));
        command.env(
            "WEIR_TOKEN",
            fs::read_to_string(data.join("token"))
                .unwrap_or_default()
                .trim(),
        );
        command.output().await.expect("weir can be started")
    };
    eventually("it serves over TLS", async || {
        assert!(
            child.try_wait().expect("a child can be asked").is_none(),
            "it ended"
        );
        trusting(&["list"]).await.status.success().then_some(())
    })
    .await;
    let code = guest("echo").path();
    let code = code.to_str().expect("our paths are text");
    let deployed = trusting(&["deploy", "hello", "--wasm", code]).await;
    assert!(deployed.status.success(), "{}", text(&deployed.stderr));
    let called = trusting(&["invoke", "hello", "-d", "over TLS"]).await;
    assert_eq!(text(&called.stdout), "over TLS");

    let mut command = weir(["list"]);
    let suspicious = command
        .env("WEIR_NODE", format!("https://localhost:{}", address.port()))
        .output()
        .await;
    let suspicious = suspicious.expect("weir can be started");
    assert_eq!(
        suspicious.status.code(),
        Some(1),
        "an unknown authority is trusted"
    );
    let plain = weir_tests::client::raw(address, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(!plain.contains(" 200 "), "{plain}");
    child.start_kill().expect("our own child can be killed");
    child.wait().await.expect("a child can be waited for");
}

#[tokio::test]
async fn components_reach_no_network_unless_allowed() {
    let node = Node::start().await;
    for wrong in ["nowhere", "host:port", ":80", "host:99999"] {
        node.create(&Function::new("calls", "echo").setting("allow-outbound", wrong))
            .await
            .expect_error(400);
    }
}

/// A server that answers `found` to everything, and counts who connects.
async fn outside() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    let address = listener
        .local_addr()
        .expect("a bound listener has an address");
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfound";
                let _ = stream.write_all(answer).await;
            });
        }
    });
    (address, seen)
}

#[tokio::test]
async fn code_connects_only_where_its_deployment_says() {
    let node = Node::start().await;
    let (allowed, visits) = outside().await;
    let (other, other_visits) = outside().await;
    let function = |name: &str, to: &str| {
        let function = Function::new(name, "outbound").memory("128Mi");
        match to {
            "" => function,
            to => function.setting("allow-outbound", to),
        }
    };
    node.deploy(function("some", &allowed.to_string())).await;
    node.deploy(function("none", "")).await;
    let reply = node.call("some", format!("{allowed} /")).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "found"));
    assert_eq!(visits.load(Ordering::SeqCst), 1);
    // Another port, another name for the same address, and no list at all.
    let local = format!("localhost:{} /", allowed.port());
    for (name, target) in [
        ("some", format!("{other} /")),
        ("some", local),
        ("none", format!("{allowed} /")),
    ] {
        let reply = node.call(name, target.clone()).await;
        assert_eq!(reply.status, 599, "{name} {target}: {}", reply.text());
        let reason = reply.text();
        assert!(
            reason.contains("Denied") || reason.contains("Prohibited"),
            "{reason}"
        );
    }
    assert_eq!(
        visits.load(Ordering::SeqCst),
        1,
        "nothing else reached the allowed one"
    );
    assert_eq!(other_visits.load(Ordering::SeqCst), 0);
}
