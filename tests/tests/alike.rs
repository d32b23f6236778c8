//! A call means the same wherever it runs: what a function sees and what its
//! caller gets depend neither on the node nor on the version of HTTP at the door.

use std::collections::BTreeMap;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use weir_tests::client::{Ask, Reply, raw, raw_status, rest};
use weir_tests::engine;
use weir_tests::eventually;
use weir_tests::federation::{Member, all_meet, member};
use weir_tests::node::{Function, Node, Setup, free_address, text};

/// What may differ between two calls of an answer: when it came, its ids, how
/// long it took, and where; and how HTTP/1.1 frames it.
const MAY_DIFFER: [&str; 11] = [
    "date",
    "x-call-id",
    "x-weir-call-id",
    "x-start-time",
    "server-timing",
    "x-weir-start",
    "x-weir-node",
    "x-weir-ran-on",
    "dfaas-node-id",
    "x-server",
    "transfer-encoding",
];

/// The same of what a function sees, by the beginnings of its lines.
const MAY_BE_SEEN_TO_DIFFER: [&str; 7] = [
    "x-weir-call-id:",
    "x-start-time:",
    "traceparent:",
    "x-weir-deadline-ms:",
    "HTTP_X_WEIR_CALL_ID=",
    "HTTP_X_START_TIME=",
    "HTTP_TRACEPARENT=",
];

/// The value of a trailer, which no function sees.
const TRAILER: &str = "sum-of-5";

/// Where a function runs that is called at one node.
const PLACES: [&str; 3] = ["home", "direct", "stream"];

/// A caller, a peer that it dials, and one that it reaches over the overlay alone.
async fn places() -> [Member; 3] {
    let with = |setup: Setup, place: &str| {
        let setup = setup.containers().variable("WEIR_RESOURCES_CPU", "4");
        setup.variable("WEIR_FEDERATION_LABELS", &format!("place={place}"))
    };
    let home = Member::start(with(member(), PLACES[0])).await;
    let direct = home.invite(with(member(), PLACES[1])).await;
    let links = free_address();
    let relayed = Setup::new()
        .variable("WEIR_RESOURCES_MEMORY", "1GiB")
        .variable("WEIR_FEDERATION_RELAYED", "true")
        .variable(
            "WEIR_FEDERATION_LISTEN",
            &format!("/ip4/{}/tcp/{}", links.ip(), links.port()),
        );
    let stream = home.invite(with(relayed, PLACES[2])).await;
    let members = [home, direct, stream];
    all_meet(&members.iter().collect::<Vec<_>>()).await;
    members
}

/// Deploys a function to each of them, to run there and nowhere else, and waits
/// until the first knows of all.
async fn deploy_at_each(members: &[Member; 3], function: impl Fn(&str) -> Function) {
    for (member, place) in members.iter().zip(PLACES) {
        let function = function(place).field("constraints", json!([format!("place={place}")]));
        let name = function.body["service"]
            .as_str()
            .expect("a name")
            .to_owned();
        member.node.deploy(function).await;
        if place != PLACES[0] {
            members[0].sees_function(&member.id, &name).await;
        }
    }
}

/// The calls carried to peers of each kind so far.
async fn carried(node: &Node) -> [f64; 2] {
    let name = "weir_carried_calls_total";
    [
        node.metric(name, &["direct"]).await,
        node.metric(name, &["stream"]).await,
    ]
}

/// What came back of a call, and so what its function saw, line by line: headers
/// of different names come in any order.
fn lines(reply: &Reply, place: &str) -> Vec<String> {
    let mut headers = Vec::new();
    for (name, value) in &reply.headers {
        let value = match (name.as_str(), value.as_bytes()) {
            (name, _) if MAY_DIFFER.contains(&name) => continue,
            // Another way to frame a body, which is compared itself.
            ("content-length", _) if !reply.body.is_empty() => continue,
            (_, value) => String::from_utf8_lossy(value).into_owned(),
        };
        headers.push(format!("{name}: {value}"));
    }
    headers.sort();
    let trailers = reply.trailers.iter();
    headers.extend(trailers.map(|(name, value)| format!("trailer {name}: {value:?}")));
    let seen = reply.text().replace(place, "PLACE");
    let may_differ = |line: &str| {
        let mut starts = MAY_BE_SEEN_TO_DIFFER.iter();
        starts.any(|start| line.starts_with(start))
    };
    let seen = seen.lines().filter(|line| !may_differ(line));
    let mut seen: Vec<_> = seen.map(|line| format!("    {line}")).collect();
    seen.sort();
    [vec![reply.status.to_string()], headers, seen].concat()
}

