//! One version of a function: its code, made ready once, and where that stands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use tokio::sync::watch;

use super::FunctionState;
use crate::executor::{Code, Executor, StartError};
use crate::function::FunctionSpec;
use crate::store::VersionRecord;

/// One version of a function.
pub(super) struct Version {
    pub(super) spec: Arc<FunctionSpec>,
    pub(super) code: Code,
    pub(super) executor: Arc<dyn Executor>,
    /// QoS classes that callers may name, as indices; the first is the default.
    pub(super) classes: Vec<usize>,
    /// Calls in a second that this node may run of it.
    pub(super) max_rate: Option<u32>,
    /// Counts deployments of the name, from 1.
    pub(super) version: u64,
    /// When the name was first deployed.
    pub(super) created_at: Timestamp,
    state: watch::Sender<FunctionState>,
    /// Whether it is ready only once an instance was started.
    unchecked: AtomicBool,
    /// Whether its code was made ready, or why that is in vain. Held by whoever
    /// does it, so that it is done once.
    prepared: tokio::sync::Mutex<Option<Result<(), String>>>,
}

/// What a version is made of beside its record.
pub(super) struct Parts {
    pub(super) code: Code,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) classes: Vec<usize>,
    pub(super) created_at: Timestamp,
}

impl Version {
    pub(super) fn new(record: VersionRecord, parts: Parts) -> Version {
        let unchecked = !record.checked && parts.executor.must_start();
        Version {
            classes: parts.classes,
            max_rate: record.spec.max_rate(),
            spec: Arc::new(record.spec),
            code: parts.code,
            executor: parts.executor,
            version: record.version,
            created_at: parts.created_at,
            state: watch::Sender::new(FunctionState::Preparing),
            unchecked: AtomicBool::new(unchecked),
            prepared: tokio::sync::Mutex::new(None),
        }
    }

    /// One whose code is gone.
    pub(super) fn without_code(record: VersionRecord, parts: Parts, reason: &str) -> Version {
        let version = Version {
            prepared: tokio::sync::Mutex::new(Some(Err(reason.to_owned()))),
            ..Version::new(record, parts)
        };
        version.is(FunctionState::Failed(reason.to_owned()));
        version
    }

    /// How it is kept.
    pub(super) fn record(&self) -> VersionRecord {
        VersionRecord {
            spec: (*self.spec).clone(),
            version: self.version,
            checked: !self.is_unchecked(),
        }
    }

    pub(super) fn state(&self) -> FunctionState {
        self.state.borrow().clone()
    }

    pub(super) fn is_ready(&self) -> bool {
        *self.state.borrow() == FunctionState::Ready
    }

    /// Whether an instance has still to be started before it is ready.
    pub(super) fn is_unchecked(&self) -> bool {
        self.unchecked.load(Ordering::Relaxed)
    }

    /// Notes where it stands; whether that is new.
    pub(super) fn is(&self, state: FunctionState) -> bool {
        self.state.send_if_modified(|before| {
            let is_new = *before != state;
            *before = state;
            is_new
        })
    }

    /// Takes note that an instance was started.
    pub(super) fn has_started(&self) {
        self.unchecked.store(false, Ordering::Relaxed);
        if !self.is_ready() {
            self.is(FunctionState::Ready);
        }
    }

    /// Waits until it is ready or has failed.
    pub(super) async fn settled(&self) {
        let over = |state: &FunctionState| {
            matches!(state, FunctionState::Ready | FunctionState::Failed(_))
        };
        // It fails only when this is dropped.
        let _ = self.state.subscribe().wait_for(over).await;
    }

    /// Makes the code ready to be started, unless that was done or is in vain.
    pub(super) async fn prepare(&self) -> Result<(), StartError> {
        let mut prepared = self.prepared.lock().await;
        if let Some(outcome) = &*prepared {
            return outcome.clone().map_err(StartError::Code);
        }
        let outcome = self
            .executor
            .prepare(self.spec.clone(), self.code.clone())
            .await;
        match &outcome {
            Ok(()) => {
                *prepared = Some(Ok(()));
                if !self.is_unchecked() {
                    self.is(FunctionState::Ready);
                }
            }
            Err(StartError::Code(reason) | StartError::Instance(reason)) => {
                *prepared = Some(Err(reason.clone()));
                self.fails(reason);
            }
            Err(StartError::Node(reason)) => self.waits(reason),
        }
        outcome
    }

    /// Takes note that it cannot be made ready.
    pub(super) fn fails(&self, reason: &str) {
        if self.is(FunctionState::Failed(reason.to_owned())) {
            tracing::warn!(function = %self.spec.name, %reason, "code cannot be made ready");
        }
    }

    /// Takes note of what is missing on this node.
    pub(super) fn waits(&self, reason: &str) {
        if self.is(FunctionState::Waiting(reason.to_owned())) {
            tracing::error!(function = %self.spec.name, %reason, "cannot make code ready now");
        }
    }
}
