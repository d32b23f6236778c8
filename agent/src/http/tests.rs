use std::io::{Read as _, Write as _};
use std::net::TcpStream as Client;
use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::body::{BodyFault, BodyLimits, bound};
use super::*;

/// Longest wait for a fact before a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

const BODY: BodyLimits = BodyLimits {
    bytes: 1 << 20,
    gap: Duration::from_millis(100),
};

/// Answers by path: the body again, nothing of it, or whenever the test
/// says so.
#[derive(Default)]
struct Echo {
    held: Mutex<Option<oneshot::Receiver<()>>>,
    entered: Mutex<Option<oneshot::Sender<()>>>,
    left: Mutex<Option<oneshot::Sender<()>>>,
}

/// Tells when it is dropped.
struct Leaving(Option<oneshot::Sender<()>>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(left) = self.0.take() {
            let _ = left.send(());
        }
    }
}

impl Handler for Echo {
    async fn handle(
        connection: Arc<Connection<Self>>,
        request: Request<Incoming>,
    ) -> Response<Reply> {
        let take = |slot: &Mutex<Option<oneshot::Sender<()>>>| slot.lock().expect("whole").take();
        let handler = &connection.handler;
        if request.uri().path() == "/ignore" {
            let (body, _) = bound(request.into_body(), BODY, true, None);
            drop(body);
            return Response::new(Reply::from("ignored"));
        }
        if request.uri().path() == "/forbid" {
            let mut response = Response::new(Reply::from("no"));
            *response.status_mut() = StatusCode::FORBIDDEN;
            return response;
        }
        assert_ne!(request.uri().path(), "/broken", "it breaks the handler");
        if request.uri().path() == "/hold" {
            let held = handler
                .held
                .lock()
                .expect("whole")
                .take()
                .expect("held once");
            let _leaving = Leaving(take(&handler.left));
            let _ = take(&handler.entered).expect("entered once").send(());
            let _ = held.await;
            return Response::new(Reply::from("released"));
        }
        let (body, verdict) = bound(request.into_body(), BODY, true, None);
        let mut response = Response::new(Reply::EMPTY);
        match (
            body.collect().await,
            verdict.and_then(|verdict| verdict.fault()),
        ) {
            (Ok(body), None) => *response.body_mut() = Reply::Whole(body.to_bytes()),
            (_, Some(BodyFault::TooLarge)) => {
                *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE
            }
            (_, Some(BodyFault::TooSlow)) => *response.status_mut() = StatusCode::REQUEST_TIMEOUT,
            (_, Some(BodyFault::Broken) | None) => *response.status_mut() = StatusCode::BAD_REQUEST,
        }
        response
    }
}

