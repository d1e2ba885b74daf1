use std::path::Path;

use pki::{Authority, DAY, KeyAlgorithm, PrivateKey, Serial, UnixTime};

use super::*;
use crate::test_pki::{START, authority, client, days};

fn copy_of(ca: &Authority, user: &str, lifetime: i64) -> Vec<u8> {
    let (leaf, key) = client(ca, user, days(lifetime));
    render_inline(&Inline {
        name: "mine",
        server: "https://a:6443",
        authority: ca.certificate().to_pem().as_bytes(),
        certificate: leaf.to_pem().as_bytes(),
        key: key.as_bytes(),
        preferences: false,
    })
    .to_vec()
}

#[test]
fn copies_are_sorted_by_what_they_are_to_this_cluster() {
    let (issuing, former) = (authority("k3s-client-ca@2"), authority("k3s-client-ca@1"));
    let (twin, stranger) = (authority("k3s-client-ca@2"), authority("other"));
    let files = [
        copy_of(&issuing, "a", 200),
        copy_of(&issuing, "b", 14),
        copy_of(&issuing, "c", 9),
        copy_of(&former, "d", 365),
        copy_of(&twin, "e", 365),
        copy_of(&stranger, "f", 365),
        b"users:\n- {name: x, user: {client-certificate: a}}\n- {name: y, user: {token: a}}\n"
            .to_vec(),
        b"users:\n- {name: z, user: {client-certificate-data: eA==}}\n".to_vec(),
        b"a: [".to_vec(),
    ];
    let candidates: Vec<Candidate<'_>> = files
        .iter()
        .map(|bytes| Candidate {
            path: Path::new("/p"),
            bytes,
        })
        .collect();
    let authorities = [issuing.certificate().clone(), former.certificate().clone()];
    let copies = find_copies(&candidates, &authorities, START.plus(10 * DAY), 120 * DAY);
    let states: Vec<&CopyState> = copies.iter().map(|copy| &copy.state).collect();
    assert_eq!(
        states[..8],
        [
            &CopyState::Current,
            &CopyState::Due,
            &CopyState::Expired,
            &CopyState::FromFormerAuthority,
            &CopyState::UnknownAuthority,
            &CopyState::Foreign,
            &CopyState::References,
            &CopyState::WithoutCertificate,
        ]
    );
    assert_eq!(
        copies[8].state,
        CopyState::Unreadable("no CERTIFICATE PEM block found".into())
    );
    assert!(matches!(&copies[9].state, CopyState::Unreadable(why) if why.starts_with("line 1: ")));
    let due: Vec<bool> = copies
        .iter()
        .take(5)
        .map(|copy| copy.state.wants_renewal())
        .collect();
    assert_eq!(due, [false, true, true, true, false]);
    assert_eq!(
        copies[1].identity,
        Some(Identity {
            user: "b".into(),
            groups: vec!["system:masters".into()],
            not_after: START.plus(14 * DAY),
            lifetime: 14 * DAY,
            key_matches: true,
        })
    );
}

/// How a copy with a certificate of `lifetime` days stands at a moment.
fn state_of(lifetime: i64) -> impl Fn(UnixTime) -> CopyState {
    let ca = authority("ca");
    let file = copy_of(&ca, "u", lifetime);
    move |now| {
        let candidate = Candidate {
            path: Path::new("/p"),
            bytes: &file,
        };
        find_copies(&[candidate], &[ca.certificate().clone()], now, 120 * DAY)[0]
            .state
            .clone()
    }
}

#[test]
fn the_window_begins_with_its_first_second() {
    let state = state_of(365);
    let edge = START.plus(245 * DAY);
    assert_eq!(state(edge.plus(-1)), CopyState::Current);
    assert_eq!(state(edge), CopyState::Due);
    assert_eq!(state(START.plus(365 * DAY)), CopyState::Due);
    assert_eq!(state(START.plus(365 * DAY + 1)), CopyState::Expired);
}

#[test]
fn a_short_lived_certificate_is_due_in_its_last_third() {
    let state = state_of(9);
    assert_eq!(state(START.plus(6 * DAY - 1)), CopyState::Current);
    assert_eq!(state(START.plus(6 * DAY)), CopyState::Due);
}

fn wanted(ca_pem: &str) -> NewCopy<'_> {
    NewCopy {
        user: "ann@example.com",
        groups: &[],
        ttl: 8 * 3600,
        allow_masters: false,
        server: "https://api:6443",
        name: "ann",
        server_authority: ca_pem,
        chain: "",
    }
}