/// The lines that only one of the two has.
fn difference(one: &[String], other: &[String]) -> String {
    let lacks = |of: &[String], from: &[String], sign: &str| {
        let only = of.iter().filter(|line| !from.contains(line));
        only.map(|line| format!("{sign} {line}\n"))
            .collect::<String>()
    };
    lacks(one, other, "-") + &lacks(other, one, "+")
}

/// Requests whose parts have been lost, changed or added on some way.
fn requests(node: &Node, function: &str) -> Vec<(&'static str, Ask)> {
    let ask = |method: &str, rest: &str| {
        let ask = node.ask(method, &format!("/function/{function}{rest}"));
        ask.header("x-call-id", "my-own")
    };
    vec![
        ("a path and a query", ask("GET", "/api/items/a%20b?c=%2F&d")),
        ("nothing but the name", ask("GET", "")),
        ("a head alone", ask("HEAD", "/head")),
        ("no body", ask("POST", "/none")),
        (
            "a body with a type",
            ask("POST", "/body")
                .header("content-type", "text/css")
                .body("a body"),
        ),
        ("a body without a type", ask("PUT", "/body").body("a body")),
        ("a body of unknown length", {
            let (ask, feeder) = ask("POST", "/fed").fed();
            feeder.try_send("a piece".into()).expect("there is room");
            ask
        }),
        (
            "a body with a trailer",
            ask("POST", "/trailed")
                .header("te", "trailers")
                .trailed("a body", "x-sum", TRAILER),
        ),
        (
            "cookies in two fields",
            ask("GET", "/cookies")
                .header("cookie", "a=1")
                .header("cookie", "b=2"),
        ),
        (
            "headers of many kinds",
            ask("PATCH", "/headers")
                .header("x-twice", "1")
                .header("x-twice", "2")
                .header("x-weir-node", "forged")
                .header("x-openfaas-internal", "forged")
                .header("authorization", "Bearer own")
                .header("accept-encoding", "br")
                .header("ce-id", "7")
                .header("x-forwarded-host", "shop.example")
                .body("x"),
        ),
        (
            "a large header",
            ask("GET", "/large").header("x-large", &"v".repeat(12 << 10)),
        ),
        ("a hundred headers of an answer", ask("GET", "/?80")),
        ("more headers than an answer may have", ask("GET", "/?120")),
    ]
}

/// Calls a function at each place over each version of HTTP, compares, and returns
/// what came back of each request, line by line.
async fn compare(
    members: &[Member; 3],
    function: impl Fn(&str) -> String,
) -> BTreeMap<&'static str, Vec<String>> {
    let node = &members[0].node;
    let mut expected = BTreeMap::new();
    let mut wrong = Vec::new();
    let before = carried(node).await;
    for place in PLACES {
        for http2 in [false, true] {
            for (what, ask) in requests(node, &function(place)) {
                let ask = if http2 { ask.http2() } else { ask };
                let reply = ask.send().await;
                if what == "no body" {
                    for id in ["x-call-id", "x-weir-call-id"].map(|name| reply.header(name)) {
                        assert!(id.len() > 3 && reply.text().contains(id), "{id} at {place}");
                    }
                }
                let got = lines(&reply, place);
                let first = expected.entry(what).or_insert_with(|| got.clone());
                if got != *first {
                    let lines = difference(first, &got);
                    wrong.push(format!("{what}, {place}, HTTP/2 {http2}:\n{lines}"));
                }
            }
        }
    }
    let refused = &expected["more headers than an answer may have"];
    let ok = &expected["a path and a query"];
    assert!(["200", "203"].contains(&ok[0].as_str()), "{ok:?}");
    assert!(["200", "502"].contains(&refused[0].as_str()), "{refused:?}");
    let trailed = expected["a body with a trailer"].join("\n");
    assert!(trailed.contains("a body"), "{trailed}");
    let trailers = [TRAILER, "trailer "];
    assert!(
        !trailers.iter().any(|word| trailed.contains(word)),
        "{trailed}"
    );
    assert_sees(&expected, "cookies in two fields", "a=1; b=2");
    let count = (2 * requests(node, "").len()) as f64;
    let after = carried(node).await;
    assert_eq!([after[0] - before[0], after[1] - before[1]], [count, count]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    expected
}

/// Something that a function must have seen of a request.
#[track_caller]
fn assert_sees(all: &BTreeMap<&str, Vec<String>>, what: &str, words: &str) {
    let lines = &all[what];
    let sees = lines.iter().any(|line| line.contains(words));
    assert!(sees, "{what}, {words}: {lines:?}");
}

