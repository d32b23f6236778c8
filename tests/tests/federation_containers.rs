//! Members that run containers, and members that are containers.

use serde_json::{Value, json};
use tempfile::TempDir;
use weir_tests::client::{Ask, Reply};
use weir_tests::engine::{self, OwnEngine, docker, docker_at};
use weir_tests::eventually;
use weir_tests::federation::{Member, all_meet, member};
use weir_tests::node::{Function, free_address, text, weir};

fn ran_on(reply: &Reply) -> Option<&str> {
    reply.headers.get("x-weir-ran-on")?.to_str().ok()
}

#[tokio::test]
async fn functions_of_both_kinds_are_called_where_they_can_run() {
    let first = Member::found().await;
    let second = first.invite(member().containers()).await;
    all_meet(&[&first, &second]).await;
    second.node.deploy(Function::container("boxed")).await;
    first.node.deploy(Function::new("both", "echo")).await;
    second.node.deploy(Function::new("both", "echo")).await;
    for name in ["boxed", "both"] {
        first.sees_function(&second.id, name).await;
    }
    second.sees_function(&first.id, "both").await;
    let seen = first.peer(&second.id).await.expect("it is seen");
    let executors = seen["executors"].as_array().expect("a list");
    for executor in ["docker", "wasm"] {
        assert!(executors.contains(&json!(executor)), "{executors:?}");
    }
    let reply = first.node.call("boxed", "to a container").await;
    let reply = reply.expect_status(200);
    assert_eq!(
        (reply.text().as_str(), ran_on(&reply)),
        ("to a container", Some(second.id.as_str()))
    );
    let reply = first.node.call("both", "to a module").await;
    assert_eq!(ran_on(&reply.expect_status(200)), None);
}

#[tokio::test]
async fn a_function_is_ready_where_a_peer_has_the_engine_for_it() {
    let first = Member::start(member().containers()).await;
    let engineless = "docker.socket = \"/nonexistent/docker.sock\"";
    let second = first.invite(member().config(engineless)).await;
    all_meet(&[&first, &second]).await;
    let (_folder, archive) = engine::layered("elsewhere");
    deploy_archive(&second, "elsewhere", &archive).await;
    let path = "/system/function/elsewhere";
    let status = second.node.manage("GET", path).send().await;
    let status = status.expect_status(200).json();
    assert_eq!(status["annotations"]["weir.state"], "ready", "{status}");
    assert_eq!(status["readyAt"], first.id.as_str(), "{status}");
    let reply = second.node.call("elsewhere", "there").await;
    assert_eq!(ran_on(&reply.expect_status(200)), Some(first.id.as_str()));
    // Without that peer it is not.
    let mut first = first;
    first.node.kill().await;
    eventually("nobody can run it", async || {
        let state = second.node.settled("elsewhere").await;
        state.starts_with("waiting: ").then_some(())
    })
    .await;
}

/// Bytes of code that a member was sent, and that it had itself.
async fn code(member: &Member) -> (f64, f64) {
    let fetched = member.node.metric("weir_code_fetched_bytes_total", &[]);
    let reused = member.node.metric("weir_code_reused_bytes_total", &[]);
    (fetched.await, reused.await)
}

async fn deploy_archive(member: &Member, name: &str, archive: &std::path::Path) {
    let archive = archive.display().to_string();
    let output = member
        .node
        .weir(["deploy", name, "--image-archive", &archive])
        .await;
    assert!(output.status.success(), "{}", text(&output.stderr));
}

fn bytes(archive: &std::path::Path) -> f64 {
    let archive = std::fs::metadata(archive).expect("it is there");
    archive.len() as f64
}

#[tokio::test]
async fn layers_of_images_that_a_member_keeps_are_not_sent_to_it_again() {
    let first = Member::start(member().containers()).await;
    let engineless = "docker.socket = \"/nonexistent/docker.sock\"";
    let second = first.invite(member().config(engineless)).await;
    all_meet(&[&first, &second]).await;
    let (_folder, one) = engine::layered("kept-one");
    let (_folder, two) = engine::layered("kept-two");
    deploy_archive(&first, "one", &one).await;
    // The other keeps it too, though it runs no containers.
    assert_eq!(code(&second).await, (bytes(&one), 0.0));
    deploy_archive(&first, "two", &two).await;
    let (fetched, reused) = code(&second).await;
    assert_eq!(fetched + reused, bytes(&one) + bytes(&two));
    assert!(reused > 0.9 * bytes(&two), "{reused} of {}", bytes(&two));
}

