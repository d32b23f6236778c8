//! The stream before the parser that it serves: hyper's own.

use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

/// Requests that a server took, each by its method and path, with its body,
/// which is `None` when it broke.
type Requests = Vec<(String, Option<Bytes>)>;

/// What a server took of a connection, and the last answer's status.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    requests: Requests,
    last: String,
}

fn watching<S>(stream: S, heads: Arc<Heads>) -> Strict<S> {
    let activity = Activity::begin(std::time::Instant::now());
    Strict::new(stream, heads, Arc::new(activity))
}

/// A server that answers until its connection ends.
async fn serve<S>(stream: S, taken: Arc<Mutex<Requests>>, heads: Arc<Heads>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (taken, heads) = (Arc::clone(&taken), Arc::clone(&heads));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await;
            let body = body.ok().map(http_body_util::Collected::to_bytes);
            let whole = body.is_some();
            let line = format!("{} {}", head.method, head.uri);
            taken.lock().expect("whole").push((line, body));
            let mut response = Response::new(Full::new(Bytes::new()));
            let asks = head.method == http::Method::CONNECT || head.headers.contains_key("upgrade");
            if head.method == http::Method::CONNECT || !whole {
                *response.status_mut() = http::StatusCode::BAD_REQUEST;
            }
            if asks && !heads.answered(false) {
                let close = http::HeaderValue::from_static("close");
                response.headers_mut().insert("connection", close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    let served = builder
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    // How it ends is seen in what it took.
    let _ = served.await;
}

/// What is taken of these bytes, sent in pieces of so many, looked at or not.
fn take(bytes: &[u8], piece: usize, strict: bool) -> Taken {
    let taken = Arc::<Mutex<Requests>>::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let answers = runtime.expect("a runtime").block_on(async {
        let (client, server) = tokio::io::duplex(piece);
        let heads = Arc::<Heads>::default();
        let serving = async {
            match strict {
                true => {
                    let stream: Strict<DuplexStream> = watching(server, Arc::clone(&heads));
                    serve(stream, Arc::clone(&taken), Arc::clone(&heads)).await;
                }
                false => serve(server, Arc::clone(&taken), Arc::clone(&heads)).await,
            }
        };
        let (mut answers, mut sink) = tokio::io::split(client);
        let send = async {
            // It may end before it has read everything.
            let _ = sink.write_all(bytes).await;
            let _ = sink.shutdown().await;
        };
        let read = async {
            let mut read = Vec::new();
            let _ = answers.read_to_end(&mut read).await;
            read
        };
        let ((), (), answers) = tokio::join!(serving, send, read);
        answers
    });
    let answers = String::from_utf8_lossy(&answers).into_owned();
    let last = answers.rsplit_once("HTTP/1.").map_or("", |(_, last)| last);
    let requests = std::mem::take(&mut *taken.lock().expect("whole"));
    let last = last.split(' ').nth(1).unwrap_or_default().to_owned();
    Taken { requests, last }
}

const GET: &str = "GET /first HTTP/1.1\r\nhost: x\r\n\r\n";

#[test]
fn a_bare_line_feed_is_answered_400_behind_what_came_before() {
    let chunks = "POST /chunks HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    for (name, bytes, served) in [
        ("a request line", "GET / HTTP/1.1\nhost: x\r\n\r\n".to_owned(), 0),
        ("a header", format!("{GET}GET / HTTP/1.1\r\nhost: x\na: b\r\n\r\n"), 1),
        ("no end", format!("{GET}GET / HTTP/1.1\r\nhost: x\n"), 1),
        (
            "behind a body",
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n\n\nGET / HTTP/1.1\nhost: x\r\n\r\n"
                .to_owned(),
            1,
        ),
        ("behind chunks", format!("{chunks}1\r\n\n\r\n0\r\n\r\nGET / HTTP/1.1\n"), 1),
        ("a trailer", format!("{chunks}1\r\n\n\r\n0\r\na: b\nc: d\r\n\r\n"), 1),
        ("the end of trailers", format!("{chunks}1\r\n\n\r\n0\r\na: b\r\n\n"), 1),
        ("a size", format!("{chunks}1\n\n\r\n0\r\n\r\n"), 1),
        ("an extension", format!("{chunks}1;a\n\n\r\n0\r\n\r\n"), 1),
        // What follows must not end it well.
        ("the extension of the end", format!("{chunks}0;a\n\r\n"), 1),
        ("the end of a chunk", format!("{chunks}1\r\nx\n0\r\n\r\n"), 1),
    ] {
        for piece in [1, 7, 4096] {
            let taken = take(bytes.as_bytes(), piece, true);
            assert_eq!(taken.requests.len(), served, "{name}, {piece}");
            assert_eq!(taken.last, "400", "{name}, {piece}: {taken:?}");
        }
    }
}

#[test]
fn what_comes_before_the_answer_to_an_upgrade_is_not_read_if_that_is_denied() {
    let upgrade = "GET /up HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: y\r\n\r\n";
    let taken = take(
        format!("{upgrade}GET / HTTP/1.1\nhost: x\r\n\r\n").as_bytes(),
        4096,
        true,
    );
    assert_eq!(taken.requests.len(), 1, "{taken:?}");
    assert_eq!(taken.last, "200");
    let heads = Heads::default();
    assert!(heads.answered(false) && heads.answered(true));
    heads.set(Asked::Ahead);
    assert!(heads.answered(true));
    heads.set(Asked::Ahead);
    assert!(!heads.answered(false));
}

#[test]
fn a_head_behind_a_denied_upgrade_is_looked_at() {
    let heads = Arc::<Heads>::default();
    let mut strict = watching((), Arc::clone(&heads));
    let upgrade = b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: y\r\n\r\n";
    for _ in 0..2 {
        assert_eq!(strict.look(upgrade), upgrade.len());
        assert!(heads.answered(false));
    }
    assert_eq!(strict.look(b"GET / HTTP/1.1\n"), 14);
    let mut strict = watching((), Arc::clone(&heads));
    assert_eq!(strict.look(upgrade), upgrade.len());
    assert!(heads.answered(true));
    assert_eq!(strict.look(b"\n\n"), 2);
    assert!(strict.framing.is_opaque());
}

/// Bytes of a body, many of which look like lines.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop::sample::select(b"\n\r0a;: G".to_vec());
    prop::collection::vec(byte, 0..20)
}

