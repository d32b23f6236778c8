//! The set-ups, each with what came of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::bench::load::post_with;
use crate::eventually_every;
use crate::federation::Member;
use crate::guests::{Guest, guest};
use crate::node::Function;

use super::arrivals::{Spacing, arrivals};
use super::clients::{Answered, closed_loop, open_loop};
use super::{deploy_at_first, has_code, hold, ideal, paced, secret, timed, zone};

/// Places of the three nodes; calls come to the first.
pub const PLACES: [u32; 3] = [1, 4, 6];

/// Places of the two whose speeds differ; calls come to the slow one.
const UNLIKE_PLACES: u32 = 4;

/// How much slower the slow one is.
const SLOWER: u32 = 4;

/// How often a fact is looked up that a time is measured until.
const LOOK: Duration = Duration::from_millis(2);

/// How long nodes are busy beside which a call is to spill: who does not spill
/// waits for that.
pub const BUSY: Duration = Duration::from_secs(3);

/// How large a trial is.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// What one call takes.
    pub service: Duration,
    /// How long calls come.
    pub time: Duration,
    /// The latest useful answer where more calls come than all can run.
    pub deadline: Duration,
}

impl Scale {
    /// What so many calls a second of a tenth of a second each come to for
    /// calls of this length.
    fn rate(&self, tenths: f64) -> f64 {
        tenths * 0.1 / self.service.as_secs_f64()
    }

    fn milliseconds(&self) -> String {
        self.service.as_millis().to_string()
    }

    /// A call of a function that is told how long to take.
    fn timed(&self, name: &str, headers: &[(&str, &str)]) -> Arc<[u8]> {
        post_with(&format!("/function/{name}"), headers, &self.milliseconds())
    }

    fn limited(&self, name: &str) -> Arc<[u8]> {
        let deadline = format!("{}ms", self.deadline.as_millis());
        self.timed(name, &[("x-weir-deadline", &deadline)])
    }
}

/// Three nodes of 1, 4 and 6 places, and a function that the first was given.
#[derive(Debug)]
pub struct Three {
    /// The nodes.
    pub members: Vec<Member>,
}

/// Calls that came at their moments, and the same in one ideal queue.
#[derive(Debug)]
pub struct Compared {
    /// How each call went.
    pub answered: Vec<Answered>,
    /// How long each takes in the ideal queue.
    pub ideal: Vec<Duration>,
}

impl Compared {
    /// The times that answered calls took.
    pub fn times(&self) -> Vec<Duration> {
        times(&self.answered)
    }
}

/// The times that answered calls took.
pub fn times(answered: &[Answered]) -> Vec<Duration> {
    let answers = answered.iter().filter(|call| call.is_answer());
    answers.map(|call| call.took).collect()
}

impl Three {
    /// Starts them.
    pub async fn start() -> Three {
        let members = zone(&PLACES).await;
        deploy_at_first(&members, timed("placed")).await;
        Three { members }
    }

    /// Has calls come at so many a second, for calls of a tenth of a second.
    ///
    /// # Errors
    /// When the clients cannot run.
    pub async fn steady(
        &self,
        scale: &Scale,
        tenths: f64,
        spacing: Spacing,
        seed: u64,
    ) -> Result<Compared> {
        let due = arrivals(spacing, scale.rate(tenths), scale.time, seed);
        let places = vec![scale.service; PLACES.iter().sum::<u32>() as usize];
        let ideal = ideal::queue(&due, &places);
        let address = self.members[0].node.address;
        let answered = open_loop(address, scale.timed("placed", &[]), due).await?;
        Ok(Compared { answered, ideal })
    }

    /// Has more calls come than all can run, and then less than half of that
    /// for `after`.
    ///
    /// # Errors
    /// When the clients cannot run.
    pub async fn overload(
        &self,
        scale: &Scale,
        spacing: Spacing,
        seed: u64,
        after: Duration,
    ) -> Result<Overload> {
        let mut due = arrivals(spacing, scale.rate(150.0), scale.time, seed);
        let calm = arrivals(spacing, scale.rate(50.0), after, seed + 1);
        due.extend(calm.into_iter().map(|at| scale.time + at));
        let address = self.members[0].node.address;
        let mut answered = open_loop(address, scale.limited("placed"), due).await?;
        let calm = answered.split_off(answered.partition_point(|call| call.due < scale.time));
        Ok(Overload {
            scale: *scale,
            burst: answered,
            calm,
        })
    }
}

