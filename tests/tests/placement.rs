//! Calls go where there is room, by default: a function is deployed at one node,
//! nobody sets anything, and its calls run wherever they can.
//!
//! The set-ups of `tests/bench/run --only t` are here with slower functions and
//! wide slack; what they measure there is judged there. The other tests are one
//! for each rule that can be seen at the front door.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use weir_tests::bench::load::post_with;
use weir_tests::client::Reply;
use weir_tests::federation::{Member, all_meet, member};
use weir_tests::foreign::{Foreign, Manners, kind};
use weir_tests::guests::{Guest, guest};
use weir_tests::node::{Function, Node, Setup, text};
use weir_tests::placement::arrivals::{Spacing, arrivals};
use weir_tests::placement::clients::{Answered, closed_loop, open_loop};
use weir_tests::placement::ideal::percentile;
use weir_tests::placement::trials::{
    BUSY, Copyless, Scale, Three, Unlike, failing, fair, guests_beside_own, share,
};
use weir_tests::placement::{
    Held, deploy_at_first, has_code, hold, paced, roomy, secret, timed, zone,
};
use weir_tests::{eventually, pass};

/// How long something may take that a node does by itself, far more than it
/// does; short enough that a program which never does it fails soon.
const SOON: Duration = Duration::from_secs(20);

/// How long it is waited for that a peer is listed with a function.
const LISTED: Duration = Duration::from_secs(3);

/// As the benchmarks, with calls four times as long and so a quarter of them.
const SCALE: Scale = Scale {
    service: Duration::from_millis(400),
    time: Duration::from_secs(6),
    deadline: Duration::from_secs(4),
};

/// Waits until `look` answers, for as long as [`SOON`].
async fn soon<T>(fact: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    match tokio::time::timeout(SOON, eventually(fact, look)).await {
        Ok(found) => found,
        Err(_) => panic!("not within {SOON:?}: {fact}"),
    }
}

/// Waits until so many calls run at a node.
async fn runs(node: &Node, calls: u64) {
    soon(&format!("{calls} calls run"), async || {
        (node.status().await["running"] == calls).then_some(())
    })
    .await;
}

/// Deploys a function at each of them, for what is to be seen where all have
/// it; whether calls go where it was not deployed is another matter.
async fn deploy_at_each(members: &[Member], function: Function) {
    let name = function.body["service"].as_str().expect("it has a name");
    for member in members {
        member.node.deploy(function.clone()).await;
    }
    // Whoever keeps a list of that has heard it of the others then; a node need
    // not keep one.
    for other in &members[1..] {
        let listed = members[0].sees_function(&other.id, name);
        let _ = tokio::time::timeout(LISTED, listed).await;
    }
}

/// Where an answer came from; empty for the node that was called.
fn ran_on(reply: &Reply) -> &str {
    reply.header("x-weir-ran-on")
}

/// Calls of a node that run at once.
fn calls(node: &Node, name: &str, body: &str, count: usize) -> Vec<JoinHandle<Reply>> {
    let ask = || {
        node.post(&format!("/function/{name}"))
            .body(body.to_owned())
    };
    (0..count).map(|_| tokio::spawn(ask().send())).collect()
}

async fn answers(calls: Vec<JoinHandle<Reply>>) -> Vec<Reply> {
    let mut replies = Vec::new();
    for call in calls {
        replies.push(call.await.expect("a call does not panic"));
    }
    replies
}

/// How many answers each node gave; panics when one is none.
#[track_caller]
fn places(replies: &[Reply]) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for reply in replies {
        assert_eq!(reply.status, 200, "{}", reply.text());
        *places.entry(ran_on(reply).to_owned()).or_default() += 1;
    }
    places
}

/// What was kept of why a call went where it went.
async fn why(node: &Node, reply: &Reply) -> Value {
    let call = reply.header("x-weir-call-id");
    let path = format!("/weir/v1/explain/{call}");
    let why = node.manage("GET", &path).send().await;
    why.expect_status(200).json()
}

