use proptest::prelude::*;

use super::*;

const NOW: UnixTime = 1_800_000_000;

fn secret(number: u8) -> RootSecret {
    RootSecret::new([number; 32])
}

fn node(number: u8) -> PeerId {
    let mut seed = [number; 32];
    let key = Keypair::ed25519_from_bytes(&mut seed).expect("32 bytes");
    key.public().to_peer_id()
}

fn rights() -> Rights {
    Rights {
        role: Role::Edge,
        deploy: true,
    }
}

fn token() -> Token {
    let bootstrap = vec!["/ip4/192.0.2.1/tcp/4001".to_owned()];
    secret(1).invite([7; 16], NOW + 3_600, rights(), bootstrap)
}

#[test]
fn an_invite_is_text_and_becomes_a_membership() {
    let text = token().to_string();
    assert!(text.starts_with("weir1-") && !text.contains(char::is_whitespace));
    let read: Token = text.parse().expect("our own");
    assert_eq!(read, token());
    assert_eq!(read.invite().bootstrap.len(), 1);
    let admitted = secret(1).admit(&read, node(5), false, NOW, NOW + 86_400);
    let shown = admitted.expect("it is good").to_bytes();
    let certificate = Certificate::from_bytes(&shown).expect("our own");
    let federation = secret(1).federation();
    assert_eq!(certificate.check(&federation, node(5), NOW), Ok(rights()));
}

#[test]
fn what_is_wrong_with_an_invite_is_named() {
    let admit = |secret: RootSecret, used, now| {
        let admitted = secret.admit(&token(), node(5), used, now, now + 10);
        admitted.map(drop).expect_err("it is not good").reason()
    };
    assert_eq!(admit(secret(2), false, NOW), "wrong-federation");
    assert_eq!(admit(secret(1), true, NOW), "used");
    assert_eq!(admit(secret(1), false, NOW + 3_600), "expired");
    for text in ["", "weir1-", "weir1-!!!", "nonsense", "weir1-AAAA"] {
        assert_eq!(text.parse::<Token>(), Err(Refused::Malformed), "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_certificate_is_named() {
    let federation = secret(1).federation();
    let certificate = secret(1).certify(node(5), rights(), NOW, NOW + 100);
    let check = |federation: &Federation, peer, now| {
        let checked = certificate.check(federation, peer, now);
        checked.expect_err("it is not good").reason()
    };
    assert_eq!(
        check(&secret(2).federation(), node(5), NOW),
        "wrong-federation"
    );
    assert_eq!(check(&federation, node(6), NOW), "wrong-member");
    assert_eq!(check(&federation, node(5), NOW + 100), "expired");
    assert_eq!(check(&federation, node(5), NOW - 1_000), "early");
    // Clocks that differ a little are no reason.
    assert!(certificate.check(&federation, node(5), NOW - 60).is_ok());
}

#[test]
fn one_kind_of_statement_is_never_another() {
    // The bytes of a membership under the signature of something else.
    let membership = Membership {
        federation: secret(1).federation(),
        member: node(5).to_bytes(),
        rights: rights(),
        issued: NOW,
        expires: NOW + 100,
    };
    let statement = encode(&membership);
    let signature = secret(1).0.sign(&signed_bytes::<Denial>(&statement));
    let mixed = encode(&Signed {
        statement,
        signature: signature.expect("it signs"),
    });
    assert_eq!(Certificate::from_bytes(&mixed), Err(Refused::Forged));
}

#[test]
fn nobody_certifies_in_the_name_of_another_federation() {
    let mut forged = secret(2).certify(node(5), rights(), NOW, NOW + 100);
    forged.membership.federation = secret(1).federation();
    forged.signed.statement = encode(&forged.membership);
    let read = Certificate::from_bytes(&forged.to_bytes());
    assert_eq!(read, Err(Refused::Forged));
}

#[test]
fn the_denied_are_members_again_only_by_a_later_certificate() {
    let federation = secret(1).federation();
    let denial = secret(1).deny(node(5), NOW);
    let denial = Denial::from_bytes(&denial, &federation).expect("our own");
    assert_eq!(denial.member(), Some(node(5)));
    let certified = |member, issued| {
        let certificate = secret(1).certify(member, rights(), issued, NOW + 100);
        certificate.is_denied_by(&denial)
    };
    assert!(certified(node(5), NOW - 10) && certified(node(5), NOW));
    assert!(!certified(node(5), NOW + 1) && !certified(node(6), NOW - 10));
    let others = secret(2).deny(node(5), NOW);
    let refused = Denial::from_bytes(&others, &federation);
    assert_eq!(refused, Err(Refused::WrongFederation));
}

#[test]
fn the_secret_is_not_shown() {
    let shown = format!("{:?}", secret(1));
    assert!(
        shown.contains(&secret(1).federation().to_string()),
        "{shown}"
    );
    assert!(!shown.contains("1, 1, 1"), "{shown}");
}

proptest! {
    #[test]
    fn a_changed_byte_is_never_a_certificate(at in 0..600_usize, change in 1..=255_u8) {
        let certificate = secret(1).certify(node(5), rights(), NOW, NOW + 100);
        let mut bytes = certificate.to_bytes();
        let at = at % bytes.len();
        bytes[at] ^= change;
        // A change that leaves the meaning, in how CBOR says a length, may pass.
        if let Ok(read) = Certificate::from_bytes(&bytes) {
            prop_assert_eq!(read, certificate);
        }
    }

    #[test]
    fn nothing_that_arrives_ends_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Certificate::from_bytes(&bytes);
        let _ = Denial::from_bytes(&bytes, &secret(1).federation());
    }
}
