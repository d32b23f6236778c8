//! Routes about how calls are placed: which policy is for which calls, what is
//! said to be congested, and the tables of policies.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use weir_federation::dispatch::{Alone, Calls, Dispatch, InForce, Unchanged, Unnoticed};
use weir_federation::policy::Choice;
use weir_node::id::FunctionName;

use super::{peer, read};
use crate::door::Door;
use crate::door::problem::Problem;
use crate::setting;

/// How long a notice of congestion holds unless it says otherwise, and at most.
const CONGESTED: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3_600));

/// Which policy to place calls by.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    policy: String,
}

/// Who is congested.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Notice {
    peer: String,
    #[serde(default)]
    lasts: Option<String>,
}

/// What a destination is to weigh.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteWish {
    /// A node's id, or `here`; all destinations without it.
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    class: Option<String>,
    weight: Weight,
}

/// A weight, or a word for one.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Weight {
    Number(f64),
    Word(WeightWord),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WeightWord {
    /// Nothing goes there.
    Infinite,
    /// As the policy learns it.
    Learned,
}

/// `/weir/v1/policies`, `/weir/v1/policies/class/NAME` and
/// `/weir/v1/policies/function/NAME`.
pub(super) async fn policies(
    door: &Arc<Door>,
    method: &Method,
    calls: &[&str],
    text: &[u8],
) -> Result<Value, Problem> {
    if method == Method::GET && calls.is_empty() {
        return Ok(json!(in_force(door)));
    }
    let calls = which(calls)?;
    let choice = match *method {
        Method::PUT => {
            exists(door, &calls)?;
            let wish: Wish = read(text)?;
            let choice: Choice = wish
                .policy
                .parse()
                .map_err(|wrong| Problem::bad_request(format!("{wrong}")))?;
            Some(choice)
        }
        Method::DELETE => None,
        _ => return Err(Problem::method("GET, PUT, DELETE")),
    };
    let shown = choice.as_ref().map(ToString::to_string);
    let (placer, which) = (Arc::clone(door), calls.clone());
    let set = tokio::task::spawn_blocking(move || set(&placer, &which, choice));
    let had = match set.await {
        Ok(set) => set.map_err(|error| unchanged(&error))?,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    };
    if shown.is_none() && !had {
        return Err(Problem::not_found(
            "no policy was set by hand for these calls",
        ));
    }
    Ok(json!({
        "calls": named(&calls),
        "policy": shown,
        "replaced": had,
        "alone": door.dispatch.is_none(),
    }))
}

/// By which policies calls are placed, or would be by a node that is alone.
fn in_force(door: &Door) -> Vec<InForce> {
    match (&door.dispatch, &door.alone) {
        (Some(dispatch), _) => dispatch.policies(),
        (None, alone) => alone.as_ref().map(Alone::policies).unwrap_or_default(),
    }
}

fn set(door: &Door, calls: &Calls, choice: Option<Choice>) -> Result<bool, Unchanged> {
    match (&door.dispatch, &door.alone) {
        (Some(dispatch), _) => dispatch.set_policy(calls, choice),
        (None, Some(alone)) => alone.set_policy(calls, choice),
        (None, None) => Ok(false),
    }
}

fn which(calls: &[&str]) -> Result<Calls, Problem> {
    match calls {
        [] => Ok(Calls::All),
        ["class", name] => Ok(Calls::OfClass((*name).to_owned())),
        ["function", name] => Ok(Calls::OfFunction(function_named(name)?)),
        _ => Err(Problem::not_found(
            "a policy is for all calls, for class/NAME or for function/NAME",
        )),
    }
}

fn named(calls: &Calls) -> String {
    match calls {
        Calls::All => "all".to_owned(),
        other => other.to_string(),
    }
}

fn function_named(name: &str) -> Result<FunctionName, Problem> {
    name.parse()
        .map_err(|_| Problem::bad_request(format!("{name:?} is no function's name")))
}

/// Whether there are such calls at all: a name that was misspelt is told.
fn exists(door: &Door, calls: &Calls) -> Result<(), Problem> {
    match calls {
        Calls::All => Ok(()),
        Calls::OfClass(class) => {
            let classes = classes(door);
            match classes.contains(class) {
                true => Ok(()),
                false => Err(Problem::not_found(format!(
                    "this node has no QoS class {class:?}: it has {}",
                    classes.join(", ")
                ))),
            }
        }
        Calls::OfFunction(name) => is_known(door, name),
    }
}

