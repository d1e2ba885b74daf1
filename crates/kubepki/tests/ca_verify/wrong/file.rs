//! Files that are damaged, odd, or not there.

use super::*;

pub(super) const CASES: &[Case] = &[
    case(
        "the certificate alone",
        |lab| {
            lab.remove(KEY);
        },
        false,
        &["key-mismatch"],
        &["missing"],
    ),
    case(
        "the key alone",
        |lab| {
            lab.remove(CA);
        },
        false,
        &["key-mismatch"],
        &["missing"],
    ),
    case(
        "an empty certificate file",
        |lab| {
            lab.stage(CA, "");
            lab.stage(KEY, "");
        },
        true,
        &[],
        &["empty"],
    ),
    case(
        "Windows line ends",
        |lab| {
            let text = lab.staged(CA).replace('\n', "\r\n");
            lab.stage(CA, text);
        },
        true,
        &[],
        &["crlf"],
    ),
    case(
        "a byte order mark",
        |lab| {
            let text = lab.staged(CA);
            lab.stage(CA, format!("\u{feff}{text}"));
        },
        false,
        &["damaged-block", "key-mismatch"],
        &[],
    ),
    case(
        "DER instead of PEM",
        |lab| {
            let der = lab.intermediate.authority.certificate().der().to_vec();
            lab.stage(CA, der);
        },
        false,
        &["malformed", "key-mismatch"],
        &[],
    ),
    case(
        "a block that was cut off",
        |lab| {
            let text = lab.staged(CA);
            lab.stage(CA, &text[..text.len() - 60]);
        },
        true,
        &["damaged-block", "incomplete-chain"],
        &[],
    ),
    case(
        "a block that is no certificate",
        |lab| {
            let text = lab.staged(CA);
            lab.stage(
                CA,
                text + "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n",
            );
        },
        false,
        &["malformed"],
        &[],
    ),
    case(
        "a trusted certificate in OpenSSL's form",
        |lab| {
            let text = lab
                .staged(CA)
                .replace("BEGIN CERTIFICATE", "BEGIN TRUSTED CERTIFICATE");
            lab.stage(
                CA,
                text.replace("END CERTIFICATE", "END TRUSTED CERTIFICATE"),
            );
        },
        false,
        &["malformed", "key-mismatch"],
        &["skipped-block"],
    ),
    case(
        "the key in the certificate's file too",
        |lab| {
            let both = lab.staged(CA) + &lab.staged(KEY);
            lab.stage(CA, both);
        },
        true,
        &["key-in-certificate-file"],
        &[],
    ),
    case(
        "a huge file",
        |lab| {
            let text = lab.staged(CA) + &"#".repeat(2 << 20);
            lab.stage(CA, text);
        },
        true,
        &["too-large"],
        &[],
    ),
];
