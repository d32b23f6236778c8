//! `weir invoke`: one call, waited for or handed in; and `weir result`: the
//! answer of one that was handed in.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use reqwest::{Body, RequestBuilder, Response, Url};
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;
use weir_node::id::Receipt;

use super::Global;
use crate::client::{Client, call_id};
use crate::door::headers::EXPLAIN;
use crate::output;
use crate::setting::duration;

/// First pause between two looks at a call that is not done.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Bytes of standard input that are read at once.
const PIECE_BYTES: usize = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct InvokeArguments {
    /// Name of the function
    name: String,
    /// Body: the text itself, @FILE, or - for standard input [default: standard
    /// input, where it is no terminal and the method has a body]
    #[arg(
        short = 'd',
        long,
        value_name = "DATA|@FILE|-",
        allow_hyphen_values = true
    )]
    data: Option<String>,
    /// Hand the call in and print its id; the answer is kept by the node
    #[arg(long = "async")]
    asynchronous: bool,
    /// With --async, wait for the answer and print it
    #[arg(long, requires = "asynchronous")]
    wait: bool,
    /// Longest such wait
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    wait_timeout: Duration,
    /// QoS class
    #[arg(long, value_name = "CLASS")]
    qos: Option<String>,
    /// Latest useful answer, counted from arrival (200ms)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    deadline: Option<Duration>,
    /// Header of the request
    #[arg(short = 'H', long = "header", value_name = "K: V", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Method of the request
    #[arg(short = 'X', long, default_value = "POST")]
    method: Method,
    /// Path after the function's name
    #[arg(long, default_value = "")]
    path: String,
    /// Query parameter
    #[arg(long, value_name = "K=V", value_parser = crate::setting::pair)]
    query: Vec<(String, String)>,
    /// Send the credentials too, to a node that protects its functions; the
    /// function never needs them
    #[arg(long)]
    with_credentials: bool,
    /// Print status and timing on standard error
    #[arg(short, long)]
    verbose: bool,
    /// Print on standard error why the call went where it went
    #[arg(long, conflicts_with = "asynchronous")]
    explain: bool,
}

#[derive(Debug, Args)]
pub(super) struct ResultArguments {
    /// Id of the call, as `weir invoke --async` prints it
    id: String,
    /// Wait until the call has ended
    #[arg(long)]
    wait: bool,
    /// Longest such wait
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    wait_timeout: Duration,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("{text:?} is not a header: write 'Name: value'");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = name.trim().parse().map_err(|_| wrong())?;
    Ok((name, value.trim().parse().map_err(|_| wrong())?))
}

/// Where the body comes from.
#[derive(Debug, PartialEq, Eq)]
enum Data {
    Text(String),
    File(PathBuf),
    StandardInput,
}

impl Data {
    fn parse(text: &str) -> Self {
        match text.strip_prefix('@') {
            Some(path) => Data::File(path.into()),
            None if text == "-" => Data::StandardInput,
            None => Data::Text(text.to_owned()),
        }
    }

    /// What is sent where nobody says: what was piped in, if the method has a
    /// body. Nobody types one at a terminal without being asked.
    fn piped(method: &Method) -> Option<Self> {
        let takes_body = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        (takes_body && !std::io::stdin().is_terminal()).then_some(Data::StandardInput)
    }

    /// Puts it into `request`, with its length where that is known: a node can
    /// refuse a body that is too large before it is sent.
    async fn send_with(self, request: RequestBuilder) -> anyhow::Result<RequestBuilder> {
        Ok(match self {
            Data::Text(text) => request.body(text),
            Data::File(path) => {
                let read = || format!("read {}", path.display());
                let file = tokio::fs::File::open(&path).await.with_context(read)?;
                let metadata = file.metadata().await.with_context(read)?;
                let length = metadata.is_file().then_some(metadata.len());
                with_length(request, length).body(Body::from(file))
            }
            Data::StandardInput => {
                let length = rest_of_standard_input();
                let mut input = tokio::io::stdin();
                let mut first = BytesMut::with_capacity(PIECE_BYTES);
                let read = input.read_buf(&mut first).await;
                // Nothing is no body, not one of unknown length.
                if read.context("read standard input")? == 0 {
                    return Ok(request.body(Bytes::new()));
                }
                let first = stream::once(std::future::ready(Ok(first.freeze())));
                let body = Body::wrap_stream(first.chain(ReaderStream::new(input)));
                with_length(request, length).body(body)
            }
        })
    }
}

