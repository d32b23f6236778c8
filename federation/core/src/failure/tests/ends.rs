//! What follows from how links and dials end, and from silence.

use super::*;
use crate::peers::{REFUTE_WITHIN, Standing};

const BROKE: &str = "its link broke and it is not reached: why";
const REFUSED: &str = "its link broke and it is not reached: refused, why";

/// Something that happens, and what is wished after it.
type Case<'a> = (&'a dyn Fn(&mut World), &'a [Wish]);

/// What is wished after each of some facts about the member 1, which was linked.
#[track_caller]
fn check(facts: &[Case<'_>]) {
    let mut world = World::new();
    world.linked(1).wished();
    for (number, (fact, expected)) in facts.iter().enumerate() {
        fact(&mut world);
        assert_eq!(world.wished(), *expected, "after the fact {number}");
    }
}

fn breaks(world: &mut World) {
    world.ends(1, false);
}

fn fails(end: DialEnd) -> impl Fn(&mut World) {
    move |world| {
        world.fails(1, end);
    }
}

#[test]
fn an_unclean_end_and_a_failed_redial_are_evidence_together() {
    check(&[
        (&breaks, &[dial(1)]),
        (&fails(DialEnd::Refused), &[suspect(1, REFUSED)]),
    ]);
    check(&[
        (&breaks, &[dial(1)]),
        (&fails(DialEnd::Unreached), &[suspect(1, BROKE)]),
    ]);
}

#[test]
fn a_clean_end_never_is() {
    check(&[
        (&|world| _ = world.ends(1, true), &[]),
        (&fails(DialEnd::Refused), &[]),
        (&fails(DialEnd::Unreached), &[]),
    ]);
}

#[test]
fn a_failed_dial_alone_never_is() {
    check(&[(&fails(DialEnd::Refused), &[])]);
    let mut world = World::new();
    world.hear(1, report(1)).fails(1, DialEnd::Refused);
    assert_eq!(world.wished(), []);
}

#[test]
fn who_turns_a_redial_away_lives() {
    check(&[
        (&breaks, &[dial(1)]),
        (&fails(DialEnd::TurnedAway), &[]),
        (&fails(DialEnd::Refused), &[]),
    ]);
}

#[test]
fn a_redial_that_is_dropped_without_a_word_is_tried_again_before_it_counts() {
    let again = |world: &mut World| {
        world.later(60_000).look();
        world.wishes.retain(|wish| *wish == dial(1));
        world.wishes.dedup();
    };
    check(&[
        (&breaks, &[dial(1)]),
        (&fails(DialEnd::Dropped), &[]),
        (&again, &[dial(1)]),
        (&fails(DialEnd::Dropped), &[]),
        (&again, &[dial(1)]),
        (&fails(DialEnd::Dropped), &[]),
        (&again, &[dial(1)]),
        (&fails(DialEnd::Dropped), &[suspect(1, BROKE)]),
    ]);
    // A machine that refuses then was dying when it dropped the first one.
    check(&[
        (&breaks, &[dial(1)]),
        (&fails(DialEnd::Dropped), &[]),
        (&fails(DialEnd::Refused), &[suspect(1, REFUSED)]),
    ]);
}

#[test]
fn a_redial_is_tried_again_after_a_pause_that_is_the_next_event() {
    let mut world = World::new();
    world.linked(1).look();
    world.ends(1, false).fails(1, DialEnd::Dropped);
    let next = world.links.next_event();
    assert!(next > at(0) && next <= at(0) + LOOK_INTERVAL);
}

#[test]
fn what_this_node_did_not_try_says_nothing() {
    let mut world = World::new();
    world.linked(1).ends(1, false).wished();
    for _ in 0..=REDIALS_MAX {
        world.fails(1, DialEnd::NotTried);
    }
    world.fails(1, DialEnd::Refused);
    assert_eq!(world.wished(), []);
}

#[test]
fn who_is_linked_again_before_the_redial_fails_is_not_doubted() {
    check(&[
        (&breaks, &[dial(1)]),
        (&|world| _ = world.links_to(1, false), &[]),
        (&fails(DialEnd::Refused), &[]),
    ]);
}

#[test]
fn who_cannot_be_dialled_is_suspected_when_its_link_breaks() {
    let mut world = World::new();
    let hidden = Report {
        addresses: Vec::new(),
        ..report(1)
    };
    world.hear(1, hidden);
    world.happens(Fact::LinkCame {
        peer: id(1),
        address: address(1),
        dialled: false,
        relayed: false,
        unix: 1_000,
    });
    world.ends(1, false);
    assert_eq!(world.wished(), [suspect(1, "its link broke")]);
}

#[test]
fn silence_is_evidence_and_leaves_calls_alone() {
    let silent = |denied| Fact::Silent {
        peer: id(1),
        denied,
    };
    check(&[(
        &|world| _ = world.happens(silent(false)),
        &[Wish::Close(id(1)), suspect(1, "it fell silent")],
    )]);
    let why = "it is denied";
    check(&[(
        &|world| _ = world.happens(silent(true)),
        &[Wish::Cut { peer: id(1), why }],
    )]);
}

#[test]
fn what_was_suspected_already_is_not_said_again() {
    let mut world = World::new();
    world.linked(1);
    world.peers.suspect(id(1), 1, at(0));
    world.ends(1, false).wished();
    world.fails(1, DialEnd::Refused);
    assert_eq!(world.wished(), []);
}

#[test]
fn the_dead_the_left_and_the_denied_are_not_dialled_again() {
    let mut world = World::new();
    world.linked(1).linked(2).linked(3).linked(4);
    world.peers.suspect(id(1), 1, at(0));
    world.later(2_000);
    world.peers.tick(world.now);
    world.peers.leave(id(2), 1, world.now);
    world.denied = vec![id(3)];
    world.wished();
    for number in 1..=4 {
        world.ends(number, false);
    }
    assert_eq!(world.wished(), [dial(4)]);
}

#[test]
fn who_is_dead_is_cut_unless_it_is_heard_here() {
    let mut world = World::new();
    world.linked(1).hear(2, report(2)).wished();
    world.happens(Fact::Died(id(1))).happens(Fact::Died(id(2)));
    let (peer, why) = (id(2), "it is dead");
    assert_eq!(world.wished(), [Wish::Cut { peer, why }]);
}

#[test]
fn who_lied_is_cut() {
    let (peer, why) = (id(1), "it lied");
    check(&[(
        &|world| _ = world.happens(Fact::Lied(peer)),
        &[Wish::Cut { peer, why }],
    )]);
}

#[test]
fn the_unrefuted_dies_and_a_later_life_returns() {
    let mut world = World::new();
    world.linked(1).ends(1, false).fails(1, DialEnd::Refused);
    let standing = |world: &World| world.peers.one(&id(1), world.now).expect("known").standing;
    assert!(matches!(standing(&world), Standing::Suspected { .. }));
    world.now = world.now + REFUTE_WITHIN;
    world.peers.tick(world.now);
    assert!(matches!(standing(&world), Standing::Gone { .. }));
    let back = Report {
        epoch: 2,
        ..report(1)
    };
    world.hear(1, back);
    assert_eq!(standing(&world), Standing::In);
}