/// More calls than all can run, and what came after them.
#[derive(Debug)]
pub struct Overload {
    scale: Scale,
    /// How each of the calls went that were too many.
    pub burst: Vec<Answered>,
    /// How each of those went that came afterwards.
    pub calm: Vec<Answered>,
}

impl Overload {
    /// Answers that came in time within the middle 60 % of the burst, as a share
    /// of what all places can give in that.
    pub fn share_in_time(&self) -> f64 {
        let from = self.scale.time.mul_f64(0.2);
        let until = self.scale.time.mul_f64(0.8);
        let in_time = self.burst.iter().filter(|call| {
            let ended = call.ended();
            call.is_answer() && call.took <= self.scale.deadline && ended >= from && ended < until
        });
        let places = f64::from(PLACES.iter().sum::<u32>());
        let most = places * (until - from).as_secs_f64() / self.scale.service.as_secs_f64();
        in_time.count() as f64 / most
    }

    /// How long those had to wait that got no answer of the function.
    pub fn refusals(&self) -> Vec<Duration> {
        let refused = self.burst.iter().filter(|call| !call.is_answer());
        refused.map(|call| call.took).collect()
    }

    /// The share of later calls that were answered within `limit`, of those
    /// that came when the burst had been over for `since`.
    pub fn share_of_calm(&self, since: Duration, limit: Duration) -> f64 {
        let from = self.scale.time + since;
        let later = self.calm.iter().filter(|call| call.due >= from);
        share(later, |call| call.is_answer() && call.took < limit)
    }
}

/// The share of calls for which something holds; 1 of none.
pub fn share<'a>(
    calls: impl IntoIterator<Item = &'a Answered>,
    holds: impl Fn(&Answered) -> bool,
) -> f64 {
    let (mut count, mut held) = (0_u32, 0_u32);
    for call in calls {
        count += 1;
        held += u32::from(holds(call));
    }
    match count {
        0 => 1.0,
        count => f64::from(held) / f64::from(count),
    }
}

/// Two nodes on one of which the function takes four times as long.
#[derive(Debug)]
pub struct Unlike {
    scale: Scale,
    members: Vec<Member>,
}

impl Unlike {
    /// Starts them; the quick one takes as long as `scale` says.
    pub async fn start(scale: &Scale) -> Unlike {
        let members = zone(&[UNLIKE_PLACES; 2]).await;
        let slow = (scale.service * SLOWER).as_millis().to_string();
        secret(&members[0], "ms", &slow).await;
        secret(&members[1], "ms", &scale.milliseconds()).await;
        deploy_at_first(&members, paced("unlike")).await;
        Unlike {
            scale: *scale,
            members,
        }
    }

    /// What clients that come back as soon as they are answered get, as a share
    /// of what both nodes can give.
    ///
    /// # Errors
    /// When the clients cannot run.
    pub async fn share_of_capacity(&self, clients: usize) -> Result<f64> {
        let address = self.members[0].node.address;
        let request = post_with("/function/unlike", &[], "");
        let answered = closed_loop(address, request, clients, self.scale.time).await?;
        let in_time = |call: &&Answered| call.is_answer() && call.ended() <= self.scale.time;
        let answers = answered.iter().filter(in_time).count() as f64;
        let quick = f64::from(UNLIKE_PLACES) / self.scale.service.as_secs_f64();
        let capacity = quick * (1.0 + 1.0 / f64::from(SLOWER));
        Ok(answers / (capacity * self.scale.time.as_secs_f64()))
    }

