//! A call that waits: in the queue here, or for a place elsewhere.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use weir_federation_core::placement::Came;
use weir_node::invocation::Invocation;
use weir_node::node::{Declined, Moves};
use weir_node::time::Time;

use super::{Course, Turned, note};
use crate::dispatch::explained::Explanation;
use crate::dispatch::offer::Seized;
use crate::dispatch::waiting::Waiting;
use crate::policy::Reach;

impl Course<'_> {
    fn waiting(
        &self,
        invocation: &Invocation,
        turn: Option<Duration>,
        queued: bool,
    ) -> (Arc<Waiting>, oneshot::Receiver<Seized>) {
        let (sender, seized) = oneshot::channel();
        let failing = self.inner.failing(&invocation.function);
        let waiting = Waiting {
            inner: Arc::downgrade(self.inner),
            function: invocation.function.clone(),
            wanted: self.wanted().clone(),
            class: self.placement.arrival().class,
            arrived: self.placement.arrival().arrived,
            reaches: self.placement.reaches(),
            avoid: self.placement.avoid().to_vec(),
            failing: failing.into_iter().flatten().collect(),
            anywhere: self.placement.anywhere(),
            deadline: self.deadline(),
            queued,
            turn,
            seized: Mutex::new(Some(sender)),
        };
        (Arc::new(waiting), seized)
    }

    /// Waits in the queue here, for a place here or, where it `leaves`, elsewhere.
    pub(super) async fn wait_here(
        &mut self,
        mut invocation: Invocation,
        (leaves, until): (bool, Time),
        turn: Option<Duration>,
        explain: Option<&mut Explanation>,
    ) -> Turned {
        let inner = self.inner;
        let mut moves: Option<Arc<dyn Moves>> = None;
        let parked = leaves.then(|| {
            self.keep_request(&mut invocation);
            let (waiting, seized) = self.waiting(&invocation, turn, true);
            let entered = inner.waiters.enter(&waiting);
            moves = Some(waiting);
            (entered, seized)
        });
        inner
            .node
            .set_served_elsewhere(inner.waiters.served_elsewhere());
        let function = invocation.function.clone();
        // Its deadline ends its wait by itself.
        let until = match until < self.deadline() {
            true => until,
            false => Time::NEVER,
        };
        let seat = self.seat.take();
        let waited = inner.node.wait_until(invocation, moves, seat, until);
        match waited.await {
            Ok(answer) => {
                note(explain, "waited here");
                self.ended_here(&function, Ok(answer))
            }
            Err(Declined::Failed(error)) => {
                note(explain, &error.to_string());
                self.ended_here(&function, Err(error))
            }
            Err(Declined::NoRoom(back)) if until <= self.now() => {
                note(explain, "waited here for as long as its policy lets it");
                self.came(Came::WaitedEnough, *back)
            }
            Err(Declined::NoRoom(back)) => {
                note(explain, "no place was left to wait in");
                self.came(Came::PlaceTaken, *back)
            }
            Err(Declined::Left(back, seat)) => {
                self.seat = Some(seat);
                let turned = self.came(Came::LeftQueue, *back);
                let seized = parked.and_then(|(_, mut seized)| seized.try_recv().ok());
                match (seized, turned) {
                    (Some(seized), Turned::Again(back)) => {
                        self.moves_to(&seized);
                        note(explain, "waited here, and then went on");
                        let to = (seized, self.usual_onward());
                        Box::pin(self.go(to, back, None)).await
                    }
                    (_, turned) => turned,
                }
            }
        }
    }

    /// Waits for a place elsewhere, where there is none to wait for here.
    pub(super) async fn wait_elsewhere(
        &mut self,
        mut invocation: Invocation,
        limit: Duration,
        mut explain: Option<&mut Explanation>,
    ) -> Turned {
        let inner = self.inner;
        self.keep_request(&mut invocation);
        let (waiting, seized) = self.waiting(&invocation, None, false);
        let Some(_entered) = inner.waiters.enter(&waiting) else {
            note(explain, "too many wait already");
            return Turned::Ended(Err(inner.no_room()));
        };
        match tokio::time::timeout(limit, seized).await {
            Ok(Ok(seized)) => {
                self.moves_to(&seized);
                note(explain.as_deref_mut(), "waited for a place elsewhere");
                let to = (seized, self.usual_onward());
                Box::pin(self.go(to, invocation, None)).await
            }
            Ok(Err(_)) | Err(_) => {
                note(explain, "no peer had a place in time");
                self.came(Came::NobodyElsewhere, invocation)
            }
        }
    }

    /// It goes to a place for which it waited.
    fn moves_to(&mut self, seized: &Seized) {
        self.placement.moves();
        let word = match seized.reach {
            Reach::Horizontal => "horizontal",
            Reach::Vertical => "vertical",
        };
        self.inner.counters.decisions.count((word, "waited"));
    }
}
