//! Cross-certificates in every order.

use super::*;

pub(super) const CASES: &[Case] = &[
    case(
        "cross-signed, and the old root kept, cross-certificate first",
        |lab| {
            cross(lab, |ca, x, s, o| [ca, x, s, o].concat());
        },
        true,
        &[],
        &["token-hash", "roots-served"],
    ),
    case(
        "cross-signed in the order of K3s's script",
        |lab| {
            cross(lab, |ca, x, s, o| [ca, s, x, o].concat());
        },
        true,
        &["root-before-cross"],
        &[],
    ),
    case(
        "cross-signed, the old root before the cross-certificate",
        |lab| {
            cross(lab, |ca, x, s, o| [ca, o, x, s].concat());
        },
        true,
        &[],
        &["old-root-before-cross"],
    ),
    case(
        "cross-signed without the old root",
        |lab| {
            cross(lab, |ca, x, s, _| [ca, x, s].concat());
        },
        true,
        &["old-leaves"],
        &[],
    ),
    case(
        "both roots, and no cross-certificate",
        |lab| {
            cross(lab, |ca, _, s, o| [ca, s, o].concat());
        },
        false,
        &["new-root"],
        &[],
    ),
    case(
        "cross-signed without the new root",
        |lab| {
            cross(lab, |ca, x, _, o| [ca, x, o].concat());
        },
        true,
        &[],
        &[],
    ),
];