#[test]
fn a_new_kubeconfig_works_and_is_found_again() {
    let ca = authority("k3s-client-ca@1");
    let pem = ca.certificate().to_pem();
    let key = PrivateKey::generate(KEY_ALGORITHM).unwrap();
    let groups = ["dev".to_owned(), "ops".to_owned()];
    let wanted = NewCopy {
        groups: &groups,
        ..wanted(&pem)
    };
    let now = START.plus(DAY);
    let made = create(
        &wanted,
        &ca,
        &key,
        Serial::random(pki::random).unwrap(),
        now,
    )
    .unwrap();
    assert_eq!(made.certificate.validity().not_after, now.plus(8 * 3600));
    assert_eq!(
        made.certificate.subject().to_string(),
        "CN=ann@example.com,O=dev+O=ops"
    );
    made.certificate
        .verify_signature(ca.certificate().spki_der())
        .unwrap();
    let candidate = Candidate {
        path: Path::new("/p"),
        bytes: &made.text,
    };
    let copies = find_copies(&[candidate], &[ca.certificate().clone()], now, 3600);
    assert_eq!(copies[0].state, CopyState::Current);
    let identity = copies[0].identity.as_ref().unwrap();
    assert_eq!(
        (identity.groups.as_slice(), identity.key_matches),
        (&groups[..], true)
    );
    let config = Kubeconfig::parse(&made.text).unwrap();
    assert_eq!(
        config.clusters_of("ann")[0].server.as_deref(),
        Some("https://api:6443")
    );
    // notBefore is an hour back, but not before the CA.
    assert_eq!(made.certificate.validity().not_before, now.plus(-3600));
    let early = create(
        &wanted,
        &ca,
        &key,
        Serial::random(pki::random).unwrap(),
        START,
    )
    .unwrap();
    assert_eq!(early.certificate.validity().not_before, START);
}

#[test]
fn what_is_too_much_is_refused() {
    let ca = authority("k3s-client-ca@1");
    let pem = ca.certificate().to_pem();
    let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let at = |wanted: &NewCopy<'_>, now| {
        create(wanted, &ca, &key, Serial::random(pki::random).unwrap(), now)
    };
    let refusal = |wanted: NewCopy<'_>| at(&wanted, START).map(|_| ()).unwrap_err().to_string();
    let base = wanted(&pem);
    let masters = ["system:masters".to_owned()];
    let with_masters = NewCopy {
        groups: &masters,
        ..base
    };
    insta::assert_snapshot!(refusal(with_masters), @"the group system:masters passes every authorization check and cannot be taken back; bind a group of your own to the role cluster-admin, or ask for it explicitly");
    assert!(
        at(
            &NewCopy {
                allow_masters: true,
                ..with_masters
            },
            START
        )
        .is_ok()
    );
    insta::assert_snapshot!(refusal(NewCopy { user: "system:admin", ..base }), @r#"the user "system:admin" belongs to Kubernetes itself, as every name with system: in front; choose another, or ask for it explicitly"#);
    insta::assert_snapshot!(refusal(NewCopy { user: " ", ..base }), @"the user has no name; to Kubernetes an empty one is nobody");
    insta::assert_snapshot!(refusal(NewCopy { groups: &[String::new()], ..base }), @"the group has no name; to Kubernetes an empty one is nobody");
    insta::assert_snapshot!(refusal(NewCopy { user: "a\nb", ..base }), @r#"the user "a\nb" has blanks at an end or control characters"#);
    insta::assert_snapshot!(refusal(NewCopy { ttl: 299, ..base }), @"a certificate for 299 s is refused; between 5 minutes and 365 days is allowed, because it cannot be revoked");
    assert_eq!(
        refusal(NewCopy {
            ttl: LONGEST + 1,
            ..base
        })
        .split(';')
        .next(),
        Some("a certificate for 31536001 s is refused")
    );
    let late = at(&base, ca.certificate().validity().not_after.plus(-3600))
        .map(|_| ())
        .unwrap_err();
    insta::assert_snapshot!(late, @"it would have to end before its CA: CN=k3s-client-ca@1 is valid from 2026-11-22T06:19:11Z to 2036-11-19T06:19:11Z");
    assert!(matches!(
        at(&base, START.plus(-1)),
        Err(CreateError::OutlivesAuthority { .. })
    ));
}
