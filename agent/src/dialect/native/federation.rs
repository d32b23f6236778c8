//! Routes about other nodes: who is there, who may come, why calls go where.

mod policies;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use weir_federation::PeerId;
use weir_federation::dispatch::Dispatch;
use weir_federation::federated::{Forgot, Tried};
use weir_federation::member::MemberError;
use weir_federation::membership::Rights;
use weir_federation::report::Role;
use weir_node::function::Scope;
use weir_node::id::FunctionName;

use super::json_answer;
use crate::door::Door;
use crate::door::problem::Problem;
use crate::http::reply::Reply;
use crate::setting;

/// Largest body of a request here.
const BODY_BYTES: usize = 64 << 10;

/// How long a node that leaves may take to hand its calls to others.
const HAND_OVER: Duration = Duration::from_secs(30);

/// How long the last words of a node that leaves have to go out.
const FAREWELL: Duration = Duration::from_millis(100);

/// How long an invite is good unless it says otherwise, and at most.
const INVITE: (Duration, Duration) = (
    Duration::from_secs(3_600),
    Duration::from_secs(366 * 24 * 3_600),
);

/// Whether a route is one of these.
pub(super) fn speaks(route: &str) -> bool {
    matches!(
        route,
        "peers"
            | "tokens"
            | "drain"
            | "leave"
            | "denials"
            | "explain"
            | "secret"
            | "catalogue"
            | "policies"
            | "congestion"
            | "routes"
    )
}

/// What an invite should be.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Invite {
    ttl: Option<String>,
    role: Option<String>,
    deploy: Option<bool>,
}

/// Whom to deny.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Denial {
    peer: String,
    #[serde(default)]
    federation: bool,
}

/// Answers a request whose sender may manage the node.
pub(super) async fn answer(door: &Arc<Door>, request: Request<Incoming>) -> Response<Reply> {
    let (parts, incoming) = request.into_parts();
    let path = parts
        .uri
        .path()
        .strip_prefix("/weir/v1/")
        .unwrap_or_default();
    let path: Vec<&str> = path.split('/').collect();
    let text = match Limited::new(incoming, BODY_BYTES).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(_) => {
            return Problem::bad_request("the body is too long, or broke off".to_owned()).render();
        }
    };
    let answered = match (path.as_slice(), &door.dispatch) {
        (["policies", calls @ ..], _) => {
            policies::policies(door, &parts.method, calls, &text).await
        }
        (_, None) => Err(alone()),
        (path, Some(dispatch)) => of_member(door, dispatch, &parts, path, &text).await,
    };
    match answered {
        Ok(value) => json_answer(StatusCode::OK, &value),
        Err(problem) => problem.render(),
    }
}

/// What a node in no federation answers.
fn alone() -> Problem {
    let text = "this node is in no federation: give federation.listen (--listen), or a token to \
                join by (--join)";
    Problem::new(StatusCode::CONFLICT, "alone", text)
}

/// Answers what only a node in a federation can.
async fn of_member(
    door: &Door,
    dispatch: &Dispatch,
    parts: &Parts,
    path: &[&str],
    text: &[u8],
) -> Result<Value, Problem> {
    match (&parts.method, path) {
        (&Method::GET, ["peers"]) => Ok(json!(dispatch.federated().peers())),
        (&Method::GET, ["catalogue"]) => Ok(catalogue(door, dispatch)),
        (&Method::POST, ["catalogue", name]) => announce(door, dispatch, name).await,
        (&Method::GET, ["peers", id]) => one_peer(dispatch, id),
        (&Method::DELETE, ["peers", id]) => forget(dispatch, id),
        (&Method::POST, ["peers", id, "ping"]) => ping(dispatch, id).await,
        (&Method::POST, ["tokens"]) => token(dispatch, text).await,
        (&Method::POST, ["denials"]) => deny(dispatch, text),
        (&Method::DELETE, ["denials", id]) => {
            let everywhere = parts.uri.query() == Some("federation=true");
            allow(dispatch, id, everywhere)
        }
        (method @ (&Method::POST | &Method::DELETE), ["drain"]) => {
            let drains = method == Method::POST;
            dispatch.federated().drain(drains);
            Ok(json!({ "draining": drains }))
        }
        (&Method::POST, ["leave"]) => leave(dispatch).await,
        (&Method::POST, ["secret", "rotate"]) => rotate(dispatch),
        (&Method::GET, ["explain", call]) => explain(dispatch, call),
        (method, ["congestion", peer @ ..]) => policies::congestion(dispatch, method, peer, text),
        (method, ["routes", function]) => policies::routes(door, dispatch, method, function, text),
        _ => Err(Problem::not_found(format!(
            "there is nothing at {} {:?}",
            parts.method,
            parts.uri.path()
        ))),
    }
}

