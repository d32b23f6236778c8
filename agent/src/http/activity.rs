//! What happens on a connection, for its time limits: when a head began, when
//! the last answer ended, since when nobody reads.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::Limits;

/// "Not now" among the moments below.
const NONE: u64 = 0;

/// The activity of one connection. Only its own thread writes it, so relaxed
/// atomics are as good as plain fields and need no lock.
#[derive(Debug)]
pub struct Activity {
    began: Instant,
    /// Requests whose answers have not ended.
    running: AtomicU32,
    /// All requests that began, modulo 2^32.
    begun: AtomicU32,
    /// Whether requests share the connection (HTTP/2): then bytes between
    /// requests need not be a head.
    multiplexed: AtomicBool,
    /// Since when nothing runs, in milliseconds since `began`, plus one.
    idle_since: AtomicU64,
    /// When the first byte of the next head came.
    head_since: AtomicU64,
    /// Whether a part of the next head came, and not all of it.
    in_head: AtomicBool,
    /// Since when the client takes no more bytes.
    stalled_since: AtomicU64,
    /// Whether it is to end if nothing runs, and who is told.
    evicted: AtomicBool,
    evictee: AtomicWaker,
}

/// A time limit that a connection has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overdue {
    /// It has had nothing to do for too long.
    Idle,
    /// A head began and did not end.
    Head,
    /// An answer is not read.
    Stalled,
}

impl Activity {
    /// A connection that begins at `now`. Its first head is awaited from then on.
    pub fn begin(now: Instant) -> Self {
        Activity {
            began: now,
            running: AtomicU32::new(0),
            begun: AtomicU32::new(0),
            multiplexed: AtomicBool::new(false),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(1),
            in_head: AtomicBool::new(false),
            stalled_since: AtomicU64::new(NONE),
            evicted: AtomicBool::new(false),
            evictee: AtomicWaker::new(),
        }
    }

    fn moment(&self, now: Instant) -> u64 {
        let millis = now.saturating_duration_since(self.began).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1
    }

    /// Notes a request; it runs until the guard is dropped.
    pub fn begin_request(self: &Arc<Self>, multiplexed: bool) -> Busy {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.multiplexed.store(multiplexed, Ordering::Relaxed);
        self.head_read();
        Busy(Arc::clone(self))
    }

    fn head_read(&self) {
        self.head_since.store(NONE, Ordering::Relaxed);
    }

    /// Notes whether what came last ends within a head. One that began while a
    /// request ran has its time from the end of that request's answer on.
    pub fn is_in_head(&self, in_head: bool) {
        self.in_head.store(in_head, Ordering::Relaxed);
    }

    /// Notes that a handshake is done, and that the first head is awaited now.
    pub fn greeted(&self) {
        let now = self.moment(Instant::now());
        self.head_since.store(now, Ordering::Relaxed);
    }

    /// How long nothing has run at `now`; `None` while something does.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        let since = self.idle_since.load(Ordering::Relaxed);
        let idle = self.moment(now).saturating_sub(since);
        self.is_idle().then(|| Duration::from_millis(idle))
    }

    /// Asks the connection to end, as long as nothing runs on it.
    pub fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        self.evictee.wake();
    }

    /// Whether it was asked to.
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }

    /// Has whoever polls with `context` told when it is.
    pub fn tell_of_eviction(&self, context: &Context<'_>) {
        self.evictee.register(context.waker());
    }

    /// Waits until it is.
    pub async fn evicted(&self) {
        std::future::poll_fn(|context| {
            self.tell_of_eviction(context);
            match self.is_evicted() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// A number that is another after each request that begins.
    pub fn begun(&self) -> u32 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether no request runs.
    pub fn is_idle(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 0
    }

    fn read(&self) {
        // While a request runs, bytes are its body or wait for their turn.
        if self.is_idle() && self.head_since.load(Ordering::Relaxed) == NONE {
            let now = self.moment(Instant::now());
            self.head_since.store(now, Ordering::Relaxed);
        }
    }

    fn wrote(&self, blocked: bool) {
        let stalled = self.stalled_since.load(Ordering::Relaxed) != NONE;
        match (blocked, stalled) {
            (true, false) => {
                let now = self.moment(Instant::now());
                self.stalled_since.store(now, Ordering::Relaxed);
            }
            (false, true) => self.stalled_since.store(NONE, Ordering::Relaxed),
            (true, true) | (false, false) => {}
        }
    }

    /// The limit that has been passed at `now`, if any.
    pub fn overdue(&self, now: Instant, limits: &Limits) -> Option<Overdue> {
        let now = self.moment(now);
        let passed = |since: &AtomicU64, limit: Duration| {
            let since = since.load(Ordering::Relaxed);
            since != NONE && u128::from(now.saturating_sub(since)) >= limit.as_millis()
        };
        if passed(&self.stalled_since, limits.stall_timeout) {
            return Some(Overdue::Stalled);
        }
        if !self.is_idle() {
            return None;
        }
        let multiplexed = self.multiplexed.load(Ordering::Relaxed);
        if !multiplexed && passed(&self.head_since, limits.header_timeout) {
            return Some(Overdue::Head);
        }
        passed(&self.idle_since, limits.idle_timeout).then_some(Overdue::Idle)
    }
}

/// A request whose answer has not ended.
#[derive(Debug)]
pub struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        let activity = &self.0;
        if activity.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            let now = activity.moment(Instant::now());
            activity.idle_since.store(now, Ordering::Relaxed);
            if activity.in_head.load(Ordering::Relaxed) {
                activity.head_since.store(now, Ordering::Relaxed);
            }
        }
    }
}

