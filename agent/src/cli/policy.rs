//! Commands about how calls are placed: policies, what is said to be congested,
//! and the tables of policies.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};
use weir_federation::policy::{Choice, KINDS, Key, Kind};

use super::Global;
use super::federation::tell;
use crate::output;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// List the policies that there are
    List,
    /// Show what a policy does, and its parameters
    Show {
        /// The policy
        name: String,
    },
    /// Show by which policies a node places which calls
    Get,
    /// Place calls by another policy from now on, over restarts too
    Set(SetArguments),
    /// Take back what was set: configuration and labels are in force again
    Reset(Which),
}

#[derive(Debug, Args)]
pub(super) struct SetArguments {
    #[command(flatten)]
    which: Which,
    /// The policy
    name: String,
    /// Its parameters, those of which nothing is said as usual
    #[arg(value_name = "KEY=VALUE")]
    parameters: Vec<String>,
}

/// For which calls.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Only calls of this function
    #[arg(long, value_name = "FUNCTION", conflicts_with = "class")]
    function: Option<String>,
    /// Only calls of this QoS class
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum CongestionCommand {
    /// List the nodes that are said to be congested
    List,
    /// Say that a node, or the way to it, is congested: policies avoid it
    Notice {
        /// The node, by its id
        id: String,
        /// For how long
        #[arg(long, value_name = "DURATION", default_value = "60s")]
        lasts: String,
    },
    /// Take that back
    Clear {
        /// The node, by its id
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RoutesCommand {
    /// List what each destination weighs for a function's calls
    List {
        /// The function
        function: String,
    },
    /// Give a destination another weight
    Set {
        #[command(flatten)]
        route: RouteArguments,
        /// The weight, from 0, in the policy's own unit
        weight: f64,
    },
    /// Send nothing to a destination any more
    Remove {
        #[command(flatten)]
        route: RouteArguments,
    },
    /// Forget the weight of a destination, or of all, to learn it anew
    Reset {
        /// The function
        function: String,
        /// A node's id, or here [default: all destinations]
        to: Option<String>,
        /// Only for calls of this QoS class
        #[arg(long, value_name = "CLASS")]
        class: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct RouteArguments {
    /// The function
    function: String,
    /// A node's id, or here
    to: String,
    /// Only for calls of this QoS class
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
}

pub(super) async fn policy(global: &Global, command: &PolicyCommand) -> anyhow::Result<()> {
    match command {
        PolicyCommand::List => list(global),
        PolicyCommand::Show { name } => show(global, name),
        PolicyCommand::Get => get(global).await,
        PolicyCommand::Set(arguments) => set(global, arguments).await,
        PolicyCommand::Reset(which) => {
            let path = path(global, which)?;
            let told = tell(global, Method::DELETE, &path, None, "take the policy back").await?;
            let calls = told["calls"].as_str().unwrap_or_default();
            let text = format!("{calls}: configuration and labels are in force again");
            global.answer(&told, &text)
        }
    }
}

fn list(global: &Global) -> anyhow::Result<()> {
    if global.json() {
        let kinds: Vec<Value> = KINDS.iter().map(described).collect();
        return Ok(output::json(&Value::Array(kinds))?);
    }
    let rows: Vec<_> = KINDS
        .iter()
        .map(|kind| [kind.name.to_owned(), kind.about.to_owned()])
        .collect();
    Ok(output::line(&output::table(
        ["policy", "what it does"],
        &rows,
    ))?)
}

fn show(global: &Global, name: &str) -> anyhow::Result<()> {
    // The list of names stands in the error.
    let choice: Choice = name.parse()?;
    let kind = choice.kind();
    if global.json() {
        return Ok(output::json(&described(kind))?);
    }
    output::line(&format!("{}: {}", kind.name, kind.about))?;
    if kind.keys.is_empty() {
        return Ok(output::line("It has no parameters.")?);
    }
    let rows: Vec<_> = kind.keys.iter().map(row).collect();
    let heads = ["parameter", "usual", "range", "unit", "what it sets"];
    Ok(output::line(&output::table(heads, &rows))?)
}

fn row(key: &Key) -> [String; 5] {
    [
        key.name.to_owned(),
        key.default.to_owned(),
        key.range.to_string(),
        key.unit.to_owned(),
        key.about.to_owned(),
    ]
}

fn described(kind: &Kind) -> Value {
    let keys = kind.keys.iter().map(|key| {
        json!({
            "name": key.name,
            "default": key.default,
            "range": key.range.to_string(),
            "unit": key.unit,
            "about": key.about,
        })
    });
    json!({ "name": kind.name, "about": kind.about, "parameters": keys.collect::<Vec<_>>() })
}

async fn get(global: &Global) -> anyhow::Result<()> {
    let client = global.client()?;
    let request = client.request(Method::GET, "/weir/v1/policies");
    let all: Value = client.ask_json("read the policies", request).await?;
    if global.json() {
        return Ok(output::json(&all)?);
    }
    let word = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rows = all.as_array().into_iter().flatten();
    let rows = rows.map(|row| ["calls", "policy", "said_by"].map(|key| word(row, key)));
    let rows: Vec<_> = rows.collect();
    Ok(output::line(&output::table(
        ["calls", "policy", "said by"],
        &rows,
    ))?)
}

async fn set(global: &Global, arguments: &SetArguments) -> anyhow::Result<()> {
    let text = match arguments.parameters.is_empty() {
        true => arguments.name.clone(),
        false => format!("{}:{}", arguments.name, arguments.parameters.join(",")),
    };
    let path = path(global, &arguments.which)?;
    let body = Some(json!({ "policy": text }));
    let told = tell(global, Method::PUT, &path, body, "set the policy").await?;
    let word = |key: &str| told[key].as_str().unwrap_or_default();
    let from = match told["alone"].as_bool() {
        Some(true) => "once this node is in a federation; alone it runs all calls itself",
        Some(false) | None => "from now on",
    };
    let said = format!("{}: placed by {} {from}", word("calls"), word("policy"));
    global.answer(&told, &said)
}

fn path(global: &Global, which: &Which) -> anyhow::Result<String> {
    Ok(match (&which.function, &which.class) {
        (Some(name), _) => {
            let name = global.function(name)?.qualified();
            format!("/weir/v1/policies/function/{name}")
        }
        (None, Some(class)) => format!("/weir/v1/policies/class/{class}"),
        (None, None) => "/weir/v1/policies".to_owned(),
    })
}

pub(super) async fn congestion(global: &Global, command: &CongestionCommand) -> anyhow::Result<()> {
    let path = "/weir/v1/congestion";
    match command {
        CongestionCommand::List => {
            let what = "list who is congested";
            let all = tell(global, Method::GET, path, None, what).await?;
            if global.json() {
                return Ok(output::json(&all)?);
            }
            let rows = all.as_array().into_iter().flatten();
            let rows: Vec<_> = rows.map(congested).collect();
            Ok(output::line(&output::table(["node", "for"], &rows))?)
        }
        CongestionCommand::Notice { id, lasts } => {
            let body = Some(json!({ "peer": id, "lasts": lasts }));
            let told = tell(global, Method::POST, path, body, "say that it is congested").await?;
            global.answer(&told, &format!("{id} counts as congested for {lasts}"))
        }
        CongestionCommand::Clear { id } => {
            let path = format!("{path}/{id}");
            let told = tell(global, Method::DELETE, &path, None, "take the notice back").await?;
            global.answer(&told, &format!("{id} counts as congested no more"))
        }
    }
}

fn congested(row: &Value) -> [String; 2] {
    let lasts = row["lasts_ms"].as_f64().unwrap_or_default();
    let peer = row["peer"].as_str().unwrap_or_default();
    [peer.to_owned(), format!("{:.1} s", lasts / 1e3)]
}

pub(super) async fn routes(global: &Global, command: &RoutesCommand) -> anyhow::Result<()> {
    let at = |function: &str| -> anyhow::Result<String> {
        let name = global.function(function)?.qualified();
        Ok(format!("/weir/v1/routes/{name}"))
    };
    let (function, to, class, weight) = match command {
        RoutesCommand::List { function } => {
            let what = "list the routes";
            let all = tell(global, Method::GET, &at(function)?, None, what).await?;
            if global.json() {
                return Ok(output::json(&all)?);
            }
            let rows = all.as_array().into_iter().flatten();
            let rows: Vec<_> = rows.map(route).collect();
            let heads = ["class", "policy", "to", "weight"];
            return Ok(output::line(&output::table(heads, &rows))?);
        }
        RoutesCommand::Set { route, weight } => {
            let RouteArguments {
                function,
                to,
                class,
            } = route;
            (function, Some(to), class, json!(weight))
        }
        RoutesCommand::Remove { route } => {
            let RouteArguments {
                function,
                to,
                class,
            } = route;
            (function, Some(to), class, json!("infinite"))
        }
        RoutesCommand::Reset {
            function,
            to,
            class,
        } => (function, to.as_ref(), class, json!("learned")),
    };
    let body = Some(json!({ "to": to, "class": class, "weight": weight }));
    let told = tell(
        global,
        Method::PUT,
        &at(function)?,
        body,
        "change the route",
    )
    .await?;
    let count = told["changed"].as_u64().unwrap_or_default();
    global.answer(&told, &format!("{function}: destinations changed: {count}"))
}

fn route(row: &Value) -> [String; 4] {
    let word = |key: &str, none: &str| row[key].as_str().unwrap_or(none).to_owned();
    let weight = match row["weight"].as_f64() {
        Some(weight) => format!("{weight:.6}"),
        None => "infinite".to_owned(),
    };
    [
        word("class", ""),
        word("policy", ""),
        word("to", "here"),
        weight,
    ]
}
