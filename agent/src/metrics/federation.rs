//! The families of metrics that are about other nodes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use weir_federation::dispatch::Dispatch;

use super::text::{Family, Kind, Page};

/// Writes everything that is counted of peers and of calls between nodes.
pub(super) fn write(page: &mut Page, dispatch: &Dispatch) {
    page.families(&calls(), dispatch);
    page.families(&counts(), dispatch);
    if dispatch.federated().registry().is_some() {
        page.families(&registry(), dispatch);
    }
    page.families(&state(), dispatch);
}

/// One sample, of a counter that is there.
fn count(page: &mut Page, counted: &AtomicU64) {
    page.sample(&[], counted.load(Ordering::Relaxed));
}

/// One sample for each word.
fn by_word(page: &mut Page, label: &str, counted: BTreeMap<&'static str, u64>) {
    for (word, count) in counted {
        page.sample(&[(label, word)], count);
    }
}

/// What was counted by a word.
fn counts_of(counted: &DashMap<&'static str, u64>) -> BTreeMap<&'static str, u64> {
    let counted = counted.iter();
    counted
        .map(|entry| (*entry.key(), *entry.value()))
        .collect()
}

/// Calls and messages, by what became of them.
fn calls() -> [Family<Dispatch>; 7] {
    [
        Family {
            name: "weir_offloads",
            kind: Kind::Counter,
            help: "Calls sent to a peer, by how that ended and why.",
            samples: |dispatch, page| {
                let offloads = dispatch.counters().offloads.sums().into_iter();
                let offloads = offloads.map(|((peer, outcome, reason), count)| {
                    ((peer.to_string(), outcome, reason), count)
                });
                for ((peer, outcome, reason), count) in offloads.collect::<BTreeMap<_, _>>() {
                    let peer = ("peer", peer.as_str());
                    page.sample(&[peer, ("outcome", outcome), ("reason", reason)], count);
                }
            },
        },
        Family {
            name: "weir_decisions",
            kind: Kind::Counter,
            help: "Decisions about calls, by what was chosen and what this node could do itself.",
            samples: |dispatch, page| {
                for ((choice, reason), count) in dispatch.counters().decisions.sums() {
                    page.sample(&[("choice", choice), ("reason", reason)], count);
                }
            },
        },
        Family {
            name: "weir_held_back",
            kind: Kind::Counter,
            help: "Decisions that did not offer a call to a peer that it could have gone to, by \
                   what held it back: the retry budget, the peer's throttle, its admission level.",
            samples: |dispatch, page| {
                by_word(page, "reason", dispatch.counters().held_back.sums());
            },
        },
        Family {
            name: "weir_guest_calls",
            kind: Kind::Counter,
            help: "Calls that peers sent, by how they ended.",
            samples: |dispatch, page| {
                by_word(page, "outcome", dispatch.counters().guests.sums());
            },
        },
        Family {
            name: "weir_carried_calls",
            kind: Kind::Counter,
            help: "Calls sent to peers, by what carried them.",
            samples: |dispatch, page| {
                by_word(page, "carriage", dispatch.counters().carried.sums());
            },
        },
        Family {
            name: "weir_rejected_messages",
            kind: Kind::Counter,
            help: "Messages of peers that were not believed.",
            samples: |dispatch, page| {
                let rejected = &dispatch.federated().counters().rejected;
                by_word(page, "reason", counts_of(rejected));
            },
        },
        Family {
            name: "weir_refused_connections",
            kind: Kind::Counter,
            help: "Connections that did not become a member's.",
            samples: |dispatch, page| {
                let refused = &dispatch.federated().counters().refused;
                by_word(page, "reason", counts_of(refused));
            },
        },
    ]
}

/// What is one number.
fn counts() -> [Family<Dispatch>; 15] {
    [
        Family {
            name: "weir_retries",
            kind: Kind::Counter,
            help: "Calls that were decided about again.",
            samples: |dispatch, page| count(page, &dispatch.counters().retries),
        },
        Family {
            name: "weir_suspicions",
            kind: Kind::Counter,
            help: "Peers that this node suspected.",
            samples: |dispatch, page| count(page, &dispatch.federated().counters().suspicions),
        },
        Family {
            name: "weir_refutations",
            kind: Kind::Counter,
            help: "Suspicions of itself that this node refuted.",
            samples: |dispatch, page| count(page, &dispatch.federated().counters().refuted),
        },
        Family {
            name: "weir_peer_deaths",
            kind: Kind::Counter,
            help: "Peers that were taken for dead.",
            samples: |dispatch, page| count(page, &dispatch.federated().counters().deaths),
        },
        Family {
            name: "weir_reports",
            kind: Kind::Counter,
            help: "Reports that this node sent.",
            samples: |dispatch, page| count(page, &dispatch.federated().counters().reports),
        },
        Family {
            name: "weir_code_fetched_bytes",
            kind: Kind::Counter,
            help: "Bytes of functions' code that members sent to this node.",
            samples: |dispatch, page| count(page, &dispatch.code_counters().fetched),
        },
        Family {
            name: "weir_code_reused_bytes",
            kind: Kind::Counter,
            help: "Bytes of functions' code that were not sent, since this machine had them.",
            samples: |dispatch, page| count(page, &dispatch.code_counters().reused),
        },
        Family {
            name: "weir_call_copies",
            kind: Kind::Counter,
            help: "Copies of asynchronous calls that peers kept for this node.",
            samples: |dispatch, page| count(page, &dispatch.copy_counters().made),
        },
        Family {
            name: "weir_uncopied_calls",
            kind: Kind::Counter,
            help: "Asynchronous calls refused because too few peers could keep a copy.",
            samples: |dispatch, page| count(page, &dispatch.copy_counters().refused),
        },
        Family {
            name: "weir_calls_taken_over",
            kind: Kind::Counter,
            help: "Asynchronous calls of nodes that are gone that this one took over.",
            samples: |dispatch, page| count(page, &dispatch.copy_counters().taken_over),
        },
        Family {
            name: "weir_calls_handed_over",
            kind: Kind::Counter,
            help: "Asynchronous calls that this node handed to others.",
            samples: |dispatch, page| count(page, &dispatch.copy_counters().handed),
        },
        Family {
            name: "weir_identity_conflicts",
            kind: Kind::Counter,
            help: "Signs of a node with the same identity.",
            samples: |dispatch, page| count(page, &dispatch.federated().counters().twins),
        },
        Family {
            name: "weir_gossip_published_bytes",
            kind: Kind::Counter,
            help: "Bytes of gossip that this node said first.",
            samples: |dispatch, page| {
                count(
                    page,
                    &dispatch.federated().overlay_counters().published_bytes,
                )
            },
        },
        Family {
            name: "weir_gossip_heard_bytes",
            kind: Kind::Counter,
            help: "Bytes of gossip that were news.",
            samples: |dispatch, page| {
                count(page, &dispatch.federated().overlay_counters().heard_bytes)
            },
        },
        Family {
            name: "weir_gossip_hurried",
            kind: Kind::Counter,
            help: "Messages beyond the rate of a link.",
            samples: |dispatch, page| count(page, &dispatch.federated().overlay_counters().hurried),
        },
    ]
}

/// What is counted where etcd is a registry.
fn registry() -> [Family<Dispatch>; 2] {
    [
        Family {
            name: "weir_registry_writes",
            kind: Kind::Counter,
            help: "Functions that this node wrote to etcd.",
            samples: |dispatch, page| {
                if let Some(registry) = dispatch.federated().registry() {
                    count(page, &registry.writes);
                }
            },
        },
        Family {
            name: "weir_registry_failures",
            kind: Kind::Counter,
            help: "Sessions with etcd that ended or never began.",
            samples: |dispatch, page| {
                if let Some(registry) = dispatch.federated().registry() {
                    count(page, &registry.failures);
                }
            },
        },
    ]
}

/// The federation as this node sees it.
fn state() -> [Family<Dispatch>; 3] {
    [
        Family {
            name: "weir_call_copies_kept",
            kind: Kind::Gauge,
            help: "Copies of other nodes' asynchronous calls that this node keeps.",
            samples: |dispatch, page| page.sample(&[], dispatch.copies_kept()),
        },
        Family {
            name: "weir_links",
            kind: Kind::Gauge,
            help: "Members that this node is linked to.",
            samples: |dispatch, page| count(page, &dispatch.federated().overlay_counters().links),
        },
        Family {
            name: "weir_peers",
            kind: Kind::Gauge,
            help: "Members that are known, by state.",
            samples: |dispatch, page| {
                let mut states = BTreeMap::<String, u64>::new();
                for peer in dispatch.federated().peers() {
                    *states.entry(peer.state).or_default() += 1;
                }
                for (state, count) in states {
                    page.sample(&[("state", state.as_str())], count);
                }
            },
        },
    ]
}
