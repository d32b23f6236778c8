//! `weir demo`: a node for a moment, in this process, called through its front
//! door, and a table of what happened; then a federation of four processes.

mod federation;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use futures_util::future::join_all;
use http::header::RETRY_AFTER;
use http::{Method, StatusCode};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use weir_node::config::ClassConfig;
use weir_node::id::{Digest, FunctionName};

use super::{Global, deploy, invoke};
use crate::client::{self, Client, CredentialSources, Credentials};
use crate::config::{self, Config};
use crate::deployment::{Code, Deployment, Settings, WireDeployment};
use crate::output;

/// Longest that one sample may take to be ready: compiling these takes
/// milliseconds, on a busy machine a little longer.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest that an accepted call may take to be answered.
const RESULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The class whose queue holds a single call.
const NARROW: &str = "narrow";

/// Calls that are made at once to a function that runs one and queues one.
const CROWD: usize = 4;

/// Bytes that `echo` is given.
const ECHO_BYTES: usize = 1 << 20;

/// Characters of an answer that are shown.
const SHOWN: usize = 72;

#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// Leave the node running afterwards and print what to try
    #[arg(long)]
    keep: bool,
}

/// A function that comes with the program.
struct Sample {
    name: &'static str,
    code: &'static str,
    settings: fn() -> Settings,
}

const SAMPLES: [Sample; 5] = [
    Sample {
        name: "hello",
        code: include_str!("../samples/hello.wat"),
        settings: || Settings::default().with("protocol", "cgi"),
    },
    Sample {
        name: "echo",
        code: include_str!("../samples/echo.wat"),
        settings: Settings::default,
    },
    Sample {
        name: "spin",
        code: include_str!("../samples/spin.wat"),
        settings: || Settings::default().with("timeout", "300ms"),
    },
    Sample {
        name: "hog",
        code: include_str!("../samples/hog.wat"),
        settings: || Settings::default().with("memory", "16MiB"),
    },
    Sample {
        name: "busy",
        code: include_str!("../samples/spin.wat"),
        settings: || {
            Settings::default()
                .with("timeout", "500ms")
                .with("max", "1")
                .with("qos", NARROW)
        },
    },
];

/// What one step did.
#[derive(Debug)]
struct Step {
    what: &'static str,
    function: &'static str,
    status: Option<StatusCode>,
    start: String,
    time: Duration,
    answer: String,
    expected: bool,
}

/// What a step should do.
struct Expected {
    status: StatusCode,
    /// `warm` or `cold`; `None` when it does not matter.
    start: Option<&'static str>,
    /// What the answer holds.
    answer: &'static str,
}

pub(super) async fn demo(global: &Global, arguments: &DemoArguments) -> anyhow::Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("weir-demo-").tempdir();
    let folder = folder.context("make a folder for the demo")?;
    let mut config = Config::new(folder.path().to_owned(), config::machine());
    config.http.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let narrow = ClassConfig {
        name: NARROW.to_owned(),
        queue: 1,
        ..ClassConfig::default()
    };
    config.node.classes.push(narrow);
    let token_file = config.token_file();
    let node = Box::pin(crate::run::start(config))
        .await
        .context("start a node")?;

    let address = client::node_address(&format!("http://{}", node.address))?;
    let sources = CredentialSources {
        token_file: Some(token_file.clone()),
        ..CredentialSources::default()
    };
    let credentials = Credentials::resolve(&sources, &address)?;
    let client = Client::new(&address, &credentials, None)?;
    output::note(&format!("a node runs at {}", client.node()));
    let steps = Box::pin(play(&client)).await?;
    if !global.json() {
        output::line(&table(&steps))?;
    }
    let failed = steps.iter().filter(|step| !step.expected).count();
    let (spilled, told) = Box::pin(federation::play(global, folder.path())).await?;
    if global.json() {
        let steps: Vec<_> = steps.iter().map(document).collect();
        output::json(&json!({ "steps": steps, "federation": told }))?;
    }
    if arguments.keep {
        say_what_to_try(&client, &token_file);
        tokio::signal::ctrl_c().await.context("wait for Ctrl-C")?;
    }
    node.shutdown().await;
    if failed > 0 {
        output::note(&format!(
            "{failed} of {} steps did not go as expected",
            steps.len()
        ));
        return Ok(ExitCode::FAILURE);
    }
    if !spilled {
        output::note("the federation lost calls, or ran all of them at one node");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn say_what_to_try(client: &Client, token_file: &Path) {
    let at = client.node();
    let token = token_file.display();
    output::note(&format!(
        "\nThe node stays until you press Ctrl-C. Try:\n  \
         curl {at}/function/hello -d you\n  \
         curl {at}/async-function/hello -d later -i\n  \
         curl {at}/function/spin -i\n  \
         curl {at}/metrics\n  \
         curl {at}/system/functions -H \"Authorization: Bearer $(cat {token})\"\n  \
         weir list --node {at} --token-file {token}"
    ));
}

/// Plays every step, in order.
async fn play(client: &Client) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    for sample in &SAMPLES {
        let place = place(client, sample);
        steps.push(
            place
                .await
                .with_context(|| format!("deploy {}", sample.name))?,
        );
    }
    let hello = |query: &str, body: &'static str| {
        let path = format!("/function/hello{query}");
        client.call(Method::POST, &path).body(body)
    };
    let cold = Expected {
        status: StatusCode::OK,
        start: Some("cold"),
        answer: "Hello, world!",
    };
    // Neither body nor query: the sample falls back to the world.
    let first = client.call(Method::GET, "/function/hello");
    steps.push(step(client, "first call", "hello", first, &cold).await);
    let warm = Expected {
        status: StatusCode::OK,
        start: Some("warm"),
        answer: "Hello, edge!",
    };
    steps.push(step(client, "next call", "hello", hello("", "edge"), &warm).await);
    let query = Expected {
        answer: "Hello, query!",
        ..warm
    };
    steps.push(step(client, "with a query", "hello", hello("?query", ""), &query).await);
    steps.push(echo(client).await);
    steps.extend(later(client).await);
    let late = Expected {
        status: StatusCode::GATEWAY_TIMEOUT,
        start: None,
        answer: "300ms",
    };
    let spin = client.call(Method::POST, "/function/spin");
    steps.push(step(client, "over its time", "spin", spin, &late).await);
    let large = Expected {
        status: StatusCode::BAD_GATEWAY,
        start: None,
        answer: "memory",
    };
    let hog = client.call(Method::POST, "/function/hog");
    steps.push(step(client, "over its memory", "hog", hog, &large).await);
    steps.push(crowd(client).await);
    let unknown = Expected {
        status: StatusCode::NOT_FOUND,
        start: None,
        answer: "nobody",
    };
    let nobody = client.call(Method::GET, "/function/nobody");
    steps.push(step(client, "not deployed", "nobody", nobody, &unknown).await);
    Ok(steps)
}