    /// When the last of so many calls that come at once is answered, as a
    /// multiple of the ideal.
    ///
    /// # Errors
    /// When the clients cannot run, or a call fails.
    pub async fn burst(&self, calls: usize) -> Result<f64> {
        let due = vec![Duration::ZERO; calls];
        let slow = [self.scale.service * SLOWER; UNLIKE_PLACES as usize];
        let quick = [self.scale.service; UNLIKE_PLACES as usize];
        let ideal = ideal::queue(&due, &[slow, quick].concat());
        let address = self.members[0].node.address;
        let answered = open_loop(address, post_with("/function/unlike", &[], ""), due).await?;
        let failed = answered.iter().find(|call| !call.is_answer());
        ensure!(failed.is_none(), "a call of the burst: {failed:?}");
        let last = |times: Vec<Duration>| times.into_iter().max().unwrap_or_default();
        Ok(last(times(&answered)).as_secs_f64() / last(ideal).as_secs_f64())
    }
}

/// Has calls come at the first of three nodes, at the second of which the
/// function fails at once. The other two have room for half as many again as
/// come, so that nobody needs the one where it fails. How the calls went, in
/// their order.
///
/// # Errors
/// When the clients cannot run.
pub async fn failing(scale: &Scale) -> Result<Vec<Answered>> {
    let members = zone(&PLACES).await;
    let half = (scale.service / 2).as_millis().to_string();
    for (member, value) in members.iter().zip([half.as_str(), "none", half.as_str()]) {
        secret(member, "ms", value).await;
    }
    deploy_at_first(&members, paced("failing")).await;
    // By chance more would come at times than the others have room for.
    let due = arrivals(Spacing::Even, scale.rate(100.0), scale.time, 0);
    let request = post_with("/function/failing", &[], "");
    open_loop(members[0].node.address, request, due).await
}

/// Overloads two nodes alike beside a third that nobody calls: what share of
/// that one's calls came from the one that sent less, and how many it ran.
///
/// # Errors
/// When the clients cannot run.
pub async fn fair(scale: &Scale, seed: u64) -> Result<(f64, usize)> {
    let members = zone(&[1, 1, 6]).await;
    deploy_at_first(&members, timed("fair")).await;
    let third = &members[2].id;
    let overload = |member: &Member, seed| {
        // Each alone has more than all three can run.
        let due = arrivals(Spacing::Poisson, scale.rate(90.0), scale.time, seed);
        open_loop(member.node.address, scale.limited("fair"), due)
    };
    let first = overload(&members[0], seed);
    let second = overload(&members[1], seed + 1);
    let (first, second) = tokio::try_join!(first, second)?;
    let sent = [first, second].map(|answered| {
        let there = |call: &&Answered| call.is_answer() && call.ran_on == *third;
        answered.iter().filter(there).count()
    });
    let all = sent[0] + sent[1];
    let less = sent[0].min(sent[1]);
    let share = if all == 0 {
        0.0
    } else {
        less as f64 / all as f64
    };
    Ok((share, all))
}

/// The first call that runs at a node without the code, and what it is made of.
#[derive(Debug, Clone)]
pub struct FirstSpill {
    /// From the call to its answer.
    pub took: Duration,
    /// Whether the node that had no copy gave it.
    pub spilt: bool,
    /// What bringing that code to a node takes alone.
    pub fetch: Duration,
    /// What compiling it takes alone.
    pub compile: Duration,
}

/// Three nodes for functions of which the third has no copy.
#[derive(Debug)]
pub struct Copyless {
    members: Vec<Member>,
}

impl Copyless {
    /// Starts them.
    pub async fn start() -> Copyless {
        Copyless {
            members: zone(&PLACES).await,
        }
    }

