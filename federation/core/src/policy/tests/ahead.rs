//! Calls that go to a peer ahead of a place there.

use super::*;

/// A node that is full, and has seen two peers run four calls of the function at
/// once, of 100 ms each; the room of the first.
fn knowing() -> (Given, Arc<FunctionRoom>) {
    let mut given = case(Here::Full);
    let rooms = [1, 2].map(|number| {
        let room = Arc::new(FunctionRoom::new());
        room.learn(Duration::from_millis(100));
        room.learn_capacity(4);
        let ready = Ability::Ready {
            version: 1,
            room: room.clone(),
        };
        given.abilities.insert(&id(number), ready);
        room
    });
    let [room, _] = rooms;
    given.service = Some(Duration::from_millis(100));
    (given, room)
}

#[test]
fn who_holds_as_many_as_go_ahead_is_full() {
    let (given, room) = knowing();
    let full = peer(1).far(50).full();
    let window = full.0.window().expect("it was told of").clone();
    let held: Vec<_> = (0..6)
        .map(|_| {
            check("spill", given.clone(), std::slice::from_ref(&full), to(0));
            window.reserve_ahead(&room, 2, Time::ZERO).expect("room")
        })
        .collect();
    let nobody = reject(Reason::NobodyHasRoom);
    check("spill", given.clone(), std::slice::from_ref(&full), nobody);
    // It is not chosen over and over beside who has a place.
    check(
        "spill",
        given.clone(),
        &[full.clone(), peer(2).far(50)],
        to(1),
    );
    drop(held);
    // Nor beyond what it may hold of ours at all.
    window.allow(0);
    check("spill", given, &[full], nobody);
}

#[test]
fn a_place_that_is_free_is_better_than_one_that_will_be() {
    let (mut given, _) = knowing();
    let peers = [peer(1).far(50).full(), peer(2).far(50)];
    check("spill", given.clone(), &peers, to(1));
    // It is worth a round trip, and no more.
    let (near, farther) = (peer(1).far(20).full(), peer(2).far(50));
    check(
        "spill",
        given.clone(),
        &[near.clone(), farther.clone()],
        to(0),
    );
    given.deadline = Time::ZERO + Duration::from_millis(130);
    check("spill", given, &[near, farther], to(0));
}
