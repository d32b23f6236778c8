//! Heartbeats on a link: one side sends, the other sends back. Both learn the
//! round trip, and both notice when the other falls silent.

use std::io;
use std::time::{Duration, Instant};

use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::swarm::Stream;
use weir_federation_core::failure::heartbeat::{HEARTBEAT_INTERVAL, LOOK_INTERVAL, Wait};
use weir_node_core::time::Time;

use crate::traffic::Sign;

/// Bytes of a heartbeat: a number, and the last round trip in microseconds.
const BYTES: usize = 12;

/// How heartbeats ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The other side said nothing for too long.
    Silent,
    /// The stream ended: whatever happened shows elsewhere.
    Closed,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Closed
    }
}

/// The sending side. `learned` hears each round trip; a `sign` of the other side
/// counts as a heartbeat.
pub(crate) async fn send(mut stream: Stream, sign: Sign, mut learned: impl FnMut(Duration)) -> End {
    let ended = async {
        let mut last = 0_u32;
        for number in 0_u64.. {
            let sent = Instant::now();
            let heartbeat = [number.to_be_bytes().as_slice(), &last.to_be_bytes()].concat();
            let mut back = [0; BYTES];
            patiently(&sign, async {
                stream.write_all(&heartbeat).await?;
                stream.flush().await?;
                stream.read_exact(&mut back).await
            })
            .await?;
            let took = sent.elapsed();
            last = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
            learned(took);
            tokio::time::sleep(HEARTBEAT_INTERVAL.saturating_sub(took)).await;
        }
        Ok::<_, End>(())
    };
    ended.await.err().unwrap_or(End::Closed)
}

/// The side that sends back.
pub(crate) async fn echo(mut stream: Stream, sign: Sign, mut learned: impl FnMut(Duration)) -> End {
    let ended = async {
        loop {
            let mut heartbeat = [0; BYTES];
            patiently(&sign, async {
                stream.read_exact(&mut heartbeat).await?;
                stream.write_all(&heartbeat).await?;
                stream.flush().await
            })
            .await?;
            let last = u32::from_be_bytes(heartbeat[8..].try_into().expect("4 of 12 bytes"));
            if last > 0 {
                learned(Duration::from_micros(last.into()));
            }
        }
        #[expect(unreachable_code, reason = "says what the block fails with")]
        Ok::<(), End>(())
    };
    ended.await.err().unwrap_or(End::Closed)
}

/// Waits as long as the other side is not silent, however late this thread's own
/// timers are. It is not while it sends calls or answers.
async fn patiently<T>(sign: &Sign, work: impl Future<Output = io::Result<T>>) -> Result<T, End> {
    let mut work = std::pin::pin!(work);
    let began = Instant::now();
    let mut wait = Wait::new(Time::ZERO);
    loop {
        tokio::select! {
            // What has arrived counts, however late this is looked at.
            biased;
            done = &mut work => return Ok(done?),
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        if wait.is_over(Time::ZERO + began.elapsed(), sign.take()) {
            return Err(End::Silent);
        }
    }
}
