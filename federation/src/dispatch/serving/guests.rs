//! Calls of other nodes' users that are here, and what they count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use libp2p_identity::PeerId;
use weir_node::admission::Places;
use weir_node::id::FunctionName;
use weir_node::node::Capability;

use crate::answers;
use crate::dispatch::Inner;
use crate::snapshot::Cost;

/// A call of a guest, counted until this is dropped.
pub(in crate::dispatch) struct Guest {
    inner: Arc<Inner>,
    from: PeerId,
    function: FunctionName,
    cost: Cost,
    /// What it counts; nothing once it has gone on to another node.
    cpu: AtomicU32,
}

impl Guest {
    pub(super) fn new(
        inner: &Arc<Inner>,
        from: PeerId,
        function: FunctionName,
        cost: Cost,
    ) -> Guest {
        let shared = &inner.federated.shared;
        shared.guests.fetch_add(1, Ordering::Relaxed);
        *inner
            .serving
            .held()
            .entry((from, function.clone()))
            .or_default() += 1;
        let guest = Guest {
            inner: inner.clone(),
            from,
            function,
            cost,
            cpu: 0.into(),
        };
        guest.comes();
        guest
    }

    /// Whose it is, of which function, and what it takes.
    pub(super) fn asks(&self) -> (PeerId, &FunctionName, Cost) {
        (self.from, &self.function, self.cost)
    }

    /// It takes a place here, which may have been promised.
    pub(super) fn comes(&self) {
        self.cpu.store(self.cost.cpu, Ordering::Relaxed);
        let federated = &self.inner.federated;
        let counted = &federated.shared.guest_cpu[usize::from(self.cost.long)];
        counted.fetch_add(self.cost.cpu, Ordering::Relaxed);
        let now = self.inner.node.clock().now();
        federated.turns().begins(&self.from, self.cost.cpu, now);
    }

    /// It goes on to another node, or waits, and takes nothing here.
    pub(in crate::dispatch) fn leaves(&self) {
        let cpu = self.cpu.swap(0, Ordering::Relaxed);
        let shared = &self.inner.federated.shared;
        shared.guest_cpu[usize::from(self.cost.long)].fetch_sub(cpu, Ordering::Relaxed);
        self.inner.federated.turns().ends(&self.from, cpu);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.leaves();
        self.inner
            .federated
            .shared
            .guests
            .fetch_sub(1, Ordering::Relaxed);
        {
            let mut held = self.inner.serving.held();
            let key = (self.from, self.function.clone());
            if let Some(count) = held.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    held.remove(&key);
                }
            }
        }
        self.inner.serve_turns(Some((self.from, self.cost.cpu)));
    }
}

impl Inner {
    /// Calls of a function that a node may send now.
    pub(super) fn guest_room(&self, who: &PeerId, function: &FunctionName, cost: Cost) -> u32 {
        let (capability, places) = self.node.capability_for(function);
        self.guest_room_in(who, (&capability, places), cost)
    }

    /// The same, by what was just seen of the node and the function.
    fn guest_room_in(
        &self,
        who: &PeerId,
        (capability, places): (&Capability, Option<Places>),
        cost: Cost,
    ) -> u32 {
        let load = self.federated.load_by(&self.node, capability, Some(who));
        answers::guest_room(places, &load, cost)
    }

    /// Whether a call of a guest finds room now.
    pub(super) fn has_guest_room(&self, guest: &Guest) -> bool {
        let (capability, places) = self.node.capability_for(&guest.function);
        self.has_guest_room_in(guest, (&capability, places))
    }

    /// The same, by what was just seen of the node and the function.
    pub(in crate::dispatch) fn has_guest_room_in(
        &self,
        guest: &Guest,
        seen: (&Capability, Option<Places>),
    ) -> bool {
        // It counts itself already.
        let shared = &self.federated.shared;
        let counted = &shared.guest_cpu[usize::from(guest.cost.long)];
        let own = guest.cpu.load(Ordering::Relaxed);
        counted.fetch_sub(own, Ordering::Relaxed);
        let room = self.guest_room_in(&guest.from, seen, guest.cost);
        counted.fetch_add(own, Ordering::Relaxed);
        room > 0
    }
}
