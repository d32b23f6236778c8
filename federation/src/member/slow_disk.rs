//! What is heard while the disk does not answer: nothing waits for it but who is
//! let in by an invite.

use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Waker};

use weir_federation_core::samples::id;

use super::tests::{DAY, EDGE, Node, node, now};
use super::*;

/// A member whose disk does not answer before something is sent to it, and what
/// tells which files are being written.
fn slow(token: Option<Token>, number: u8) -> (Node, mpsc::Sender<()>, mpsc::Receiver<PathBuf>) {
    let (begin, begun) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let files = Files::with(move |path, bytes| {
        let _ = begin.send(path.to_owned());
        // At the end of the test nobody holds it up any more.
        let _ = gone.lock().recv();
        save(path, bytes)
    });
    let folder = tempfile::tempdir().expect("a folder");
    let opened = Member::open_with(
        files,
        folder.path(),
        id(number),
        EDGE,
        token,
        DAY,
        [number; 32],
    );
    let node = Node {
        member: opened.expect("it opens"),
        folder,
        number,
    };
    (node, go, begun)
}

fn name(begun: &mpsc::Receiver<PathBuf>) -> String {
    let path = begun.recv().expect("a file is written");
    let name = path.file_name().expect("a file").to_string_lossy();
    name.into_owned()
}

#[test]
fn an_invite_is_traded_once_that_is_on_disk_and_holds_nobody_up() {
    let (founder, disk, begun) = slow(None, 1);
    let token = founder.token();
    let joining = node(2, Some(token.clone()));
    let hello = joining.member.hello();
    let mut answer = pin!(founder.member.answer(id(2), &hello));
    let mut context = Context::from_waker(Waker::noop());
    assert!(answer.as_mut().poll(&mut context).is_pending());
    assert_eq!(name(&begun), "used");
    assert!(answer.as_mut().poll(&mut context).is_pending());
    // Another one who wants in with it is refused at once, and so are others.
    let second = node(3, Some(token));
    let hello = second.member.hello();
    let refused = now(founder.member.answer(id(3), &hello));
    assert_eq!(
        refused.verdict.expect_err("used").reason,
        Refused::Used.reason()
    );
    let malformed = now(founder.member.answer(id(3), b"what?"));
    assert!(malformed.verdict.is_err());
    disk.send(()).expect("it waits");
    let answer = now(answer);
    assert!(answer.verdict.is_ok());
    assert!(joining.member.judge(id(1), &answer.bytes).is_ok());
    drop(disk);
}

#[test]
fn denials_and_changes_of_the_secret_are_heard_while_the_disk_does_not_answer() {
    let founder = node(1, None);
    let (member, disk, begun) = slow(Some(founder.token()), 2);
    let third = node(
        3,
        founder.member.invite([3; 16], DAY, EDGE, Vec::new()).ok(),
    );
    // Joining writes its certificate, and waits for nothing.
    for other in [&member, &third] {
        assert_eq!(other.meet(&founder).1, Ok(()));
    }
    assert_eq!(name(&begun), "certificate");
    assert!(member.member.is_member());
    let denial = founder.member.deny(id(3), true).expect("it may");
    let denial = denial.expect("for everybody");
    assert_eq!(member.member.hear_denial(&denial), Ok(Some(id(3))));
    assert!(member.member.is_denied(&id(3)));
    let handovers = founder.member.rotate([77; 32]).expect("it may");
    for handover in &handovers {
        assert_eq!(member.member.hear_handover(handover), Ok(true));
    }
    assert_eq!(member.member.federation(), founder.member.federation());
    assert!(begun.try_recv().is_err(), "nothing else is on disk yet");
    drop(disk);
    // All of it is when the member has ended.
    let again = member.restart();
    assert_eq!(again.member.federation(), founder.member.federation());
}