/// An answer with more headers than it may have is its function's failure.
#[track_caller]
fn assert_refused(all: &BTreeMap<&str, Vec<String>>) {
    let lines = &all["more headers than an answer may have"];
    let named = lines
        .iter()
        .any(|line| line == "x-weir-error: function-failed");
    assert!(lines[0] == "502" && named, "{lines:?}");
    assert_ne!(all["a hundred headers of an answer"][0], "502");
}

#[tokio::test]
async fn a_stdio_module_is_called_alike_everywhere() {
    let members = places().await;
    let named = |place: &str| format!("tells-{place}");
    deploy_at_each(&members, |place| Function::new(&named(place), "tells")).await;
    let all = compare(&members, named).await;
    assert_sees(&all, "a path and a query", "QUERY_STRING=c=%2F&d");
}

#[tokio::test]
async fn a_cgi_module_is_called_alike_everywhere() {
    let members = places().await;
    let named = |place: &str| format!("tells-{place}");
    deploy_at_each(&members, |place| {
        let function = Function::new(&named(place), "tells").protocol("cgi");
        function.field("envVars", json!({ "TELLS_HEAD": "yes" }))
    })
    .await;
    let all = compare(&members, named).await;
    assert_sees(&all, "a path and a query", "QUERY_STRING=c=%2F&d");
    assert_refused(&all);
}

#[tokio::test]
async fn a_component_is_called_alike_everywhere() {
    let members = places().await;
    let named = |place: &str| format!("reports-{place}");
    deploy_at_each(&members, |place| {
        Function::new(&named(place), "reports").protocol("http")
    })
    .await;
    let all = compare(&members, named).await;
    assert_sees(
        &all,
        "a path and a query",
        "    path /api/items/a%20b?c=%2F&d",
    );
    let host = members[0].node.address;
    assert_sees(&all, "a path and a query", &format!("    authority {host}"));
    assert_refused(&all);
}

#[tokio::test]
async fn a_container_is_called_alike_everywhere() {
    let members = places().await;
    let named = |place: &str| format!("boxed-{place}");
    deploy_at_each(&members, |place| {
        Function::container(&named(place)).mode("tell")
    })
    .await;
    let all = compare(&members, named).await;
    let line = "    GET /api/items/a%20b?c=%2F&d HTTP/1.1";
    assert_sees(&all, "a path and a query", line);
    assert_refused(&all);
}

/// Answers with all that it sees, and with as many headers more as the query says.
const PYTHON: &str = r#"
def handle(event, context):
    seen = [event.method, event.path, repr(sorted(event.query.items()))]
    seen += [name + ": " + value for name, value in event.headers.items()]
    more = [name for name in event.query if name.isdigit()]
    headers = {"x-more-%d" % number: "yes" for name in more for number in range(int(name))}
    headers["x-guest"] = "yes"
    body = "\n".join(seen) + "\n\n" + event.body.decode()
    return {"statusCode": 203, "body": body, "headers": headers}
"#;

#[tokio::test]
async fn a_python_function_is_called_alike_everywhere() {
    engine::python();
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    std::fs::write(folder.path().join("main.py"), PYTHON).expect("a file can be written");
    let source = folder.path().display().to_string();
    let members = places().await;
    for (member, place) in members.iter().zip(PLACES) {
        let (name, only) = (format!("event-{place}"), format!("place={place}"));
        let command = [
            "deploy",
            &name,
            "--runtime",
            "python",
            "--handler",
            "main.handle",
        ];
        let more = ["--src", &source, "--constraint", &only];
        let output = member.node.weir([&command[..], &more].concat()).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        if place != PLACES[0] {
            members[0].sees_function(&member.id, &name).await;
        }
    }
    let all = compare(&members, |place| format!("event-{place}")).await;
    assert_sees(&all, "a path and a query", "[('c', '/'), ('d', '')]");
    assert_refused(&all);
}

/// A node with a server that answers as no HTTP library does.
async fn rough() -> Node {
    let node = Setup::new().containers().start().await;
    node.deploy(Function::container("rough").mode("raw")).await;
    node.deploy(Function::new("sleep", "sleep")).await;
    node
}

#[tokio::test]
async fn an_http10_answer_of_a_function_does_not_end_its_callers_connection() {
    let node = rough().await;
    let mut stream = TcpStream::connect(node.address).await.expect("it listens");
    for connection in ["keep-alive", "close"] {
        let ask = format!(
            "GET /function/rough/old HTTP/1.1\r\nhost: x\r\nconnection: {connection}\r\n\r\n"
        );
        stream.write_all(ask.as_bytes()).await.expect("it is open");
    }
    let answers = rest(&mut stream).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert!(!answers.contains("HTTP/1.0"), "{answers}");
}