/// What clients saw that was no answer of the function.
fn failures(calls: &[Answered]) -> Vec<&Answered> {
    calls.iter().filter(|call| !call.is_answer()).collect()
}

#[tokio::test]
async fn calls_are_answered_as_by_one_queue_and_what_is_too_much_is_refused_soon() {
    let three = Three::start().await;
    for (rate, spacing, seed) in [(50.0, Spacing::Even, 1), (99.0, Spacing::Poisson, 2)] {
        let run = three.steady(&SCALE, rate, spacing, seed).await;
        let run = run.expect("clients can run");
        let (ours, ideal) = (percentile(&run.times(), 0.95), percentile(&run.ideal, 0.95));
        eprintln!(
            "{rate} {spacing}, seed {seed}: {} of {} failed, p95 {ours:?}, ideal {ideal:?}",
            failures(&run.answered).len(),
            run.answered.len()
        );
        assert!(
            failures(&run.answered).is_empty(),
            "{:?}",
            failures(&run.answered)
        );
        assert!(ours < ideal * 3, "{ours:?} against {ideal:?}");
    }
    let after = Duration::from_secs(6);
    let run = three.overload(&SCALE, Spacing::Even, 3, after).await;
    let run = run.expect("clients can run");
    let refusals = run.refusals();
    let refused = |at| percentile(&refusals, at);
    // Well after the end of the burst, and three times what a call takes.
    let calm = run.share_of_calm(Duration::from_secs(3), SCALE.service * 3);
    eprintln!(
        "150 even: {:.2} of what all can give is in time; {} refused, p50 {:?}, p90 {:?}, last \
         {:?}; {calm:.2} are quick afterwards",
        run.share_in_time(),
        refusals.len(),
        refused(0.5),
        refused(0.9),
        refused(1.0)
    );
    assert!(run.share_in_time() > 0.6, "{}", run.share_in_time());
    assert!(!refusals.is_empty(), "more came than all can run");
    assert!(refused(0.5) < SCALE.service, "{:?}", refused(0.5));
    assert!(refused(1.0) < SCALE.deadline, "{:?}", refused(1.0));
    assert!(calm > 0.9, "{calm}");
}

#[tokio::test]
async fn a_quick_node_and_a_slow_one_are_both_kept_busy() {
    let scale = Scale {
        service: Duration::from_millis(200),
        time: Duration::from_secs(5),
        ..SCALE
    };
    let nodes = Unlike::start(&scale).await;
    let share = nodes.share_of_capacity(12).await.expect("clients can run");
    // Few enough that none waits for longer than it may.
    let burst = nodes.burst(30).await.expect("all are answered");
    eprintln!("{share:.2} of the summed capacity, a burst takes {burst:.2} times the ideal");
    assert!(share > 0.6, "{share}");
    assert!(burst < 2.0, "{burst}");
}

#[tokio::test]
async fn a_node_where_a_function_fails_at_once_does_not_swallow_its_calls() {
    let scale = Scale {
        service: Duration::from_millis(200),
        ..SCALE
    };
    let answered = failing(&scale).await.expect("clients can run");
    // Half as many again as it may take to find out.
    let later = &answered[60..];
    let failed = share(later, |call| !call.is_answer());
    eprintln!(
        "{} of {} fail, {failed:.2} from the 60th on: {:?}",
        failures(&answered).len(),
        answered.len(),
        failures(&answered)
    );
    assert!(failed < 0.2, "{failed}");
}

#[tokio::test]
async fn two_overloaded_nodes_get_their_share_of_an_idle_one() {
    let (less, ran) = fair(&SCALE, 4).await.expect("clients can run");
    eprintln!("seeds 4 and 5: the lesser share of {ran} calls is {less:.2}");
    assert!(ran >= 20, "the third node ran {ran}");
    assert!(less > 0.25, "{less}");
}

