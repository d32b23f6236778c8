//! How a call ends without an answer, and why nobody can run it.

use std::collections::BTreeMap;

use weir_federation_core::placement::End;
use weir_node::invocation::{Invocation, InvokeError};

use super::{Course, Turned, note};
use crate::dispatch::explained::Explanation;
use crate::policy;
use crate::report::Report;

impl Course<'_> {
    /// Ends a call without an answer.
    pub(super) fn end(
        &self,
        end: End,
        invocation: &Invocation,
        explain: Option<&mut Explanation>,
    ) -> Turned {
        let error = match end {
            End::Unknown => InvokeError::Unknown(invocation.function.clone()),
            End::Refused { reason, wait } => self.inner.node.refused(reason, wait),
            End::Nowhere => InvokeError::CannotRun {
                function: invocation.function.clone(),
                reason: match self.declined.is_empty() {
                    true => self.nowhere(),
                    false => format!("no peer took it; the last one: {}", self.declined),
                },
            },
            End::Late { phase, after } => InvokeError::Late { phase, after },
            End::Lost => InvokeError::PeerLost(format!(
                "the node that had the call was lost ({}); it may have run there, and is not run \
                 again because {} is not declared idempotent",
                self.declined, invocation.function
            )),
        };
        note(explain, &error.to_string());
        Turned::Ended(Err(error))
    }

    /// Why nobody can run it, by what each lacks.
    fn nowhere(&self) -> String {
        let federated = &self.inner.federated;
        let needs = self.wanted().needs();
        let lack = |report: &Report| policy::lacks(&needs, report).map(|lack| lack.to_string());
        let here = match lack(&federated.own()) {
            Some(lack) => format!("this node lacks {lack}"),
            None => "it is not ready on this node".to_owned(),
        };
        if self.policy().reaches() == policy::Reaches::default() {
            let policy = self.policy().name();
            return format!("{here}, and its policy {policy} asks no other");
        }
        let view = federated.shared.view.load();
        let reports = view.peers.iter().map(|peer| &peer.report);
        let mut reasons = BTreeMap::<String, usize>::new();
        for report in reports.chain(view.away().map(|peer| &peer.report)) {
            let reason = match lack(report) {
                Some(lack) => format!("without {lack}"),
                None => format!(
                    "that policy {} or scope does not let be asked, or that do not have it",
                    self.policy().name()
                ),
            };
            *reasons.entry(reason).or_default() += 1;
        }
        if reasons.is_empty() {
            return format!("{here}, and it knows of no peer");
        }
        let reasons = reasons.iter().map(|(why, count)| format!("{count} {why}"));
        let reasons: Vec<_> = reasons.collect();
        format!("no node can run it: {here}; peers: {}", reasons.join(", "))
    }

    /// Whether somebody could run the function who takes no calls now, and is
    /// not gone.
    pub(super) fn is_away(&self) -> bool {
        let shared = &self.inner.federated.shared;
        let view = shared.view.load();
        let needs = self.wanted().needs();
        let mut away = view.away();
        self.wanted().bounds != policy::Bounds::Node
            && self.policy().reaches() != policy::Reaches::default()
            && away.any(|peer| policy::fits(&needs, &peer.report) && shared.is_near(&peer.report))
    }
}
