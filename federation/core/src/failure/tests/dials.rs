//! Which links are kept, and who is dialled for them, asked or told.

use super::links::{
    DIALS_PER_LOOK, LINKS, PUNCH_INTERVAL, REGION_LINKS, RENEWAL_INTERVAL, SEARCH_INTERVAL,
    STRAY_INTERVAL,
};
use super::*;

/// Links to so many members of its own zone.
fn with_links(count: u8) -> World {
    let mut world = World::new();
    for number in 1..=count {
        world.linked(number);
    }
    world.look().wished();
    world
}

#[test]
fn as_many_are_dialled_as_links_are_missing() {
    for (links, expected) in [(0, DIALS_PER_LOOK), (2, 3), (4, 1), (5, 0), (8, 0)] {
        let mut world = with_links(links);
        for number in 100..120 {
            world.hear(number, report(number));
        }
        world.look();
        assert_eq!(world.dialled().len(), expected, "with {links} links");
    }
}

#[test]
fn the_one_that_was_dialled_waits_and_others_have_their_turn() {
    let mut world = World::new();
    for number in 1..=8 {
        world.hear(number, report(number));
    }
    let first = world.look().dialled();
    let second = world.look().dialled();
    let mut all = [first, second].concat();
    all.sort();
    assert_eq!(all, ids(1..=8));
    assert_eq!(world.look().dialled(), []);
    // Half of the first pause is the least, one and a half the most.
    assert_eq!(world.later(249).look().dialled(), []);
    assert!(!world.later(501).look().dialled().is_empty());
}

#[test]
fn a_region_that_is_followed_has_links_of_its_own() {
    let mut world = with_links(LINKS as u8);
    for number in 100..110 {
        world.hear(number, cloud(number, "north"));
        world.hear(number + 10, cloud(number + 10, "south"));
    }
    assert_eq!(world.look().dialled(), []);
    world.regions = vec!["north".to_owned()];
    let dialled = world.look().dialled();
    assert_eq!(dialled.len(), REGION_LINKS);
    let north = ids(100..110);
    assert!(dialled.iter().all(|peer| north.contains(peer)));
}

#[test]
fn who_left_or_is_denied_or_of_another_zone_is_not_dialled() {
    let mut world = World::new();
    let elsewhere = Report {
        zone: Some("attic".to_owned()),
        ..report(3)
    };
    world
        .hear(1, report(1))
        .hear(2, report(2))
        .hear(3, elsewhere)
        .hear(4, report(4));
    world.peers.leave(id(1), 1, at(0));
    world.look().wished();
    world.later(60_000);
    world.denied = vec![id(2)];
    for _ in 0..3 {
        world.later(60_000).look();
    }
    assert!(world.dialled().iter().all(|peer| *peer == id(4)));
}

#[test]
fn one_of_whom_nothing_was_heard_is_dialled_while_links_are_missing() {
    let found = || Fact::Found {
        peer: id(9),
        address: address(9),
        unix: 1_000,
    };
    assert_eq!(with_links(1).happens(found()).look().dialled(), [id(9)]);
    assert_eq!(with_links(5).happens(found()).look().dialled(), []);
    // It would be this node itself.
    let own = Fact::Found {
        peer: id(OWN),
        address: address(OWN),
        unix: 1_000,
    };
    assert_eq!(with_links(1).happens(own).look().dialled(), []);
}

#[test]
fn the_lost_are_tried_now_and_then_though_there_are_links_enough() {
    let mut world = with_links(LINKS as u8);
    world.hear(9, report(9)).look();
    world.peers.suspect(id(9), 1, world.now);
    world.later(2_000);
    world.peers.tick(world.now);
    world.look();
    assert_eq!(world.dialled(), []);
    world.now = at(0) + STRAY_INTERVAL;
    assert_eq!(world.look().dialled(), [id(9)]);
    assert_eq!(world.later(4_999).look().dialled(), []);
    assert_eq!(world.later(1).look().dialled(), [id(9)]);
}

#[test]
fn a_node_that_belongs_nowhere_yet_dials_whoever_is_found() {
    let mut world = World::new();
    world.is_member = false;
    for number in 1..=9 {
        world.happens(Fact::Found {
            peer: id(number),
            address: address(number),
            unix: 1_000,
        });
    }
    assert_eq!(world.look().dialled().len(), DIALS_PER_LOOK);
}

#[test]
fn those_named_are_dialled_for_ever_with_pauses_that_grow_to_half_a_minute() {
    let mut world = World::named(&[1, 2]);
    let mut dials = Vec::new();
    while dials.len() < 12 {
        world.look();
        if world.dialled() == ids([1, 2]) {
            dials.push(world.now);
        }
        world.later(250);
        assert!(world.now < at(600_000), "they are not dialled any more");
    }
    let pauses: Vec<u128> = dials
        .windows(2)
        .map(|two| two[1].since(two[0]).as_millis())
        .collect();
    assert!((250..=1_000).contains(&pauses[0]), "{pauses:?}");
    let last = pauses.last().copied().unwrap_or_default();
    assert!((15_000..=45_250).contains(&last), "{pauses:?}");
}

