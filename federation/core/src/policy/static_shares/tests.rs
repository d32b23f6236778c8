use super::super::testbed::{Trial, is_as_expected, policy};
use crate::snapshot::Here;

fn warm(count: usize) -> Trial {
    Trial {
        here: Here::Warm,
        ..Trial::of(count)
    }
}

#[test]
fn shares_are_those_of_the_formula() {
    for choice in ["static", "static:faithful=true"] {
        let counts = warm(4).shares(&*policy(choice), 10_000);
        let formula = [60.0, 10.0, 10.0, 10.0, 10.0, 0.0];
        assert!(is_as_expected(&counts, &formula), "{choice}: {counts:?}");
    }
    let counts = warm(2).shares(&*policy("static:own=20"), 10_000);
    assert!(
        is_as_expected(&counts, &[20.0, 40.0, 40.0, 0.0]),
        "{counts:?}"
    );
}

#[test]
fn without_peers_all_stay() {
    for choice in ["static:own=0", "static:own=0,faithful=true"] {
        assert_eq!(warm(0).shares(&*policy(choice), 100), [100, 0]);
    }
}

#[test]
fn a_peer_that_lacks_the_function_is_not_drawn() {
    let mut trial = warm(2);
    trial.architecture = Some("x86_64");
    trial.join(|report| report.architecture = "aarch64".to_owned());
    let counts = trial.shares(&*policy("static"), 10_000);
    let formula = [60.0, 20.0, 20.0, 0.0, 0.0];
    assert!(is_as_expected(&counts, &formula), "{counts:?}");
    // As it was published, its share is lost.
    let counts = trial.shares(&*policy("static:faithful=true"), 10_000);
    let third = 40.0 / 3.0;
    let formula = [60.0, third, third, 0.0, third];
    assert!(is_as_expected(&counts, &formula), "{counts:?}");
}

#[test]
fn what_a_share_has_no_room_for_goes_elsewhere() {
    let mut trial = Trial::of(2);
    trial.fill(0);
    let counts = trial.shares(&*policy("static"), 100);
    assert_eq!(counts, [0, 0, 100, 0]);
    trial.fill(1);
    trial.here = Here::Startable;
    let counts = trial.shares(&*policy("static"), 100);
    assert_eq!(counts, [100, 0, 0, 0]);
    trial.here = Here::Full;
    let cloud = trial.join_cloud();
    let counts = trial.shares(&*policy("static"), 100);
    assert_eq!((counts[3], trial.peers[2].id), (100, cloud));
}

#[test]
fn it_tells_its_own_share() {
    let terms = warm(1).terms(&*policy("static"), 1);
    assert_eq!(terms, [(None, "share", 0.6)]);
}