#[tokio::test]
async fn the_first_call_that_spills_to_a_node_without_the_code_has_it_brought_there() {
    let nodes = Copyless::start().await;
    let spill = nodes.first_spill(0).await.expect("it is answered");
    eprintln!("{spill:?}");
    assert!(
        spill.spilt,
        "it waited for a node that has the code: {spill:?}"
    );
    assert!(spill.took < BUSY, "{spill:?}");
}

#[tokio::test]
async fn an_own_call_that_waits_for_its_own_max_closes_the_node_to_no_guest() {
    let scale = Scale {
        service: Duration::from_millis(600),
        time: Duration::from_secs(5),
        ..SCALE
    };
    let most = guests_beside_own(&scale).await.expect("clients can run");
    eprintln!("{most} guests ran at once on seven free cores");
    assert!(most >= 6, "{most}");
}

#[tokio::test]
async fn bursts_run_at_idle_neighbours_at_which_the_function_was_not_deployed() {
    let members = zone(&[2, 8, 8]).await;
    let code = guest("sleep").path().display().to_string();
    let deploy = ["deploy", "sp", "--wasm", &code, "--cpu", "1"];
    let output = members[0].node.weir(deploy).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut elsewhere = 0;
    for _ in 0..3 {
        let ran = places(&answers(calls(&members[0].node, "sp", "1000", 4)).await);
        eprintln!("a burst of four ran at {ran:?}");
        elsewhere += 4 - ran.get("").copied().unwrap_or_default();
    }
    assert!(elsewhere >= 3, "{elsewhere} of 12 ran elsewhere");
    // One of the others keeps no copy, and is used too when it is needed.
    let mut used = BTreeMap::new();
    for _ in 0..3 {
        for (place, count) in places(&answers(calls(&members[0].node, "sp", "500", 18)).await) {
            *used.entry(place).or_insert(0) += count;
        }
    }
    eprintln!("three bursts of eighteen ran at {used:?}");
    for member in &members[1..] {
        assert!(
            used.contains_key(&member.id),
            "{} was not used: {used:?}",
            member.id
        );
    }
}

/// A cloud node of four places, and where it is.
async fn cloud(first: &Member, regions: &str) -> Member {
    let token = first.token(&["--role", "cloud"]).await;
    let mut setup = roomy(4).variable("WEIR_FEDERATION_JOIN", &token);
    if !regions.is_empty() {
        setup = setup.variable("WEIR_FEDERATION_REGIONS", regions);
    }
    Member::start(setup).await
}

#[tokio::test]
async fn what_may_run_in_the_cloud_only_does() {
    let edge = roomy(1).variable("WEIR_FEDERATION_REGIONS", "west");
    let edge = Member::start(edge).await;
    let cloud = cloud(&edge, "west").await;
    edge.sees(&cloud.id, "in").await;
    let upward = timed("upward").label("weir.policy", "cloud-only");
    edge.node.deploy(upward).await;
    soon("the cloud runs it", async || {
        let reply = edge.node.call("upward", "0").await;
        (reply.status == 200).then(|| assert_eq!(ran_on(&reply), cloud.id))
    })
    .await;
}