/// What `weir status` says of the federation.
pub(super) fn status(dispatch: &Dispatch) -> Value {
    let federated = dispatch.federated();
    let (own, member) = (federated.own(), federated.member());
    let peers = federated.peers();
    json!({
        "id": member.federation().to_string(),
        "member": member.is_member(),
        "may_invite": member.may_invite(),
        "role": own.role.to_string(),
        "zone": own.zone,
        "region": own.region,
        "follows_regions": *federated.regions(),
        "report_refused": federated.unsaid(),
        "addresses": federated.bootstrap(),
        "reachable": federated.tested(),
        "carriage": own.carriage,
        "registry": federated.settings().registry.as_str(),
        "etcd_reached": federated.registry().map(|state| state.up.load(Ordering::Relaxed)),
        "peers": peers.iter().filter(|peer| peer.state == "in").count(),
        "draining": own.draining,
        "copies_of_calls": dispatch.copies_kept(),
    })
}

fn peer(text: &str) -> Result<PeerId, Problem> {
    text.parse().map_err(|_| {
        Problem::bad_request(format!("{text:?} is no node's id; weir peers lists them"))
    })
}

fn refused(error: &MemberError) -> Problem {
    let status = match error {
        MemberError::NoSecret
        | MemberError::DeniedByAll(_)
        | MemberError::Elsewhere { .. }
        | MemberError::Left(_) => StatusCode::CONFLICT,
        MemberError::Token(_) | MemberError::Itself => StatusCode::BAD_REQUEST,
        MemberError::File { .. } | MemberError::Malformed { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    Problem::new(status, "membership", error.to_string())
}

fn read<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(text)
        .map_err(|error| Problem::bad_request(format!("the body cannot be read: {error}")))
}

async fn token(dispatch: &Dispatch, text: &[u8]) -> Result<Value, Problem> {
    let invite: Invite = match text.is_empty() {
        true => Invite::default(),
        false => read(text)?,
    };
    let (usual, longest) = INVITE;
    let life = match &invite.ttl {
        Some(text) => setting::duration(text).map_err(Problem::bad_request)?,
        None => usual,
    };
    if life.is_zero() || life > longest {
        let text = "ttl is out of range: write 1s to 366days".to_owned();
        return Err(Problem::bad_request(text));
    }
    let role: Role = match &invite.role {
        Some(text) => text.parse().map_err(Problem::bad_request)?,
        None => Role::Edge,
    };
    let rights = Rights {
        role,
        deploy: invite.deploy.unwrap_or(true),
    };
    let federated = dispatch.federated();
    let bootstrap = federated.settled_bootstrap().await;
    if bootstrap.is_empty() {
        let text = "this node does not know where it can be linked to, and a token would lead \
                    nowhere: give federation.listen or federation.advertise";
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "cannot-run",
            text,
        ));
    }
    let made = federated
        .member()
        .invite(rand::random(), life, rights, bootstrap);
    let token = made.map_err(|error| refused(&error))?;
    Ok(json!({
        "token": token.to_string(),
        "expires": token.invite().expires,
        "bootstrap": token.invite().bootstrap,
    }))
}

fn deny(dispatch: &Dispatch, text: &[u8]) -> Result<Value, Problem> {
    let denial: Denial = read(text)?;
    let denied = dispatch
        .federated()
        .deny(peer(&denial.peer)?, denial.federation);
    denied.map_err(|error| refused(&error))?;
    Ok(json!({ "denied": denial.peer, "federation": denial.federation }))
}

fn allow(dispatch: &Dispatch, id: &str, everywhere: bool) -> Result<Value, Problem> {
    let allowed = dispatch.federated().allow(peer(id)?, everywhere);
    match (allowed.map_err(|error| refused(&error))?, everywhere) {
        (true, _) => Ok(json!({ "allowed": id, "federation": everywhere })),
        (false, true) => Err(Problem::not_found(format!(
            "{id} is not denied in the whole federation"
        ))),
        (false, false) => Err(Problem::not_found(format!("{id} is not denied"))),
    }
}