/// Deploys `sample` and waits until it can be called.
async fn place(client: &Client, sample: &Sample) -> anyhow::Result<Step> {
    let began = Instant::now();
    let code = Digest::of(sample.code.as_bytes());
    let upload = client
        .request(Method::PUT, &deploy::artifact_path(code))
        .body(sample.code);
    let response = client.ask("upload the artifact", upload).await?;
    let status = response.status();
    let deployment = Deployment {
        name: sample.name.to_owned(),
        code: Code::Named(code.into()),
        settings: (sample.settings)(),
    };
    let version = deploy::send(
        client,
        &WireDeployment::new(&deployment, &code.into(), None),
    )
    .await?;
    let name: FunctionName = sample.name.parse()?;
    deploy::ready(client, &name, version, READY_TIMEOUT).await?;
    Ok(Step {
        what: "deploy",
        function: sample.name,
        status: Some(status),
        start: String::new(),
        time: began.elapsed(),
        answer: "ready".to_owned(),
        expected: true,
    })
}

/// Makes one call and compares it with what should happen.
async fn step(
    client: &Client,
    what: &'static str,
    function: &'static str,
    request: RequestBuilder,
    expected: &Expected,
) -> Step {
    let began = Instant::now();
    let mut step = Step {
        what,
        function,
        status: None,
        start: String::new(),
        time: Duration::ZERO,
        answer: String::new(),
        expected: false,
    };
    match answer(client, request).await {
        Ok((status, start, body)) => {
            step.expected = status == expected.status
                && expected.start.is_none_or(|wanted| wanted == start)
                && body.contains(expected.answer);
            step.status = Some(status);
            step.start = start;
            step.answer = body;
        }
        Err(error) => step.answer = format!("{error:#}"),
    }
    step.time = began.elapsed();
    step
}

async fn answer(
    client: &Client,
    request: RequestBuilder,
) -> anyhow::Result<(StatusCode, String, String)> {
    let response = client.send(request).await?;
    let (status, start) = (response.status(), start(&response));
    let body = client.whole("the call", response).await?;
    Ok((
        status,
        start,
        String::from_utf8_lossy(&body).trim_end().to_owned(),
    ))
}

fn start(response: &Response) -> String {
    let start = response
        .headers()
        .get("x-weir-start")
        .and_then(|value| value.to_str().ok());
    start.unwrap_or_default().to_owned()
}