#[tokio::test]
async fn layers_that_an_engine_has_are_not_sent_to_its_node() {
    let first = Member::start(member().containers()).await;
    let (_folder, archive) = engine::layered("sent");
    deploy_archive(&first, "layered", &archive).await;
    // Another engine, with the image on which that one is built.
    let own = OwnEngine::start().await;
    let base = archive.with_file_name("base.tar").display().to_string();
    docker(&["save", "--output", &base, engine::server()]);
    docker_at(&own.socket(), &["load", "--input", &base]);
    let config = format!("docker.socket = {:?}", own.socket().display().to_string());
    // Far enough away for its own engine to be the nearer.
    let slow = member().variable("WEIR_FEDERATION_FETCH_RATE", "1MiB");
    let second = first.invite(slow.config(&config)).await;
    all_meet(&[&first, &second]).await;
    second.sees_function(&first.id, "layered").await;
    let output = first.node.weir(["drain"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    second
        .node
        .call("layered", "there")
        .await
        .expect_status(200);
    let (fetched, reused) = code(&second).await;
    assert_eq!(fetched + reused, bytes(&archive));
    assert!(reused > 0.7 * bytes(&archive), "{reused} were here");
}

/// A member in a container, on the host's network.
struct Boxed {
    container: String,
    url: String,
    token: String,
    id: String,
    _data: TempDir,
}

impl Boxed {
    /// Starts one by environment alone.
    async fn start(more: &[(&str, &str)]) -> Boxed {
        let data = tempfile::Builder::new().prefix("weir-test-").tempdir();
        let data = data.expect("the temporary folder can be written");
        let folder = data.path().display().to_string();
        let (address, links, calls) = (free_address(), free_address(), free_address());
        let url = format!("http://{address}");
        let links = format!("/ip4/{}/tcp/{}", links.ip(), links.port());
        let socket = engine::socket().display().to_string();
        let mut variables = vec![
            ("WEIR_DATA_DIR", folder.clone()),
            ("WEIR_HTTP_LISTEN", address.to_string()),
            ("WEIR_DOCKER_SOCKET", socket.clone()),
            ("WEIR_NODE", url.clone()),
            ("WEIR_FEDERATION_LISTEN", links),
            ("WEIR_FEDERATION_PEER_LISTEN", calls.to_string()),
        ];
        variables.extend(
            more.iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        let mut run: Vec<String> = ["run", "--detach", "--network", "host"]
            .map(str::to_owned)
            .into();
        for place in [&folder, &socket] {
            run.extend(["--volume".to_owned(), format!("{place}:{place}")]);
        }
        for (name, value) in variables {
            run.extend(["--env".to_owned(), format!("{name}={value}")]);
        }
        run.push(engine::agent().to_owned());
        let run: Vec<&str> = run.iter().map(String::as_str).collect();
        let container = docker(&run);
        let token = data.path().join("token").display().to_string();
        let mut boxed = Boxed {
            container,
            url,
            token,
            id: String::new(),
            _data: data,
        };
        let status = eventually("it knows where it listens", async || {
            let output = boxed.command(&["status", "--output", "json"]).await;
            let status: Value = serde_json::from_str(&output.ok()?).ok()?;
            let addresses = status["federation"]["addresses"].as_array()?;
            (!addresses.is_empty()).then_some(status)
        })
        .await;
        status["node"]
            .as_str()
            .expect("a node has an id")
            .clone_into(&mut boxed.id);
        boxed
    }

    async fn command(&self, arguments: &[&str]) -> Result<String, String> {
        let common = ["--node", &self.url, "--token-file", &self.token];
        let output = weir(common.iter().chain(arguments)).output().await;
        let output = output.expect("weir runs");
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    }

    async fn told(&self, arguments: &[&str]) -> String {
        let told = self.command(arguments).await;
        told.unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }
}

impl Drop for Boxed {
    fn drop(&mut self) {
        docker(&["stop", "--time", "60", &self.container]);
        docker(&["rm", &self.container]);
    }
}

#[tokio::test]
async fn agents_that_docker_runs_federate_and_share_their_hosts_engine() {
    let first = Boxed::start(&[]).await;
    let token = first.told(&["token"]).await;
    let second = Boxed::start(&[("WEIR_FEDERATION_JOIN", token.trim())]).await;
    for (one, other) in [(&first, &second), (&second, &first)] {
        eventually("they see each other", async || {
            let peers = one.told(&["peers", "--output", "json"]).await;
            let peers: Value = serde_json::from_str(&peers).ok()?;
            let peer = peers.as_array()?.iter().find(|p| p["id"] == other.id)?;
            (peer["state"] == "in").then_some(())
        })
        .await;
    }
    let image = engine::server();
    let deploy = ["deploy", "boxed", "--image", image, "--pull", "never"];
    second.told(&deploy).await;
    let address = first.url.trim_start_matches("http://");
    let address = address.parse().expect("an address");
    let reply = eventually("the other's function is known", async || {
        let ask = Ask::new(address, "POST", "/function/boxed").body("x");
        let reply = ask.send().await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert_eq!(
        (reply.text().as_str(), ran_on(&reply)),
        ("x", Some(second.id.as_str()))
    );
    // Each keeps to its own containers of the engine that they share.
    first
        .told(&[&deploy[..], &["--scope", "node"]].concat())
        .await;
    let here = first.told(&["invoke", "boxed", "-d", "y"]).await;
    assert_eq!(here, "y");
    for agent in [&first, &second] {
        assert_eq!(engine::instances(&agent.id, "boxed").len(), 1);
    }
}