/// One request whose lines all end with CR LF.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(vec![
        "GET / HTTP/1.1",
        "POST /a HTTP/1.1",
        "CONNECT a:1 HTTP/1.1",
        "\r\nPUT / HTTP/1.1",
        "GET / HTTP/1.0",
        "PRI * HTTP/2.0",
    ]);
    let header = prop::sample::select(vec![
        "content-lengthy: 3",
        "c: 1",
        "Upgrade-Insecure-Requests: 1",
        "upgrade: y",
        "te: chunked",
        "content-length:",
        "connection: keep-alive",
        "connection: close",
        "expect: 100-continue",
        "transfer-encoding: chunked",
        "transfer-encoding: gzip",
        "content-length: 2",
        " folded: 1",
    ]);
    let headers = prop::collection::vec(header, 0..4);
    let framing = prop::sample::select(vec![0, 1, 1, 2, 2, 2]);
    let size = prop::sample::select(vec!["", ";a=b", " ", " ;x"]);
    let trailer = prop::sample::select(vec!["", "a: b\r\n", "content-length: 7\r\na:\r\n"]);
    let chunks = prop::collection::vec((body(), size), 0..4);
    (start, headers, framing, chunks, trailer).prop_map(
        |(start, headers, framing, chunks, trailer)| {
            let mut bytes = format!("{start}\r\nhost: x\r\n").into_bytes();
            // A length says nothing beside a coding.
            let coded = |header: &&str| framing == 1 && header.starts_with("transfer-encoding");
            for header in headers.into_iter().filter(|header| !coded(header)) {
                bytes.extend_from_slice(format!("{header}\r\n").as_bytes());
            }
            let whole: Vec<u8> = chunks.iter().flat_map(|(body, _)| body.clone()).collect();
            match framing {
                0 => bytes.extend_from_slice(b"\r\n"),
                1 => {
                    bytes.extend_from_slice(
                        format!("Content-Length: {}\r\n\r\n", whole.len()).as_bytes(),
                    );
                    bytes.extend_from_slice(&whole);
                }
                _ => {
                    bytes.extend_from_slice(b"Transfer-Encoding:chunked\r\n\r\n");
                    for (body, size) in chunks.iter().filter(|(body, _)| !body.is_empty()) {
                        bytes.extend_from_slice(format!("{:x}{size}\r\n", body.len()).as_bytes());
                        bytes.extend_from_slice(body);
                        bytes.extend_from_slice(b"\r\n");
                    }
                    bytes.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
                }
            }
            bytes
        },
    )
}

