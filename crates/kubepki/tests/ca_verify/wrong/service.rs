//! Service-account keys.

use super::*;

pub(super) const CASES: &[Case] = &[
    case(
        "the old key missing",
        |lab| {
            lab.stage(Field::ServiceKey, rsa_key(2));
        },
        false,
        &["service-key-lost"],
        &[],
    ),
    case(
        "the old key still first",
        |lab| {
            let old = lab.in_force(Field::ServiceKey);
            lab.stage(Field::ServiceKey, old + &rsa_key(2));
        },
        true,
        &[],
        &["service-key-not-first"],
    ),
    case(
        "an older key dropped",
        |lab| {
            let (old, older) = (lab.in_force(Field::ServiceKey), rsa_key(3));
            lab.write(&lab.old(), Field::ServiceKey, format!("{old}{older}"));
        },
        true,
        &[],
        &["service-key-dropped"],
    ),
    case(
        "an EC key in PKCS#8 form, old and new",
        |lab| {
            let key = pkcs8_ec();
            lab.write(&lab.old(), Field::ServiceKey, &key);
            lab.stage(Field::ServiceKey, rsa_key(2) + &key);
        },
        false,
        &["k3s"],
        &["service-key-unseen"],
    ),
    case(
        "an EC key in PKCS#8 form first",
        |lab| {
            let old = lab.in_force(Field::ServiceKey);
            lab.stage(Field::ServiceKey, pkcs8_ec() + &old);
        },
        true,
        &["service-key-unseen"],
        &[],
    ),
    case(
        "an Ed25519 key first",
        |lab| {
            let old = lab.in_force(Field::ServiceKey);
            let new = openssl_ok(&["genpkey", "-algorithm", "ed25519"], b"").stdout;
            lab.stage(Field::ServiceKey, String::from_utf8(new).unwrap() + &old);
        },
        true,
        &["service-key-kind"],
        &[],
    ),
    case(
        "no service-account key at all",
        |lab| {
            lab.stage(Field::ServiceKey, "nothing\n");
        },
        false,
        &["no-service-key", "service-key-lost"],
        &[],
    ),
    case(
        "an encrypted service-account key",
        |lab| {
            let path = Field::ServiceKey.under(&lab.old()).display().to_string();
            let arguments = ["pkey", "-in", &path, "-aes256", "-passout", "pass:secret"];
            let encrypted = openssl_ok(&arguments, b"").stdout;
            lab.stage(Field::ServiceKey, encrypted);
        },
        false,
        &["encrypted-key", "no-service-key", "service-key-lost"],
        &[],
    ),
];
