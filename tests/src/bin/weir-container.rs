//! The program in the test's container images: well-behaved servers of each
//! protocol, and ones that misbehave. `MODE` says which it is.

use std::convert::Infallible;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// How long a server of the kind `ailing` is not well.
const ILLNESS: Duration = Duration::from_millis(1500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    // As a program that a function runs for each call.
    let mut arguments = std::env::args().skip(1);
    if let (Some("burn"), Some(time)) = (arguments.next().as_deref(), arguments.next()) {
        burn(Duration::from_millis(time.parse()?));
        return Ok(());
    }
    let mode = std::env::var("MODE").unwrap_or_default();
    match mode.as_str() {
        "exit" => {
            eprintln!("there is nothing for me to do");
            std::process::exit(3);
        }
        "deaf" => std::future::pending().await,
        "late" => tokio::time::sleep(Duration::from_millis(700)).await,
        _ => {}
    }
    let started = Instant::now();
    // As a runtime: the node listens, and every connection takes a call.
    if let Ok(socket) = std::env::var("WEIR_SOCKET") {
        let count = std::env::var("WEIR_CONCURRENCY").unwrap_or_default();
        let mut dialled = tokio::task::JoinSet::new();
        for _ in 0..count.parse().unwrap_or(1) {
            let stream = UnixStream::connect(&socket).await?;
            let answer = service_fn(move |request| answer(String::new(), started, request));
            let server = hyper::server::conn::http1::Builder::new();
            dialled.spawn(server.serve_connection(TokioIo::new(stream), answer));
        }
        dialled.join_all().await;
        return Ok(());
    }
    // Where it was built to listen, whatever it is told.
    let port = std::env::var("OWN_PORT")
        .ok()
        .and_then(|port| port.parse().ok());
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.unwrap_or(8080))).await?;
    eprintln!("listening");
    loop {
        let (mut stream, _) = listener.accept().await?;
        let mode = mode.clone();
        tokio::spawn(async move {
            match mode.as_str() {
                "garbage" => {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(b"I do not speak HTTP\r\n\r\n").await;
                }
                "half" | "stall" => {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\nhalf of it";
                    let _ = stream.write_all(half).await;
                    if mode == "stall" {
                        std::future::pending::<()>().await;
                    }
                }
                "raw" => while raw(&mut stream).await.is_ok() {},
                _ => {
                    let answer = service_fn(move |request| answer(mode.clone(), started, request));
                    let server = hyper::server::conn::http1::Builder::new();
                    let served = server.serve_connection(TokioIo::new(stream), answer);
                    let _ = served.with_upgrades().await;
                }
            }
        });
    }
}

/// Answers one request with bytes that no HTTP library writes.
async fn raw(stream: &mut tokio::net::TcpStream) -> anyhow::Result<()> {
    let arrived = Instant::now();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let idle = arrived.elapsed();
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";
    let (answer, ends) = match path {
        "/old" => (
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi".to_owned(),
            true,
        ),
        "/breaks" => (format!("{OK}{CHUNKED}5\r\nhe"), true),
        "/begun" => {
            let begun = format!("{OK}{CHUNKED}5\r\nhello\r\n");
            stream.write_all(begun.as_bytes()).await?;
            // The node has nothing to wait for once it has passed that on.
            tokio::time::sleep(Duration::from_millis(300)).await;
            ("zz".to_owned(), true)
        }
        "/both" => {
            let both = format!("{OK}content-length: 5\r\n{CHUNKED}");
            (format!("{both}5\r\nhello\r\n0\r\n\r\n"), false)
        }
        "/trailers" => {
            let trailer = format!("{OK}trailer: x-sum\r\n{CHUNKED}5\r\nhello\r\n0\r\n");
            (format!("{trailer}x-sum: 5\r\n\r\n"), false)
        }
        // One that closes what is idle for long, and says so.
        "/keeps" if idle < Duration::from_millis(900) => (
            format!("{OK}keep-alive: timeout=1\r\ncontent-length: 2\r\n\r\nok"),
            false,
        ),
        // One that says nothing of it.
        "/keeps-less" if idle < Duration::from_millis(150) => {
            (format!("{OK}content-length: 2\r\n\r\nok"), false)
        }
        _ => (String::new(), true),
    };
    stream.write_all(answer.as_bytes()).await?;
    anyhow::ensure!(!ends, "the connection ends");
    Ok(())
}

/// Answers with all that a function sees of a request, and with as many headers
/// more as the query says.
fn tell(head: &http::request::Parts, body: &[u8], trailers: &HeaderMap) -> Response<Full<Bytes>> {
    let mut told = vec![format!("{} {} {:?}", head.method, head.uri, head.version)];
    let headers = head.headers.iter().chain(trailers);
    told.extend(headers.map(|(name, value)| format!("{name}: {value:?}")));
    let told = [told.join("\n").as_bytes(), b"\n\n", body].concat();
    let more = head.uri.query().and_then(|query| query.parse().ok());
    let more = (0..more.unwrap_or(0)).map(|number| (format!("x-more-{number}"), "yes".to_owned()));
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let own = [
        ("x-guest", "yes"),
        ("set-cookie", "first=1"),
        ("set-cookie", "second=2"),
        ("x-weir-node", "forged"),
        ("x-call-id", "forged"),
    ];
    let mut response = Response::builder().status(203);
    for (name, value) in own.map(pair).into_iter().chain(more) {
        response = response.header(name, value);
    }
    response.body(Full::from(told)).unwrap_or_default()
}

