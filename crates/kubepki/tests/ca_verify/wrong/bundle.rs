//! Bundles that are not what they should be, and CAs out of their time.

use super::*;

pub(super) const CASES: &[Case] = &[
    case("nothing wrong", |_| {}, true, &[], &[]),
    case(
        "a self-signed CA alone",
        |lab| {
            let new = root("alone", span(-1, 900));
            lab.stage_ca(CA, &new, &new.pem());
        },
        false,
        &["single-certificate"],
        &["token-hash"],
    ),
    case(
        "the CA without its issuers",
        |lab| {
            let first = lab.staged(CA);
            lab.stage(CA, first_of(&first));
        },
        false,
        &["single-certificate", "incomplete-chain", "old-leaves"],
        &[],
    ),
    case(
        "a root that nobody trusts",
        |lab| {
            let new = root("new-root", span(-1, 3000)).below("server-ca@3", span(-1, 900), None);
            lab.stage_ca(CA, &new, &new.bundle());
        },
        false,
        &["new-root"],
        &["token-hash"],
    ),
    case(
        "the wrong way round",
        |lab| {
            let reversed = reversed(&lab.staged(CA));
            lab.stage(CA, reversed);
        },
        false,
        &["reversed", "order"],
        &[],
    ),
    case(
        "the intermediate missing",
        |lab| {
            let text = lab.staged(CA);
            let blocks = blocks(&text);
            lab.stage(CA, format!("{}{}", blocks[0], blocks[2]));
        },
        true,
        &["incomplete-chain"],
        &["token-hash"],
    ),
    case(
        "the root missing",
        |lab| {
            let text = lab.staged(CA);
            let blocks = blocks(&text);
            lab.stage(CA, format!("{}{}", blocks[0], blocks[1]));
        },
        true,
        &["incomplete-chain"],
        &["token-hash"],
    ),
    case(
        "a certificate twice",
        |lab| {
            let text = lab.staged(CA);
            lab.stage(CA, format!("{text}{}", blocks(&text)[2]));
        },
        true,
        &[],
        &["duplicate"],
    ),
    case(
        "another CA of the same name",
        |lab| {
            let old = lab.intermediate.below("ServerCA@1", span(-1, 900), None);
            lab.stage_ca(CA, &old, &old.bundle());
        },
        true,
        &[],
        &["name-clash"],
    ),
    case(
        "the client CA in the server CA's place",
        |lab| {
            lab.stage(CA, lab.in_force(Field::ClientCa));
            lab.stage(KEY, lab.in_force(Field::ClientCaKey));
        },
        true,
        &["another-ca"],
        &[],
    ),
    case(
        "ended",
        |lab| {
            let ca = lab.intermediate.below("server-ca@3", span(-20, -1), None);
            lab.stage_ca(CA, &ca, &ca.bundle());
        },
        false,
        &["new-root", "not-valid"],
        &[],
    ),
    case(
        "not begun",
        |lab| {
            let ca = lab.intermediate.below("server-ca@3", span(1, 300), None);
            lab.stage_ca(CA, &ca, &ca.bundle());
        },
        false,
        &["new-root", "not-valid"],
        &[],
    ),
    case(
        "under a root that has ended",
        |lab| {
            let old = root("ended-root", span(-30, -1));
            let middle = old.below("middle", span(-20, -2), None);
            let first = middle.below("server-ca@0", span(-15, -3), None);
            lab.write(&lab.old(), CA, first.bundle());
            lab.write(&lab.old(), KEY, first.key_pem());
            let ca = middle.below("server-ca@3", span(-15, -3), None);
            lab.stage_ca(CA, &ca, &ca.bundle());
        },
        false,
        &["new-root", "not-valid"],
        &[],
    ),
];
