//! Code that comes from far: through a relay that holds back each byte for half
//! a round trip, and to many at once.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::bench::Bench;
use crate::bench::report::{Row, Target, Unit, quantile};
use crate::engine::{self, OwnEngine, SERVER};
use crate::eventually_every;
use crate::federation::{Member, all_meet, member, member_at};
use crate::guests::{Guest, guest};
use crate::node::{Function, Setup, free_address};

/// What a round trip through the relay takes.
const ROUND_TRIP: Duration = Duration::from_millis(10);

/// Round trips that a cold call may take.
const ROUND_TRIPS: u32 = 6;

/// Bytes of code of that call.
const NEAR: usize = 200_000;

/// Bytes of code that many bring to them, and how many.
const MUCH: usize = 40 << 20;
const MANY: usize = 8;

/// Pieces on their way through a relay.
const ON_THE_WAY: usize = 1_024;

pub(super) async fn distance(bench: Rc<Bench>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    match cold_calls(&bench).await {
        Ok(measured) => rows.extend(measured),
        Err(error) => rows.push(Row::unmeasured(
            "a cold call from far",
            format!("{error:#}"),
        )),
    }
    match to_many(&bench).await {
        Ok(measured) => rows.push(measured),
        Err(error) => rows.push(Row::unmeasured("code to many", format!("{error:#}"))),
    }
    match images_to_many(&bench).await {
        Ok(measured) => rows.extend(measured),
        Err(error) => rows.push(Row::unmeasured("images to many", format!("{error:#}"))),
    }
    Ok(rows)
}

/// A module that is so many bytes long, and like no other.
fn padded(mark: u64, bytes: usize) -> Guest {
    let code = guest("echo").bytes;
    let mut module = code.to_vec();
    // A custom section: its length in five bytes of LEB128, an empty name.
    let filling = bytes.saturating_sub(module.len() + 6).max(9);
    module.push(0);
    let mut length = filling;
    for at in 0..5 {
        let more = if at < 4 { 0x80 } else { 0 };
        module.push(u8::try_from(length & 0x7f).expect("seven bits") | more);
        length >>= 7;
    }
    module.push(0);
    module.extend(noise(mark, filling - 1));
    Guest::from_bytes("padded", Bytes::from(module))
}

/// So many bytes that nobody can press together.
fn noise(mark: u64, bytes: usize) -> Vec<u8> {
    let mut state = mark.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    noise.flatten().take(bytes).collect()
}

/// Passes on what comes to `from`, each piece half a round trip late.
async fn relay(from: SocketAddr, to: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(from).await?;
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(to).await else {
                continue;
            };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            tokio::spawn(held_back(near_in, far_out));
            tokio::spawn(held_back(far_in, near_out));
        }
    });
    Ok(())
}

