//! How much is heard of one member, and how long it is waited for.

use super::accusers::{Accusation, Accusers, COUNTED_FOR, SUSPICIONS_MAX};
use super::backoff::{Backoff, PAUSE_FIRST, PAUSE_MAX};
use super::conduct::{BYTES_PER_SECOND_MAX, Conduct, LIES_MAX, MESSAGES_PER_SECOND_MAX};
use super::handshakes::{HANDSHAKES_MAX, Handshakes, KNOWN_MAX, STRANGERS_MAX};
use super::heartbeat::{LOOK_INTERVAL as HEARTBEAT_LOOK, SILENT_AFTER, Wait};
use super::shunned::{SHUNNED_FOR, Shunned};
use super::*;
use crate::peers::{PEERS, Suspicion};

/// After how many milliseconds a link is silent that is looked at `every` so
/// often, and on which something else was heard for so long.
fn silent_after(every: Duration, heard: Duration) -> u128 {
    let mut wait = Wait::new(at(0));
    let mut now = at(0);
    loop {
        now = now + every;
        let hears = now.since(at(0)) <= heard;
        if wait.is_over(now, hears) {
            return now.since(at(0)).as_millis();
        }
        assert!(now < at(600_000), "it is never silent");
    }
}

#[test]
fn a_heartbeat_has_so_long_and_as_much_longer_as_this_node_is_late() {
    let none = Duration::ZERO;
    assert_eq!(silent_after(HEARTBEAT_LOOK, none), 1_300);
    assert_eq!(SILENT_AFTER.as_millis(), 1_250);
    // Each look comes twice, or ten times, as late as it should.
    assert_eq!(silent_after(2 * HEARTBEAT_LOOK, none), 2_600);
    assert_eq!(silent_after(10 * HEARTBEAT_LOOK, none), 13_000);
    // This node was stopped for a minute.
    let mut wait = Wait::new(at(0));
    assert!(!wait.is_over(at(60_000), false));
    assert!(!wait.is_over(at(60_100), false));
    // Who sends calls, or answers them, is not silent.
    let heard = Duration::from_secs(10);
    assert_eq!(silent_after(HEARTBEAT_LOOK, heard), 11_300);
}

#[test]
fn so_many_accusations_of_one_accuser_count_in_a_minute() {
    let mut accusers = Accusers::default();
    let heard = |accusers: &mut Accusers, from, now| {
        let words = (0..2 * SUSPICIONS_MAX).filter(|_| accusers.may_accuse(from, now));
        words.count()
    };
    let most = SUSPICIONS_MAX as usize;
    assert_eq!(heard(&mut accusers, id(1), at(0)), most);
    assert_eq!(heard(&mut accusers, id(2), at(0)), most);
    assert_eq!(heard(&mut accusers, id(1), at(59_999)), 0);
    assert_eq!(heard(&mut accusers, id(1), at(0) + COUNTED_FOR), most);
}

#[test]
fn more_accusers_than_there_are_members_are_not_counted() {
    let mut accusers = Accusers::default();
    let many = PEERS as u32 + 1;
    let heard = (0..many).filter(|n| accusers.may_accuse(samples::numbered(*n), at(0)));
    assert_eq!(heard.count(), PEERS);
    let newcomer = samples::numbered(many);
    assert!(!accusers.may_accuse(newcomer, at(2_000)));
    assert!(accusers.may_accuse(newcomer, at(0) + COUNTED_FOR));
}

#[test]
fn a_suspicion_counts_against_the_life_that_is_known_and_its_own_is_refuted() {
    let own = id(OWN);
    let mut peers = Peers::new(own, 5);
    peers.hear(id(1), report(1), at(0));
    let mut accusers = Accusers::default();
    let mut hear = |from: u8, whom: PeerId, epoch| {
        accusers.hear(&mut peers, own, id(from), (whom, epoch), at(1))
    };
    let cases = [
        ("nobody knows it", 2, id(9), 1, Suspicion::Old),
        ("an earlier life", 2, id(1), 0, Suspicion::Old),
        ("a later life", 2, id(1), 2, Suspicion::Old),
        ("the life that is known", 2, id(1), 1, Suspicion::Noted),
        ("the same again", 3, id(1), 1, Suspicion::Old),
        ("an earlier life of this node", 2, own, 4, Suspicion::Old),
        ("this node", 2, own, 5, Suspicion::Refute),
        ("what it refuted", 2, own, 5, Suspicion::Old),
    ];
    for (what, from, whom, epoch, expected) in cases {
        let heard = hear(from, whom, epoch);
        assert_eq!(heard, Accusation::Heard(expected), "{what}");
    }
    // Its own words are not counted; those of others are.
    let last = |accuser: u8, hear: &mut dyn FnMut(u8, PeerId, u64) -> Accusation| {
        let words = (0..=SUSPICIONS_MAX).map(|_| hear(accuser, id(1), 1));
        words.last().expect("some")
    };
    assert_eq!(last(OWN, &mut hear), Accusation::Heard(Suspicion::Old));
    assert_eq!(last(4, &mut hear), Accusation::TooMany);
}