async fn echo(client: &Client) -> Step {
    let sent: String = ('a'..='z').cycle().take(ECHO_BYTES).collect();
    let request = client
        .call(Method::POST, "/function/echo")
        .body(sent.clone());
    let expected = Expected {
        status: StatusCode::OK,
        start: None,
        answer: "",
    };
    let mut step = step(client, "1 MiB there and back", "echo", request, &expected).await;
    if step.expected {
        step.expected = step.answer == sent;
        step.answer = format!(
            "{} bytes, {}",
            step.answer.len(),
            match step.expected {
                true => "as sent",
                false => "not as sent",
            }
        );
    }
    step
}

/// Hands a call in and reads its answer later.
async fn later(client: &Client) -> Vec<Step> {
    let began = Instant::now();
    let blank = |what: &'static str| Step {
        what,
        function: "hello",
        status: None,
        start: String::new(),
        time: began.elapsed(),
        answer: String::new(),
        expected: false,
    };
    let request = client
        .call(Method::POST, "/async-function/hello")
        .body("later");
    let response = match client.send(request).await {
        Ok(response) => response,
        Err(error) => {
            return vec![Step {
                answer: error.to_string(),
                ..blank("asynchronously")
            }];
        }
    };
    let id = client::call_id(response.headers()).unwrap_or_default();
    let accepted = Step {
        status: Some(response.status()),
        expected: response.status() == StatusCode::ACCEPTED && !id.is_empty(),
        answer: format!("call {id}"),
        ..blank("asynchronously")
    };
    let read = async {
        let response = invoke::result(client, &id).await?;
        let status = invoke::call_status(&response);
        let body = client.whole("the answer", response).await?;
        anyhow::Ok((status, String::from_utf8_lossy(&body).trim_end().to_owned()))
    };
    let result = match tokio::time::timeout(RESULT_TIMEOUT, read).await {
        Ok(Ok((status, body))) => Step {
            status,
            expected: status == Some(StatusCode::OK) && body == "Hello, later!",
            answer: body,
            ..blank("its result")
        },
        Ok(Err(error)) => Step {
            answer: format!("{error:#}"),
            ..blank("its result")
        },
        Err(_) => Step {
            answer: "no answer".to_owned(),
            ..blank("its result")
        },
    };
    vec![accepted, result]
}

/// Calls `busy` more often at once than it runs and queues.
async fn crowd(client: &Client) -> Step {
    let began = Instant::now();
    let calls = (0..CROWD).map(|_| client.send(client.call(Method::POST, "/function/busy")));
    let mut step = Step {
        what: "over its queue",
        function: "busy",
        status: None,
        start: String::new(),
        time: Duration::ZERO,
        answer: String::new(),
        expected: false,
    };
    let answers: Vec<_> = join_all(calls).await.into_iter().flatten().collect();
    step.time = began.elapsed();
    let refused: Vec<_> = answers
        .iter()
        .filter(|response| response.status() == StatusCode::TOO_MANY_REQUESTS)
        .collect();
    let after = refused
        .first()
        .and_then(|response| response.headers().get(RETRY_AFTER));
    step.expected = after.is_some() && refused.len() < CROWD;
    step.status = refused.first().map(|response| response.status());
    let after = after.and_then(|value| value.to_str().ok()).unwrap_or("?");
    step.answer = format!(
        "{} of {CROWD} refused, retry after {after} s",
        refused.len()
    );
    step
}

/// The first line of an answer, as far as it is shown.
fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= SHOWN {
        return line.to_owned();
    }
    line.chars().take(SHOWN).chain("...".chars()).collect()
}

fn document(step: &Step) -> Value {
    let status = step.status.map_or(0, |status| status.as_u16());
    json!({ "step": step.what, "function": step.function, "status": status,
        "start": step.start, "seconds": step.time.as_secs_f64(),
        "answer": short(&step.answer), "expected": step.expected })
}

fn table(steps: &[Step]) -> String {
    let row = |step: &Step| {
        let status = step
            .status
            .map_or("-".to_owned(), |status| status.as_u16().to_string());
        [
            step.what.to_owned(),
            step.function.to_owned(),
            status,
            step.start.clone(),
            output::short_duration(step.time),
            short(&step.answer),
            if step.expected { "yes" } else { "NO" }.to_owned(),
        ]
    };
    let headers = [
        "step",
        "function",
        "status",
        "start",
        "time",
        "answer",
        "as expected",
    ];
    let rows: Vec<_> = steps.iter().map(row).collect();
    output::table(headers, &rows)
}

#[cfg(test)]
mod tests {
    use weir_node::function::ArtifactKind;

    use super::*;

    #[test]
    fn samples_are_text_that_a_node_accepts() {
        for sample in &SAMPLES {
            let kind = ArtifactKind::sniff(sample.code.as_bytes());
            assert_eq!(kind, Some(ArtifactKind::WasmText), "{}", sample.name);
            assert!(sample.name.parse::<FunctionName>().is_ok());
            let binary = wat::parse_str(sample.code).expect(sample.name);
            wasmparser::validate(&binary).expect(sample.name);
        }
    }
}
