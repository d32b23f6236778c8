//! Placement: where calls go that come at one node of a zone, with the settings
//! that nobody touched and a function that was deployed at that node alone,
//! beside one ideal queue for all places.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;

use crate::bench::Bench;
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::placement::arrivals::Spacing;
use crate::placement::clients::Answered;
use crate::placement::ideal::percentile;
use crate::placement::trials::{
    Copyless, Scale, Three, Unlike, failing, fair, guests_beside_own, share,
};

/// Runs are so many turns of a plan long: half a minute in a full one.
const TURNS: u32 = 10;

/// What one call takes.
const SERVICE: Duration = Duration::from_millis(100);

/// The latest useful answer where more calls come than all can run.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long calls go on to come when the overload is over.
const CALM: Duration = Duration::from_secs(10);

/// Of arrivals by chance; printed with the figures that were made with it.
const SEED: u64 = 15;

/// How late a refusal may be beyond the moment from which the call could not
/// have been answered in time.
const REFUSAL_LATENESS: Duration = Duration::from_millis(50);

/// What the first spill may take beside fetching and compiling.
const SPILL_SLACK: f64 = 200.0;

/// Functions that spill for the first time.
const SPILLS: usize = 3;

/// What a guest's call takes: less than the second up to which guests may have
/// what own calls leave.
const VISIT: Duration = Duration::from_millis(500);

/// Calls by which it is to be known where a function fails.
const LEARNING: usize = 40;

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(super) async fn placement(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let scale = Scale {
        service: SERVICE,
        time: bench.plan.time * TURNS,
        deadline: DEADLINE,
    };
    let mut rows = Vec::new();
    // One trial that fails leaves the others their figures.
    let mut add = |what: &str, measured: Result<Vec<Row>>| match measured {
        Ok(measured) => rows.extend(measured),
        Err(error) => rows.push(Row::unmeasured(what, format!("{error:#}"))),
    };
    add("calls that all can run, and more", three(&scale).await);
    add("unlike speeds", unlike(&scale).await);
    add("a node where it fails at once", fails(&scale).await);
    add(
        "two overloaded nodes beside an idle one",
        both(&scale).await,
    );
    add("first spill", spills(&bench).await);
    add("guests beside an own call that waits", guests(&scale).await);
    Ok(rows)
}

/// What clients saw that was no answer of the function, by kind.
fn kinds(calls: &[Answered]) -> String {
    let mut kinds = std::collections::BTreeMap::<_, usize>::new();
    for call in calls.iter().filter(|call| !call.is_answer()) {
        *kinds.entry((call.status, &call.error)).or_default() += 1;
    }
    let kinds = kinds.iter();
    let kinds = kinds.map(|((status, error), count)| format!("{count} x {status} {error}"));
    kinds.collect::<Vec<_>>().join(", ")
}

async fn three(scale: &Scale) -> Result<Vec<Row>> {
    let three = Three::start().await;
    let mut rows = Vec::new();
    for (rate, spacing, seed) in [
        (50.0, Spacing::Even, SEED),
        (50.0, Spacing::Poisson, SEED + 1),
        (99.0, Spacing::Even, SEED + 2),
        (99.0, Spacing::Poisson, SEED + 3),
    ] {
        let run = three.steady(scale, rate, spacing, seed).await?;
        let what = format!("{rate} calls a second, {spacing}");
        let answered = run.times();
        let errors = run.answered.len() - answered.len();
        rows.push(
            Row::single(
                format!("{what}: errors"),
                Unit::Count,
                errors as f64,
                Target::AtMost(0.0),
            )
            .beside(format!(
                "of {}; seed {seed}; {}",
                run.answered.len(),
                kinds(&run.answered)
            )),
        );
        let ours = milliseconds(percentile(&answered, 0.99));
        let ideal = milliseconds(percentile(&run.ideal, 0.99));
        rows.push(
            Row::single(
                format!("{what}: p99 / that of the ideal queue"),
                Unit::Ratio,
                ours / ideal,
                Target::AtMost(1.4),
            )
            .beside(format!(
                "{ours:.0} ms against {ideal:.0} ms; p50 {:.0} against {:.0}",
                milliseconds(percentile(&answered, 0.5)),
                milliseconds(percentile(&run.ideal, 0.5))
            )),
        );
    }
    for (spacing, seed) in [(Spacing::Even, SEED + 4), (Spacing::Poisson, SEED + 6)] {
        rows.extend(overload(&three, scale, spacing, seed).await?);
    }
    Ok(rows)
}

