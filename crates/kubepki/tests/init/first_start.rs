//! A tree made by `init` against one that K3s made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kubepki::catalogue::{K3S, Kind};
use kubepki::cluster::{Leaf, LeafWant, k3s_keeps};
use kubepki::host::LocalHost;
use kubepki::inventory::{Inventory, Role, Site, collect};
use kubepki::plan::LeafCertificate;
use kubepki::token::{Token, authority_hash};
use pki::{Certificate, DAY, PrivateKey, Purpose, San};
use testkit::{Fixture, Secrets, Tree, assert_golden, openssl_ok};

use crate::facts;
use crate::place::{PASSWORD, Place};

async fn inventory(place: &Place) -> Inventory {
    place.survey(&place.spec()).await.inventory
}

/// Every difference from K3s's own files has a reason here, or fails the test.
const REASONS: [(&str, &str); 6] = [
    (
        "serial number",
        "RFC 5280 section 4.1.2.2 wants them positive; libraries begin to refuse 0",
    ),
    (
        "key usage",
        "CAs sign certificates and CRLs; keyEncipherment has no meaning for EC keys",
    ),
    (
        "subject key identifier",
        "RFC 5280 section 4.2.1.2 method 1, as Go before 1.25; readers compare, never compute",
    ),
    (
        "paths that K3s has beside them",
        "the datastore, the API server's own scratch files and kubelet's settings hold no PKI",
    ),
    (
        "paths that only init has",
        "kubepki's own memory: plans, journal, backups",
    ),
    (
        "members",
        "K3s adds them once its API server keeps the Secret too",
    ),
];

#[tokio::test]
async fn a_new_tree_is_as_k3s_makes_it() {
    let place = Place::new();
    place.make(&place.spec()).await;
    let made = facts::of(&inventory(&place).await);
    let fixture = Fixture::without_datastore("k3s-1.36-sqlite");
    let theirs = facts::of(&inventory_of(&fixture).await);

    // Difference -> rows.
    let mut differences: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (row, theirs) in &theirs {
        let made = &made[row];
        let names: BTreeSet<_> = theirs.keys().chain(made.keys()).collect();
        for name in names {
            let (theirs, made) = (theirs.get(name), made.get(name));
            if theirs != made {
                let none = "nothing".to_owned();
                let (theirs, made) = (theirs.unwrap_or(&none), made.unwrap_or(&none));
                let reason = reason(name);
                let text = format!("{name}: {theirs}\n  here: {made}\n  because: {reason}\n");
                differences.entry(text).or_default().insert(row);
            }
        }
    }
    let mut golden = String::from(
        "What differs between the files of a first start of K3s v1.36.3 and of `kubepki init`.\n\
         Everything else is equal: modes, subjects, names, purposes, validity, texts.\n\
         The datastore (server/db) is left out.\n",
    );
    for (difference, rows) in differences {
        let rows: Vec<&str> = rows.into_iter().collect();
        golden.push_str(&format!("\n{difference}  in: {}\n", wrapped(&rows)));
    }
    golden.push_str(&paths(&fixture, &place));
    assert_golden("tests/golden/init-differences.txt", &golden);
}

fn reason(name: &str) -> &'static str {
    REASONS
        .iter()
        .find(|(known, _)| *known == name)
        .map_or_else(
            || panic!("{name} differs without a reason"),
            |(_, reason)| reason,
        )
}

fn wrapped(rows: &[&str]) -> String {
    rows.join("\n      ")
}

async fn inventory_of(fixture: &Fixture) -> Inventory {
    let site = Site::open(
        &LocalHost,
        &fixture.data_dir(),
        Some(fixture.admin_kubeconfig()),
    )
    .await;
    let site = site.unwrap();
    assert_eq!(site.role, Role::Server);
    collect(&LocalHost, &site, &K3S, Place::new().now).await
}

/// Paths with kind and mode that one tree has and the other has not.
fn paths(fixture: &Fixture, place: &Place) -> String {
    let nodes = |folder: &Path| -> BTreeSet<String> {
        Tree::snapshot(folder)
            .nodes()
            .filter(|(path, _)| *path != ".")
            .map(|(path, node)| format!("{path} {:04o}", node.mode))
            .collect()
    };
    let theirs = nodes(&fixture.data_dir());
    let made: BTreeSet<String> = nodes(&place.data_dir())
        .into_iter()
        .filter(|path| !path.starts_with("kubepki/"))
        .collect();
    let mut text = String::new();
    for (name, paths) in [
        ("paths that K3s has beside them", theirs.difference(&made)),
        ("paths that only init has", made.difference(&theirs)),
    ] {
        let paths: Vec<&str> = paths.map(String::as_str).collect();
        text.push_str(&format!("\n{name}\n  because: {}\n", reason(name)));
        text.push_str(&format!("      {}\n", wrapped(&paths)));
    }
    text
}

