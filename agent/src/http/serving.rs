//! One connection: its requests, and its times.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Method, Request, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;
use weir_node::clock::Moment as _;
use weir_node::panics;

use super::activity::Overdue;
use super::body;
use super::heads::{Heads, Strict};
use super::refusals::{Explained, HeadBounds};
use super::reply::Tracked;
use super::{Connection, Handler, Limits, Shared};

/// How long a connection that was asked to close may take to do so.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// What requests come on. One type for all kinds: the whole HTTP server is
/// compiled for each that it serves.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// Serves the requests of one connection, watching its times.
pub(super) async fn serve<H: Handler>(
    stream: Box<dyn Wire>,
    connection: Arc<Connection<H>>,
    shared: &Shared<H>,
) {
    let peer = connection.peer;
    let activity = Arc::clone(&connection.activity);
    let heads = Arc::<Heads>::default();
    let stream = Strict::new(stream, Arc::clone(&heads), Arc::clone(&activity));
    let bounds = HeadBounds::of(&shared.limits);
    let stream = Explained::new(stream, Arc::clone(&activity), bounds);
    let service = service_fn(move |request: Request<Incoming>| {
        let multiplexed = request.version() == Version::HTTP_2;
        let busy = connection.activity.begin_request(multiplexed);
        let tunnel = request.method() == Method::CONNECT;
        let asks = tunnel || request.headers().contains_key(UPGRADE);
        let heads = (asks && !multiplexed).then(|| Arc::clone(&heads));
        // What a member carries was bounded where it came in.
        let refused = match multiplexed && connection.member.is_none() {
            true => bounds.refuse(&request),
            false => None,
        };
        let connection = Arc::clone(&connection);
        async move {
            if let Some(refused) = refused {
                body::refuse(request.into_body());
                return Ok(refused.map(|reply| Tracked::new(reply, busy)));
            }
            // A panic here would end the connection, and with it all its calls.
            // Boxed: what wraps it is moved a few times before it begins.
            let handling = Box::pin(H::handle(Arc::clone(&connection), request));
            let handled = panics::contain(handling).await;
            let mut response = handled.unwrap_or_else(|error| connection.handler.broken(error));
            if let Some(heads) = heads {
                let status = response.status();
                let switches = status == StatusCode::SWITCHING_PROTOCOLS;
                if !heads.answered(switches || (tunnel && status.is_success())) {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
            }
            Ok::<_, Infallible>(response.map(|reply| Tracked::new(reply, busy)))
        }
    });
    let mut served = pin!(
        shared
            .builder
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
    );
    let mut stopping = pin!(shared.stop.begun.cancelled());
    let mut tick = pin!(tokio::time::sleep(shared.limits.tick()));
    let (mut armed, mut closing) = (false, None::<Instant>);
    let result = std::future::poll_fn(|context| {
        if let Poll::Ready(result) = served.as_mut().poll(context) {
            return Poll::Ready(Ok(result));
        }
        // The waker of a task does not change: what was armed once stays so,
        // and a wake for the request alone touches no lock and no timer.
        if !armed {
            armed = true;
            activity.tell_of_eviction(context);
            let _ = stopping.as_mut().poll(context);
            let _ = tick.as_mut().poll(context);
        }
        if activity.is_evicted() && activity.is_idle() {
            return Poll::Ready(Err("it was idle, and made room for others"));
        }
        if shared.stop.flag.load(Ordering::Acquire) && closing.is_none() {
            closing = Some(Instant::now());
            served.as_mut().graceful_shutdown();
            if let Poll::Ready(result) = served.as_mut().poll(context) {
                return Poll::Ready(Ok(result));
            }
        }
        while tick.is_elapsed() {
            let now = Instant::now();
            match activity.overdue(now, &shared.limits) {
                Some(Overdue::Idle) if closing.is_none() => {
                    closing = Some(now);
                    served.as_mut().graceful_shutdown();
                    if let Poll::Ready(result) = served.as_mut().poll(context) {
                        return Poll::Ready(Ok(result));
                    }
                }
                Some(Overdue::Idle) | None => {
                    let late = closing
                        .is_some_and(|since| now.saturating_duration_since(since) > CLOSE_TIME);
                    if late && activity.is_idle() {
                        return Poll::Ready(Err("closing took too long"));
                    }
                }
                Some(Overdue::Head) => return Poll::Ready(Err("the head came too slowly")),
                Some(Overdue::Stalled) => return Poll::Ready(Err("the answer was not read")),
            }
            let next = tokio::time::Instant::now().later(shared.limits.tick());
            tick.as_mut().reset(next);
            let _ = tick.as_mut().poll(context);
        }
        Poll::Pending
    })
    .await;
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%peer, %error, "connection ended"),
        Err(reason) => debug!(%peer, reason, "cut a connection"),
    }
}

impl Limits {
    /// How often a connection's times are looked at: a quarter of the shortest,
    /// and never so often that a thousand idle connections would show.
    pub(super) fn tick(&self) -> Duration {
        let shortest = self.header_timeout.min(self.idle_timeout);
        let shortest = shortest.min(self.stall_timeout);
        shortest
            .div_f64(4.0)
            .clamp(Duration::from_millis(20), Duration::from_secs(5))
    }
}
