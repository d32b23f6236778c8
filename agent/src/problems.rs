//! What is wrong with a node and needs somebody: told once in the log when it
//! begins and when it is over, and at the top of the status while it lasts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{error, info};
use weir_federation::dispatch::Dispatch;

use crate::door::Door;

/// How often it is looked what is wrong.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Less of the disk left is as good as nothing: what is to be kept may not fit.
const DISK_BYTES_LEAST: u64 = 16 << 20;

/// All that is wrong now, in words that say what to do.
pub fn of(door: &Door) -> Vec<String> {
    let all = [disk(door), certificate(door), engine(door)];
    let federation = door.dispatch.iter().flat_map(federation);
    all.into_iter().flatten().chain(federation).collect()
}

fn disk(door: &Door) -> Option<String> {
    let status = rustix::fs::statvfs(&*door.data_dir).ok()?;
    let free = status.f_bavail.saturating_mul(status.f_frsize);
    (free < DISK_BYTES_LEAST).then(|| {
        format!(
            "the disk of {} is full ({} KiB are free): nothing can be deployed or accepted; make \
             room",
            door.data_dir.display(),
            free >> 10
        )
    })
}

fn certificate(door: &Door) -> Option<String> {
    let expires = door.certificates.as_ref()?.expires()?;
    (expires <= Timestamp::now()).then(|| {
        format!(
            "the certificate of the HTTP door expired at {expires}: replace http.tls-certificate \
             and send SIGHUP"
        )
    })
}

fn engine(door: &Door) -> Option<String> {
    let status = door.node.status();
    let engine = status.executors.get("docker")?;
    let problem = engine["problem"].as_str()?;
    let functions = door.node.functions(None);
    let needed = |name: &str| name == "docker";
    let waiting = functions.iter().filter(|f| needed(f.spec.kind.executor()));
    // A node may do without one as long as nothing needs it.
    match waiting.count() {
        0 => None,
        count => Some(format!(
            "{count} functions have no container engine: {problem}"
        )),
    }
}

fn federation(dispatch: &Dispatch) -> Vec<String> {
    let member = dispatch.federated().member();
    let mut wrong = Vec::new();
    if let Some(refusal) = member.refusal() {
        wrong.push(format!("refused by the federation: {refusal}"));
    }
    if member.is_expired() {
        wrong.push(
            "its membership has expired: start it with a new token (weir token at a member, then \
             --join)"
                .to_owned(),
        );
    }
    wrong
}

/// Logs what begins to be wrong, and what is not any more.
pub async fn watch(door: Arc<Door>) {
    let mut known = BTreeSet::new();
    loop {
        let now = of(&door);
        // Figures in them change; what they are about does not.
        let subject = |text: &String| text.split([':', '(']).next().unwrap_or_default().to_owned();
        let subjects: BTreeSet<String> = now.iter().map(subject).collect();
        for problem in now.iter().filter(|text| !known.contains(&subject(text))) {
            error!(problem, "this node needs somebody");
        }
        for gone in known.difference(&subjects) {
            info!(problem = gone, "this is over");
        }
        known = subjects;
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = door.stopping.cancelled() => return,
        }
    }
}
