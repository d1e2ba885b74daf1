//! What differs between the certificates of a first `rke up` and ours, each with its reason.

use std::collections::{BTreeMap, BTreeSet};

use kubepki::rke::generate::leaf_validity;
use kubepki::rke::placement::files_of;
use kubepki::rke::{Bundle, ClusterConfig, Half, Wanted, first};
use pki::{Authority, Certificate, DAY, LeafRequest, Name, Serial, UnixTime};

use crate::Recording;

const REASONS: [(&str, &str); 8] = [
    (
        "serial number",
        "RFC 5280 section 4.1.2.2 wants them positive, libraries begin to refuse 0; one rule for all",
    ),
    (
        "key usage",
        "CAs sign certificates and CRLs; keyEncipherment is for servers",
    ),
    (
        "notBefore",
        "the age of a leaf is its own; an hour is for clocks that are late",
    ),
    ("notAfter", "no leaf outlives its CA"),
    (
        "subject key identifier",
        "RFC 5280 section 4.2.1.2 method 1, as Go before 1.25; readers compare, never compute",
    ),
    (
        "subject",
        "RKE copies kube-apiserver's certificate; ours is made as RKE makes it where that is missing",
    ),
    (
        "names",
        "RKE copies kube-apiserver's certificate; ours is made as RKE makes it where that is missing",
    ),
    (
        "purposes",
        "RKE copies kube-apiserver's certificate; ours is made as RKE makes it where that is missing",
    ),
];

type Told = BTreeMap<&'static str, String>;

/// What can be said of a certificate, without what differs between any two clusters.
fn facts(certificate: &Certificate, issuer: &Certificate, now: UnixTime) -> Told {
    let validity = certificate.validity();
    let list = |items: Vec<String>| match items.is_empty() {
        true => "none".to_owned(),
        false => items.join(", "),
    };
    let serial = match certificate.serial().octets() {
        [0] | [] => "0",
        octets if octets.len() <= 8 => "positive, at most 63 bits",
        _ => "positive, 127 bits",
    };
    let begins = match validity.not_before {
        moment if moment == issuer.validity().not_before => "its CA's",
        moment if moment == now => "when it is issued",
        _ => "an hour before it is issued",
    };
    let ends = match validity.not_after {
        moment if moment == now.plus(3650 * DAY) => "3650 days after it is issued",
        moment if moment == issuer.validity().not_after => "its CA's",
        _ => "another",
    };
    // The key bits of RSA-2048 follow 24 bytes.
    let bits = certificate.spki_der().get(24..).unwrap();
    let (one, two) = (pki::sha1(bits), pki::sha256(bits).0);
    let identifier = match certificate.subject_key_identifier() {
        None => "none",
        Some(found) if found == one => "SHA-1 of the key",
        Some(found) if found == &two[..20] => "SHA-256 of the key, cut",
        Some(_) => "another",
    };
    let authority = match certificate.authority_key_identifier() {
        None => "none",
        found if found == issuer.subject_key_identifier() => "the issuer's, octet for octet",
        Some(_) => "another's",
    };
    let usage = certificate.key_usage().map(|usage| usage.to_string());
    let kind = pki::public_key_algorithm(certificate.spki_der());
    Told::from([
        ("subject", certificate.subject().to_string()),
        ("issuer", certificate.issuer().to_string()),
        ("serial number", serial.to_owned()),
        ("notBefore", begins.to_owned()),
        ("notAfter", ends.to_owned()),
        ("subject key identifier", identifier.to_owned()),
        ("authority key identifier", authority.to_owned()),
        ("key usage", usage.unwrap_or_default()),
        (
            "purposes",
            list(
                certificate
                    .purposes()
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            ),
        ),
        (
            "names",
            list(certificate.sans().iter().map(ToString::to_string).collect()),
        ),
        ("CA", format!("{:?}", certificate.basic_constraints())),
        ("version", certificate.version().to_string()),
        ("signature", certificate.signature_algorithm()),
        ("public key", kind.unwrap().to_string()),
    ])
}

/// When RKE issued what it gave ten years.
fn issued(certificate: &Certificate) -> UnixTime {
    certificate.validity().not_after.plus(-3650 * DAY)
}

fn serial() -> Serial {
    let fill = |bytes: &mut [u8]| {
        bytes.fill(0x7e);
        Ok(())
    };
    Serial::random(fill).unwrap()
}

