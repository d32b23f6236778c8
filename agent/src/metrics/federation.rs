//! The part of `/metrics` that is about other nodes.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use dashmap::DashMap;
use weir_federation::dispatch::Dispatch;

use super::text::{Kind, Page};

/// Writes everything that is counted of peers and of calls between nodes.
pub(super) fn write(page: &mut Page, dispatch: &Dispatch) {
    let federated = dispatch.federated();
    let (calls, peers) = (dispatch.counters(), federated.counters());
    let (overlay, copies) = (federated.overlay_counters(), dispatch.copy_counters());
    let code = dispatch.code_counters();
    page.family(
        "weir_offloads",
        Kind::Counter,
        "Calls sent to a peer, by how that ended and why.",
    );
    let offloads = calls.offloads.iter();
    let offloads = offloads.map(|entry| {
        let (peer, outcome, reason) = *entry.key();
        ((peer.to_string(), outcome, reason), *entry.value())
    });
    for ((peer, outcome, reason), count) in offloads.collect::<BTreeMap<_, _>>() {
        let labels = [
            ("peer", peer.as_str()),
            ("outcome", outcome),
            ("reason", reason),
        ];
        page.sample(&labels, count);
    }
    page.family(
        "weir_decisions",
        Kind::Counter,
        "Decisions about calls, by what was chosen and what this node could do itself.",
    );
    let decisions = calls.decisions.iter();
    let decisions = decisions.map(|entry| (*entry.key(), *entry.value()));
    for ((choice, reason), count) in decisions.collect::<BTreeMap<_, _>>() {
        page.sample(&[("choice", choice), ("reason", reason)], count);
    }
    let mut by_word = |name, label, help, counted: &DashMap<&'static str, u64>| {
        page.family(name, Kind::Counter, help);
        let counted = counted.iter().map(|entry| (*entry.key(), *entry.value()));
        for (word, count) in counted.collect::<BTreeMap<_, _>>() {
            page.sample(&[(label, word)], count);
        }
    };
    by_word(
        "weir_guest_calls",
        "outcome",
        "Calls that peers sent, by how they ended.",
        &calls.guests,
    );
    by_word(
        "weir_carried_calls",
        "carriage",
        "Calls sent to peers, by what carried them.",
        &calls.carried,
    );
    by_word(
        "weir_rejected_messages",
        "reason",
        "Messages of peers that were not believed.",
        &peers.rejected,
    );
    by_word(
        "weir_refused_connections",
        "reason",
        "Connections that did not become a member's.",
        &peers.refused,
    );
    let numbers = [
        (
            "weir_retries",
            "Calls that were decided about again.",
            &calls.retries,
        ),
        (
            "weir_suspicions",
            "Peers that this node suspected.",
            &peers.suspicions,
        ),
        (
            "weir_refutations",
            "Suspicions of itself that this node refuted.",
            &peers.refuted,
        ),
        (
            "weir_peer_deaths",
            "Peers that were taken for dead.",
            &peers.deaths,
        ),
        (
            "weir_reports",
            "Reports that this node sent.",
            &peers.reports,
        ),
        (
            "weir_code_fetched_bytes",
            "Bytes of functions' code that members sent to this node.",
            &code.fetched,
        ),
        (
            "weir_code_reused_bytes",
            "Bytes of functions' code that were not sent, since this machine had them.",
            &code.reused,
        ),
        (
            "weir_call_copies",
            "Copies of asynchronous calls that peers kept for this node.",
            &copies.made,
        ),
        (
            "weir_uncopied_calls",
            "Asynchronous calls refused because too few peers could keep a copy.",
            &copies.refused,
        ),
        (
            "weir_calls_taken_over",
            "Asynchronous calls of nodes that are gone that this one took over.",
            &copies.taken_over,
        ),
        (
            "weir_calls_handed_over",
            "Asynchronous calls that this node handed to others.",
            &copies.handed,
        ),
        (
            "weir_identity_conflicts",
            "Signs of a node with the same identity.",
            &peers.twins,
        ),
        (
            "weir_gossip_published_bytes",
            "Bytes of gossip that this node said first.",
            &overlay.published_bytes,
        ),
        (
            "weir_gossip_heard_bytes",
            "Bytes of gossip that were news.",
            &overlay.heard_bytes,
        ),
        (
            "weir_gossip_hurried",
            "Messages beyond the rate of a link.",
            &overlay.hurried,
        ),
    ];
    let registry = federated.registry();
    let registry = registry.map(|registry| {
        [
            (
                "weir_registry_writes",
                "Functions that this node wrote to etcd.",
                &registry.writes,
            ),
            (
                "weir_registry_failures",
                "Sessions with etcd that ended or never began.",
                &registry.failures,
            ),
        ]
    });
    for (name, help, count) in numbers.into_iter().chain(registry.into_iter().flatten()) {
        page.family(name, Kind::Counter, help);
        page.sample(&[], count.load(Ordering::Relaxed));
    }
    page.family(
        "weir_call_copies_kept",
        Kind::Gauge,
        "Copies of other nodes' asynchronous calls that this node keeps.",
    );
    page.sample(&[], dispatch.copies_kept() as u64);
    page.family(
        "weir_links",
        Kind::Gauge,
        "Members that this node is linked to.",
    );
    page.sample(&[], overlay.links.load(Ordering::Relaxed));
    page.family(
        "weir_peers",
        Kind::Gauge,
        "Members that are known, by state.",
    );
    let mut states = BTreeMap::<String, u64>::new();
    for peer in federated.peers() {
        *states.entry(peer.state).or_default() += 1;
    }
    for (state, count) in states {
        page.sample(&[("state", state.as_str())], count);
    }
}