fn with_length(request: RequestBuilder, length: Option<u64>) -> RequestBuilder {
    match length {
        Some(length) => request.header(CONTENT_LENGTH, length),
        None => request,
    }
}

/// How much is left of standard input, where it is a file.
fn rest_of_standard_input() -> Option<u64> {
    let input = std::io::stdin();
    let status = rustix::fs::fstat(&input).ok()?;
    let is_file = rustix::fs::FileType::from_raw_mode(status.st_mode).is_file();
    let at = rustix::fs::tell(&input).ok().filter(|_| is_file)?;
    u64::try_from(status.st_size).ok()?.checked_sub(at)
}

pub(super) async fn invoke(global: &Global, arguments: InvokeArguments) -> anyhow::Result<()> {
    let client = global.client()?;
    let name = global.function(&arguments.name)?;
    let what = format!("call {name}");
    let route = if arguments.asynchronous {
        "async-function"
    } else {
        "function"
    };
    let path = format!(
        "/{route}/{name}{}",
        target(&arguments.path, &arguments.query)?
    );
    // The function sees every header: the node's keys are none of its business.
    let mut request = if arguments.with_credentials {
        client.request(arguments.method.clone(), &path)
    } else {
        client.call(arguments.method.clone(), &path)
    };
    for (name, value) in arguments.headers {
        request = request.header(name, value);
    }
    if let Some(class) = &arguments.qos {
        request = request.header("x-weir-qos", class);
    }
    if let Some(deadline) = arguments.deadline {
        let text = humantime::format_duration(deadline).to_string();
        request = request.header("x-weir-deadline", text.replace(' ', ""));
    }
    let data = arguments.data.as_deref().map(Data::parse);
    if let Some(data) = data.or_else(|| Data::piped(&arguments.method)) {
        request = data.send_with(request).await?;
    }
    if arguments.explain {
        request = request.header(EXPLAIN, "1");
    }
    let response = client.send(request).await?;
    if arguments.verbose {
        explain(&response);
    }
    explain_placement(global, &response).await;
    let response = passed(&client, &what, response).await?;
    if !arguments.asynchronous {
        return print(global, &client, response).await;
    }
    let id = call_id(response.headers()).context("the node names no id for the accepted call")?;
    if !arguments.wait {
        if global.json() {
            return Ok(output::json(&serde_json::json!({ "call": id }))?);
        }
        return Ok(output::line(&output::printable(&id))?);
    }
    output::note(&format!("accepted as {}", output::printable(&id)));
    let response = awaited(&client, &id, arguments.wait_timeout).await?;
    print_result(global, &client, &what, response).await
}

/// Tells why the call went where it went, where that was asked for.
async fn explain_placement(global: &Global, response: &Response) {
    let explained = response.headers().get(EXPLAIN);
    if let Some(Ok(call)) = explained.map(HeaderValue::to_str) {
        // Beside the answer, which is there whatever becomes of this.
        if let Err(error) = super::federation::explain(global, call).await {
            output::note(&format!("weir: warning: {error:#}"));
        }
    }
}

/// Prints the answer of a call that was handed in.
pub(super) async fn show_result(
    global: &Global,
    arguments: &ResultArguments,
) -> anyhow::Result<()> {
    let client = global.client()?;
    let id = &arguments.id;
    let response = match arguments.wait {
        true => awaited(&client, id, arguments.wait_timeout).await?,
        false => look(&client, &id.parse()?).await?,
    };
    if response.status() == StatusCode::ACCEPTED {
        bail!("the call has not ended yet: ask again later, or wait for it with --wait");
    }
    print_result(global, &client, &format!("call {id}"), response).await
}

/// The answer of the accepted call `id`, waited for at most so long.
async fn awaited(client: &Client, id: &str, limit: Duration) -> anyhow::Result<Response> {
    match tokio::time::timeout(limit, result(client, id)).await {
        Ok(answer) => answer,
        Err(_) => bail!(
            "no answer within {}; ask again with `weir result {id} --wait`",
            humantime::format_duration(limit)
        ),
    }
}