/// Ours: the specifications of a first state, issued with the recorded keys.
fn issue(wanted: &Wanted, recorded: &Bundle) -> BTreeMap<String, (Certificate, Certificate)> {
    let key = |entry: &str| recorded[entry].key().unwrap().unwrap();
    let moment = |entry: &str| issued(&recorded[entry].certificate().unwrap().unwrap());
    let mut made = BTreeMap::new();
    let mut authorities = BTreeMap::new();
    for spec in &wanted.authorities {
        let subject = Name::new(&[], spec.entry).unwrap();
        let validity = spec.validity(moment(spec.entry));
        let authority =
            Authority::self_signed(&subject, key(spec.entry), serial(), validity).unwrap();
        let certificate = authority.certificate().clone();
        made.insert(spec.entry.to_owned(), (certificate.clone(), certificate));
        authorities.insert(spec.entry, authority);
    }
    for spec in &wanted.leaves {
        let authority = &authorities[spec.issuer];
        let issuer = authority.certificate();
        // Two hours later, so that the hour before does not fall together with the CA's start.
        let now = moment(&spec.entry).plus(7200);
        let certificate = authority.issue(&LeafRequest {
            organizations: &spec.organizations,
            common_name: &spec.common_name,
            sans: &spec.sans,
            purposes: &spec.purposes,
            spki_der: key(&spec.entry).spki_der(),
            serial: serial(),
            validity: leaf_validity(now, issuer.validity()),
        });
        made.insert(spec.entry.clone(), (certificate.unwrap(), issuer.clone()));
    }
    made
}

#[test]
fn every_difference_from_rkes_certificates_has_its_reason() {
    let recording = Recording::state();
    let recorded = recording.parsed("cluster.rkestate").bundle(Half::Desired);
    let config = ClusterConfig::parse(&recording.text("cluster.yml")).unwrap();
    let wanted = first(&config).unwrap();
    let made = issue(&wanted, &recorded);
    assert!(made.keys().eq(recorded.keys()));

    let mut differences: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (entry, (ours, our_issuer)) in &made {
        let theirs = recorded[entry].certificate().unwrap().unwrap();
        let leaf = wanted.leaves.iter().find(|leaf| leaf.entry == *entry);
        let issuer = leaf.map_or(entry.as_str(), |leaf| leaf.issuer);
        let their_issuer = recorded[issuer].certificate().unwrap().unwrap();
        let moment = issued(&theirs);
        let later = if leaf.is_some() { 7200 } else { 0 };
        let theirs = facts(&theirs, &their_issuer, moment);
        let ours = facts(ours, our_issuer, moment.plus(later));
        for (name, theirs) in theirs {
            if ours[name] == theirs {
                continue;
            }
            let reason = REASONS.iter().find(|(known, _)| *known == name);
            let (_, reason) = reason.unwrap_or_else(|| panic!("{entry}: {name} {theirs}"));
            let text = format!(
                "{name}: {theirs}\n  here: {}\n  because: {reason}\n",
                ours[name]
            );
            differences.entry(text).or_default().insert(entry);
        }
    }
    let mut golden = String::from(
        "What differs between the certificates of a first `rke up` (RKE 1.6) and ours.\n\
         Everything else is equal: subjects, issuers, names in order, purposes, algorithms, keys' kind.\n",
    );
    for (difference, entries) in differences {
        let entries: Vec<&str> = entries.into_iter().collect();
        golden.push_str(&format!(
            "\n{difference}  in: {}\n",
            entries.join("\n      ")
        ));
    }
    golden.push_str(&shared_keys(&recorded));
    golden.push_str(&spread_keys(&config, &recorded));
    testkit::assert_golden("tests/golden/rke-differences.txt", &golden);
}

/// Entries that share one key with RKE. Every specification of ours asks for a new one.
fn shared_keys(recorded: &Bundle) -> String {
    let mut owners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, entry) in recorded {
        owners.entry(&entry.key_pem).or_default().push(name);
    }
    let mut shared: Vec<String> = owners
        .into_values()
        .filter(|names| names.len() > 1)
        .map(|names| names.join(" and "))
        .collect();
    shared.sort();
    format!(
        "\none key for two entries\n  here: a key for each\n  because: who holds one need not hold \
         the other; RKE itself parts them at the first rotation\n  in: {}\n",
        shared.join("\n      ")
    )
}

/// Keys that a host gets here.
fn spread_keys(config: &ClusterConfig, recorded: &Bundle) -> String {
    let mut text = String::from(
        "\nkeys on hosts: RKE gives each host every node's kubelet keys, and etcd hosts every member's\n  \
         here: its own\n  because: a worker that is taken over must not hold the others' keys\n  in:",
    );
    for node in &config.nodes {
        let files = files_of(node, recorded, config);
        let own: Vec<&str> = files
            .iter()
            .filter(|file| file.is_secret() && file.name.contains("-10-"))
            .map(|file| file.name.as_str())
            .collect();
        text.push_str(&format!(" {}: {}\n     ", node.hostname, own.join(", ")));
    }
    text.trim_end().to_owned() + "\n"
}