#[tokio::test]
async fn a_node_that_names_no_region_asks_the_cloud_it_hears_of_unless_it_names_none() {
    let first = Member::start(roomy(1)).await;
    let cloud = cloud(&first, "").await;
    let closed = roomy(1)
        .variable("WEIR_FEDERATION_ZONE", "far")
        .variable("WEIR_FEDERATION_REGIONS", "none");
    let closed = first.invite(closed).await;
    all_meet(&[&first, &cloud, &closed]).await;
    for member in [&first, &closed] {
        let policy = timed("upward").label("weir.policy", "edge-cloud");
        member.node.deploy(policy).await;
        member.node.deploy(hold()).await;
    }
    let seen = first.peer(&cloud.id).await.expect("it is seen");
    let region = seen["region"].clone();
    let _full = (Held::take(&first, 1).await, Held::take(&closed, 1).await);
    let spilt = tokio::time::timeout(SOON, async {
        loop {
            let ask = first.node.post("/function/upward").body("0");
            let reply = ask.header("x-weir-deadline", "1s").send().await;
            if reply.status == 200 {
                return reply;
            }
            eprintln!("not yet: {} {}", reply.status, reply.text());
            pass(Duration::from_millis(100)).await;
        }
    });
    let spilt = spilt.await.expect("a cloud node without a region is asked");
    assert_eq!(ran_on(&spilt), cloud.id);
    assert_eq!(region, "default");
    // Its neighbour in the same place asks nobody.
    for _ in 0..4 {
        let ask = closed.node.post("/function/upward").body("0");
        let reply = ask.header("x-weir-deadline", "500ms").send().await;
        assert_ne!(reply.status, 200, "it ran on {}", ran_on(&reply));
    }
}

#[tokio::test]
async fn a_peer_without_the_secret_is_unable_by_name_and_the_call_runs_elsewhere() {
    let members = zone(&[1, 8, 2]).await;
    for member in [&members[0], &members[2]] {
        secret(member, "ms", "10").await;
    }
    let function = paced("secretive");
    let digest = guest("pace").digest;
    deploy_at_first(&members, function).await;
    members[0].node.deploy(hold()).await;
    let had = has_code(&members[1], &digest).await;
    let _full = Held::take(&members[0], 1).await;
    let mut told = None;
    for _ in 0..12 {
        let ask = members[0].node.post("/function/secretive");
        let ask = ask.header("x-weir-explain", "1");
        let reply = ask.header("x-weir-deadline", "5s").send().await;
        eprintln!("{} on {:?}", reply.status, ran_on(&reply));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(ran_on(&reply), members[2].id);
        let why = why(&members[0].node, &reply).await.to_string();
        if why.contains("unable") {
            told = Some(why);
        }
    }
    let told = told.expect("an explanation says who is unable");
    assert!(told.contains(&members[1].id), "{told}");
    assert!(told.contains("secret") && told.contains("ms"), "{told}");
    // That was looked at before any code was sent there.
    assert_eq!(has_code(&members[1], &digest).await, had);
}

#[tokio::test]
async fn a_thousand_functions_make_a_nodes_report_no_longer() {
    const FUNCTIONS: usize = 1_000;
    const TOGETHER: usize = 50;
    let host = Member::found().await;
    let token = host.token(&[]).await;
    let foreign = Foreign::join(&token, Manners::default()).await;
    let foreign = foreign.expect("it is let in");
    let reported = async || {
        // What is under way may be of before.
        foreign.heard();
        let mut lengths = Vec::new();
        soon("reports are heard", async || {
            // Something to tell.
            let held = Held::take(&host, 1).await;
            let reports = foreign.heard().into_iter();
            let reports = reports.filter(|m| m.kind == kind::REPORT && m.from == foreign.host);
            lengths.extend(reports.map(|m| m.envelope.len()));
            held.release(&host).await;
            (lengths.len() >= 3).then_some(())
        })
        .await;
        lengths.into_iter().max().unwrap_or_default()
    };
    let function = |number: usize| {
        let name = format!("f{number}");
        Function::new(&name, "sleep").setting("replicas", "1")
    };
    host.node.deploy(hold()).await;
    host.node.deploy(function(0)).await;
    let before = reported().await;
    let numbers: Vec<usize> = (1..FUNCTIONS).collect();
    for numbers in numbers.chunks(TOGETHER) {
        let created = numbers.iter().map(|number| {
            let body = function(*number).body;
            let ask = host.node.manage("POST", "/system/functions");
            async move { ask.json(&body).send().await.status }
        });
        for status in join_all(created).await {
            assert_eq!(status, 202);
        }
    }
    host.node.settled(&format!("f{}", FUNCTIONS - 1)).await;
    let after = reported().await;
    eprintln!("a report has {before} bytes with 1 function, {after} with {FUNCTIONS}");
    assert!(after < before + 1_000, "{before} bytes, then {after}");
}