async fn answer(
    mode: String,
    started: Instant,
    mut request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/socket" {
        return Ok(socket(&mut request));
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.ok();
    let trailers = body.as_ref().and_then(|body| body.trailers().cloned());
    let trailers = trailers.unwrap_or_default();
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = head.uri.path();
    Ok(match (mode.as_str(), path) {
        ("openwhisk", "/init") => {
            let code = said["value"]["code"].as_str().unwrap_or_default();
            eprintln!("initialised with {} bytes", code.len());
            render(200, &json!({ "ok": true }))
        }
        ("openwhisk", "/run") => {
            let marker = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX";
            println!("ran\n{marker}");
            eprintln!("{marker}");
            let value = &said["value"];
            match value["fail"].as_bool() {
                Some(true) => render(502, &json!({ "error": "as you wished" })),
                _ => render(
                    200,
                    &json!({ "greeting": format!("hello {}", value["name"].as_str().unwrap_or("?")),
                        "activation": said["activation_id"] }),
                ),
            }
        }
        ("serverledge", "/invoke") => {
            let parameters = &said["Params"];
            let sum = parameters["a"].as_i64().unwrap_or(0) + parameters["b"].as_i64().unwrap_or(0);
            let success = parameters["fail"].is_null();
            render(
                200,
                &json!({ "Success": success, "Result": sum.to_string(), "Output": "added" }),
            )
        }
        ("tell", _) => tell(&head, &body, &trailers),
        // Listens long before it is well.
        ("ailing", _) if started.elapsed() < ILLNESS => render(503, &json!({ "well": false })),
        (_, path) => act(path, &head, &body).await,
    })
}

/// Takes the connection for a WebSocket, and sends back what comes.
fn socket(request: &mut Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return render(
            400,
            &json!({ "upgrade": request.headers().contains_key(UPGRADE) }),
        );
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(connection) = upgrade.await else {
            return;
        };
        let stream = TokioIo::new(connection);
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() || socket.send(message).await.is_err() {
                break;
            }
        }
    });
    let mut response = render(101, &Value::Null);
    *response.body_mut() = Full::default();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, http::HeaderValue::from_static("websocket"));
    if let Ok(accept) = accept.parse() {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// What a plain HTTP server does when it is asked for `path`.
async fn act(path: &str, head: &http::request::Parts, body: &Bytes) -> Response<Full<Bytes>> {
    let query = head.uri.query().unwrap_or_default();
    match path {
        "/environment" => {
            let all: serde_json::Map<_, _> = std::env::vars()
                .map(|(name, value)| (name, Value::String(value)))
                .collect();
            render(200, &Value::Object(all))
        }
        "/teapot" => render(418, &json!({ "short": true })),
        "/sleep" => {
            let milliseconds = query.parse().unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            render(
                200,
                &json!({ "slept": milliseconds, "body": String::from_utf8_lossy(body) }),
            )
        }
        "/die" => std::process::exit(9),
        "/memory" => {
            let mut held: Vec<Vec<u8>> = Vec::new();
            loop {
                held.push(vec![1; 4 << 20]);
            }
        }
        "/fork" => render(200, &json!({ "threads": threads() })),
        "/write" => render(200, &written()),
        "/read" => {
            let mut text = String::new();
            let read = std::fs::File::open(query).and_then(|mut f| f.read_to_string(&mut text));
            match read {
                Ok(_) => render(200, &json!({ "text": text })),
                Err(error) => render(200, &json!({ "error": error.to_string() })),
            }
        }
        "/reach" => {
            let target: Result<SocketAddr, _> = query.parse();
            let reached = target.is_ok_and(|target| {
                TcpStream::connect_timeout(&target, Duration::from_millis(500)).is_ok()
            });
            render(200, &json!({ "reached": reached }))
        }
        "/spin" => {
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
            render(200, &json!({ "spun": true }))
        }
        "/burn" => {
            let own = std::env::current_exe().unwrap_or_default();
            let burnt = tokio::process::Command::new(own)
                .args(["burn", query])
                .status()
                .await;
            render(
                200,
                &json!({ "burnt": burnt.is_ok_and(|status| status.success()) }),
            )
        }
        "/flood" => {
            for _ in 0..20_000 {
                println!("{}", "log ".repeat(50));
            }
            render(200, &json!({ "flooded": true }))
        }
        "/who" => {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            render(200, &json!({ "status": status }))
        }
        _ => {
            let mut response = Response::new(Full::new(body.clone()));
            let seen = format!("{} {}", head.method, head.uri);
            if let Ok(seen) = seen.parse() {
                response.headers_mut().insert("x-seen", seen);
            }
            response
        }
    }
}

/// Uses that much time of a processor.
fn burn(time: Duration) {
    let used = || {
        let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
        let nanos = text.split(' ').next().and_then(|used| used.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(u64::MAX))
    };
    while used() < time {
        for round in 0..20_000_u64 {
            std::hint::black_box(round);
        }
    }
}

/// How many threads this process may have.
fn threads() -> usize {
    let started = (0..5_000).map_while(|_| {
        std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(|| std::thread::sleep(Duration::from_secs(1)))
            .ok()
    });
    started.count()
}

/// Bytes that can be written in each place.
fn written() -> Value {
    let places = [
        "/file",
        "/tmp/file",
        "/dev/shm/file",
        "/run/weir/file",
        "/function/file",
    ];
    let fill = |place: &&str| {
        let mut bytes = 0_u64;
        if let Ok(mut file) = std::fs::File::create(place) {
            let piece = vec![0; 1 << 20];
            while bytes < 1 << 30 && std::io::Write::write_all(&mut file, &piece).is_ok() {
                bytes += piece.len() as u64;
            }
            let _ = std::fs::remove_file(place);
        }
        ((*place).to_owned(), json!(bytes))
    };
    Value::Object(places.iter().map(fill).collect())
}

fn render(status: u16, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    response
}
