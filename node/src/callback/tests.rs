use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;

use super::*;
use crate::store::{CallRecord, StoredBody, WrittenBody};

type Seen = Arc<Mutex<Vec<Request<Bytes>>>>;

/// A target that answers with the given statuses in turn, then with the last.
async fn target(statuses: &'static [u16]) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let seen = Seen::default();
    let noted = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(|request: Request<Incoming>| {
                let noted = noted.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.expect("whole").to_bytes();
                    let mut noted = noted.lock();
                    let status = statuses[noted.len().min(statuses.len() - 1)];
                    noted.push(Request::from_parts(parts, body));
                    let answer = Response::builder()
                        .status(status)
                        .header("location", "/other");
                    Ok::<_, Infallible>(answer.body(Empty::<Bytes>::new()).expect("valid"))
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            // A client that goes away is no failure of the test.
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
        }
    });
    (address, seen)
}

fn callbacks(local: bool, attempts: u32) -> Callbacks {
    let config = AsyncConfig {
        callback_local: local,
        callback_attempts: attempts,
        ..AsyncConfig::default()
    };
    Callbacks::new(Resolver::new(), &config)
}

fn result() -> ResultRecord {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("content-type", "text/plain"),
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("x-call-id", "forged"),
        ("x-twice", "1"),
        ("x-twice", "2"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    ResultRecord {
        function: "f.shop".parse().expect("name"),
        status: StatusCode::IM_A_TEAPOT,
        headers,
        body: StoredBody::Inline(Bytes::from_static(b"hello")),
        error: None,
        accepted_at: jiff::Timestamp::UNIX_EPOCH,
        ended_at: jiff::Timestamp::UNIX_EPOCH,
        duration: Duration::from_micros(1_500_000),
        attempts: 1,
        caller_id: None,
        callback: CallbackState::Pending,
    }
}

fn delivery() -> Delivery {
    let body = Full::from("hello")
        .map_err(|never| match never {})
        .boxed_unsync();
    Delivery {
        id: CallId::new([7; 16]),
        result: result(),
        body,
    }
}

#[tokio::test]
async fn target_gets_the_result_and_what_it_belongs_to() {
    let (address, seen) = target(&[200]).await;
    let callbacks = callbacks(true, 1);
    let url = callbacks.parse(&format!("http://localhost:{}/in?a=b", address.port()));
    callbacks
        .deliver_once(&url.expect("valid"), delivery())
        .await
        .expect("delivered");
    let seen = seen.lock();
    let request = &seen[0];
    assert_eq!(
        (request.method(), request.body().as_ref()),
        (&Method::POST, b"hello".as_ref())
    );
    assert_eq!(request.uri(), "/in?a=b");
    let header = |name: &str| {
        let values = request.headers().get_all(name).iter();
        values
            .map(|value| value.to_str().expect("text"))
            .collect::<Vec<_>>()
            .join(",")
    };
    assert_eq!(header("x-call-id"), "07".repeat(16));
    assert_eq!(header("x-weir-call-id"), "07".repeat(16));
    assert_eq!(header("x-duration-seconds"), "1.500000");
    assert_eq!(header("x-function-status"), "418");
    assert_eq!(header("x-function-name"), "f.shop");
    assert_eq!(header("content-type"), "text/plain");
    assert_eq!(header("content-length"), "5");
    assert_eq!(header("x-twice"), "1,2");
    assert_eq!(
        (header("x-hop"), header("transfer-encoding")),
        (String::new(), String::new())
    );
}

#[tokio::test]
async fn redirect_is_an_answer_and_not_followed() {
    let (address, seen) = target(&[302]).await;
    let callbacks = callbacks(true, 1);
    let url = callbacks
        .parse(&format!("http://{address}/"))
        .expect("valid");
    let refused = callbacks.deliver_once(&url, delivery()).await;
    assert!(
        matches!(refused, Err(CallbackError::Answer(StatusCode::FOUND))),
        "{refused:?}"
    );
    assert_eq!(seen.lock().len(), 1);
}

#[tokio::test]
async fn local_target_is_refused_by_address_and_by_name() {
    let (address, seen) = target(&[200]).await;
    let callbacks = callbacks(false, 5);
    for host in [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
        "0x7f.1",
        "10.0.0.1",
    ] {
        let refused = callbacks.parse(&format!("http://{host}:{}/", address.port()));
        assert!(
            matches!(refused, Err(BadCallback::Local(_))),
            "{host}: {refused:?}"
        );
    }
    // A name passes at submission; its address does not at delivery.
    let url = callbacks
        .parse(&format!("http://localhost:{}/", address.port()))
        .expect("a name");
    let refused = callbacks.deliver_once(&url, delivery()).await;
    let local = matches!(refused, Err(CallbackError::Target(BadCallback::Local(_))));
    assert!(local, "{refused:?}");
    // What was parsed elsewhere does not slip through either.
    let url = CallbackUrl::parse(&format!("http://{address}/")).expect("a URL");
    let refused = callbacks.deliver_once(&url, delivery()).await;
    assert!(
        matches!(refused, Err(CallbackError::Target(_))),
        "{refused:?}"
    );
    assert!(seen.lock().is_empty());
}

#[test]
fn bad_callback_url_is_named_as_such() {
    let callbacks = callbacks(true, 1);
    for bad in [
        "",
        "/path",
        "ftp://host/",
        "http://",
        "javascript:alert(1)",
        "http://a b/",
    ] {
        let error = callbacks.parse(bad).expect_err(bad);
        assert!(error.to_string().starts_with("bad callback URL"), "{error}");
    }
    assert!(
        callbacks
            .parse(&format!("http://h/{}", "x".repeat(URL_BYTES)))
            .is_err()
    );
    let url = callbacks
        .parse("https://user:pass@host/in?key=1#part")
        .expect("valid");
    assert_eq!(url.as_str(), "https://user:pass@host/in?key=1");
    assert_eq!(url.to_string(), "https://host/in");
}

#[test]
fn waits_grow_and_stay_bounded() {
    let seconds = |attempts, chance| wait_after(FIRST_WAIT, attempts, chance).as_secs_f64();
    assert_eq!(
        [1, 2, 3, 4].map(|attempts| seconds(attempts, 0.0)),
        [1.0, 4.0, 16.0, 64.0]
    );
    assert_eq!(seconds(4, 1.0), 32.0);
    assert_eq!(seconds(u32::MAX, 0.0), 300.0);
    let callbacks = callbacks(true, 2);
    assert!(callbacks.next_attempt(1).is_some() && callbacks.next_attempt(2).is_none());
}

#[tokio::test]
async fn delivery_is_tried_again_until_it_is_taken() {
    let check = async |statuses, attempts, seen_attempts, state| {
        let dir = tempfile::tempdir().expect("temporary folder");
        let config = AsyncConfig::default();
        let (store, _) = Store::open(dir.path(), (&config).into()).expect("opens");
        let (address, seen) = target(statuses).await;
        let id = CallId::new([9; 16]);
        let url = format!("http://{address}/");
        let call = CallRecord {
            id,
            function: "f".parse().expect("name"),
            method: Method::GET,
            path: "/".to_owned(),
            headers: HeaderMap::new(),
            body: StoredBody::EMPTY,
            class: None,
            deadline: None,
            accepted_at: jiff::Timestamp::UNIX_EPOCH,
            callback: Some(url.clone()),
            caller_id: None,
            attempts: 0,
            durable: 0,
        };
        store
            .accept(call, WrittenBody::inline(""))
            .await
            .expect("accepted");
        let long = vec![7; 100_000];
        let body = Full::from(long.clone())
            .map_err(|never| match never {})
            .boxed_unsync();
        let body = store
            .keep_body(id, BodyPart::Result, body, 1 << 20)
            .await
            .expect("kept");
        store.complete(id, result(), body).await.expect("kept");
        let mut callbacks = callbacks(true, attempts);
        let inner = Arc::get_mut(&mut callbacks.inner).expect("not shared yet");
        inner.first_wait = Duration::ZERO;
        let delivered = callbacks
            .deliver(&store, &PendingCallback { id, url })
            .await;
        assert_eq!(
            delivered.is_ok(),
            state == CallbackState::Delivered,
            "{delivered:?}"
        );
        let seen = std::mem::take(&mut *seen.lock());
        assert_eq!(seen.len(), seen_attempts);
        assert!(seen.iter().all(|request| request.body() == &long));
        let kept = store.result(id).await.expect("read").expect("there");
        assert_eq!(kept.callback, state);
    };
    check(&[503, 200], 5, 2, CallbackState::Delivered).await;
    check(&[500], 1, 1, CallbackState::GivenUp).await;
}