#[test]
fn who_is_linked_is_not_dialled_by_name() {
    let mut world = World::named(&[1, 2]);
    world.linked(1).wished();
    assert_eq!(world.look().dialled(), [id(2)]);
    world.linked(2).later(60_000).wished();
    assert_eq!(world.look().dialled(), []);
    // And at once when it is lost, whatever was before.
    world.ends(2, true).look();
    assert_eq!(world.dialled(), [id(2), id(2)]);
}

#[test]
fn who_has_few_links_asks_for_more_members() {
    for (links, asks) in [(0, false), (1, true), (2, false), (5, false)] {
        let mut world = with_links(links);
        world.now = at(0) + SEARCH_INTERVAL;
        world.look();
        let asked = |wishes: Vec<Wish>| wishes.contains(&Wish::Ask);
        assert_eq!(asked(world.wished()), asks, "with {links} links");
        world.later(59_999).look();
        assert!(!asked(world.wished()));
    }
}

#[test]
fn whoever_is_heard_and_doubted_by_others_is_told() {
    let mut world = with_links(2);
    world.hear(3, report(3));
    for number in [1, 3] {
        world.peers.suspect(id(number), 1, world.now);
    }
    world.look();
    let told = Wish::Tell {
        peer: id(1),
        epoch: 1,
    };
    let tells = world.wished();
    let tells: Vec<_> = tells
        .iter()
        .filter(|w| matches!(w, Wish::Tell { .. }))
        .collect();
    assert_eq!(tells, [&told]);
}

#[test]
fn a_link_to_one_whose_membership_is_over_is_cut() {
    let mut world = with_links(5);
    world.strangers = vec![id(2)];
    world.look();
    let (peer, why) = (id(2), "its membership is over");
    assert_eq!(world.wished(), [Wish::Cut { peer, why }]);
}

#[test]
fn a_worn_certificate_is_renewed_by_a_new_link_to_whoever_invited() {
    let mut world = World::named(&[1]);
    for number in 1..=5 {
        world.linked(number);
    }
    let life = Duration::from_secs(86_400);
    world.wants_renewal = Some(life);
    assert!(world.look().wished().contains(&Wish::Renew(id(1))));
    // Before the other side does: who dials is who is renewed. It is no evidence.
    world.ends(1, false);
    assert_eq!(world.wished(), [dial(1)]);
    world.fails(1, DialEnd::Refused);
    assert_eq!(world.wished(), []);
    world.links_to(1, false).look().wished();
    world.now = at(0) + RENEWAL_INTERVAL;
    assert!(world.look().wished().contains(&Wish::Renew(id(1))));
    // Certificates that are good for seconds are renewed sooner.
    world.wants_renewal = Some(Duration::from_secs(8));
    world.links_to(1, false);
    assert!(
        world
            .later(1_000)
            .look()
            .wished()
            .contains(&Wish::Renew(id(1)))
    );
}

#[test]
fn who_cannot_be_dialled_asks_two_that_are_linked_directly_to_carry() {
    let mut world = World::new();
    world.hear(1, report(1)).links_to(1, true);
    for number in 2..=5 {
        world.linked(number);
    }
    let asked = |world: &mut World| {
        let wishes = world.look().wished().into_iter();
        let asked = wishes.filter_map(|wish| match wish {
            Wish::RelayOver { peer, .. } => Some(peer),
            _ => None,
        });
        asked.collect::<Vec<PeerId>>()
    };
    assert_eq!(asked(&mut world), []);
    world.wants_relay = true;
    let first = asked(&mut world);
    assert_eq!(first.len(), 2);
    assert!(!first.contains(&id(1)));
    assert_eq!(asked(world.later(4_999)), []);
    assert_eq!(asked(world.later(1)), first);
}

#[test]
fn who_is_linked_over_a_relay_is_met_there_again_by_one_of_the_two() {
    let circuit = "/ip4/192.0.2.9/tcp/4001/p2p-circuit".to_owned();
    let mut met = Vec::new();
    for number in 1..=5 {
        let mut world = World::new();
        let hidden = Report {
            addresses: vec![circuit.clone()],
            ..report(number)
        };
        world.hear(number, hidden).links_to(number, true);
        world.now = at(0) + PUNCH_INTERVAL;
        let punch = Wish::Punch {
            peer: id(number),
            over: vec![circuit.clone()],
        };
        let meets = world.look().wished().contains(&punch);
        assert_eq!(meets, id(OWN) < id(number));
        met.push(meets);
        let address = address(number);
        let peer = id(number);
        world.happens(Fact::LinkCloser { peer, address });
        world.now = world.now + PUNCH_INTERVAL;
        assert!(!world.look().wished().contains(&punch));
    }
    assert_eq!(met.len(), 5);
}

#[test]
fn a_look_comes_every_half_second_and_at_once_when_a_link_is_kept() {
    let mut world = World::new();
    assert_eq!(world.links.next_event(), at(0));
    world.look();
    assert_eq!(world.links.next_event(), at(0) + LOOK_INTERVAL);
    world.linked(1);
    assert_eq!(world.links.next_event(), at(0));
}