async fn overload(three: &Three, scale: &Scale, spacing: Spacing, seed: u64) -> Result<Vec<Row>> {
    let run = three.overload(scale, spacing, seed, CALM).await?;
    let what = format!("150 calls a second, {spacing}");
    let refusals = run.refusals();
    let bound = scale.deadline - scale.service + REFUSAL_LATENESS;
    let refused = |at| milliseconds(percentile(&refusals, at));
    Ok(vec![
        Row::single(
            format!("{what}: answers in time / what all can give"),
            Unit::Share,
            run.share_in_time(),
            Target::AtLeast(0.95),
        )
        .beside(format!(
            "seed {seed}; deadline {DEADLINE:?}; {}",
            kinds(&run.burst)
        )),
        Row::single(
            format!("{what}: a refusal, p90"),
            Unit::Milliseconds,
            refused(0.9),
            Target::AtMost(10.0),
        )
        .beside(format!("of {}; p50 {:.0} ms", refusals.len(), refused(0.5))),
        Row::single(
            format!("{what}: the latest refusal"),
            Unit::Milliseconds,
            refused(1.0),
            Target::AtMost(milliseconds(bound)),
        ),
        Row::single(
            format!("50 calls a second, {spacing}, 2 s after that: under 150 ms"),
            Unit::Share,
            run.share_of_calm(Duration::from_secs(2), Duration::from_millis(150)),
            Target::AtLeast(0.99),
        )
        .beside(kinds(&run.calm)),
    ])
}

async fn unlike(scale: &Scale) -> Result<Vec<Row>> {
    let nodes = Unlike::start(scale).await;
    let mut rows = Vec::new();
    for clients in [8, 16] {
        rows.push(Row::single(
            format!("400 ms here, 100 ms there, {clients} clients: answers / summed capacity"),
            Unit::Share,
            nodes.share_of_capacity(clients).await?,
            Target::AtLeast(0.92),
        ));
    }
    rows.push(Row::single(
        "the same, a burst of 60 calls / ideal",
        Unit::Ratio,
        nodes.burst(60).await?,
        Target::AtMost(1.3),
    ));
    Ok(rows)
}

async fn fails(scale: &Scale) -> Result<Vec<Row>> {
    let answered = failing(scale).await?;
    let later = &answered[LEARNING.min(answered.len())..];
    let failed = share(later, |call| !call.is_answer());
    let whole = answered.iter().filter(|call| !call.is_answer()).count();
    let row = Row::single(
        format!("a node where it fails at once: calls that fail, from the {LEARNING}th on"),
        Unit::Share,
        failed,
        Target::AtMost(0.02),
    );
    Ok(vec![row.beside(format!(
        "{whole} of all {}; {}",
        answered.len(),
        kinds(&answered)
    ))])
}

async fn both(scale: &Scale) -> Result<Vec<Row>> {
    let seed = SEED + 8;
    let (less, ran) = fair(scale, seed).await?;
    let row = Row::single(
        "two overloaded nodes beside an idle one: the lesser share of it",
        Unit::Share,
        less,
        Target::AtLeast(0.4),
    );
    Ok(vec![row.beside(format!(
        "of {ran} calls; seeds {seed}, {}",
        seed + 1
    ))])
}

async fn spills(bench: &Bench) -> Result<Vec<Row>> {
    let nodes = Copyless::start().await;
    let (mut more, mut whole, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    let mut spilt = 0;
    for number in 0..SPILLS.min(bench.plan.repetitions) {
        let spill = nodes.first_spill(number as u64).await?;
        let made_of = milliseconds(spill.fetch + spill.compile);
        whole.push(milliseconds(spill.took));
        more.push(milliseconds(spill.took) - made_of);
        parts.push(made_of);
        spilt += u32::from(spill.spilt);
    }
    let row = Row::median(
        "first spill to a node without a copy, beyond fetching and compiling",
        Unit::Milliseconds,
        &more,
        Target::AtMost(SPILL_SLACK),
    );
    Ok(vec![row.beside(format!(
        "{:.0} ms against {:.0} ms of fetching and compiling alone; {spilt} of {} ran there",
        quantile(&whole, 0.5),
        quantile(&parts, 0.5),
        whole.len()
    ))])
}

async fn guests(scale: &Scale) -> Result<Vec<Row>> {
    let scale = Scale {
        service: VISIT,
        ..*scale
    };
    let most = guests_beside_own(&scale).await?;
    Ok(vec![Row::single(
        "guests at once on seven free cores, beside an own call that waits for its --max 1",
        Unit::Count,
        most as f64,
        Target::AtLeast(7.0),
    )])
}