fn is_known(door: &Door, name: &FunctionName) -> Result<(), Problem> {
    let told_of = || {
        door.dispatch
            .as_ref()
            .is_some_and(|dispatch| dispatch.is_known(name))
    };
    match door.node.spec(name).is_some() || told_of() {
        true => Ok(()),
        false => Err(Problem::not_found(format!("no function {name} is known"))),
    }
}

fn classes(door: &Door) -> Vec<String> {
    let classes = door.node.status().classes.into_iter();
    classes.map(|class| class.name.to_string()).collect()
}

fn unchanged(error: &Unchanged) -> Problem {
    let status = match error {
        Unchanged::TooMany | Unchanged::NoTable(_) => StatusCode::CONFLICT,
        Unchanged::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::new(status, "policy", error.to_string())
}

/// `/weir/v1/congestion` and `/weir/v1/congestion/NODE`.
pub(super) fn congestion(
    dispatch: &Dispatch,
    method: &Method,
    node: &[&str],
    text: &[u8],
) -> Result<Value, Problem> {
    match (method, node) {
        (&Method::GET, []) => {
            let all = dispatch.congested().into_iter();
            let all = all.map(|(peer, lasts)| {
                let peer = peer.to_string();
                json!({ "peer": peer, "lasts_ms": super::milliseconds(lasts) })
            });
            Ok(Value::Array(all.collect()))
        }
        (&Method::POST, []) => {
            let notice: Notice = read(text)?;
            let (usual, longest) = CONGESTED;
            let lasts = match &notice.lasts {
                Some(text) => setting::duration(text).map_err(Problem::bad_request)?,
                None => usual,
            };
            if lasts.is_zero() || lasts > longest {
                let text = "lasts is out of range: write 1ms to 24h".to_owned();
                return Err(Problem::bad_request(text));
            }
            let noticed = dispatch.notice_congestion(peer(&notice.peer)?, lasts);
            noticed.map_err(|error| {
                let status = match error {
                    Unnoticed::Itself => StatusCode::BAD_REQUEST,
                    Unnoticed::TooMany => StatusCode::CONFLICT,
                };
                Problem::new(status, "policy", error.to_string())
            })?;
            let lasts_ms = super::milliseconds(lasts);
            Ok(json!({ "peer": notice.peer, "lasts_ms": lasts_ms }))
        }
        (&Method::DELETE, [id]) => match dispatch.clear_congestion(&peer(id)?) {
            true => Ok(json!({ "cleared": id })),
            false => Err(Problem::not_found(format!(
                "{id} is not said to be congested"
            ))),
        },
        (_, [] | [_]) => Err(Problem::method("GET, POST, DELETE")),
        _ => Err(Problem::not_found("congestion is noticed of one node")),
    }
}

/// `/weir/v1/routes/FUNCTION`.
pub(super) fn routes(
    door: &Door,
    dispatch: &Dispatch,
    method: &Method,
    function: &str,
    text: &[u8],
) -> Result<Value, Problem> {
    let function = function_named(function)?;
    is_known(door, &function)?;
    match *method {
        Method::GET => Ok(json!(dispatch.routes(&function, &classes(door)))),
        Method::PUT => {
            let wish: RouteWish = read(text)?;
            let weight = match wish.weight {
                Weight::Number(number) if number.is_finite() && number >= 0.0 => Some(number),
                Weight::Number(_) => {
                    let text = "a weight is a number from 0, infinite or learned".to_owned();
                    return Err(Problem::bad_request(text));
                }
                Weight::Word(WeightWord::Infinite) => Some(f64::INFINITY),
                Weight::Word(WeightWord::Learned) => None,
            };
            let class = wish.class.as_deref();
            if let Some(class) = class {
                exists(door, &Calls::OfClass(class.to_owned()))?;
            }
            let changed = match wish.to.as_deref() {
                Some("here") => vec![None],
                Some(id) => vec![Some(peer(id)?)],
                None => {
                    let peers = dispatch.federated().peers().into_iter();
                    let peers = peers.filter_map(|peer| peer.id.parse().ok().map(Some));
                    std::iter::once(None).chain(peers).collect()
                }
            };
            for to in &changed {
                let set = dispatch.set_route(&function, class, to.as_ref(), weight);
                set.map_err(|error| unchanged(&error))?;
            }
            Ok(json!({ "function": function.qualified(), "changed": changed.len() }))
        }
        _ => Err(Problem::method("GET, PUT")),
    }
}