#[tokio::test]
async fn a_long_body_that_a_full_peer_refuses_costs_no_call() {
    let members = zone(&[1, 2]).await;
    deploy_at_each(&members, timed("long")).await;
    // All of it is read, and more than is kept to be sent again.
    let body = format!("{}100", " ".repeat(300 << 10));
    let time = Duration::from_secs(5);
    let long = post_with("/function/long", &[], &body);
    let guests = closed_loop(members[0].node.address, long, 8, time);
    // Its own users come and go there, so that it is full at times.
    let short = post_with("/function/long", &[], "100");
    let due = arrivals(Spacing::Poisson, 12.0, time, 6);
    let own = open_loop(members[1].node.address, short, due);
    let (guests, _) = tokio::try_join!(guests, own).expect("clients can run");
    let there = guests.iter().filter(|call| !call.ran_on.is_empty()).count();
    eprintln!(
        "{} calls, {there} ran there, not answered: {:?}",
        guests.len(),
        failures(&guests)
    );
    assert!(failures(&guests).is_empty(), "{:?}", failures(&guests));
    assert!(there >= 3, "{there} of {} ran there", guests.len());
}

#[tokio::test]
async fn a_call_that_waits_moves_to_a_peer_whose_place_is_freed() {
    let members = zone(&[1, 1]).await;
    deploy_at_each(&members, timed("moving")).await;
    let [first, second] = members.as_slice() else {
        panic!("there are two");
    };
    // How long it takes is known. Not at the second: what its own users take is
    // kept for them a while.
    first.node.call("moving", "1000").await.expect_status(200);
    let long = calls(&first.node, "moving", "6000", 1);
    runs(&first.node, 1).await;
    // It finds no place here, and takes the one there.
    let short = calls(&first.node, "moving", "2000", 1);
    runs(&second.node, 1).await;
    let began = Instant::now();
    let reply = first.node.call("moving", "0").await;
    eprintln!(
        "answered after {:?} by {:?}",
        began.elapsed(),
        ran_on(&reply)
    );
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(ran_on(&reply), second.id);
    answers(short).await;
    answers(long).await;
}

/// A node of one place that knows how long a call of `queued` takes.
async fn taught() -> Node {
    let setup = Setup::new().variable("WEIR_RESOURCES_CPU", "1");
    let node = setup.start().await;
    node.deploy(timed("queued")).await;
    for _ in 0..22 {
        node.call("queued", "100").await.expect_status(200);
    }
    node
}

#[tokio::test]
async fn what_cannot_be_in_time_is_refused_at_once() {
    let node = taught().await;
    // Nine or so of them can be answered in a second.
    let limited = post_with("/function/queued", &[("x-weir-deadline", "1s")], "100");
    let answered = open_loop(node.address, limited, vec![Duration::ZERO; 40]).await;
    let answered = answered.expect("clients can run");
    let refused: Vec<_> = failures(&answered).iter().map(|call| call.took).collect();
    let most = percentile(&refused, 0.9);
    eprintln!("{} of 40 were refused, p90 {most:?}", refused.len());
    assert!((20..39).contains(&refused.len()), "{}", refused.len());
    assert!(most < Duration::from_millis(500), "{most:?}");
}

#[tokio::test]
async fn without_a_deadline_nobody_waits_for_more_than_five_seconds_and_is_told_when_to_come() {
    let node = taught().await;
    let began = Instant::now();
    let replies = answers(calls(&node, "queued", "100", 90)).await;
    let took = began.elapsed();
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status == 429).collect();
    let after: Vec<_> = refused.iter().map(|r| r.header("retry-after")).collect();
    eprintln!(
        "{} of 90 were refused, all done after {took:?}; to come again after {after:?}",
        refused.len()
    );
    assert!((20..80).contains(&refused.len()), "{}", refused.len());
    assert!(took < Duration::from_secs(8), "{took:?}");
    for after in after {
        let seconds: u64 = after.parse().expect("a number of seconds");
        assert!((2..=10).contains(&seconds), "{seconds}");
    }
}

