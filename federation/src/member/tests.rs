//! A node's membership: who is let in, renewed, denied and refused.

use super::trade::{Hello, encode};
use super::*;
use crate::report::Role;
use weir_federation_core::samples::id;

pub(super) const EDGE: Rights = Rights {
    role: Role::Edge,
    deploy: true,
};

pub(super) const DAY: Duration = Duration::from_secs(86_400);

pub(super) struct Node {
    pub(super) member: Member,
    pub(super) folder: tempfile::TempDir,
    pub(super) number: u8,
}

fn open(folder: tempfile::TempDir, number: u8, token: Option<Token>, life: Duration) -> Node {
    let opened = Member::open(folder.path(), id(number), EDGE, token, life, [number; 32]);
    Node {
        member: opened.expect("it opens"),
        folder,
        number,
    }
}

pub(super) fn node(number: u8, token: Option<Token>) -> Node {
    open(tempfile::tempdir().expect("a folder"), number, token, DAY)
}

impl Node {
    pub(super) fn token(&self) -> Token {
        let made = self.member.invite([self.number; 16], DAY, EDGE, Vec::new());
        made.expect("it holds the secret")
    }

    /// Says hello to `other`; what both made of it.
    pub(super) fn meet(
        &self,
        other: &Node,
    ) -> (Result<(), &'static str>, Result<(), &'static str>) {
        let hello = self.member.hello();
        let answer = now(other.member.answer(id(self.number), &hello));
        let judged = self.member.judge(id(other.number), &answer.bytes);
        let word = |refusal: Refusal| refusal.reason;
        (answer.verdict.map_err(word), judged.map_err(word))
    }

    pub(super) fn restart(self) -> Node {
        drop(self.member);
        open(self.folder, self.number, None, DAY)
    }
}

/// Waits for an answer.
pub(super) fn now<T>(answer: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(answer)
}

pub(super) const BOTH: (Result<(), &str>, Result<(), &str>) = (Ok(()), Ok(()));

#[test]
fn a_token_makes_a_member_that_stays_one() {
    let founder = node(1, None);
    let second = node(2, Some(founder.token()));
    assert!(!second.member.is_member());
    assert_eq!(second.meet(&founder), BOTH);
    assert!(second.member.is_member());
    let second = second.restart();
    assert_eq!(second.meet(&founder), BOTH);
    assert!(!second.member.may_invite());
    // And those whom it never met believe it too.
    let token = founder.member.invite([9; 16], DAY, EDGE, Vec::new());
    let third = node(3, token.ok());
    assert_eq!(third.meet(&founder), BOTH);
    assert_eq!(third.meet(&second), BOTH);
}

#[test]
fn whoever_does_not_belong_is_refused_by_name() {
    let founder = node(1, None);
    let refused = |word| (Err(word), Err("refused-by-peer"));
    let token = founder.token();
    let second = node(2, Some(token.clone()));
    assert_eq!(second.meet(&founder), BOTH);
    assert_eq!(node(3, Some(token.clone())).meet(&founder), refused("used"));
    assert_eq!(node(4, None).meet(&founder), refused("wrong-federation"));
    let at_the_wrong_node = node(5, Some(token));
    assert_eq!(at_the_wrong_node.meet(&second), refused("not-inviting"));
    // One who shows what it saw of another.
    let answer = now(founder.member.answer(id(6), &second.member.hello()));
    assert_eq!(answer.verdict.expect_err("replayed").reason, "wrong-member");
    let answer = now(founder.member.answer(id(6), b"what?"));
    assert_eq!(answer.verdict.expect_err("malformed").reason, "malformed");
    let old = encode(&Hello {
        versions: vec![99],
        certificate: None,
        token: None,
        successions: Vec::new(),
    });
    let answer = now(founder.member.answer(id(6), &old));
    assert_eq!(answer.verdict.expect_err("too new").reason, "version");
}

