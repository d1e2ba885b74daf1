//! Private keys of CAs.

use super::*;

pub(super) const CASES: &[Case] = &[
    case(
        "the key of another",
        |lab| {
            lab.stage(KEY, lab.staged(Field::ClientCaKey));
        },
        false,
        &["key-mismatch"],
        &[],
    ),
    case(
        "a key of another kind",
        |lab| {
            lab.stage(KEY, rsa_key(2));
        },
        false,
        &["key-mismatch"],
        &[],
    ),
    case(
        "certificate and key exchanged",
        |lab| {
            let (certificate, key) = (lab.staged(CA), lab.staged(KEY));
            lab.stage(CA, key);
            lab.stage(KEY, certificate);
        },
        false,
        &["swapped", "malformed", "key-in-certificate-file"],
        &[],
    ),
    case(
        "an encrypted key",
        |lab| {
            let path = KEY.under(&lab.new_set()).display().to_string();
            let arguments = ["pkey", "-in", &path, "-aes256", "-passout", "pass:secret"];
            let encrypted = openssl_ok(&arguments, b"").stdout;
            lab.stage(KEY, encrypted);
        },
        false,
        &["encrypted-key"],
        &[],
    ),
    case(
        "a key in OpenSSL's legacy encryption",
        |lab| {
            let path = KEY.under(&lab.new_set()).display().to_string();
            let arguments = ["ec", "-in", &path, "-aes256", "-passout", "pass:secret"];
            let encrypted = openssl_ok(&arguments, b"").stdout;
            lab.stage(KEY, encrypted);
        },
        false,
        &["encrypted-key"],
        &[],
    ),
    case(
        "the right key second",
        |lab| {
            let other = lab.staged(Field::ClientCaKey);
            lab.stage(KEY, other + &lab.staged(KEY));
        },
        false,
        &["first-key"],
        &["several-keys"],
    ),
    case(
        "the root's key too",
        |lab| {
            let key = lab.staged(KEY);
            lab.stage(KEY, key + &lab.root.key_pem());
        },
        true,
        &[],
        &["several-keys"],
    ),
    case(
        "a key that is damaged",
        |lab| {
            let text =
                "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA==\n-----END EC PRIVATE KEY-----\n";
            lab.stage(KEY, text);
        },
        false,
        &["key-mismatch"],
        &[],
    ),
    case(
        "a key file without a key",
        |lab| {
            lab.stage(KEY, "nothing here\n");
        },
        false,
        &["key-mismatch"],
        &[],
    ),
    case(
        "a public key for a key",
        |lab| {
            let path = KEY.under(&lab.new_set()).display().to_string();
            let public = openssl_ok(&["pkey", "-in", &path, "-pubout"], b"").stdout;
            lab.stage(KEY, public);
        },
        false,
        &["key-mismatch"],
        &[],
    ),
    case(
        "a certificate for a key",
        |lab| {
            lab.stage(KEY, lab.intermediate.pem());
        },
        false,
        &["key-mismatch"],
        &[],
    ),
    case(
        "two CAs with one key",
        |lab| {
            let (certificate, key) = (lab.staged(CA), lab.staged(KEY));
            lab.stage(Field::RequestHeaderCa, certificate);
            lab.stage(Field::RequestHeaderCaKey, key);
        },
        true,
        &[],
        &["shared-key"],
    ),
];
