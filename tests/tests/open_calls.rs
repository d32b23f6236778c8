//! Clients that take their time: calls whose bodies come slowly, and connections
//! on which nothing is said. Neither takes the node from others.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite;
use weir_tests::client::{raw, raw_status, rest};
use weir_tests::network::{self, Host};
use weir_tests::node::{Function, Node, Setup, free_address};
use weir_tests::tls::{certificate, said_over_tls};
use weir_tests::{eventually, pass, within};

/// Places of a node of two cores for calls that declare nothing, and how many
/// of them open calls may hold.
const PLACES: u64 = 20;
const OPEN: u64 = PLACES / 4;

async fn two_cores() -> Node {
    Setup::new().config("[resources]\ncpu = 2").start().await
}

async fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect(to).await.expect("the node listens")
}

/// Sends a body of a thousand bytes, one of them each second, and returns what
/// came back.
async fn drip(to: SocketAddr, function: &str) -> String {
    let mut stream = connect(to).await;
    let head = format!(
        "POST /function/{function} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: \
         1000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("it is read");
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        for _ in 0..1_000 {
            if write.write_all(b"x").await.is_err() {
                return;
            }
            pass(Duration::from_secs(1)).await;
        }
    });
    let mut answer = Vec::new();
    let _ = read.read_to_end(&mut answer).await;
    sending.abort();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn bodies_that_come_slowly_hold_a_quarter_of_the_node_and_end_while_others_wait() {
    let node = two_cores().await;
    node.deploy(Function::new("slow", "echo")).await;
    node.deploy(Function::new("honest", "echo")).await;
    let mut slow = JoinSet::new();
    for _ in 0..2 * PLACES {
        slow.spawn(drip(node.address, "slow"));
    }
    node.running(OPEN).await;
    let mut longest = Duration::ZERO;
    for round in 0..50 {
        let began = Instant::now();
        let reply = node.call("honest", round.to_string()).await;
        assert_eq!(reply.expect_status(200).text(), round.to_string());
        longest = longest.max(began.elapsed());
        let running = node.status().await["running"].as_u64();
        assert!(
            running.is_some_and(|running| running <= OPEN),
            "{running:?}"
        );
    }
    eprintln!("the longest of the honest calls took {longest:?}");
    // Those that run are too slow for those that wait; who waits for too long
    // is told to come again.
    let mut ended = Vec::new();
    while let Some(answer) = within("they are answered", slow.join_next()).await {
        let answer = answer.expect("a client does not panic");
        let status = raw_status(&answer);
        assert!(matches!(status, 408 | 429), "{answer}");
        if status == 429 {
            assert!(answer.to_lowercase().contains("retry-after: "), "{answer}");
        }
        ended.push(status);
        if ended.contains(&408) && ended.contains(&429) {
            break;
        }
    }
    drop(slow);
    node.running(0).await;
}

#[tokio::test]
async fn a_slow_body_is_waited_for_while_nobody_else_waits() {
    let node = two_cores().await;
    node.deploy(Function::new("slow", "echo")).await;
    let mut stream = connect(node.address).await;
    let head = b"POST /function/slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                 content-length: 8\r\n\r\n";
    stream.write_all(head).await.expect("it is read");
    // Two bytes a second, for longer than it takes to find a body slow.
    for byte in b"in pairs" {
        stream.write_all(&[*byte]).await.expect("it is read");
        pass(Duration::from_millis(500)).await;
    }
    let answer = rest(&mut stream).await;
    assert!(answer.ends_with("in pairs"), "{answer}");
    assert_eq!(raw_status(&answer), 200, "{answer}");
}