#[tokio::test]
async fn a_guest_of_one_function_closes_no_other() {
    let members = zone(&[1, 8]).await;
    let [first, second] = members.as_slice() else {
        panic!("there are two");
    };
    let one = timed("one").label("com.openfaas.scale.max", "1");
    deploy_at_each(&members, one).await;
    deploy_at_each(&members, timed("other")).await;
    for name in ["one", "other"] {
        first.node.call(name, "100").await.expect_status(200);
    }
    let here = calls(&first.node, "other", "5000", 1);
    runs(&first.node, 1).await;
    let there = calls(&first.node, "other", "5000", 1);
    runs(&second.node, 1).await;
    let began = Instant::now();
    let reply = first.node.call("one", "0").await;
    eprintln!(
        "answered after {:?} by {:?}",
        began.elapsed(),
        ran_on(&reply)
    );
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(ran_on(&reply), second.id);
    answers(there).await;
    answers(here).await;
}

#[tokio::test]
async fn a_deadline_does_not_begin_anew_when_a_peer_dies() {
    const DEADLINE: Duration = Duration::from_secs(3);
    let mut members = zone(&[1, 1]).await;
    let again = timed("again").setting("idempotent", "true");
    deploy_at_each(&members, again).await;
    members[0].node.deploy(hold()).await;
    let _full = Held::take(&members[0], 1).await;
    let began = Instant::now();
    let ask = members[0].node.post("/function/again").body("20000");
    let ask = ask.header("x-weir-deadline", "3s").send();
    let call = tokio::spawn(async move { (ask.await, Instant::now()) });
    let mut peer = members.pop().expect("there are two");
    runs(&peer.node, 1).await;
    pass((DEADLINE * 8 / 10).saturating_sub(began.elapsed())).await;
    peer.node.kill().await;
    let killed = began.elapsed();
    let (reply, ended) = call.await.expect("a call does not panic");
    let took = ended - began;
    eprintln!("killed after {killed:?}, {} after {took:?}", reply.status);
    assert_ne!(reply.status, 200);
    // Had it begun anew, it would be as long again.
    assert!(took < killed + DEADLINE * 6 / 10, "{took:?}");
}

#[tokio::test]
async fn a_class_deadline_travels_with_its_calls() {
    let classes = "[[qos]]\nname = \"hurried\"\ndeadline = \"2s\"\n[[qos]]\nname = \"patient\"\n";
    let first = Member::start(roomy(1).config(classes)).await;
    let second = first.invite(roomy(1)).await;
    let members = [first, second];
    all_meet(&[&members[0], &members[1]]).await;
    deploy_at_each(&members, timed("slow")).await;
    let patient = hold().setting("qos", "patient");
    members[0].node.deploy(patient).await;
    let _full = Held::take(&members[0], 1).await;
    let began = Instant::now();
    let call = calls(&members[0].node, "slow", "10000", 1);
    runs(&members[1].node, 1).await;
    // It is ended where it runs, not given up by who waits for it.
    runs(&members[1].node, 0).await;
    let ended = began.elapsed();
    let reply = answers(call).await.remove(0);
    eprintln!(
        "{} {}, ended there after {ended:?}",
        reply.status,
        reply.text()
    );
    assert_eq!((reply.status, reply.header("x-weir-error")), (504, "late"));
    assert!(ended < Duration::from_secs(6), "{ended:?}");
}

