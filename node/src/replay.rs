//! A request that may have to be sent again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;

use crate::executor::{Body, BodyError};

/// Bytes of a body that are kept. A call with a longer one is sent once.
pub const KEPT_BYTES: usize = 256 << 10;

/// Bytes that all calls of a node keep together.
const NODE_BYTES: usize = 64 << 20;

/// What the calls of a node keep, in bytes.
#[derive(Debug, Clone, Default)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    fn take(&self, bytes: usize) -> bool {
        let more = |kept: usize| kept.checked_add(bytes).filter(|&sum| sum <= NODE_BYTES);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The head of a request, and its body as far as it was read.
pub struct Replay {
    head: Request<()>,
    source: Arc<Mutex<Source>>,
}

/// A body that is read once and told more often.
struct Source {
    rest: Body,
    /// What was read of it; `None` when that was too much to keep.
    kept: Option<Vec<Bytes>>,
    /// What that holds of the budget.
    bytes: usize,
    budget: Budget,
    ended: bool,
    /// Which reader may go on: an earlier one's time is over.
    reader: u32,
}

impl Replay {
    /// Keeps what `request` says from now on, as far as `budget` allows.
    pub fn keep(request: &mut Request<Body>, budget: &Budget) -> Replay {
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        let rest = std::mem::take(request.body_mut());
        let source = Source {
            ended: rest.is_end_stream(),
            rest,
            kept: Some(Vec::new()),
            bytes: 0,
            budget: budget.clone(),
            reader: 0,
        };
        let replay = Replay {
            head,
            source: Arc::new(Mutex::new(source)),
        };
        *request.body_mut() = replay.body();
        replay
    }

    /// The request from its beginning; `None` when that is gone.
    pub fn request(&self) -> Option<Request<Body>> {
        self.source.lock().kept.as_ref()?;
        Some(self.head.clone().map(|()| self.body()))
    }

    fn body(&self) -> Body {
        let mut source = self.source.lock();
        source.reader += 1;
        let reader = Reader {
            source: self.source.clone(),
            number: source.reader,
            told: 0,
        };
        reader.boxed_unsync()
    }
}

impl Source {
    fn keep(&mut self, piece: &Bytes) {
        let Some(kept) = &mut self.kept else {
            return;
        };
        let fits = self.bytes + piece.len() <= KEPT_BYTES;
        match fits && self.budget.take(piece.len()) {
            true => {
                self.bytes += piece.len();
                kept.push(piece.clone());
            }
            false => self.forget(),
        }
    }

    fn forget(&mut self) {
        self.kept = None;
        self.budget.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.forget();
    }
}

struct Reader {
    source: Arc<Mutex<Source>>,
    number: u32,
    /// Pieces that this one has had.
    told: usize,
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut source = this.source.lock();
        if source.reader != this.number {
            return Poll::Ready(Some(Err("the call was begun again".into())));
        }
        if let Some(piece) = source.kept.as_ref().and_then(|kept| kept.get(this.told)) {
            this.told += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        let polled = std::task::ready!(Pin::new(&mut source.rest).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let Some(piece) = frame.data_ref() {
                    source.keep(piece);
                    this.told += 1;
                }
                source.ended = source.rest.is_end_stream();
            }
            Some(Err(_)) => source.forget(),
            None => source.ended = true,
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.lock();
        let kept = source.kept.as_ref().map_or(0, Vec::len);
        source.ended && self.told >= kept
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.source.lock();
        let untold = source.kept.iter().flatten().skip(self.told);
        let untold: u64 = untold.map(|piece| piece.len() as u64).sum();
        let rest = source.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(untold + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(untold + upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    fn request(pieces: Vec<&'static [u8]>) -> Request<Body> {
        let frames = pieces.into_iter();
        let frames = frames.map(|piece| Ok(Frame::data(Bytes::from_static(piece))));
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let mut request = Request::new(Body::new(body));
        request
            .headers_mut()
            .insert("a", http::HeaderValue::from_static("b"));
        request
    }

    #[tokio::test]
    async fn a_body_is_told_again_from_its_beginning() {
        let mut first = request(vec![b"one", b"two", b"three"]);
        let replay = Replay::keep(&mut first, &Budget::default());
        let mut body = first.into_body();
        let piece = body.frame().await.expect("a piece").expect("whole");
        assert_eq!(piece.into_data().ok().as_deref(), Some(&b"one"[..]));
        let second = replay.request().expect("it was kept");
        assert_eq!(second.headers()["a"], "b");
        // Two readers of one body would each get half of it.
        assert!(body.frame().await.is_some_and(|frame| frame.is_err()));
        let whole = second.into_body().collect().await.expect("whole");
        assert_eq!(whole.to_bytes(), "onetwothree");
        let third = replay.request().expect("it was kept").into_body();
        assert_eq!(third.size_hint().lower(), 11);
        assert_eq!(
            third.collect().await.expect("whole").to_bytes(),
            "onetwothree"
        );
    }

    #[tokio::test]
    async fn a_long_body_is_told_once() {
        static PIECE: [u8; KEPT_BYTES] = [7; KEPT_BYTES];
        let mut first = request(vec![&PIECE, b"more"]);
        let replay = Replay::keep(&mut first, &Budget::default());
        let whole = first.into_body().collect().await.expect("whole");
        assert_eq!(whole.to_bytes().len(), KEPT_BYTES + 4);
        assert!(replay.request().is_none());
    }

    #[tokio::test]
    async fn a_node_keeps_no_more_than_its_budget() {
        let budget = Budget::default();
        assert!(budget.take(NODE_BYTES - 5));
        let mut requests = [request(vec![b"four"]), request(vec![b"more"])];
        let replays = requests
            .each_mut()
            .map(|request| Replay::keep(request, &budget));
        for request in requests {
            request.into_body().collect().await.expect("whole");
        }
        let again = replays.each_ref().map(|replay| replay.request().is_some());
        assert_eq!(again, [true, false]);
        drop(replays);
        assert!(budget.take(5), "what was kept is given back");
    }
}