/// What a client sees of a raw request to a function.
async fn bare(node: &Node, name: &str, path: &str) -> String {
    let ask =
        format!("GET /function/{name}{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    raw(node.address, ask.as_bytes()).await
}

/// A 502 that names the function, or an answer that had begun and is cut.
fn is_cut_or_refused(answer: &str) -> bool {
    match raw_status(answer) {
        502 => answer.contains("x-weir-error: function-failed"),
        200 => !answer.ends_with("0\r\n\r\n"),
        _ => false,
    }
}

#[tokio::test]
async fn an_answer_that_breaks_is_the_functions_failure_wherever_it_runs() {
    let members = places().await;
    let named = |place: &str| format!("rough-{place}");
    deploy_at_each(&members, |place| {
        Function::container(&named(place)).mode("raw")
    })
    .await;
    let node = &members[0].node;
    for name in PLACES.map(named) {
        for _ in 0..5 {
            let answer = bare(node, &name, "/breaks").await;
            assert!(is_cut_or_refused(&answer), "{name}: {answer:?}");
            let answer = bare(node, &name, "/begun").await;
            assert_eq!(raw_status(&answer), 200, "{name}: {answer:?}");
            assert!(answer.contains("hello"), "{name}: {answer:?}");
            assert!(!answer.ends_with("0\r\n\r\n"), "{name}: {answer:?}");
        }
        let reply = node.get(&format!("/function/{name}/both")).send().await;
        let reply = reply.expect_error(502);
        assert_eq!(reply.header("x-weir-error"), "function-failed");
        assert!(reply.text().contains("Content-Length"), "{}", reply.text());
    }
    for outcome in ["lost", "malformed"] {
        let outcome = format!("outcome=\"{outcome}\"");
        assert_eq!(node.metric("weir_offloads_total", &[&outcome]).await, 0.0);
    }
}

#[tokio::test]
async fn trailers_of_an_answer_are_left_out_for_all_clients() {
    let node = rough().await;
    let answer = bare(&node, "rough", "/trailers").await;
    assert!(
        answer.contains("hello") && !answer.contains("x-sum"),
        "{answer}"
    );
    let ask = node.get("/function/rough/trailers").http2();
    let mut body = ask.open().await.expect("an answer").into_body();
    while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
        assert!(frame.expect("it is whole").is_data());
    }
}

#[tokio::test]
async fn trailers_of_an_answer_are_left_out_wherever_it_runs() {
    let members = places().await;
    let named = |place: &str| format!("rough-{place}");
    deploy_at_each(&members, |place| {
        Function::container(&named(place)).mode("raw")
    })
    .await;
    for name in PLACES.map(named) {
        let path = format!("/function/{name}/trailers");
        for http2 in [false, true] {
            let ask = members[0].node.get(&path).header("te", "trailers");
            let ask = if http2 { ask.http2() } else { ask };
            let reply = ask.send().await.expect_status(200);
            assert_eq!(reply.text(), "hello", "{name}");
            assert!(reply.trailers.is_empty(), "{name}: {:?}", reply.trailers);
        }
    }
}

#[tokio::test]
async fn a_body_that_no_action_takes_is_refused_with_the_reason() {
    let members = places().await;
    let named = |place: &str| format!("action-{place}");
    deploy_at_each(&members, |place| {
        let function = Function::container(&named(place)).mode("openwhisk");
        function.protocol("openwhisk")
    })
    .await;
    for name in PLACES.map(named) {
        for body in ["[1]", "no JSON"] {
            let ask = members[0].node.call(&name, body);
            let reply = ask.await.expect_error(400);
            let said = reply.text();
            assert!(said.contains("takes a JSON object"), "{name}: {said}");
        }
    }
}

#[tokio::test]
async fn a_body_that_a_protocol_cannot_take_is_refused_with_the_reason() {
    let members = places().await;
    let named = |place: &str| format!("sum-{place}");
    deploy_at_each(&members, |place| {
        let function = Function::container(&named(place)).mode("serverledge");
        function.protocol("serverledge")
    })
    .await;
    for name in PLACES.map(named) {
        let reply = members[0].node.call(&name, "[1]").await.expect_error(400);
        assert!(
            reply.text().contains("takes a JSON object"),
            "{name}: {}",
            reply.text()
        );
    }
}