#[tokio::test]
async fn a_short_deadline_reaches_a_neighbour_that_never_ran_the_module() {
    const FUNCTIONS: usize = 8;
    let members = zone(&[1, 4]).await;
    let [first, second] = members.as_slice() else {
        panic!("there are two");
    };
    for number in 0..FUNCTIONS {
        // Its code is ready there, and nothing of it runs.
        let name = format!("quick{number}");
        second.node.deploy(timed(&name)).await;
        soon("it is known", async || {
            let known = weir_tests::placement::has_heard(first, &name).await;
            known.then_some(())
        })
        .await;
    }
    first.node.deploy(hold()).await;
    let _full = Held::take(first, 1).await;
    let mut answered = 0;
    for number in 0..FUNCTIONS {
        let ask = first.node.post(&format!("/function/quick{number}"));
        let ask = ask.header("x-weir-deadline", "200ms").body("0");
        let reply = ask.send().await;
        if reply.status == 200 {
            assert_eq!(ran_on(&reply), second.id);
            answered += 1;
        } else {
            eprintln!("{} {}", reply.status, reply.text());
        }
    }
    eprintln!("{answered} of {FUNCTIONS} were answered within 200 ms");
    // A busy machine may be too slow for one or the other.
    assert!(answered >= FUNCTIONS / 4, "{answered}");
}

/// Deploys a function at the first of two, and looks whether the other still
/// believes what it says of itself.
async fn is_believed_with(first: &Member, function: Function) {
    let second = first.invite(member()).await;
    all_meet(&[first, &second]).await;
    first.node.deploy(function).await;
    first.node.deploy(hold()).await;
    for running in [1, 0] {
        let held = match running {
            0 => None,
            _ => Some(Held::take(first, 1).await),
        };
        soon("what runs there is known", async || {
            let peer = second.peer(&first.id).await?;
            (peer["state"] == "in" && peer["running"] == running).then_some(())
        })
        .await;
        drop(held);
    }
    let rejected = second.node.metric("weir_rejected_messages_total", &[]);
    assert_eq!(rejected.await, 0.0);
}

#[tokio::test]
async fn a_model_without_a_bound_does_not_mute_its_node() {
    let model = json!({"simulated": {
        "processor": {"name": "arm", "speed": 1e9, "cores": 4, "memory": 536_870_912},
        "workers": 4,
        "operations": {"offset": 4e6, "per-byte": 1e3},
        "memory": {"per-byte": 100},
        "output": "copy-input",
    }});
    let model = Guest::from_bytes("model", model.to_string());
    is_believed_with(&Member::found().await, Function::of("model", model)).await;
}

#[tokio::test]
async fn a_container_of_many_calls_does_not_mute_its_node() {
    let first = Member::start(member().containers()).await;
    let many = Function::container("many").setting("concurrency", "20000000");
    is_believed_with(&first, many).await;
}

#[tokio::test]
async fn an_explanation_says_in_words_who_was_no_candidate() {
    let first = roomy(1)
        .variable("WEIR_FEDERATION_REGIONS", "east")
        .variable("WEIR_FEDERATION_LABELS", "disk=ssd");
    let first = Member::start(first).await;
    let unlabelled = first.invite(roomy(1)).await;
    let cloud = cloud(&first, "west").await;
    all_meet(&[&first, &unlabelled, &cloud]).await;
    let picky = timed("picky").field("constraints", json!(["disk=ssd"]));
    first.node.deploy(picky).await;
    first.node.deploy(hold()).await;
    let _full = Held::take(&first, 1).await;
    let ask = first.node.post("/function/picky").body("0");
    let ask = ask.header("x-weir-explain", "1");
    let reply = ask.header("x-weir-deadline", "500ms").send().await;
    let why = why(&first.node, &reply).await.to_string();
    eprintln!("{why}");
    for (peer, reason) in [
        (&unlabelled, "constraint disk=ssd"),
        (&cloud, "no region of this node"),
    ] {
        assert!(why.contains(&peer.id) && why.contains(reason), "{why}");
    }
}