#[tokio::test]
async fn a_body_beyond_the_memory_for_bodies_is_read_as_it_comes() {
    let config = "[resources]\ncpu = 2\n[http]\nbody-memory = \"64KiB\"";
    let node = Setup::new().config(config).start().await;
    node.deploy(Function::new("echo", "echo").memory("64Mi"))
        .await;
    let body = vec![7; 4 << 20];
    let mut calls = JoinSet::new();
    for _ in 0..2 * OPEN {
        let ask = node.post("/function/echo").body(body.clone());
        calls.spawn(ask.send());
    }
    while let Some(reply) = calls.join_next().await {
        let reply = reply.expect("a client does not panic").expect_status(200);
        assert!(reply.body == body, "{} bytes came back", reply.body.len());
    }
    node.running(0).await;
}

#[tokio::test]
async fn websockets_are_open_calls_and_hold_a_quarter_of_the_node() {
    let setup = Setup::new().containers();
    let node = setup.variable("WEIR_RESOURCES_CPU", "2").start().await;
    let chat = Function::container("chat").setting("concurrency", "16");
    node.deploy(chat.timeout("10m")).await;
    node.deploy(Function::new("honest", "echo")).await;
    let open = async || {
        let url = format!("ws://{}/function/chat/socket", node.address);
        tokio_tungstenite::client_async(url, connect(node.address).await).await
    };
    let mut sockets = Vec::new();
    for _ in 0..OPEN {
        let (socket, _) = open().await.expect("a WebSocket");
        sockets.push(socket);
    }
    node.running(OPEN).await;
    // The next one waits, and is told to come again.
    let refused = within("an answer", open()).await.expect_err("a refusal");
    let tungstenite::Error::Http(refused) = refused else {
        panic!("{refused}");
    };
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["x-weir-error"], "too-many-open");
    node.call("honest", "x").await.expect_status(200);
    node.running(OPEN).await;
    drop(sockets.pop());
    node.running(OPEN - 1).await;
    open().await.expect("a WebSocket");
}

/// Opens so many connections from `from` and says nothing.
async fn silent(count: usize, from: [u8; 4], to: SocketAddr) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(SocketAddr::from((from, 0)))
            .expect("it is ours");
        // One that finds no room may be reset.
        open.extend(socket.connect(to).await.ok());
    }
    open
}

#[tokio::test]
async fn connections_that_say_nothing_shut_nobody_out() {
    let config = "[http]\nmax-connections = 100\nheader-timeout = \"5m\"\nthreads = 1";
    let node = Setup::new().config(config).start().await;
    node.deploy(Function::new("slow", "sleep")).await;
    node.deploy(Function::new("hello", "echo")).await;
    let held = tokio::spawn(node.post("/function/slow").body("3000").send());
    node.running(1).await;
    for (from, most) in [
        // Half of all for one address, and those that are not silent.
        ([127, 0, 0, 2], 50 + 5),
        ([127, 0, 0, 1], 100),
        ([127, 0, 0, 3], 100),
    ] {
        let _open = silent(300, from, node.address).await;
        node.get("/healthz").send().await.expect_status(200);
        node.call("hello", "x").await.expect_status(200);
        let status = node.status().await;
        let connections = status["connections"].as_u64();
        assert!(
            connections.is_some_and(|open| open <= most),
            "{connections:?} from {from:?}"
        );
    }
    // Whoever is busy is not closed for others.
    let held = held.await.expect("it does not panic");
    held.expect_status(200);
}

#[test]
fn connections_from_another_network_that_say_nothing_shut_nobody_out() {
    let name = "connections_from_another_network_that_say_nothing_shut_nobody_out";
    network::inside(name, async {
        let host = Host::new(1);
        let ip = host.address().parse().expect("an address");
        let config = "[http]\nmax-connections = 100\nheader-timeout = \"5m\"\nthreads = 1";
        let node = Setup::new()
            .config(config)
            .host(&host.name)
            .address(SocketAddr::new(ip, 8080))
            .variable("WEIR_HTTP_INSECURE", "true")
            .variable("WEIR_HTTP_ALLOWED_HOSTS", &host.address())
            .start()
            .await;
        node.deploy(Function::new("hello", "echo")).await;
        // The node sees them come from the hub's address, as all others here.
        let _open = silent(300, [10, 77, 1, 1], node.address).await;
        node.get("/healthz").send().await.expect_status(200);
        node.call("hello", "x").await.expect_status(200);
        let connections = node.status().await["connections"].as_u64();
        assert!(
            connections.is_some_and(|open| open <= 100),
            "{connections:?}"
        );
    });
}

