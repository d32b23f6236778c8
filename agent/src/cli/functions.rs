//! `weir list`, `describe`, `remove`, `scale` and `rollback`.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::{Value, json};
use weir_node::id::FunctionName;

use super::Global;
use crate::client::Client;
use crate::output;

/// Longest wait for a version that served before.
const READY: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub(super) struct Named {
    /// Name of the function
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Those of the whole federation, wherever they run
    #[arg(long)]
    federation: bool,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArguments {
    /// Names of the functions
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ScaleArguments {
    /// Name of the function
    name: String,
    /// Instances to keep; 0 lets the function sleep until its next call
    replicas: u32,
}

/// Where the status of a function is.
pub(super) fn function_path(name: &FunctionName) -> String {
    format!(
        "/system/function/{}?namespace={}",
        name.name(),
        name.namespace
    )
}

/// The state that a function's status tells; `ready` where a node tells none,
/// as other OpenFaaS providers do.
pub(super) fn state(status: &Value) -> &str {
    status["annotations"]["weir.state"]
        .as_str()
        .unwrap_or("ready")
}

pub(super) async fn list(global: &Global, arguments: &ListArguments) -> anyhow::Result<()> {
    let client = global.client()?;
    if arguments.federation {
        return list_federation(global, &client).await;
    }
    let query = global
        .namespace
        .as_ref()
        .map(|name| format!("?namespace={name}"));
    let path = format!("/system/functions{}", query.unwrap_or_default());
    let request = client.request(Method::GET, &path);
    let functions: Vec<Value> = client.ask_json("list the functions", request).await?;
    if global.json() {
        return Ok(output::json(&Value::Array(functions))?);
    }
    let rows: Vec<_> = functions.iter().map(row).collect();
    let headers = [
        "name",
        "namespace",
        "state",
        "replicas",
        "invocations",
        "image",
    ];
    Ok(output::line(&output::table(headers, &rows))?)
}

/// The same of all that the federation has.
async fn list_federation(global: &Global, client: &Client) -> anyhow::Result<()> {
    let request = client.request(Method::GET, "/weir/v1/catalogue");
    let functions: Vec<Value> = client.ask_json("list the functions", request).await?;
    if global.json() {
        return Ok(output::json(&Value::Array(functions))?);
    }
    let rows: Vec<_> = functions.iter().map(federation_row).collect();
    let headers = [
        "name",
        "namespace",
        "scope",
        "version",
        "written by",
        "here",
    ];
    Ok(output::line(&output::table(headers, &rows))?)
}

fn federation_row(function: &Value) -> [String; 6] {
    let text = |key: &str| function[key].as_str().unwrap_or_default().to_owned();
    let here = match (function["here"] == true, function["unfit"].as_str()) {
        (true, None) => "yes".to_owned(),
        (false, None) => "no".to_owned(),
        (true, Some(why)) => {
            format!("an older version; the newest is not runnable here: {why}")
        }
        (false, Some(why)) => format!("not runnable here: {why}"),
    };
    [
        text("name"),
        text("namespace"),
        text("scope"),
        function["version"]
            .as_u64()
            .map_or_else(String::new, |version| version.to_string()),
        match (
            function["announced"] == false,
            function["lost_to"].is_string(),
        ) {
            (true, _) => "not announced: weir announce, or weir remove".to_owned(),
            (false, true) => format!("{}, over this node's", text("writer")),
            (false, false) => text("writer"),
        },
        here,
    ]
}

fn row(status: &Value) -> [String; 6] {
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| status[key].as_f64().unwrap_or_default().to_string();
    // Twelve digits tell artifacts apart and fit a line.
    let image: String = text("image").chars().take("sha256:".len() + 12).collect();
    [
        text("name"),
        text("namespace"),
        state(status).to_owned(),
        number("replicas"),
        number("invocationCount"),
        image,
    ]
}

pub(super) async fn describe(global: &Global, arguments: &Named) -> anyhow::Result<()> {
    let client = global.client()?;
    let name = global.function(&arguments.name)?;
    let request = client.request(Method::GET, &format!("{}&usage=1", function_path(&name)));
    let mut status: Value = client
        .ask_json(&format!("describe {name}"), request)
        .await?;
    let url = format!("{}/function/{name}", client.node());
    if let Some(fields) = status.as_object_mut() {
        fields.insert("url".to_owned(), Value::String(url));
    }
    if global.json() {
        return Ok(output::json(&status)?);
    }
    let rows = super::status::flat(&status);
    Ok(output::line(&output::table(["field", "value"], &rows))?)
}

pub(super) async fn remove(global: &Global, arguments: &RemoveArguments) -> anyhow::Result<()> {
    let client = global.client()?;
    let mut removed = Vec::with_capacity(arguments.names.len());
    for text in &arguments.names {
        let name = global.function(text)?;
        let body = json!({ "functionName": name.name(), "namespace": name.namespace.as_str() });
        let request = client
            .request(Method::DELETE, "/system/functions")
            .header("content-type", "application/json")
            .body(body.to_string());
        client.ask(&format!("remove {name}"), request).await?;
        if !global.json() {
            output::note(&format!("removed {name}"));
        }
        removed.push(name.to_string());
    }
    match global.json() {
        true => Ok(output::json(&json!({ "removed": removed }))?),
        false => Ok(()),
    }
}

pub(super) async fn scale(global: &Global, arguments: &ScaleArguments) -> anyhow::Result<()> {
    let client = global.client()?;
    let name = global.function(&arguments.name)?;
    let body = json!({ "serviceName": name.name(), "namespace": name.namespace.as_str(),
        "replicas": arguments.replicas });
    let path = format!(
        "/system/scale-function/{}?namespace={}",
        name.name(),
        name.namespace
    );
    let request = client
        .request(Method::POST, &path)
        .header("content-type", "application/json")
        .body(body.to_string());
    client.ask(&format!("scale {name}"), request).await?;
    let kept = arguments.replicas;
    let told = json!({ "name": name.name(), "namespace": name.namespace.as_str(),
        "replicas": kept });
    global.told(&told, &format!("{name} keeps {kept} instances"))
}

pub(super) async fn roll_back(global: &Global, arguments: &Named) -> anyhow::Result<()> {
    let client = global.client()?;
    let name = global.function(&arguments.name)?;
    let path = format!("/weir/v1/rollback/{}", name.qualified());
    let request = client.request(Method::POST, &path);
    let done: Value = client
        .ask_json(&format!("roll {name} back"), request)
        .await?;
    let number = |key: &str| done[key].as_u64().unwrap_or_default();
    let text = match done["given_up"] == true {
        true => format!(
            "{name}: the newer version is given up, version {} serves on",
            number("serves")
        ),
        false => {
            let version = number("version");
            super::deploy::ready(&client, &name, Some(version), READY).await?;
            format!(
                "{name}: version {} serves again, as version {version}",
                number("to")
            )
        }
    };
    global.told(&done, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_shows_what_a_status_holds() {
        let status = json!({ "name": "a", "namespace": "shop", "replicas": 1.0,
            "invocationCount": 7, "image": format!("sha256:{}", "ab".repeat(32)),
            "annotations": { "weir.state": "failed: no memory" } });
        let expected = [
            "a",
            "shop",
            "failed: no memory",
            "1",
            "7",
            "sha256:abababababab",
        ];
        assert_eq!(row(&status), expected.map(str::to_owned));
    }

    #[test]
    fn function_of_another_provider_counts_as_ready() {
        assert_eq!(state(&json!({ "name": "a", "annotations": null })), "ready");
    }
}
