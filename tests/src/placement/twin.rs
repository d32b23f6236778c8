//! The same calls at real nodes and in the simulator: what both say of them, side
//! by side.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::bench::load::post_with;
use crate::federation::Member;
use crate::guests::Guest;
use crate::node::{Function, weir};

use super::arrivals::{Spacing, arrivals};
use super::clients::{Answered, open_loop};
use super::ideal::percentile;
use super::roomy;
use super::trials::{PLACES, Scale, Three};

/// Time there and back between two nodes of one machine.
const ROUND_TRIP: Duration = Duration::from_micros(400);

/// How long clients call before calls count: all nodes have the code then, and
/// know of each other how long it runs.
const BEFORE: Duration = Duration::from_secs(3);

/// What became of some calls.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The part of them that was answered.
    pub answered: f64,
    /// The part of the answers that each node gave, in their order.
    pub shares: Vec<f64>,
    /// Of the answered ones, in milliseconds.
    pub mean: f64,
    /// The same.
    pub median: f64,
    /// The same.
    pub p99: f64,
}

/// The same calls at real nodes and in the simulator.
#[derive(Debug, Clone)]
pub struct Twins {
    /// Calls that came.
    pub calls: usize,
    /// At real nodes.
    pub real: Seen,
    /// In the simulator.
    pub played: Seen,
}

impl Twins {
    /// The largest difference of a node's part.
    pub fn share_apart(&self) -> f64 {
        let shares = self.real.shares.iter().zip(&self.played.shares);
        let apart = shares.map(|(real, played)| (real - played).abs());
        apart.fold((self.real.answered - self.played.answered).abs(), f64::max)
    }

    /// How far a time of the simulator is from that of real nodes, as a part of it.
    pub fn apart(&self, time: impl Fn(&Seen) -> f64) -> f64 {
        (time(&self.played) / time(&self.real) - 1.0).abs()
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What clients of the first of these nodes saw.
fn seen(calls: &[Answered], ids: &[String]) -> Seen {
    let answers: Vec<&Answered> = calls.iter().filter(|call| call.is_answer()).collect();
    let times: Vec<Duration> = answers.iter().map(|call| call.took).collect();
    let count = answers.len().max(1) as f64;
    let of = |(place, id): (usize, &String)| {
        let is_there = |call: &&&Answered| {
            let own = place == 0 && call.ran_on.is_empty();
            own || call.ran_on == *id
        };
        answers.iter().filter(is_there).count() as f64 / count
    };
    Seen {
        answered: answers.len() as f64 / calls.len().max(1) as f64,
        shares: ids.iter().enumerate().map(of).collect(),
        mean: times.iter().copied().map(milliseconds).sum::<f64>() / count,
        median: milliseconds(percentile(&times, 0.5)),
        p99: milliseconds(percentile(&times, 0.99)),
    }
}

/// Plays calls that come at these moments at the first of nodes with so many
/// places.
async fn play(places: &[u32], service: Duration, due: &[Duration]) -> Result<Seen> {
    let folder = tempfile::tempdir()?;
    let mut moments = String::new();
    for moment in due {
        writeln!(moments, "{:.6}", moment.as_secs_f64())?;
    }
    std::fs::write(folder.path().join("due.txt"), moments)?;
    let last = due.last().copied().unwrap_or_default();
    let mut text = format!(
        "[scenario]\nname = \"twin\"\nduration = \"{}ms\"\n[[link]]\nbetween = [\"*\", \"*\"]\n\
         round-trip = \"{}us\"\n[[function]]\nname = \"placed\"\nmemory = \"8MiB\"\n\
         service = \"{}us\"\n[[workload]]\nfunction = \"placed\"\nat = \"at0\"\n\
         arrivals = {{ timetable = {{ file = \"due.txt\" }} }}\n",
        last.as_millis() + 1_000,
        ROUND_TRIP.as_micros(),
        service.as_micros()
    );
    for (number, places) in places.iter().enumerate() {
        writeln!(
            text,
            "[[node]]\nname = \"at{number}\"\nzone = \"here\"\ncores = {places}\nmemory = \"4GiB\""
        )?;
    }
    let file = folder.path().join("twin.toml");
    std::fs::write(&file, text)?;
    let file = file.to_str().context("a path that is text")?;
    let output = weir(["simulate", file, "--output", "json"])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "weir simulate: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let run = &said["runs"][0];
    let number = |value: &Value| value.as_f64().context("a number of the report");
    let latency = |name: &str| number(&run["all"]["latency"][name]);
    let answered = number(&run["all"]["outcomes"]["answered"])?;
    let shares = (0..places.len()).map(|at| {
        let ran = number(&run["nodes"][format!("at{at}")]["ran"]);
        ran.map(|ran| ran / answered)
    });
    Ok(Seen {
        answered: answered / due.len().max(1) as f64,
        shares: shares.collect::<Result<_>>()?,
        mean: latency("mean")?,
        median: latency("p50")?,
        p99: latency("p99")?,
    })
}

impl Three {
    /// Has calls come at so many a second, for calls of a tenth of a second, and
    /// plays the same ones.
    ///
    /// # Errors
    /// When the clients or the simulator cannot run.
    pub async fn twins(&self, scale: &Scale, tenths: f64, seed: u64) -> Result<Twins> {
        let before = Scale {
            time: BEFORE,
            ..*scale
        };
        self.steady(&before, tenths, Spacing::Even, 0).await?;
        let run = self.steady(scale, tenths, Spacing::Poisson, seed).await?;
        let ids: Vec<String> = self
            .members
            .iter()
            .map(|member| member.id.clone())
            .collect();
        let due: Vec<Duration> = run.answered.iter().map(|call| call.due).collect();
        Ok(Twins {
            calls: due.len(),
            real: seen(&run.answered, &ids),
            played: play(&PLACES, scale.service, &due).await?,
        })
    }
}

/// Has calls come, so that this part of one node's places is needed for its
/// simulated function, and plays the same ones.
///
/// # Errors
/// When the clients or the simulator cannot run.
pub async fn single(places: u32, load: f64, scale: &Scale, seed: u64) -> Result<Twins> {
    let node = Member::start(roomy(places)).await;
    // As many workers as places: each call has one, as it has a core of its own in the
    // simulator.
    let model = json!({"simulated": {
        "processor": {"name": "one", "speed": 1e9, "cores": places, "memory": 1_u64 << 32},
        "workers": places,
        "operations": {"offset": scale.service.as_nanos() as f64},
        "output": {"fixed": "done"},
    }});
    let model = Guest::from_bytes("twin", model.to_string());
    node.node
        .deploy(Function::of("placed", model).cpu("1"))
        .await;
    let request = post_with("/function/placed", &[], "");
    let rate = load * f64::from(places) / scale.service.as_secs_f64();
    let before = arrivals(Spacing::Even, rate, BEFORE, 0);
    open_loop(node.node.address, request.clone(), before).await?;
    let due = arrivals(Spacing::Poisson, rate, scale.time, seed);
    let answered = open_loop(node.node.address, request, due.clone()).await?;
    Ok(Twins {
        calls: due.len(),
        real: seen(&answered, std::slice::from_ref(&node.id)),
        played: play(&[places], scale.service, &due).await?,
    })
}