fn catalogue(door: &Door, dispatch: &Dispatch) -> Value {
    let functions = dispatch.federated().functions();
    let told: BTreeSet<_> = functions.iter().map(|(spec, _, _)| &spec.name).collect();
    let own = door.node.functions(None).into_iter();
    let own = own.map(|function| function.spec);
    // Deployed while this node was alone, or away for too long.
    let untold = own.filter(|spec| spec.scope != Scope::Node && !told.contains(&spec.name));
    let untold = untold.map(|spec| {
        json!({
            "name": spec.name.name(),
            "namespace": spec.name.namespace,
            "scope": spec.scope.as_str(),
            "artifact": spec.code.artifact().map(ToString::to_string),
            "here": true,
            "announced": false,
        })
    });
    let shown = functions.iter().map(|(spec, writer, version)| {
        let here = door.node.spec(&spec.name);
        // What was deployed here is more than what others may bring.
        let foreign = here.as_ref().is_none_or(|here| here != spec);
        json!({
            "name": spec.name.name(),
            "namespace": spec.name.namespace,
            "scope": spec.scope.as_str(),
            "version": version,
            "writer": writer.to_string(),
            "artifact": spec.code.artifact().map(ToString::to_string),
            "here": here.is_some(),
            "unfit": if foreign { dispatch.fits(spec).err() } else { None },
            "announced": true,
            "lost_to": dispatch.federated().lost(&spec.name).map(|peer| peer.to_string()),
        })
    });
    Value::Array(shown.chain(untold).collect())
}

/// Tells the federation of a function that only this node knows.
async fn announce(door: &Door, dispatch: &Dispatch, name: &str) -> Result<Value, Problem> {
    let name: FunctionName = name
        .parse()
        .map_err(|_| Problem::bad_request(format!("{name:?} is no function's name")))?;
    let spec = door.node.spec(&name);
    let spec = spec.ok_or_else(|| Problem::not_found(format!("{name} is not deployed here")))?;
    if spec.scope == Scope::Node {
        let text = format!("{name} is this node's alone: deploy it with --scope federation");
        return Err(Problem::bad_request(text));
    }
    let copies = dispatch.announce(&spec).await?;
    Ok(json!({ "announced": name.qualified(), "copies": copies }))
}

fn one_peer(dispatch: &Dispatch, id: &str) -> Result<Value, Problem> {
    let known = dispatch.federated().peer(peer(id)?);
    known
        .map(|known| json!(known))
        .ok_or_else(|| Problem::not_found(format!("{id} is not known")))
}

fn forget(dispatch: &Dispatch, id: &str) -> Result<Value, Problem> {
    match dispatch.federated().forget(peer(id)?)? {
        Forgot::Newcomer => Ok(json!({ "forgotten": id, "newcomer": true })),
        Forgot::Known => Ok(json!({ "forgotten": id, "newcomer": false })),
        Forgot::Nothing => Err(Problem::not_found(format!("{id} is not known"))),
    }
}

async fn ping(dispatch: &Dispatch, id: &str) -> Result<Value, Problem> {
    let tried = dispatch.federated().ping(peer(id)?).await;
    let ways = tried.into_iter().map(|(way, outcome)| match outcome {
        Tried::Answered(took) => json!({ "way": way, "ms": milliseconds(took) }),
        Tried::Last(took) => json!({ "way": way, "last_ms": milliseconds(took) }),
        Tried::Heard(age) => json!({ "way": way, "heard_ms_ago": milliseconds(age) }),
        Tried::Failed(reason) => json!({ "way": way, "error": reason }),
    });
    Ok(Value::Array(ways.collect()))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

async fn leave(dispatch: &Dispatch) -> Result<Value, Problem> {
    let federated = dispatch.federated();
    federated.drain(true);
    // What nobody takes in that time is run here.
    let _ = tokio::time::timeout(HAND_OVER, dispatch.hand_over()).await;
    federated.leave();
    // Its last words first, over the links that end with the rest.
    tokio::time::sleep(FAREWELL).await;
    let forgotten = federated.forget_federation();
    forgotten.map_err(|error| refused(&error))?;
    Ok(json!({ "left": true }))
}

fn rotate(dispatch: &Dispatch) -> Result<Value, Problem> {
    let federated = dispatch.federated();
    let handed_over = federated.rotate().map_err(|error| refused(&error))?;
    Ok(json!({
        "federation": federated.member().federation().to_string(),
        "handed_over": handed_over.told,
        "away": handed_over.away,
    }))
}

fn explain(dispatch: &Dispatch, call: &str) -> Result<Value, Problem> {
    match dispatch.explanation(call) {
        Some(explanation) => Ok(json!(*explanation)),
        None => Err(Problem::not_found(
            "nothing is kept of this call: ask with X-Weir-Explain: 1, and read soon".to_owned(),
        )),
    }
}