async fn held_back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    tokio::spawn(async move {
        while let Some((due, piece)) = pieces.recv().await {
            crate::pass(due.saturating_duration_since(Instant::now())).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let due = Instant::now() + ROUND_TRIP / 2;
        if sender.send((due, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn cold_calls(bench: &Bench) -> Result<Vec<Row>> {
    // Nobody knows where the first really is.
    let [links, calls, near_links, near_calls] = std::array::from_fn(|_| free_address());
    relay(near_links, links).await?;
    relay(near_calls, calls).await?;
    let advertised = format!("/ip4/{}/tcp/{}", near_links.ip(), near_links.port());
    // And it runs nothing for others, who bring its code to them.
    let first = member_at(links, calls)
        .variable("WEIR_FEDERATION_GUESTS", "0")
        .variable("WEIR_FEDERATION_ADVERTISE", &advertised)
        .variable("WEIR_FEDERATION_PEER_ADVERTISE", &near_calls.to_string());
    let first = Member::start(first).await;
    let second = first.invite(member()).await;
    all_meet(&[&first, &second]).await;
    let (mut whole, mut fetching) = (Vec::new(), Vec::new());
    for number in 0..bench.plan.repetitions {
        let name = format!("far{number}");
        let function = Function::of(&name, padded(number as u64, NEAR)).setting("replicas", "1");
        first.node.deploy(function).await;
        eventually_every(Duration::from_millis(5), "it is known", async || {
            let listed = second.node.manage("GET", "/weir/v1/catalogue").send().await;
            let listed = listed.json();
            let mut known = listed.as_array()?.iter();
            known
                .any(|known| known["name"] == name.as_str())
                .then_some(())
        })
        .await;
        let began = Instant::now();
        let reply = second.node.call(&name, "x").await;
        whole.push(began.elapsed().as_secs_f64() * 1e3);
        ensure!(reply.status == 200, "{}: {}", reply.status, reply.text());
        let timing = reply.header("server-timing").to_owned();
        let fetch = timing.split("fetch;dur=").nth(1);
        let fetch = fetch.and_then(|rest| rest.split([',', ' ', ';']).next());
        fetching.push(fetch.unwrap_or_default().parse()?);
    }
    let bound = (ROUND_TRIP * ROUND_TRIPS).as_secs_f64() * 1e3;
    let what = format!(
        "cold call of {NEAR} B of code that is {} ms away / {ROUND_TRIPS} round trips",
        ROUND_TRIP.as_millis()
    );
    let ratios: Vec<f64> = whole.iter().map(|took| took / bound).collect();
    let beside = format!(
        "{:.1} ms, of which {:.1} ms to bring it and make it ready",
        quantile(&whole, 0.5),
        quantile(&fetching, 0.5)
    );
    let row = Row::median(what, Unit::Ratio, &ratios, Target::AtMost(1.0));
    Ok(vec![row.beside(beside)])
}

/// A node, and those that bring its functions to them.
struct Field {
    first: Member,
    others: Vec<Member>,
}

impl Field {
    /// Nodes that meet; the others are set up by their number.
    async fn of(first: Setup, other: impl Fn(usize) -> Setup) -> Field {
        let first = Member::start(first).await;
        let mut others = Vec::new();
        for number in 0..MANY {
            others.push(first.invite(other(number)).await);
        }
        let all: Vec<&Member> = others.iter().chain([&first]).collect();
        all_meet(&all).await;
        Field { first, others }
    }

    /// Milliseconds from a deployment until so many of the others have the code:
    /// one that keeps it, or all.
    async fn spread(&self, name: &str, code: Guest, count: usize) -> Result<f64> {
        self.first.node.upload(&code).await;
        let digest = format!("/weir/v1/artifacts/{}", code.digest);
        let function = Function::of(name, code);
        let function = match count {
            1 => function.setting("replicas", "2"),
            _ => function
                .setting("replicas", "1")
                .setting("prefetch", "true"),
        };
        let began = Instant::now();
        let created = self.first.node.create(&function).await;
        ensure!(created.status == 202, "{}", created.text());
        eventually_every(Duration::from_millis(5), "they have the code", async || {
            let mut have = 0;
            for other in &self.others {
                let asked = other.node.manage("HEAD", &digest).send().await;
                have += usize::from(asked.status == 200);
            }
            (have >= count).then_some(())
        })
        .await;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }

    /// Bytes of code that members sent to the others so far.
    async fn sent(&self) -> f64 {
        let mut sent = 0.0;
        for other in &self.others {
            let metric = other.node.metric("weir_code_fetched_bytes_total", &[]);
            sent += metric.await;
        }
        sent
    }
}

/// How long code takes to all against to one, of several turns.
fn spreading(what: &str, bytes: usize, times: &[Vec<f64>; 2]) -> Row {
    let [one, many] = times;
    let ratios: Vec<f64> = many.iter().zip(one).map(|(many, one)| many / one).collect();
    let what = format!("{} MB of {what} to {MANY} nodes / to one", bytes >> 20);
    let beside = format!(
        "{:.0} ms against {:.0} ms",
        quantile(many, 0.5),
        quantile(one, 0.5)
    );
    Row::median(what, Unit::Ratio, &ratios, Target::Reported).beside(beside)
}

fn much(bench: &Bench) -> usize {
    match bench.plan.repetitions {
        0..=2 => MUCH / 10,
        _ => MUCH,
    }
}

async fn to_many(bench: &Bench) -> Result<Row> {
    let field = Field::of(member(), |_| member()).await;
    let bytes = much(bench);
    let mut times: [Vec<f64>; 2] = Default::default();
    for number in 0..bench.plan.repetitions {
        for (count, times) in [1, MANY].into_iter().zip(&mut times) {
            let mark = (number * 2 + usize::from(count > 1)) as u64;
            let name = format!("much{number}-{count}");
            let code = padded(mark + 1_000, bytes);
            times.push(field.spread(&name, code, count).await?);
        }
    }
    Ok(spreading("code", bytes, &times))
}

/// Images, to nodes on two engines: those on one share what it has.
async fn images_to_many(bench: &Bench) -> Result<Vec<Row>> {
    let engines = [OwnEngine::start().await, OwnEngine::start().await];
    let [socket, far] = engines.each_ref().map(OwnEngine::socket);
    engine::server_at(&socket);
    let on = |socket: &Path| {
        let socket = socket.display().to_string();
        member().config(&format!("docker.socket = {socket:?}"))
    };
    let field = Field::of(on(&socket), |number| match number % 2 {
        0 => on(&far),
        _ => on(&socket),
    })
    .await;
    let bytes = much(bench);
    let mut times: [Vec<f64>; 2] = Default::default();
    let (mut shares, mut kilobytes) = (Vec::new(), Vec::new());
    for number in 0..bench.plan.repetitions {
        for (count, times) in [1, MANY].into_iter().zip(&mut times) {
            let name = format!("image{number}-{count}");
            let image = format!("weir-test/{name}:1");
            let mark = noise((number * 2 + usize::from(count > 1)) as u64, bytes);
            let (_folder, archive) = engine::layered_at(&socket, SERVER, &mark, &image);
            let code = Guest::from_bytes(&name, std::fs::read(archive)?);
            times.push(field.spread(&name, code, count).await?);
            if count == 1 {
                continue;
            }
            // The next version has a little more, and the rest of it is there.
            let next = format!("weir-test/{name}:2");
            let (_folder, archive) = engine::layered_at(&socket, &image, b"more", &next);
            let code = Guest::from_bytes(&name, std::fs::read(archive)?);
            let whole = (code.bytes.len() * MANY) as f64;
            let before = field.sent().await;
            field.spread(&name, code, MANY).await?;
            let sent = field.sent().await - before;
            shares.push(sent / whole);
            kilobytes.push(sent / 1e3);
            for other in &field.others[..2] {
                let reply = other.node.call(&name, "x").await;
                ensure!(reply.status == 200, "{}: {}", reply.status, reply.text());
            }
        }
    }
    let what = format!(
        "next version of {} MB of image: bytes sent / whole",
        bytes >> 20
    );
    let beside = format!("{:.0} kB to {MANY} nodes", quantile(&kilobytes, 0.5));
    let version = Row::median(what, Unit::Ratio, &shares, Target::AtMost(0.1));
    let version = version.beside(beside);
    Ok(vec![spreading("image", bytes, &times), version])
}
