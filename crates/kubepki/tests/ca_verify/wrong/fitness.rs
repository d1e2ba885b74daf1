//! CAs that may not do what they are for.

use super::*;

pub(super) const CASES: &[Case] = &[
    case(
        "no CA",
        |lab| {
            odd(
                lab,
                "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature",
                &EC,
            );
        },
        true,
        &["not-a-ca"],
        &[],
    ),
    case(
        "no basic constraints",
        |lab| {
            odd(lab, "subjectKeyIdentifier=hash", &EC);
        },
        true,
        &["not-a-ca"],
        &[],
    ),
    case(
        "no keyCertSign",
        |lab| {
            odd(
                lab,
                "basicConstraints=critical,CA:true\nkeyUsage=critical,digitalSignature",
                &EC,
            );
        },
        true,
        &["no-cert-sign"],
        &[],
    ),
    case(
        "an extension that nobody understands",
        |lab| {
            odd(
                lab,
                "basicConstraints=critical,CA:true\n1.2.3.4=critical,ASN1:UTF8String:x",
                &EC,
            );
        },
        false,
        &["new-root", "incomplete-chain"],
        &[],
    ),
    case(
        "a server CA for clients only",
        |lab| {
            odd(
                lab,
                "basicConstraints=critical,CA:true\nextendedKeyUsage=clientAuth",
                &EC,
            );
        },
        false,
        &["new-root", "purposes"],
        &[],
    ),
    case(
        "a client CA for servers only",
        |lab| {
            let (certificate, key) = lab.odd(
                &lab.intermediate,
                &EC,
                "basicConstraints=critical,CA:true\nextendedKeyUsage=serverAuth",
                "-sha256",
            );
            lab.stage(Field::ClientCa, certificate + &lab.intermediate.bundle());
            lab.stage(Field::ClientCaKey, key);
        },
        true,
        &["purposes"],
        &[],
    ),
    case(
        "path length 0 above the CA",
        |lab| {
            let middle = lab.root.below("narrow", span(-1, 1000), Some(0));
            // It issued the CA all the same.
            let (certificate, key) =
                lab.odd(&middle, &EC, "basicConstraints=critical,CA:true", "-sha256");
            lab.stage(CA, certificate + &middle.bundle());
            lab.stage(KEY, key);
        },
        true,
        &["path-length"],
        &[],
    ),
    case(
        "path length 0 two CAs above",
        |lab| {
            let narrow = lab.root.below("narrow", span(-1, 1000), Some(0));
            let (certificate, key) =
                lab.odd(&narrow, &EC, "basicConstraints=critical,CA:true", "-sha256");
            let middle = Ca {
                authority: pki::Authority::new(
                    pki::Certificate::all_from_pem(certificate.as_bytes())
                        .unwrap()
                        .remove(0),
                    pki::PrivateKey::from_pem(key.as_bytes()).unwrap(),
                )
                .unwrap(),
                above: vec![
                    narrow.authority.certificate().clone(),
                    lab.root.authority.certificate().clone(),
                ],
            };
            let ca = middle.below("server-ca@3", span(0, 800), None);
            lab.stage_ca(CA, &ca, &ca.bundle());
        },
        false,
        &["new-root", "incomplete-chain"],
        &[],
    ),
    case(
        "signed with SHA-1",
        |lab| {
            let (certificate, key) = lab.odd(
                &lab.intermediate,
                &EC,
                "basicConstraints=critical,CA:true",
                "-sha1",
            );
            lab.stage(CA, certificate + &lab.intermediate.bundle());
            lab.stage(KEY, key);
        },
        false,
        &["new-root", "incomplete-chain", "weak-signature"],
        &[],
    ),
    case(
        "an RSA key of 1024 bits",
        |lab| {
            odd(
                lab,
                "basicConstraints=critical,CA:true",
                &["-newkey", "rsa:1024"],
            );
        },
        true,
        &["weak-key"],
        &[],
    ),
    case(
        "outlives its issuer",
        |lab| {
            let middle = lab.root.below("short", span(-1, 500), None);
            let (certificate, key) =
                lab.odd(&middle, &EC, "basicConstraints=critical,CA:true", "-sha256");
            lab.stage(CA, certificate + &middle.bundle());
            lab.stage(KEY, key);
        },
        true,
        &[],
        &["outlives-issuer"],
    ),
];