async fn print_result(
    global: &Global,
    client: &Client,
    what: &str,
    response: Response,
) -> anyhow::Result<()> {
    let status = call_status(&response);
    print(global, client, response).await?;
    match status {
        Some(status) if status.is_client_error() || status.is_server_error() => {
            bail!("{what}: {status}")
        }
        Some(_) | None => Ok(()),
    }
}

/// Waits for the answer of the accepted call `id`.
pub(super) async fn result(client: &Client, id: &str) -> anyhow::Result<Response> {
    let id: Receipt = id.parse()?;
    let mut pause = FIRST_PAUSE;
    loop {
        let response = look(client, &id).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Ok(response);
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

/// What the node says of the call `id` now.
async fn look(client: &Client, id: &Receipt) -> anyhow::Result<Response> {
    let request = client.call(Method::GET, &format!("/weir/v1/calls/{id}"));
    Ok(client.ask("read the answer", request).await?)
}

/// The function's own status in the answer of an accepted call.
pub(super) fn call_status(response: &Response) -> Option<StatusCode> {
    let status = response.headers().get("x-weir-call-status")?;
    StatusCode::from_bytes(status.as_bytes()).ok()
}

/// Refuses answers from 400 on; redirects are the function's answer.
async fn passed(client: &Client, what: &str, response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        return Ok(client.succeeded(what, response).await?);
    }
    Ok(response)
}

/// Prints an answer: as it is, or as one document with all that belongs to it.
async fn print(global: &Global, client: &Client, mut response: Response) -> anyhow::Result<()> {
    if global.json() {
        let mut answer = described(&response);
        let body = client.whole("the call", response).await?;
        let (key, text) = match String::from_utf8(body) {
            Ok(text) => ("body", text),
            Err(binary) => (
                "body_base64",
                base64::engine::general_purpose::STANDARD.encode(binary.as_bytes()),
            ),
        };
        answer[key] = text.into();
        return Ok(output::json(&answer)?);
    }
    while let Some(piece) = client.chunk(&mut response).await? {
        output::write(&piece)?;
    }
    Ok(())
}

/// Status and headers of an answer.
fn described(response: &Response) -> Value {
    let status = call_status(response).unwrap_or(response.status());
    let mut headers = Map::new();
    for name in response.headers().keys() {
        let values = response.headers().get_all(name).iter();
        let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        headers.insert(
            name.to_string(),
            values.collect::<Vec<_>>().join(", ").into(),
        );
    }
    json!({ "status": status.as_u16(), "headers": headers })
}

fn explain(response: &Response) {
    output::note(&format!("{:?} {}", response.version(), response.status()));
    for (name, value) in response.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        output::note(&format!("{name}: {}", output::printable(&value)));
    }
}

/// The rest of the path with its query.
fn target(path: &str, query: &[(String, String)]) -> anyhow::Result<String> {
    let slash = if path.is_empty() || path.starts_with('/') {
        ""
    } else {
        "/"
    };
    if query.is_empty() {
        return Ok(format!("{slash}{path}"));
    }
    // Only the encoding of the pairs is wanted; the address is thrown away.
    let encoded = Url::parse_with_params("http://query", query).context("encode the query")?;
    Ok(format!(
        "{slash}{path}?{}",
        encoded.query().unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_text_a_file_or_standard_input() {
        assert_eq!(Data::parse("text"), Data::Text("text".to_owned()));
        assert_eq!(Data::parse("@a/b"), Data::File("a/b".into()));
        assert_eq!(Data::parse("-"), Data::StandardInput);
        assert_eq!(Data::parse(""), Data::Text(String::new()));
    }

    #[test]
    fn target_starts_with_a_slash_and_encodes_its_query() {
        let check = |path: &str, query: &[(&str, &str)], expected: &str| {
            let query: Vec<_> = query
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            assert_eq!(target(path, &query).expect("fine"), expected);
        };
        check("", &[], "");
        check("a/b", &[], "/a/b");
        check("/a", &[("k", "a b&c")], "/a?k=a+b%26c");
        check("", &[("k", "1"), ("l", "2")], "?k=1&l=2");
    }

    #[test]
    fn header_is_a_name_and_a_value() {
        let (name, value) = header("X-Test: a: b").expect("valid");
        assert_eq!(
            (name.as_str(), value.as_bytes()),
            ("x-test", b"a: b".as_slice())
        );
        assert!(header("X Test: a").is_err());
        assert!(header("none").is_err());
    }
}