fn limits() -> Limits {
    Limits {
        connections: 100,
        connections_per_address: 100,
        header_bytes: 16 << 10,
        header_count: 50,
        header_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        stall_timeout: PATIENCE,
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn start(limits: Limits, handler: Echo) -> (Server, Arc<Traffic>) {
    let listeners = Listeners::bind(loopback(), 2, "http.listen").expect("a free port");
    let traffic = Arc::<Traffic>::default();
    let server = Server::start(
        listeners,
        limits,
        Greeting::Plain,
        Arc::new(handler),
        Arc::clone(&traffic),
    );
    (server.expect("a server"), traffic)
}

fn client(server: &Server) -> Client {
    let client = Client::connect(server.address()).expect("a connection");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client
}

/// The answer to `request` up to the end of its headers, and what follows
/// if the connection ends.
fn ask(server: &Server, request: &[u8]) -> String {
    let mut client = client(server);
    // A server may answer and close before it has read everything.
    let _ = client.write_all(request);
    rest(&mut client)
}

fn rest(client: &mut Client) -> String {
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn port_that_somebody_has_is_refused_although_it_could_be_shared() {
    let (server, _) = start(limits(), Echo::default());
    let error = Listeners::bind(server.address(), 2, "http.listen");
    let error = error.err().expect("taken");
    assert!(
        error.to_string().contains("another process has this port"),
        "{error}"
    );
}

#[test]
fn body_comes_back() {
    let (server, _) = start(limits(), Echo::default());
    let request = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    let answer = ask(&server, request);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nhi"),
        "{answer}"
    );
}

#[test]
fn a_request_that_breaks_the_handler_is_answered_and_the_next_one_too() {
    let (server, _) = start(limits(), Echo::default());
    let both = b"GET /broken HTTP/1.1\r\nhost: a\r\n\r\n\
                 POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    let answers = ask(&server, both);
    assert!(
        answers.starts_with("HTTP/1.1 500")
            && answers.contains("HTTP/1.1 200")
            && answers.ends_with("\r\n\r\nhi"),
        "{answers}"
    );
}

#[test]
fn beyond_the_bound_an_idle_connection_makes_room() {
    let limits = Limits {
        connections: 1,
        ..limits()
    };
    let (server, traffic) = start(limits, Echo::default());
    let mut first = client(&server);
    first
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("written");
    let mut byte = [0];
    first.read_exact(&mut byte).expect("served");
    let close = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    assert!(ask(&server, close).starts_with("HTTP/1.1 200"));
    assert!(rest(&mut first).starts_with("TTP/1.1 200"));
    assert_eq!((traffic.accepted(), traffic.refused()), (2, 0));
}

#[test]
fn head_that_does_not_end_is_cut() {
    let limits = Limits {
        header_timeout: Duration::from_millis(100),
        ..limits()
    };
    let (server, _) = start(limits, Echo::default());
    let began = Instant::now();
    assert_eq!(ask(&server, b"GET / HTTP/1.1\r\nhost: "), "");
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn idle_connection_is_closed_after_its_answers() {
    let limits = Limits {
        idle_timeout: Duration::from_millis(100),
        ..limits()
    };
    let (server, _) = start(limits, Echo::default());
    let began = Instant::now();
    let answer = ask(&server, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn head_beyond_its_bounds_is_431() {
    let (server, _) = start(limits(), Echo::default());
    let long = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "x".repeat(20 << 10)
    );
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(60));
    for request in [long, many] {
        let answer = ask(&server, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
        assert!(
            answer.contains("x-weir-error: header-too-large"),
            "{answer:?}"
        );
        assert!(answer.contains("http.header-bytes"), "{answer:?}");
    }
}

#[test]
fn headers_of_http2_are_counted_as_http1_would_send_them() {
    let bounds = refusals::HeadBounds::of(&limits());
    let check = |name: &str, uri: &str, headers: &[(&str, usize)], fits: bool| {
        let mut request = Request::builder().uri(uri);
        for (header, count) in headers {
            for _ in 0..*count {
                request = request.header(*header, "v");
            }
        }
        let request = request.body(()).expect("a request");
        assert_eq!(bounds.refuse(&request).is_none(), fits, "{name}");
    };
    let with_host = "http://a/";
    check("as many as may be", with_host, &[("x", 49)], true);
    check("one more", with_host, &[("x", 50)], false);
    check("no host", "/", &[("x", 50)], true);
    check("the host twice", with_host, &[("x", 49), ("host", 1)], true);
    check("cookies", with_host, &[("x", 48), ("cookie", 90)], true);
    check(
        "one more beside cookies",
        with_host,
        &[("x", 49), ("cookie", 90)],
        false,
    );
}

#[test]
fn what_is_no_request_is_400_with_the_reason_also_after_one_that_is() {
    let (server, _) = start(limits(), Echo::default());
    let wrong = b"GET / HTTP/1.1\r\nno header\r\n\r\n";
    let first = ask(&server, wrong);
    assert!(first.starts_with("HTTP/1.1 400"), "{first:?}");
    let mut client = client(&server);
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("written");
    let mut fine = [0; 15];
    client.read_exact(&mut fine).expect("served");
    client.write_all(wrong).expect("written");
    let second = rest(&mut client);
    for answer in [first, second] {
        assert!(answer.contains("x-weir-error: bad-request"), "{answer:?}");
        assert!(answer.contains("this is no HTTP request"), "{answer:?}");
    }
}

#[test]
fn refusal_of_a_handler_to_a_request_without_a_body_is_its_own() {
    let (server, _) = start(limits(), Echo::default());
    let answer = ask(
        &server,
        b"HEAD /forbid HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer:?}");
    assert!(!answer.contains("x-weir-error"), "{answer:?}");
}

#[test]
fn body_that_stops_coming_is_408() {
    let (server, _) = start(limits(), Echo::default());
    let request = b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 9\r\n\r\nhi";
    let answer = ask(&server, request);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
}

#[test]
fn chunked_body_beyond_its_bound_is_413_and_the_answer_arrives() {
    let (server, _) = start(limits(), Echo::default());
    let mut request =
        b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..64 {
        request.extend_from_slice(b"10000\r\n");
        request.extend_from_slice(&vec![b'x'; 0x10000]);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let answer = ask(&server, &request);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer:?}");
}

#[test]
fn connection_survives_a_body_that_nobody_reads() {
    let (server, _) = start(limits(), Echo::default());
    let body = vec![b'x'; 4 << 20];
    let mut request = format!(
        "POST /ignore HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    request.extend_from_slice(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let answer = ask(&server, &request);
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_on_one_port() {
    let (server, _) = start(limits(), Echo::default());
    let stream = TcpStream::connect(server.address())
        .await
        .expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    let body = http_body_util::Full::new(Bytes::from_static(b"hi"));
    let request = Request::post("http://a/").body(body).expect("valid");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(
        answer
            .into_body()
            .collect()
            .await
            .expect("whole")
            .to_bytes(),
        "hi"
    );
}

#[tokio::test]
async fn call_under_way_is_answered_before_the_end() {
    let ((release, held), (entered, inside)) = (oneshot::channel(), oneshot::channel());
    let handler = Echo::default();
    *handler.held.lock().expect("whole") = Some(held);
    *handler.entered.lock().expect("whole") = Some(entered);
    let (server, traffic) = start(limits(), handler);
    let address = server.address();
    let mut client = client(&server);
    let answer = std::thread::spawn(move || {
        client
            .write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n")
            .expect("written");
        rest(&mut client)
    });
    inside.await.expect("running");
    server.stop_accepting();
    let finish = tokio::spawn(server.finish(PATIENCE));
    release.send(()).expect("waited for");
    finish.await.expect("finished");
    let answer = answer.join().expect("an answer");
    assert!(answer.ends_with("released"), "{answer}");
    assert!(Client::connect(address).is_err());
    assert_eq!(traffic.open(), 0);
}

#[tokio::test]
async fn call_that_does_not_end_is_cut_after_the_grace_period() {
    let ((_release, held), (entered, inside)) = (oneshot::channel(), oneshot::channel());
    let handler = Echo::default();
    *handler.held.lock().expect("whole") = Some(held);
    *handler.entered.lock().expect("whole") = Some(entered);
    let (server, _) = start(limits(), handler);
    let mut client = client(&server);
    client
        .write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("written");
    inside.await.expect("running");
    server.finish(Duration::from_millis(50)).await;
    assert_eq!(rest(&mut client), "");
}

#[tokio::test]
async fn call_is_dropped_when_its_client_goes_away() {
    let ((_release, held), (entered, inside)) = (oneshot::channel(), oneshot::channel());
    let (left, gone) = oneshot::channel();
    let handler = Echo::default();
    *handler.held.lock().expect("whole") = Some(held);
    *handler.entered.lock().expect("whole") = Some(entered);
    *handler.left.lock().expect("whole") = Some(left);
    let (server, _) = start(limits(), handler);
    let mut client = client(&server);
    client
        .write_all(b"GET /hold HTTP/1.1\r\nhost: a\r\n\r\n")
        .expect("written");
    inside.await.expect("running");
    drop(client);
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("in time")
        .expect("dropped");
}