#[test]
fn an_expired_certificate_is_refused_and_a_worn_one_renewed() {
    let folder = tempfile::tempdir().expect("a folder");
    let founder = open(folder, 1, None, Duration::from_secs(4));
    let second = node(2, Some(founder.token()));
    assert_eq!(second.meet(&founder), BOTH);
    // By the clock that certificates are held to.
    until(|| second.member.wants_renewal());
    founder.member.renew_own();
    assert_eq!(second.meet(&founder), BOTH);
    assert!(!second.member.wants_renewal());
    let life = second.member.life().expect("it is a member");
    let renewed = unix_time();
    until(|| unix_time() > renewed + life.as_secs());
    let (verdict, _) = second.meet(&founder);
    assert_eq!(verdict, Err("expired"));
}

fn until(fact: impl Fn() -> bool) {
    while !fact() {
        std::thread::yield_now();
    }
}

#[test]
fn a_denial_is_taken_back_everywhere_and_may_be_said_again() {
    let founder = node(1, None);
    let second = node(2, Some(founder.token()));
    assert_eq!(second.meet(&founder), BOTH);
    let token = founder.member.invite([9; 16], DAY, EDGE, Vec::new());
    let third = node(3, token.ok());
    assert_eq!(third.meet(&founder), BOTH);
    assert_eq!(third.meet(&second), BOTH);
    let denied = founder.member.deny(id(2), true).expect("said");
    let hear = |statement: &[u8]| third.member.hear_denial(statement);
    let denied = denied.expect("a statement");
    assert_eq!(hear(&denied), Ok(Some(id(2))));
    assert!(matches!(
        third.member.allow(id(2), false),
        Err(MemberError::DeniedByAll(_))
    ));
    let allowed = founder.member.allow(id(2), true).expect("said");
    let allowed = allowed.flatten().expect("a statement");
    assert_eq!(hear(&allowed), Ok(Some(id(2))));
    assert_eq!(hear(&denied), Ok(None));
    let third = third.restart();
    assert!(!third.member.is_denied(&id(2)));
    assert_eq!(second.meet(&third), BOTH);
    assert!(matches!(founder.member.allow(id(2), true), Ok(None)));
    let again = founder.member.deny(id(2), true).expect("said");
    let again = again.expect("a statement");
    assert_eq!(third.member.hear_denial(&again), Ok(Some(id(2))));
    assert!(third.member.is_denied(&id(2)));
    assert!(matches!(
        founder.member.deny(id(1), true),
        Err(MemberError::Itself)
    ));
}

#[test]
fn who_belongs_somewhere_does_not_join_elsewhere_and_an_old_token_brings_nobody_back() {
    let (founder, other) = (node(1, None), node(4, None));
    let token = founder.token();
    let second = node(2, Some(token.clone()));
    assert_eq!(second.meet(&founder), BOTH);
    let (folder, number) = (second.folder, second.number);
    drop(second.member);
    let reopen =
        |token: Token| Member::open(folder.path(), id(number), EDGE, Some(token), DAY, [2; 32]);
    assert!(matches!(
        reopen(other.token()),
        Err(MemberError::Elsewhere { .. })
    ));
    // The flags of the first start are no mistake at the next one.
    let member = reopen(token.clone()).expect("it belongs there");
    member.forget_membership().expect("written");
    assert_eq!(member.rights(&id(1)), None);
    assert!(matches!(reopen(token), Err(MemberError::Left(_))));
    assert!(reopen(other.token()).is_ok());
}

#[test]
fn the_denied_are_out_here_and_everywhere() {
    let founder = node(1, None);
    let second = node(2, Some(founder.token()));
    assert_eq!(second.meet(&founder), BOTH);
    let statement = founder
        .member
        .deny(id(2), true)
        .expect("it holds the secret");
    assert_eq!(second.meet(&founder).0, Err("denied"));
    let token = founder.member.invite([9; 16], DAY, EDGE, Vec::new());
    let third = node(3, token.ok());
    // It is told when it joins, and by others later.
    assert_eq!(third.meet(&founder), BOTH);
    assert!(third.member.is_denied(&id(2)));
    let told = third.member.hear_denial(&statement.expect("a statement"));
    assert_eq!(told, Ok(None));
    assert!(matches!(
        third.member.deny(id(1), true),
        Err(MemberError::NoSecret)
    ));
    let third = third.restart();
    assert_eq!(second.meet(&third).0, Err("denied"));
}
