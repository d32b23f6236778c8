//! Heartbeats on a link: one side sends, the other sends back. Both learn the
//! round trip, and both notice when the other falls silent.

use std::io;
use std::time::{Duration, Instant};

use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::swarm::Stream;

use crate::traffic::Sign;

/// How often a link is heard.
pub(crate) const INTERVAL: Duration = Duration::from_millis(500);

/// Silence that means something: two beats were lost, and half of another.
const SILENCE: Duration = Duration::from_millis(1_250);

/// A beat: a number, and the last round trip in microseconds.
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
/// counts as a beat.
pub(crate) async fn send(mut stream: Stream, sign: Sign, mut learned: impl FnMut(Duration)) -> End {
    let ended = async {
        let mut last = 0_u32;
        for number in 0_u64.. {
            let sent = Instant::now();
            let beat = [number.to_be_bytes().as_slice(), &last.to_be_bytes()].concat();
            let mut back = [0; BYTES];
            patiently(&sign, async {
                stream.write_all(&beat).await?;
                stream.flush().await?;
                stream.read_exact(&mut back).await
            })
            .await?;
            let took = sent.elapsed();
            last = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
            learned(took);
            tokio::time::sleep(INTERVAL.saturating_sub(took)).await;
        }
        Ok::<_, End>(())
    };
    ended.await.err().unwrap_or(End::Closed)
}

/// The side that sends back.
pub(crate) async fn echo(mut stream: Stream, sign: Sign, mut learned: impl FnMut(Duration)) -> End {
    let ended = async {
        loop {
            let mut beat = [0; BYTES];
            patiently(&sign, async {
                stream.read_exact(&mut beat).await?;
                stream.write_all(&beat).await?;
                stream.flush().await
            })
            .await?;
            let last = u32::from_be_bytes(beat[8..].try_into().expect("4 of 12 bytes"));
            if last > 0 {
                learned(Duration::from_micros(last.into()));
            }
        }
        #[expect(unreachable_code, reason = "says what the block fails with")]
        Ok::<(), End>(())
    };
    ended.await.err().unwrap_or(End::Closed)
}

/// Waits for [`SILENCE`], and for as much longer as this thread's own timers
/// are late: then it is this machine that is busy, not the other that is dead.
/// Nor is it while it sends calls or answers.
async fn patiently<T>(sign: &Sign, work: impl Future<Output = io::Result<T>>) -> Result<T, End> {
    let mut work = std::pin::pin!(work);
    let mut late = Duration::ZERO;
    let mut waited = Duration::ZERO;
    loop {
        let before = Instant::now();
        let step = INTERVAL / 5;
        tokio::select! {
            // What has arrived counts, however late this is looked at.
            biased;
            done = &mut work => return Ok(done?),
            () = tokio::time::sleep(step) => {}
        }
        let took = before.elapsed();
        waited += took;
        late += took.saturating_sub(step);
        if sign.take() {
            (waited, late) = (Duration::ZERO, Duration::ZERO);
        }
        if waited >= SILENCE + late {
            return Err(End::Silent);
        }
    }
}