/// A stream that notes what happens on it.
pub struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    /// Notes what happens on `stream` in `activity`.
    pub fn new(stream: S, activity: Arc<Activity>) -> Self {
        Watched { stream, activity }
    }
}

impl Watched<TcpStream> {
    /// The first byte that the client sends, which stays to be read.
    pub async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut first = [0];
        let read = self.stream.peek(&mut first).await?;
        Ok((read > 0).then_some(first[0]))
    }

    /// Answers a client that is not listened to any further.
    pub async fn refuse(&mut self, answer: &[u8]) -> io::Result<()> {
        self.stream.write_all(answer).await?;
        self.stream.shutdown().await?;
        // What it sent already would have the answer thrown away unread.
        let mut unread = [0; 4096];
        while self.stream.read(&mut unread).await? > 0 {}
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.read();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.wrote(result.is_pending());
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.activity.wrote(result.is_pending());
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            connections: 1,
            connections_per_address: 1,
            header_bytes: 1 << 16,
            header_count: 100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(30),
        }
    }

    /// What is overdue `seconds` after the beginning, once `happened`.
    fn check(seconds: u64, happened: impl Fn(&Arc<Activity>), expected: Option<Overdue>) {
        let began = Instant::now();
        let activity = Arc::new(Activity::begin(began));
        happened(&activity);
        let now = began + Duration::from_secs(seconds);
        assert_eq!(activity.overdue(now, &limits()), expected, "{seconds}");
    }

    #[test]
    fn a_connection_that_says_nothing_is_overdue_as_one_whose_head_does_not_end() {
        check(9, |_| {}, None);
        check(10, |_| {}, Some(Overdue::Head));
    }

    #[test]
    fn a_connection_is_idle_after_its_answers_and_then_overdue() {
        let answer = |activity: &Arc<Activity>| drop(activity.begin_request(false));
        check(59, answer, None);
        check(61, answer, Some(Overdue::Idle));
    }

    #[test]
    fn head_that_began_must_end() {
        check(9, |activity| activity.read(), None);
        check(11, |activity| activity.read(), Some(Overdue::Head));
    }

    #[test]
    fn running_request_is_never_idle() {
        let run = |activity: &Arc<Activity>| {
            activity.read();
            std::mem::forget(activity.begin_request(false));
            activity.read();
        };
        check(1000, run, None);
    }

    #[test]
    fn answer_that_nobody_reads_is_overdue_while_it_runs() {
        let stall = |activity: &Arc<Activity>| {
            std::mem::forget(activity.begin_request(false));
            activity.wrote(true);
        };
        check(29, stall, None);
        check(31, stall, Some(Overdue::Stalled));
    }

    #[test]
    fn bytes_between_requests_of_http2_are_no_head() {
        let ping = |activity: &Arc<Activity>| {
            drop(activity.begin_request(true));
            activity.read();
        };
        check(11, ping, None);
    }
}
