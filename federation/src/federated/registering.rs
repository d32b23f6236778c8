//! What is written to etcd, where that is a registry.

use std::collections::BTreeSet;
#[cfg(feature = "etcd")]
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64};

#[cfg(feature = "etcd")]
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use weir_node::id::FunctionName;

#[cfg(feature = "etcd")]
use super::EVERYBODY;
use super::{Federated, Shared};
#[cfg(feature = "etcd")]
use crate::message::{self, Message};

/// How this node and etcd stand.
#[derive(Debug, Default)]
pub struct RegistryState {
    /// Whether it is reached now.
    pub up: AtomicBool,
    /// How often it was lost, or could not be reached.
    pub failures: AtomicU64,
    /// Records that this node wrote there.
    pub writes: AtomicU64,
    /// Functions of which it may not know the newest record: no more than
    /// there are.
    pub(super) unregistered: Mutex<BTreeSet<FunctionName>>,
    /// Some were added to them.
    pub(crate) changed: Notify,
}

impl Federated {
    /// How this node and etcd stand; `None` where etcd is no registry.
    pub fn registry(&self) -> Option<&RegistryState> {
        let used = self.shared.settings.registry.is_in_etcd();
        used.then_some(&self.shared.registry)
    }

    /// Has all that is known be written to etcd, but the envelopes that are there.
    #[cfg(feature = "etcd")]
    pub(crate) fn register_all(&self, there: &HashSet<[u8; 8]>) {
        let catalogue = self.shared.catalogue.lock();
        let lacking = catalogue.iter().filter(|(_, entry)| {
            let identity = message::identity(&entry.sealed);
            !there.contains(&identity)
        });
        let lacking = lacking.map(|(name, _)| name.clone());
        self.shared.registry.unregistered.lock().extend(lacking);
        self.shared.registry.changed.notify_one();
    }

    /// Tells those who do not look into etcd what was found there.
    #[cfg(feature = "etcd")]
    pub(crate) fn pass_on(&self, envelope: &[u8]) {
        if !self.shared.settings.registry.gossips() {
            return;
        }
        if let Ok((_, Message::Record(record))) = message::open(envelope) {
            let topic = record.topic.as_deref().unwrap_or(EVERYBODY);
            self.overlay
                .publish(topic, Bytes::copy_from_slice(envelope));
        }
    }

    /// Has a function be written to etcd when that is reached again.
    #[cfg(feature = "etcd")]
    pub(crate) fn register_later(&self, name: FunctionName) {
        self.shared.registry.unregistered.lock().insert(name);
    }

    /// The next function that etcd may not know.
    #[cfg(feature = "etcd")]
    pub(crate) fn next_unregistered(&self) -> Option<FunctionName> {
        self.shared.registry.unregistered.lock().pop_first()
    }
}

impl Shared {
    /// Has a function be looked for in etcd, where that is a registry.
    pub(super) fn register(&self, name: &FunctionName) {
        if self.settings.registry.is_in_etcd() {
            self.registry.unregistered.lock().insert(name.clone());
            self.registry.changed.notify_one();
        }
    }
}