#[tokio::test]
async fn the_time_for_a_head_counts_from_the_connection() {
    let config = "[http]\nheader-timeout = \"300ms\"\nidle-timeout = \"10m\"";
    let node = Setup::new().config(config).start().await;
    let mut stream = connect(node.address).await;
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_head_that_came_with_the_request_before_has_its_time_too() {
    let config = "[http]\nheader-timeout = \"300ms\"\nidle-timeout = \"10m\"";
    let node = Setup::new().config(config).start().await;
    node.deploy(Function::new("echo", "echo")).await;
    let part = "GET /healthz HTTP/1.1\r\nhost";
    let chunked = "transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    for (whole, rest_of) in [
        ("GET /healthz HTTP/1.1\r\nhost: x\r\n", "\r\n"),
        (
            "POST /function/echo HTTP/1.1\r\nhost: x\r\n",
            "content-length: 2\r\n\r\nhi",
        ),
        ("POST /function/echo HTTP/1.1\r\nhost: x\r\n", chunked),
    ] {
        let mut stream = connect(node.address).await;
        let words = format!("{whole}{rest_of}{part}");
        stream
            .write_all(words.as_bytes())
            .await
            .expect("it is read");
        let told = rest(&mut stream).await;
        assert_eq!(told.matches("HTTP/1.1 200").count(), 1, "{words}: {told}");
    }
}

#[tokio::test]
async fn the_time_for_a_head_is_the_same_over_tls() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (certificate, key) = certificate(folder.path(), "own");
    let config = format!(
        "[http]\nheader-timeout = \"300ms\"\nidle-timeout = \"10m\"\ntls-certificate = \
         \"{}\"\ntls-key = \"{}\"",
        certificate.display(),
        key.display()
    );
    let (setup, address) = (Setup::new().config(&config), free_address());
    let mut child = setup.command(address).spawn().expect("weir can be started");
    let whole = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    eventually("it serves over TLS", async || {
        let told = said_over_tls(address, whole).await;
        told.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
    // A part of a head, nothing of one, and the end of a second one that is missing.
    let second = format!(
        "{}GET /healthz HTTP/1.1\r\nhost",
        whole.replace("close", "keep-alive")
    );
    for (words, answers) in [("GET /healthz HTTP/1.1\r\nhost", 0), ("", 0), (&*second, 1)] {
        let told = said_over_tls(address, words).await;
        assert_eq!(told.matches("HTTP/1.1 200").count(), answers, "{told}");
    }
    child.start_kill().expect("our own child can be killed");
}

#[tokio::test]
async fn the_last_connections_are_for_management() {
    let config = "[http]\nmax-connections = 50\nmax-connections-per-address = 50\nthreads = 1\n\
                  [resources]\ncpu = 64";
    let node = Setup::new().config(config).start().await;
    node.deploy(Function::new("slow", "sleep").timeout("2m"))
        .await;
    let ask = "POST /function/slow HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n60000";
    let mut busy = Vec::new();
    for _ in 0..49 {
        let mut stream = connect(node.address).await;
        stream.write_all(ask.as_bytes()).await.expect("it is read");
        busy.push(stream);
    }
    node.running(49).await;
    let close = "connection: close\r\n";
    let health = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{close}\r\n");
    let answer = raw(node.address, health.as_bytes()).await;
    assert_eq!(raw_status(&answer), 200, "{answer}");
    let call =
        format!("POST /function/slow HTTP/1.1\r\nhost: x\r\n{close}content-length: 1\r\n\r\n0");
    let answer = raw(node.address, call.as_bytes()).await;
    assert_eq!(raw_status(&answer), 503, "{answer}");
    assert!(answer.contains("too-many-connections"), "{answer}");
}