#[test]
fn pauses_double_from_half_a_second_to_half_a_minute() {
    let pauses = |chance| {
        let mut backoff = Backoff::default();
        let pauses = (0..8).map(|_| {
            backoff.tried(at(0), chance);
            backoff.next().since(at(0)).as_millis()
        });
        pauses.collect::<Vec<u128>>()
    };
    let doubled = [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000];
    assert_eq!(pauses(0.5), doubled);
    assert_eq!(pauses(0.0), doubled.map(|pause| pause / 2));
    assert_eq!(pauses(1.0), doubled.map(|pause| pause * 3 / 2));
    assert_eq!(
        (PAUSE_FIRST.as_millis(), PAUSE_MAX.as_millis()),
        (500, 30_000)
    );
    let mut backoff = Backoff::default();
    backoff.tried(at(0), 0.5);
    assert!(!backoff.is_due(at(499)));
    assert!(backoff.is_due(at(500)));
    backoff.succeeded();
    assert!(backoff.is_due(at(0)));
}

#[test]
fn a_link_brings_so_much_in_a_second() {
    let count = |bytes: usize, now: Time, conduct: &mut Conduct| {
        let most = 2 * MESSAGES_PER_SECOND_MAX;
        (0..most).filter(|_| conduct.may_bring(bytes, now)).count()
    };
    let mut conduct = Conduct::new(at(0));
    let most = MESSAGES_PER_SECOND_MAX as usize;
    assert_eq!(count(1, at(0), &mut conduct), most);
    assert_eq!(count(1, at(999), &mut conduct), 0);
    assert_eq!(count(1, at(1_000), &mut conduct), most);
    let large = BYTES_PER_SECOND_MAX / 4;
    assert_eq!(count(large, at(2_000), &mut conduct), 4);
}

#[test]
fn a_link_is_cut_after_so_many_lies() {
    let mut conduct = Conduct::new(at(0));
    let borne = (1..).take_while(|_| !conduct.lied()).count();
    assert_eq!(borne, LIES_MAX as usize - 1);
}

#[test]
fn who_lied_is_kept_away_for_a_minute() {
    let mut shunned = Shunned::default();
    assert_eq!(shunned.left(&id(1), at(0)), None);
    shunned.shun(id(1), at(0));
    assert_eq!(shunned.left(&id(1), at(0)), Some(SHUNNED_FOR));
    assert_eq!(shunned.left(&id(2), at(0)), None);
    assert_eq!(shunned.left(&id(1), at(60_000)), None);
    // No more than there may be members, and those of a minute ago make room.
    for number in 0..PEERS as u32 + 10 {
        shunned.shun(samples::numbered(number), at(0));
    }
    let newcomer = samples::numbered(1_000_000);
    assert_eq!(shunned.left(&newcomer, at(0)), None);
    shunned.shun(newcomer, at(60_000));
    assert_eq!(shunned.left(&newcomer, at(60_000)), Some(SHUNNED_FOR));
}

#[test]
fn a_flood_of_strangers_leaves_room_for_members() {
    let mut handshakes = Handshakes::<usize, u32>::default();
    handshakes.know(&7);
    let strangers = (0..1_000).filter(|n| handshakes.begin(*n, Some(&1)));
    assert_eq!(strangers.count(), STRANGERS_MAX);
    assert!(!handshakes.begin(1_000, None));
    let members = (2_000..3_000).filter(|n| handshakes.begin(*n, Some(&7)));
    assert_eq!(members.count(), HANDSHAKES_MAX - STRANGERS_MAX);
    // What has ended makes room for its like.
    handshakes.end(&2_000);
    assert!(!handshakes.begin(4_000, Some(&1)));
    assert!(handshakes.begin(4_000, Some(&7)));
    handshakes.end(&0);
    assert!(handshakes.begin(5_000, Some(&1)));
}

#[test]
fn the_address_that_was_known_longest_is_forgotten_first() {
    let mut handshakes = Handshakes::<usize, usize>::default();
    for address in 0..=KNOWN_MAX {
        handshakes.know(&address);
    }
    for id in 0..STRANGERS_MAX {
        assert!(handshakes.begin(id, None));
    }
    assert!(!handshakes.begin(100, Some(&0)));
    assert!(handshakes.begin(100, Some(&1)));
    assert!(handshakes.begin(101, Some(&KNOWN_MAX)));
}
