//! Whose turn it is at this node's free places: nodes that wait for one here,
//! and what is promised to them.

use std::sync::Weak;
use std::time::Duration;

use libp2p_identity::PeerId;
use tokio::sync::oneshot;
use weir_node::id::FunctionName;

use crate::dispatch::Inner;
use crate::snapshot::Cost;
use crate::turns::{self, Places, Turn, Turns, Wish};

/// A node that waits for its turn, and what for.
pub(super) struct Taker {
    wish: Wish<FunctionName>,
    told: oneshot::Sender<()>,
}

/// This node, as one that gives its places to others.
struct Giving<'a>(&'a Inner);

impl Places for Giving<'_> {
    type Function = FunctionName;
    type Taker = Taker;

    fn room(&mut self, who: &PeerId, function: &FunctionName, cost: Cost) -> u32 {
        self.0.guest_room(who, function, cost)
    }

    fn turns<T>(&mut self, does: impl FnOnce(&mut Turns) -> T) -> T {
        does(&mut self.0.federated.turns())
    }

    fn wish(&mut self, turn: Turn) -> Option<Wish<FunctionName>> {
        let taker = self.0.serving.takers.get(&turn)?;
        Some(taker.wish.clone())
    }

    fn round_trip(&mut self, to: &PeerId) -> Duration {
        self.0.federated.round_trip(to).unwrap_or_default()
    }

    fn take(&mut self, turn: Turn) -> Option<Taker> {
        let taker = self.0.serving.takers.remove(&turn);
        taker.map(|(_, taker)| taker)
    }

    fn tell(&mut self, taker: Taker) {
        // Whoever waited may have gone.
        let _ = taker.told.send(());
    }
}

impl Inner {
    /// Promises a node as many places as it wishes for and there are.
    pub(super) fn promise(&self, to: &PeerId, wish: &Wish<FunctionName>) {
        let now = self.node.clock().now();
        turns::promise(&mut Giving(self), to, wish, now);
    }

    /// Waits until a place is promised to a node in its turn, at most `wait`;
    /// whether one was.
    pub(super) async fn wait_for_turn(
        &self,
        who: PeerId,
        (function, cost, most): (&FunctionName, Cost, u32),
        wait: Duration,
    ) -> bool {
        if wait.is_zero() {
            return false;
        }
        let now = self.node.clock().now();
        let Some(turn) = self.federated.turns().wait(who, now) else {
            return false;
        };
        let (told, promised) = oneshot::channel();
        let function = function.clone();
        let wish = Wish {
            function,
            cost,
            most,
        };
        let taker = Taker { wish, told };
        self.serving.takers.insert(turn, taker);
        let _left = Left::new(self, turn);
        // A place may have become free meanwhile.
        self.serve_turns(None);
        matches!(tokio::time::timeout(wait, promised).await, Ok(Ok(())))
    }

    /// Promises places that became free to those whose turn it is; `ended` is the
    /// node one of whose calls has just ended, and what that took.
    pub(in crate::dispatch) fn serve_turns(&self, ended: Option<(PeerId, u32)>) {
        let now = self.node.clock().now();
        turns::serve(&mut Giving(self), ended, now);
    }

    /// Serves turns whenever a call of this node's own users frees a place.
    pub(in crate::dispatch) async fn watch_places(inner: Weak<Inner>) {
        loop {
            let Some(this) = inner.upgrade() else { return };
            let node = this.node.clone();
            drop(this);
            node.freed().await;
            let Some(this) = inner.upgrade() else { return };
            this.serve_turns(None);
        }
    }
}

/// Ends a turn when dropped.
struct Left<'a> {
    inner: &'a Inner,
    turn: Turn,
}

impl<'a> Left<'a> {
    /// Begins one; from now on whoever watches places is told of those that free.
    fn new(inner: &'a Inner, turn: Turn) -> Left<'a> {
        inner.node.want_freed();
        Left { inner, turn }
    }
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.inner.node.want_freed_no_more();
        let now = self.inner.node.clock().now();
        self.inner.federated.turns().leave(self.turn, now);
        self.inner.serving.takers.remove(&self.turn);
    }
}