    /// Has the first node called for a function when it and the one of the
    /// others that has a copy are busy with that for [`BUSY`].
    ///
    /// # Errors
    /// When the call is not answered.
    pub async fn first_spill(&self, number: u64) -> Result<FirstSpill> {
        let fetch = self.fetch(number).await?;
        let compile = self.compile(number).await?;
        let name = format!("spilt{number}");
        let code = unlike_others(number * 3 + 2);
        let digest = code.digest.clone();
        deploy_at_first(&self.members, Function::of(&name, code).cpu("1")).await;
        let (mut holder, mut other) = (None, None);
        for (member, places) in self.members.iter().zip(PLACES).skip(1) {
            match has_code(member, &digest).await {
                true => holder = Some((member, places)),
                false => other = Some(member),
            }
        }
        let (holder, places) = holder.context("nobody keeps a second copy")?;
        let other = other.context("all have a copy")?;
        let first = &self.members[0];
        let busy = BUSY.as_millis().to_string();
        // So that it is known how long a place would be waited for.
        let reply = first.node.call(&name, busy.clone()).await;
        ensure!(reply.status == 200, "{}: {}", reply.status, reply.text());
        let mut keeping = Vec::new();
        for (member, places) in [(first, PLACES[0]), (holder, places)] {
            for _ in 0..places {
                let ask = member.node.post(&format!("/function/{name}"));
                keeping.push(tokio::spawn(ask.body(busy.clone()).send()));
            }
            member.node.running(u64::from(places)).await;
        }
        eventually_every(
            LOOK,
            "the one with the copy is seen to be full",
            async || {
                let peer = first.peer(&holder.id).await?;
                (peer["cpu_free"].as_f64()? < 1.0).then_some(())
            },
        )
        .await;
        let began = Instant::now();
        let reply = first.node.call(&name, "0").await;
        let took = began.elapsed();
        ensure!(reply.status == 200, "{}: {}", reply.status, reply.text());
        for call in keeping {
            call.await?;
        }
        Ok(FirstSpill {
            took,
            spilt: reply.header("x-weir-ran-on") == other.id,
            fetch,
            compile,
        })
    }

    /// From a deployment that all bring to themselves until the last has it.
    async fn fetch(&self, number: u64) -> Result<Duration> {
        let code = unlike_others(number * 3);
        let digest = code.digest.clone();
        let (first, last) = (&self.members[0], &self.members[2]);
        first.node.upload(&code).await;
        let function = Function::of(&format!("brought{number}"), code);
        let function = function
            .setting("replicas", "1")
            .setting("prefetch", "true");
        let began = Instant::now();
        let created = first.node.create(&function).await;
        ensure!(created.status == 202, "{}", created.text());
        eventually_every(LOOK, "the code is there", async || {
            has_code(last, &digest).await.then_some(())
        })
        .await;
        Ok(began.elapsed())
    }

    /// From a deployment of code that is there until it can be called.
    async fn compile(&self, number: u64) -> Result<Duration> {
        let code = unlike_others(number * 3 + 1);
        let last = &self.members[2];
        last.node.upload(&code).await;
        let name = format!("compiled{number}");
        let function = Function::of(&name, code).setting("scope", "node");
        let began = Instant::now();
        let created = last.node.create(&function).await;
        ensure!(created.status == 202, "{}", created.text());
        let state = last.node.settled(&name).await;
        ensure!(state == "ready", "{name} is {state}");
        Ok(began.elapsed())
    }
}

/// Code that nobody has: the module that waits, with a section of its own.
fn unlike_others(mark: u64) -> Guest {
    // A custom section: its length in one byte, an empty name, the mark.
    let section = [&[0_u8, 9, 0], mark.to_be_bytes().as_slice()].concat();
    let bytes = [guest("sleep").bytes.as_ref(), &section].concat();
    Guest::from_bytes("unlike", bytes)
}

/// How many guests run at once at a node of eight places, while a function of
/// its own that may run only once runs, and another call of that waits.
///
/// # Errors
/// When the clients cannot run.
pub async fn guests_beside_own(scale: &Scale) -> Result<u64> {
    let members = zone(&[1, 8]).await;
    let once = hold().label("com.openfaas.scale.max", "1");
    members[1].node.deploy(once).await;
    deploy_at_first(&members, timed("visiting")).await;
    let own = post_with("/function/hold", &[], "1000");
    let own = closed_loop(members[1].node.address, own, 2, scale.time);
    let request = scale.timed("visiting", &[]);
    let guests = closed_loop(members[0].node.address, request, 12, scale.time);
    let clients = async { tokio::try_join!(own, guests) };
    let mut clients = std::pin::pin!(clients);
    let mut most = 0;
    loop {
        tokio::select! {
            ended = &mut clients => {
                let (own, _) = ended?;
                ensure!(own.iter().all(Answered::is_answer), "an own call failed: {own:?}");
                return Ok(most);
            }
            () = crate::pass(LOOK * 5) => {
                let status = members[1].node.status().await;
                let running = status["running"].as_u64().context("a node runs calls")?;
                // The own one is among them.
                most = most.max(running.saturating_sub(1));
            }
        }
    }
}
