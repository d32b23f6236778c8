//! Who calls: clients that come whether or not those before them were answered,
//! and clients that come back as soon as they were.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::bench::load::Connection;

/// Before the first arrival: all that is to be made is made until then.
const BEGIN: Duration = Duration::from_millis(50);

/// Longest wait for one answer: twice what the longest default wait and the
/// default timeout of a function come to, so that it ends only what hangs.
const ANSWER_TIME: Duration = Duration::from_secs(120);

/// How one call went.
#[derive(Debug, Clone)]
pub struct Answered {
    /// When it was due, counted from the first moment of the run.
    pub due: Duration,
    /// From then until its whole answer was there, the client's own lateness
    /// included.
    pub took: Duration,
    /// The status; 0 when the connection broke.
    pub status: u16,
    /// The node's own word for what went wrong; empty when nothing did.
    pub error: String,
    /// The node that ran it; empty for the one that was called.
    pub ran_on: String,
}

impl Answered {
    /// Whether the function answered.
    pub fn is_answer(&self) -> bool {
        self.status == 200
    }

    /// When its answer was there, counted as [`Answered::due`] is.
    pub fn ended(&self) -> Duration {
        self.due + self.took
    }
}

/// Sends one request at each of these moments, on as many connections as it
/// takes; the answers in the order of the moments.
pub async fn open_loop(
    address: SocketAddr,
    request: Arc<[u8]>,
    arrivals: Vec<Duration>,
) -> Result<Vec<Answered>> {
    alone(move || async move {
        let idle: Arc<Mutex<Vec<Connection>>> = Arc::default();
        let start = Instant::now() + BEGIN;
        let mut calls = JoinSet::new();
        for (number, due) in arrivals.into_iter().enumerate() {
            crate::pass((start + due).saturating_duration_since(Instant::now())).await;
            let (request, idle) = (Arc::clone(&request), Arc::clone(&idle));
            calls.spawn(async move {
                let kept = idle.lock().pop();
                let mut connection = kept;
                let answered = call(&mut connection, address, &request, start, due).await;
                let mut idle = idle.lock();
                idle.extend(connection);
                (number, answered)
            });
        }
        let mut answered = calls.join_all().await;
        answered.sort_by_key(|(number, _)| *number);
        Ok(answered.into_iter().map(|(_, answered)| answered).collect())
    })
    .await
}

/// Has so many clients send the request, and again as soon as they are
/// answered, for this long; the answers in the order in which they came.
pub async fn closed_loop(
    address: SocketAddr,
    request: Arc<[u8]>,
    clients: usize,
    time: Duration,
) -> Result<Vec<Answered>> {
    alone(move || async move {
        let start = Instant::now() + BEGIN;
        let mut calls = JoinSet::new();
        for _ in 0..clients {
            let request = Arc::clone(&request);
            calls.spawn(async move {
                let (mut connection, mut all) = (None, Vec::new());
                crate::pass(start.saturating_duration_since(Instant::now())).await;
                loop {
                    let due = start.elapsed();
                    if due >= time {
                        return all;
                    }
                    all.push(call(&mut connection, address, &request, start, due).await);
                }
            });
        }
        let mut answered = calls.join_all().await.concat();
        answered.sort_by_key(Answered::ended);
        Ok(answered)
    })
    .await
}

/// Makes one call; leaves the connection behind that it used, if it is whole.
async fn call(
    connection: &mut Option<Connection>,
    address: SocketAddr,
    request: &[u8],
    start: Instant,
    due: Duration,
) -> Answered {
    let mut answered = Answered {
        due,
        took: Duration::ZERO,
        status: 0,
        error: String::new(),
        ran_on: String::new(),
    };
    let exchanged = async {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(address).await?,
        };
        let answer = open.exchange(request).await?;
        answered.status = answer.status;
        answered.error = answer.header("x-weir-error").to_owned();
        answered.ran_on = answer.header("x-weir-ran-on").to_owned();
        *connection = Some(open);
        anyhow::Ok(())
    };
    let exchanged = tokio::time::timeout(ANSWER_TIME, exchanged).await;
    match exchanged {
        Ok(Ok(())) => {}
        Ok(Err(error)) => answered.error = format!("{error:#}"),
        Err(_) => answered.error = format!("no answer in {ANSWER_TIME:?}"),
    }
    answered.took = start.elapsed().saturating_sub(due);
    answered
}

/// Runs clients on one thread of their own, which wakes no other.
async fn alone<F>(clients: impl FnOnce() -> F + Send + 'static) -> Result<Vec<Answered>>
where
    F: Future<Output = Result<Vec<Answered>>>,
{
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(clients())
    };
    tokio::task::spawn_blocking(work).await?
}
