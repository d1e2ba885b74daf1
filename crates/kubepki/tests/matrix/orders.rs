//! What is served behind leaf and issuing CA, in every order, to clients that trust only the old
//! or only the new root.

use std::fmt::Write as _;

use kubepki::ca::promise::Stack;
use pki::{
    Authority, AuthorityRequest, Certificate, DAY, KeyAlgorithm, Name, PrivateKey, Serial, Validity,
};
use testkit::stacks::{Identity, Stacks};

use super::lab::{HOST, Leaf, Loaded, deviations, now, pem, promised, real};

/// X: the cross-certificate; S: the new root, self-signed; O: the old CA.
const ORDERS: [&str; 10] = [
    "X", "X S", "X O", "X S O", "X O S", "O X S", "S X O", "S X", "S O X", "O S X",
];

struct Three {
    cross: Certificate,
    new: Authority,
    old: Authority,
    issuing: Authority,
}

fn serial() -> Serial {
    Serial::random(pki::random).unwrap()
}

impl Three {
    fn named(&self, letter: char) -> Certificate {
        match letter {
            'I' => self.issuing.certificate().clone(),
            'X' => self.cross.clone(),
            'S' => self.new.certificate().clone(),
            _ => self.old.certificate().clone(),
        }
    }

    fn all(&self, letters: &str) -> Vec<Certificate> {
        letters.chars().map(|letter| self.named(letter)).collect()
    }
}

fn three() -> Three {
    let years = Validity {
        not_before: now().plus(-3600),
        not_after: now().plus(3650 * DAY),
    };
    let key = || PrivateKey::generate(KeyAlgorithm::P256).unwrap();
    let root = |name: &str| {
        let name = Name::new(&[], name).unwrap();
        Authority::self_signed(&name, key(), serial(), years).unwrap()
    };
    let (old, new) = (root("k3s-server-ca@1"), root("k3s-server-root@2"));
    let below = |signer: &Authority, subject: &Name, spki_der: &[u8], ski: Option<&[u8]>| {
        let request = AuthorityRequest {
            subject,
            spki_der,
            subject_key_identifier: ski,
            path_len: None,
            serial: serial(),
            validity: years,
        };
        signer.issue_authority(&request).unwrap()
    };
    let own = new.certificate();
    let ski = own.subject_key_identifier();
    let cross = below(&old, own.subject(), own.spki_der(), ski);
    let issuing_key = key();
    let name = Name::new(&[], "k3s-server-ca@2").unwrap();
    let issuing = below(&new, &name, issuing_key.spki_der(), None);
    let issuing = Authority::new(issuing, issuing_key).unwrap();
    Three {
        cross,
        new,
        old,
        issuing,
    }
}

#[test]
fn every_order_of_what_is_served() {
    let three = three();
    let (leaf, key) = Leaf::bare(&three.issuing);
    let trusts = [("old", three.all("O")), ("new", three.all("S"))];
    let stacks = Stacks::start();
    let mut table = String::from("served after leaf, CA | trusts |");
    for stack in Stack::ALL {
        write!(table, " {stack} |").unwrap();
    }
    table += " curl\n";
    let mut deviations = Vec::new();
    for order in ORDERS {
        let mut chain = vec![leaf.clone(), three.issuing.certificate().clone()];
        chain.extend(three.all(&order.replace(' ', "")));
        let shown = Leaf {
            chain,
            key: key.clone(),
        };
        let chain = pem(&shown.chain);
        let identity = Identity {
            chain: &chain,
            key: &key,
        };
        let server = stacks.serve(testkit::stacks::Stack::Go, identity, None);
        for (whose, trusted) in &trusts {
            write!(table, "{order:21} | {whose:6} |").unwrap();
            let trust = pem(trusted);
            let ask = |stack| stacks.connect(stack, server.port(), HOST, &trust, None);
            for stack in Stack::ALL {
                let happened = ask(real(stack));
                let word = if happened.is_ok() { "ok" } else { "fails" };
                write!(table, " {word} |").unwrap();
                let server = Loaded {
                    name: order,
                    shows: Some(&shown),
                    trusts: &[],
                };
                let client = Loaded {
                    name: whose,
                    shows: None,
                    trusts: trusted,
                };
                let promise = promised((Stack::Go, &server), (stack, &client));
                if promise.connects() != happened.is_ok() {
                    deviations.push(format!(
                        "{order} {whose} {stack}: {promise:?}, {happened:?}"
                    ));
                }
            }
            let curl = ask(testkit::stacks::Stack::Curl);
            writeln!(table, " {}", if curl.is_ok() { "ok" } else { "fails" }).unwrap();
        }
    }
    assert!(deviations.is_empty(), "{}", deviations.join("\n"));
    testkit::assert_golden("tests/golden/matrix/orders.txt", &table);
}

/// Every trust bundle that can be put together from the four, forwards and backwards, against
/// what may be served: complete, in the wrong order, and with parts missing.
#[test]
fn every_bundle_that_clients_may_hold() {
    let three = three();
    let (leaf, key) = Leaf::bare(&three.issuing);
    let stacks = Stacks::start();
    let mut bundles: Vec<String> = (1..16_u32)
        .map(|bits| {
            let letters = "IXSO".chars().enumerate();
            let chosen = letters.filter(|(index, _)| bits >> index & 1 == 1);
            chosen.map(|(_, letter)| letter).collect()
        })
        .collect();
    let backwards: Vec<String> = bundles
        .iter()
        .map(|it| it.chars().rev().collect())
        .collect();
    bundles.extend(backwards);
    bundles.sort();
    bundles.dedup();
    let bundles: Vec<(String, Vec<Certificate>)> = bundles
        .into_iter()
        .map(|it| (it.clone(), three.all(&it)))
        .collect();
    let clients: Vec<Loaded<'_>> = bundles
        .iter()
        .map(|(name, trusts)| Loaded {
            name,
            shows: None,
            trusts,
        })
        .collect();
    let (mut found, mut made) = (Vec::new(), 0);
    for served in ["IX", "IXSO", "ISXO", "IOSX", "I", ""] {
        let mut chain = vec![leaf.clone()];
        chain.extend(three.all(served));
        let shown = Leaf {
            chain,
            key: key.clone(),
        };
        let server = Loaded {
            name: served,
            shows: Some(&shown),
            trusts: &[],
        };
        let server = (Stack::Go, &server);
        found.extend(deviations(
            &stacks,
            server,
            &clients,
            &Stack::ALL,
            &mut made,
        ));
    }
    assert!(
        found.is_empty(),
        "{} of {made}:\n{}",
        found.len(),
        found.join("\n")
    );
}