#[tokio::test]
async fn results_have_the_headers_of_answers() {
    let node = Node::start().await;
    node.deploy(Function::new("plain", "echo")).await;
    let typed = |ask: Ask| ask.header("content-type", "text/css").body("a{}");
    let answer = typed(node.post("/function/plain")).send().await;
    let later = typed(node.post("/async-function/plain")).send().await;
    let result = node.result(later.header("location")).await;
    for reply in [&answer, &result] {
        assert_eq!(reply.header("content-type"), "text/css");
        assert_eq!(reply.header("content-length"), "3");
    }
    let location = node.submit("plain", "").await;
    assert_eq!(node.result(&location).await.header("content-length"), "0");
    node.deploy(Function::new("fails", "trap")).await;
    let location = node.submit("fails", "").await;
    let result = node.result(&location).await;
    assert_eq!(result.header("x-weir-error"), "function-failed");
    assert_eq!(
        result.header("content-type"),
        node.call("fails", "").await.header("content-type")
    );
}

#[tokio::test]
async fn a_callback_without_a_body_has_a_length() {
    let node = Setup::new()
        .config("[async]\ncallback-local = true")
        .start()
        .await;
    node.deploy(Function::new("plain", "echo")).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("it binds");
    let url = format!("http://{}/in", listener.local_addr().expect("it is bound"));
    let ask = node
        .post("/async-function/plain")
        .header("x-callback-url", &url)
        .header("x-call-id", "my-own");
    let accepted = ask.send().await.expect_status(202);
    let (mut stream, _) = weir_tests::within("a callback", listener.accept())
        .await
        .expect("it comes");
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        let byte = tokio::io::AsyncReadExt::read_u8(&mut stream).await;
        seen.push(byte.expect("a head"));
    }
    let seen = text(&seen).to_lowercase();
    assert!(seen.contains("content-length: 0\r\n"), "{seen}");
    // Its caller's id to find it by, and the node's to keep to.
    let id = accepted.header("x-weir-call-id");
    for id in ["x-call-id: my-own", &format!("x-weir-call-id: {id}")] {
        assert!(seen.contains(id), "{id} is not in {seen}");
    }
}

#[tokio::test]
async fn a_failed_callback_is_logged_with_cause_target_and_function() {
    let config = "[async]\ncallback-local = true\ncallback-attempts = 1";
    let node = Setup::new().config(config).start().await;
    node.deploy(Function::new("plain", "echo")).await;
    let nobody = free_address();
    let url = format!("http://me:hush@{nobody}/in?key=hush");
    let ask = node
        .post("/async-function/plain")
        .header("x-callback-url", &url)
        .header("x-call-id", "my-own");
    let accepted = ask.send().await.expect_status(202);
    let line = eventually("the failure is logged", async || {
        let log = node.log();
        let line = log.lines().find(|line| line.contains("callback failed"));
        line.map(str::to_owned)
    })
    .await;
    let target = format!("http://{nobody}/in");
    let id = accepted.header("x-weir-call-id");
    for word in ["\"plain\"", &target, "refused", id] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
    assert!(!line.contains("hush"), "{line}");
}

/// Leaves all connections to containers idle for as long as this call of another
/// function takes.
async fn idle(node: &Node, milliseconds: u64) {
    let reply = node.call("sleep", milliseconds.to_string()).await;
    reply.expect_status(200);
}

#[tokio::test]
async fn a_connection_is_not_used_when_its_server_is_about_to_close_it() {
    let node = rough().await;
    let ask = async |path: &str| {
        let reply = node.get(&format!("/function/rough{path}")).send().await;
        reply.status
    };
    assert_eq!(ask("/keeps").await, 200);
    idle(&node, 950).await;
    assert_eq!(ask("/keeps").await, 200);
}

#[tokio::test]
async fn a_servers_idle_time_is_learned_from_one_failure() {
    let node = rough().await;
    node.deploy(
        Function::container("again")
            .mode("raw")
            .setting("idempotent", "true"),
    )
    .await;
    let ask = async |name: &str| {
        let reply = node
            .get(&format!("/function/{name}/keeps-less"))
            .send()
            .await;
        reply.status
    };
    assert_eq!(ask("rough").await, 200);
    idle(&node, 250).await;
    // It may have begun, and only what is idempotent is sent again.
    assert_eq!(ask("rough").await, 502);
    for _ in 0..3 {
        assert_eq!(ask("rough").await, 200);
        idle(&node, 250).await;
    }
    assert_eq!(ask("again").await, 200);
    idle(&node, 250).await;
    assert_eq!(ask("again").await, 200);
}