/// A request whose lines all end with CR LF and that no server refuses, and where
/// its lines end.
fn good() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    let trailer = prop::sample::select(vec!["", "a: b\r\n"]);
    let chunks = prop::collection::vec(body(), 0..4);
    (any::<bool>(), chunks, trailer).prop_map(|(chunked, chunks, trailer)| {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        let mut line = |bytes: &mut Vec<u8>, line: &str| {
            bytes.extend_from_slice(line.as_bytes());
            ends.push(bytes.len());
            bytes.extend_from_slice(b"\r\n");
        };
        line(&mut bytes, "POST / HTTP/1.1");
        line(&mut bytes, "host: x");
        if chunked {
            line(&mut bytes, "transfer-encoding: chunked");
            line(&mut bytes, "");
            for body in chunks.iter().filter(|body| !body.is_empty()) {
                line(&mut bytes, &format!("{:x}", body.len()));
                bytes.extend_from_slice(body);
                line(&mut bytes, "");
            }
            line(&mut bytes, "0");
            for trailer in trailer.lines() {
                line(&mut bytes, trailer);
            }
        } else {
            let whole = chunks.concat();
            line(&mut bytes, &format!("content-length: {}", whole.len()));
            line(&mut bytes, "");
            bytes.extend_from_slice(&whole);
            return (bytes, ends);
        }
        line(&mut bytes, "");
        (bytes, ends)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_ends_its_lines_with_both_is_taken_as_if_nobody_looked(
        requests in prop::collection::vec(request(), 1..5), piece in 1_usize..200,
    ) {
        let bytes = requests.concat();
        let upgrades = bytes.windows(9).any(|name| name.eq_ignore_ascii_case(b"upgrade: "))
            || bytes.windows(7).any(|name| name == b"CONNECT");
        let (with, without) = (take(&bytes, piece, true), take(&bytes, piece, false));
        match upgrades {
            // Behind such a request the connection may be closed.
            true => prop_assert!(without.requests.starts_with(&with.requests)),
            false => prop_assert_eq!(with, without),
        }
    }

    #[test]
    fn one_bare_line_feed_is_refused_wherever_it_is(
        requests in prop::collection::vec(good(), 1..4),
        at in any::<prop::sample::Index>(),
        piece in 1_usize..200,
    ) {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for (request, lines) in requests {
            ends.extend(lines.iter().map(|end| (bytes.len(), bytes.len() + end)));
            bytes.extend_from_slice(&request);
        }
        let whole = take(&bytes, piece, true);
        prop_assert_eq!(&whole.last, "200");
        let (_, end) = ends[at.index(ends.len())];
        prop_assert_eq!(bytes.remove(end), b'\r');
        let (first, _) = ends.iter().rev().find(|(start, _)| *start <= end).expect("one");
        let before = ends.iter().map(|(start, _)| start).filter(|start| *start < first);
        let before = before.collect::<std::collections::BTreeSet<_>>().len();
        let taken = take(&bytes, piece, true);
        prop_assert_eq!(&taken.last, "400", "{:?}", taken);
        // Those before it are answered, and it is none or one without a body.
        prop_assert_eq!(&taken.requests[..before], &whole.requests[..before]);
        let rest = &taken.requests[before..];
        prop_assert!(rest.len() <= 1 && rest.iter().all(|(_, body)| body.is_none()));
    }

    #[test]
    fn pieces_make_no_difference(bytes in prop::collection::vec(body(), 0..5), request in request(), piece in 1_usize..50) {
        let bytes = [request, bytes.concat()].concat();
        let look = |piece: usize| {
            let mut strict = watching((), Arc::<Heads>::default());
            let mut before = 0;
            for piece in bytes.chunks(piece) {
                let fine = strict.look(piece);
                before += fine;
                if fine < piece.len() {
                    break;
                }
            }
            before
        };
        prop_assert_eq!(look(bytes.len().max(1)), look(piece));
    }
}
