use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::samples::id;

fn members(near: &[u8], far: &[u8]) -> Members {
    let near = near.iter().map(|number| (id(*number), true));
    let far = far.iter().map(|number| (id(*number), false));
    Members::default().renewed(near.chain(far))
}

fn order(members: &Members, number: u64, among: Among) -> Vec<PeerId> {
    members.ranked(number, among).collect()
}

#[test]
fn near_ones_are_first_or_alone_when_that_is_asked_for() {
    let members = members(&[1, 2, 3], &[4, 5, 6]);
    for number in 0..50_u64 {
        let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let all = order(&members, number, Among::All);
        let first = order(&members, number, Among::NearFirst);
        let near = order(&members, number, Among::Near);
        let is_near = |peer: &PeerId| members.get(peer).is_some_and(|member| member.is_near);
        assert_eq!((all.len(), first.len(), near.len()), (6, 6, 3));
        let expected: Vec<PeerId> = all.iter().filter(|peer| is_near(peer)).copied().collect();
        assert_eq!(near, expected);
        let far = all.iter().filter(|peer| !is_near(peer)).copied();
        let expected: Vec<PeerId> = near.iter().copied().chain(far).collect();
        assert_eq!(first, expected);
    }
}

#[test]
fn all_have_their_share() {
    let members = members(&[], &[1, 2, 3, 4, 5, 6, 7, 8]);
    let mut first = BTreeMap::<PeerId, usize>::new();
    for number in 0..800_u64 {
        let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let one = members.ranked(number, Among::All).next();
        *first.entry(one.expect("there are some")).or_default() += 1;
    }
    assert!(first.len() == 8 && first.values().all(|count| (50..200).contains(count)));
}

#[test]
fn changes_name_who_came_who_went_and_who_moved() {
    type Case<'a> = (&'a str, [&'a [u8]; 2], [&'a [u8]; 2], &'a [(bool, u8)]);
    let cases: &[Case<'_>] = &[
        ("nobody", [&[], &[]], [&[], &[]], &[]),
        ("the same", [&[1], &[2]], [&[1], &[2]], &[]),
        ("one comes", [&[1], &[]], [&[1, 3], &[]], &[(true, 3)]),
        ("one goes", [&[1, 3], &[]], [&[3], &[]], &[(false, 1)]),
        (
            "one moves",
            [&[1], &[]],
            [&[], &[1]],
            &[(false, 1), (true, 1)],
        ),
        (
            "all change",
            [&[1, 2], &[]],
            [&[3], &[]],
            &[(false, 1), (false, 2), (true, 3)],
        ),
    ];
    for (case, before, after, expected) in cases {
        let (before, after) = (members(before[0], before[1]), members(after[0], after[1]));
        let changes = before.changes(&after);
        let mut changes: Vec<(bool, PeerId)> = changes
            .iter()
            .map(|change| match change {
                Change::Came(member) => (true, member.id),
                Change::Went(member) => (false, member.id),
            })
            .collect();
        changes.sort_unstable();
        let mut expected: Vec<(bool, PeerId)> = expected
            .iter()
            .map(|(came, number)| (*came, id(*number)))
            .collect();
        expected.sort_unstable();
        assert_eq!(changes, expected, "{case}");
    }
}

fn some() -> impl Strategy<Value = Vec<(PeerId, bool)>> {
    prop::collection::vec((1..60_u8, any::<bool>()), 0..40)
        .prop_map(|all| all.into_iter().map(|(n, near)| (id(n), near)).collect())
}

proptest! {
    #[test]
    fn who_goes_changes_no_others_place(some in some(), number in any::<u64>()) {
        let members = Members::default().renewed(some);
        let before = order(&members, number, Among::All);
        for gone in &before {
            let mut left = members.clone();
            left.leave_out(&[*gone]);
            let expected: Vec<PeerId> = before.iter().filter(|p| *p != gone).copied().collect();
            prop_assert_eq!(order(&left, number, Among::All), expected);
        }
    }

    #[test]
    fn what_is_renewed_is_as_if_it_were_new(one in some(), two in some()) {
        let known = Members::default().renewed(one);
        prop_assert_eq!(known.renewed(two.clone()), Members::default().renewed(two));
    }
}