#[tokio::test]
async fn openssl_accepts_every_leaf() {
    let place = Place::new();
    place.make(&place.spec()).await;
    let inventory = inventory(&place).await;
    let moment = place.now.plus(300 * DAY).as_secs().to_string();
    let mut checked = 0;
    for observed in &inventory.rows {
        let Kind::Leaf(spec) = &observed.row.kind else {
            continue;
        };
        if observed.file.is_absent() {
            continue;
        }
        let authority = &inventory.row(spec.authority).unwrap().file.path;
        for purpose in spec.purposes {
            let purpose = if *purpose == Purpose::ServerAuth {
                "sslserver"
            } else {
                "sslclient"
            };
            openssl_ok(
                &[
                    "verify",
                    "-x509_strict",
                    "-attime",
                    &moment,
                    "-purpose",
                    purpose,
                    "-CAfile",
                    authority.to_str().unwrap(),
                    observed.file.path.to_str().unwrap(),
                ],
                b"",
            );
            checked += 1;
        }
    }
    assert_eq!(checked, 19);
}

#[tokio::test]
async fn k3s_would_keep_every_leaf() {
    let place = Place::new();
    let plan = place.make(&place.spec()).await;
    let inventory = inventory(&place).await;
    for (id, leaf) in &plan.leaves {
        let Some(wanted) = &leaf.certificate else {
            continue;
        };
        let observed = inventory.row(&id.0).unwrap();
        let authority = match &observed.row.kind {
            Kind::Leaf(spec) => spec.authority,
            Kind::Listener { authority } => authority,
            kind => panic!("{kind:?}"),
        };
        let leaf = Leaf {
            certificate: observed.file.first_certificate().unwrap(),
            authority: inventory.authority(authority).first().unwrap(),
        };
        assert_eq!(
            k3s_keeps(leaf, &want(wanted), place.now, 120 * DAY),
            Ok(()),
            "{id}"
        );
    }
    assert_eq!(
        plan.leaves
            .values()
            .filter(|leaf| leaf.certificate.is_some())
            .count(),
        18
    );
}

fn want(leaf: &LeafCertificate) -> LeafWant {
    LeafWant {
        organizations: leaf.organizations.clone(),
        common_name: leaf.common_name.clone(),
        sans: leaf.sans.iter().map(|san| San::from_text(san)).collect(),
        purposes: Vec::new(),
    }
}

#[tokio::test]
async fn the_token_pins_the_file_of_the_server_ca() {
    let place = Place::new();
    place.make(&place.spec()).await;
    let token = Token::parse(&place.read("server/token")).unwrap();
    let file = place.read("server/tls/server-ca.crt");
    let hash = authority_hash(file.as_bytes(), place.now).unwrap();
    assert_eq!(token.authority(), Some(hash.to_string().as_str()));
    assert_eq!(token.password().unwrap().as_str(), PASSWORD);
    let current = PrivateKey::from_pem(place.read("server/tls/service.current.key").as_bytes());
    let all = PrivateKey::all_from_pem(place.read("server/tls/service.key").as_bytes()).unwrap();
    assert_eq!(
        current.unwrap().spki_sha256(),
        all.first().unwrap().spki_sha256()
    );
}

#[tokio::test]
async fn agents_can_have_a_token_of_their_own() {
    let place = Place::new();
    let (spec, agents) = (
        place.spec(),
        Token::parse("agents-alone-0123456789").unwrap(),
    );
    let (plan, staged) = place.plan_with(&spec, None, Some(&agents)).await.unwrap();
    place.apply(&plan, &staged).await;
    let server = Token::parse(&place.read("server/token")).unwrap();
    let agent = Token::parse(&place.read("server/agent-token")).unwrap();
    assert_eq!(agent.authority(), server.authority());
    assert!(agent.to_text().ends_with("::node:agents-alone-0123456789"));
    // Made from 16 random bytes.
    let password = server.password().unwrap();
    assert!(password.len() == 32 && password.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(
        place.read("server/cred/passwd"),
        format!(
            "{},server,server,k3s:server\nagents-alone-0123456789,node,node,k3s:agent\n",
            password.as_str()
        )
    );
}

#[tokio::test]
async fn what_is_saved_and_shown_holds_no_secret() {
    let place = Place::new();
    let plan = place.make(&place.spec()).await;
    let mut secrets = Secrets::below(place.data_dir().join("server"));
    secrets.add_below(place.data_dir().join("agent"));
    assert!(secrets.count() > 20);
    secrets.assert_absent("the plan", serde_json::to_string_pretty(&plan).unwrap());
    secrets.assert_absent("the plan in words", kubepki::plan::show(&plan, None));
    secrets.assert_absent_below(place.data_dir().join("kubepki"), |_| false);
}

#[tokio::test]
async fn a_whole_tree_needs_nothing() {
    let place = Place::new();
    place.make(&place.spec()).await;
    let before = Tree::snapshot(place.data_dir());
    let (plan, staged) = place.plan(&place.spec(), None).await.unwrap();
    assert_eq!(plan.steps, []);
    assert!(staged.is_empty());
    assert!(Tree::snapshot(place.data_dir()) == before);
}

#[tokio::test]
async fn the_servers_files_alone_leave_the_agents_to_the_agent() {
    let place = Place::new();
    let mut spec = place.spec();
    spec.with_agent = false;
    spec.kubeconfig = None;
    place.make(&spec).await;
    assert!(!place.data_dir().join("agent").exists());
    assert!(!place.kubeconfig().exists());
    let leaf = Certificate::all_from_pem(place.read("server/tls/client-admin.crt").as_bytes());
    assert_eq!(leaf.unwrap().len(), 2);
}
