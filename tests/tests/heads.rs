//! Heads of requests: those that others may read otherwise are refused, wherever
//! they are on a connection, and as many headers are taken with each version of
//! HTTP.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weir_tests::client::{Ask, raw, rest};
use weir_tests::node::{Function, Node, Setup, text};

/// The statuses of all answers on a raw connection.
fn statuses(answers: &str) -> Vec<u16> {
    let heads = answers.split("HTTP/1.1 ").skip(1);
    let status = |head: &str| head.split(' ').next()?.parse().ok();
    heads.filter_map(status).collect()
}

#[tokio::test]
async fn a_head_that_a_proxy_may_read_otherwise_is_400_and_the_last_of_its_connection() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let next = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let call = |headers: &str, body: &str| {
        format!("POST /function/hello HTTP/1.1\r\n{headers}\r\n{body}{next}")
    };
    let chunk = "1\r\nx\r\n0\r\n\r\n";
    for headers in [
        "",
        "host: x\r\nhost: x\r\n",
        "host: x\r\nhost: y\r\n",
        "host: x\r\ntransfer-encoding: identity\r\n",
        "host: x\r\ntransfer-encoding: identity, chunked\r\n",
        "host: x\r\ntransfer-encoding: gzip, chunked\r\n",
        "host: x\r\ntransfer-encoding: chunked, chunked\r\n",
        "host: x\r\ntransfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
        "host: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "host: x\r\ntransfer-encoding : chunked\r\n",
        "host: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n",
        "host: x\r\ncontent-length: +1\r\n",
        "host: x\r\ncontent-length: 1, 1\r\n",
        "host: x\r\n folded: y\r\n",
    ] {
        let answers = raw(node.address, call(headers, chunk).as_bytes()).await;
        assert_eq!(statuses(&answers), [400], "{headers:?}: {answers}");
        assert!(answers.contains("x-weir-error: bad-request"), "{answers}");
    }
    for (headers, body) in [
        ("host: x\r\ntransfer-encoding: Chunked\r\n", chunk),
        ("host: x\r\ncontent-length: 1\r\ncontent-length: 1\r\n", "x"),
        ("HOST:x\r\nContent-Length:1\r\n", "x"),
    ] {
        let answers = raw(node.address, call(headers, body).as_bytes()).await;
        assert_eq!(statuses(&answers), [200, 200], "{headers:?}: {answers}");
    }
    // Of two ways to say where a body ends one wins, and nothing comes behind it.
    let both = call(
        "host: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n",
        chunk,
    );
    let answers = raw(node.address, both.as_bytes()).await;
    assert_eq!(statuses(&answers), [200], "{answers}");
    // HTTP/1.0 knows no Host.
    let answer = raw(node.address, b"GET /healthz HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

#[tokio::test]
async fn a_bare_line_feed_ends_no_line_of_http_wherever_it_is_on_a_connection() {
    let node = Node::start().await;
    node.deploy(Function::new("hello", "echo")).await;
    let post = "POST /function/hello HTTP/1.1\r\nhost: x\r\n";
    let long = format!("{post}content-length: 4\r\n\r\na\nb\n");
    let chunked = format!("{post}transfer-encoding: chunked\r\n\r\n");
    let chunks = format!("{chunked}4;x=y\r\na\nb\n\r\n0\r\nx-sum: 1\r\n\r\n");
    let next = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let bare = "GET /healthz HTTP/1.1\r\nhost: x\nx-more: y\r\n\r\n";
    for (name, bytes, expected) in [
        ("the first head", bare.to_owned(), vec![400]),
        ("behind none", [next, bare].concat(), vec![200]),
        (
            "behind a head",
            next.replace("close", "x") + bare,
            vec![200, 400],
        ),
        ("behind a body", format!("{long}{bare}"), vec![200, 400]),
        ("behind chunks", format!("{chunks}{bare}"), vec![200, 400]),
        (
            "behind both",
            format!("{chunks}{long}{bare}"),
            vec![200, 200, 400],
        ),
        (
            "behind an empty line",
            format!("{long}\r\n{bare}"),
            vec![200, 400],
        ),
        (
            "the size of a chunk",
            format!("{chunked}1\nx\r\n0\r\n\r\n"),
            vec![400],
        ),
        (
            "an extension",
            format!("{chunked}1;x\nx\r\n0\r\n\r\n"),
            vec![400],
        ),
        (
            "the last extension",
            format!("{chunked}0;x\n\r\n"),
            vec![400],
        ),
        (
            "trailers",
            format!("{chunked}1\r\nx\r\n0\r\na: b\nc: d\r\n\r\n"),
            vec![400],
        ),
        (
            "the end of trailers",
            format!("{chunked}1\r\nx\r\n0\r\na: b\r\n\n"),
            vec![400],
        ),
        // And where it is data, or nothing.
        ("a body", format!("{long}{next}"), vec![200, 200]),
        ("chunks", format!("{chunks}{next}"), vec![200, 200]),
        (
            "all of them",
            format!("{long}{chunks}{long}{next}"),
            vec![200; 4],
        ),
        (
            "an empty line before a head",
            format!("{long}\n{next}"),
            vec![200, 200],
        ),
    ] {
        let answers = raw(node.address, bytes.as_bytes()).await;
        assert_eq!(statuses(&answers), expected, "{name}: {answers}");
        let echoed = answers.matches("a\nb\n").count();
        let sent = bytes.matches("a\nb\n").count();
        assert_eq!(echoed, sent, "{name}: {answers}");
    }
}

#[tokio::test]
async fn what_comes_before_the_answer_to_an_upgrade_is_no_request() {
    let node = Node::start().await;
    let upgrade = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    let bare = "GET /healthz HTTP/1.1\r\nhost: x\n\r\n";
    let answers = raw(node.address, format!("{upgrade}{bare}").as_bytes()).await;
    assert_eq!(statuses(&answers), [200], "{answers}");
    assert!(answers.contains("connection: close"), "{answers}");
    // Once it is answered, requests are read on, and looked at.
    let mut stream = TcpStream::connect(node.address).await.expect("it listens");
    for ask in [upgrade, upgrade, bare] {
        stream.write_all(ask.as_bytes()).await.expect("it is open");
        let mut answer = Vec::new();
        while !text(&answer).ends_with("OK\n") && ask == upgrade {
            answer.push(stream.read_u8().await.expect("an answer"));
        }
    }
    assert_eq!(statuses(&rest(&mut stream).await), [400]);
}

#[tokio::test]
async fn headers_are_counted_alike_with_each_version_of_http() {
    let few = Setup::new().config("[http]\nheader-count = 10");
    for (node, most) in [(Node::start().await, 100), (few.start().await, 10)] {
        node.deploy(Function::new("hello", "echo")).await;
        let ask = |headers: usize, http2: bool| {
            let ask = node.post("/function/hello").body("fine");
            let ask = if http2 { ask.http2() } else { ask };
            // The host is one, and the length.
            (2..headers).fold(ask, |ask, number| ask.header(&format!("x-{number}"), "v"))
        };
        let mut refused = Vec::new();
        for http2 in [false, true] {
            ask(most, http2).send().await.expect_status(200);
            let reply = ask(most + 1, http2).send().await.expect_error(431);
            assert_eq!(reply.header("x-weir-error"), "header-too-large");
            let headers = ["x-weir-error", "content-type", "x-openfaas-internal"];
            let headers = headers.map(|name| reply.header(name).to_owned());
            refused.push((headers, reply.text()));
        }
        assert_eq!(refused[0], refused[1]);
        // A client of HTTP/2 may send each cookie in a field of its own.
        let cookies = |ask: Ask| (0..most).fold(ask, |ask, _| ask.header("cookie", "a=b"));
        cookies(ask(most - 1, true)).send().await.expect_status(200);
        cookies(ask(most, true)).send().await.expect_error(431);
        cookies(ask(3, false)).send().await.expect_error(431);
        // Whatever it asks for.
        let health = node.get("/healthz").http2();
        let many = (0..=most).fold(health, |ask, _| ask.header("x-many", "v"));
        many.send().await.expect_error(431);
    }
}
