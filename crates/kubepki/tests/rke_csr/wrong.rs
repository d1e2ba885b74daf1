//! A good directory with one thing broken at a time: what is found, and what RKE says.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use kubepki::rke::custom::{Rule, Severity};
use pki::DAY;
use testkit::openssl_ok;

use crate::lab::{Lab, private, run, today};

/// One broken thing.
struct Case {
    /// What was done.
    what: &'static str,
    break_it: fn(&Lab),
    /// Days from now.
    later: i64,
    /// Every finding: severity, rule, file.
    found: &'static [(Severity, Rule, &'static str)],
    /// What RKE ends with, after the prefix with the directory.
    rke: Option<&'static str>,
}

use Rule::*;
use Severity::{Error, Note, Refused, Warning};

const CLIENT: &str = "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=clientAuth";

fn remove(lab: &Lab, name: &str) {
    fs::remove_file(lab.file(name)).unwrap();
}

fn copy(lab: &Lab, from: &str, to: &str) {
    fs::copy(lab.file(from), lab.file(to)).unwrap();
}

fn append(lab: &Lab, from: &str, to: &str) {
    let mut text = fs::read(lab.file(to)).unwrap();
    text.extend(fs::read(lab.file(from)).unwrap());
    fs::write(lab.file(to), text).unwrap();
}

fn subject(lab: &Lab, entry: &str, subject: &str) {
    lab.sign(entry, &["-subj", subject]);
}

/// Gives a CA another certificate for its key and name.
fn reissue(lab: &Lab, entry: &str, extensions: &str) {
    let name = match entry {
        "kube-ca" => "/O=Example/CN=Example Cluster CA",
        _ => "/O=Example/CN=Example Front CA",
    };
    let key = lab.file(&format!("{entry}-key.pem"));
    let key = key.to_str().unwrap();
    let request = openssl_ok(&["req", "-new", "-key", key, "-subj", name], b"").stdout;
    let file = lab.certs().join("extensions.cnf");
    fs::write(&file, extensions).unwrap();
    let out = lab.file(&format!("{entry}.pem"));
    let mut args = vec!["x509", "-req", "-signkey", key, "-days", "7300", "-extfile"];
    args.extend([file.to_str().unwrap(), "-out", out.to_str().unwrap()]);
    openssl_ok(&args, &request);
    fs::remove_file(&file).unwrap();
}

/// Signs the request by a CA that is not in the directory afterwards.
fn sign_by_stranger(lab: &Lab, entry: &str, subject: &str) {
    lab.root("stranger", subject);
    lab.sign_with(
        entry,
        "stranger",
        "basicConstraints=critical,CA:FALSE",
        true,
        &[],
    );
    remove(lab, "stranger.pem");
    remove(lab, "stranger-key.pem");
}

/// Gives an entry another's key, with request and certificate.
fn same_key(lab: &Lab, from: &str, entry: &str) {
    copy(lab, &format!("{from}-key.pem"), &format!("{entry}-key.pem"));
    run(&lab.config, &lab.certs()).unwrap();
    lab.sign(entry, &[]);
}

fn key(lab: &Lab, entry: &str, args: &[&str]) {
    let bytes = openssl_ok(args, b"").stdout;
    fs::write(lab.file(&format!("{entry}-key.pem")), bytes).unwrap();
}

const CASES: &[Case] = &[
    Case {
        what: "no CA",
        break_it: |lab| remove(lab, "kube-ca.pem"),
        later: 0,
        found: &[(Refused, NoAuthority, "kube-ca.pem")],
        rke: Some("Failed to find master CA certificate"),
    },
    Case {
        what: "no CA of the aggregation layer",
        break_it: |lab| remove(lab, "kube-apiserver-requestheader-ca.pem"),
        later: 0,
        found: &[
            (
                Warning,
                NoRequestHeaderAuthority,
                "kube-apiserver-requestheader-ca.pem",
            ),
            (
                Refused,
                NotSignedByRequestHeaderAuthority,
                "kube-apiserver-proxy-client.pem",
            ),
        ],
        rke: Some(
            "Component [kube-apiserver-proxy-client] is not signed by the custom Request Header CA certificate",
        ),
    },
    Case {
        what: "no API server's certificate",
        break_it: |lab| remove(lab, "kube-apiserver.pem"),
        later: 0,
        found: &[(Refused, MissingComponent, "kube-apiserver.pem")],
        rke: Some("Failed to find [kube-apiserver] Certificate or Key"),
    },
    Case {
        what: "an empty certificate",
        break_it: |lab| fs::write(lab.file("kube-node.pem"), b"").unwrap(),
        later: 0,
        found: &[(Refused, MissingComponent, "kube-node.pem")],
        rke: Some("Failed to find [kube-node] Certificate or Key"),
    },
    Case {
        what: "no key of the administrator",
        break_it: |lab| remove(lab, "kube-admin-key.pem"),
        later: 0,
        found: &[(Refused, MissingComponent, "kube-admin-key.pem")],
        rke: Some("Failed to find [kube-admin] Certificate or Key"),
    },
    Case {
        what: "no etcd certificate",
        break_it: |lab| remove(lab, "kube-etcd-10-0-0-1.pem"),
        later: 0,
        found: &[(Refused, MissingEtcd, "kube-etcd-10-0-0-1.pem")],
        rke: Some("Failed to find etcd [kube-etcd-10-0-0-1] Certificate or Key"),
    },
    Case {
        what: "no etcd key",
        break_it: |lab| remove(lab, "kube-etcd-10-0-0-1-key.pem"),
        later: 0,
        found: &[(Refused, MissingEtcd, "kube-etcd-10-0-0-1-key.pem")],
        rke: Some("Failed to find etcd [kube-etcd-10-0-0-1] Certificate or Key"),
    },
    Case {
        what: "another CA",
        break_it: |lab| sign_by_stranger(lab, "kube-proxy", "/O=Example/CN=Stranger"),
        later: 0,
        found: &[(Refused, NotSignedByAuthority, "kube-proxy.pem")],
        rke: Some("Component [kube-proxy] is not signed by the custom CA certificate"),
    },
    Case {
        what: "another CA, for etcd",
        break_it: |lab| sign_by_stranger(lab, "kube-etcd-10-0-0-1", "/O=Example/CN=Stranger"),
        later: 0,
        found: &[(Refused, NotSignedByAuthority, "kube-etcd-10-0-0-1.pem")],
        rke: Some("Component [kube-etcd-10-0-0-1] is not signed by the custom CA certificate"),
    },
    Case {
        what: "another CA, for a kubelet, at which RKE does not look",
        break_it: |lab| sign_by_stranger(lab, "kube-kubelet-10-0-0-2", "/O=Example/CN=Stranger"),
        later: 0,
        found: &[(Error, IssuerName, "kube-kubelet-10-0-0-2.pem")],
        rke: None,
    },
    Case {
        what: "the cluster CA instead of that of the aggregation layer",
        break_it: |lab| {
            lab.sign_with("kube-apiserver-proxy-client", "kube-ca", CLIENT, false, &[]);
        },
        later: 0,
        found: &[
            (
                Refused,
                NotSignedByRequestHeaderAuthority,
                "kube-apiserver-proxy-client.pem",
            ),
            (Note, UnusedPurpose, "kube-apiserver-proxy-client.pem"),
        ],
        rke: Some(
            "Component [kube-apiserver-proxy-client] is not signed by the custom Request Header CA certificate",
        ),
    },
    Case {
        what: "the CA's common name with another organization",
        break_it: |lab| sign_by_stranger(lab, "kube-proxy", "/O=Other/CN=Example Cluster CA"),
        later: 0,
        found: &[(Error, IssuerName, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "the CA's name and another key",
        break_it: |lab| sign_by_stranger(lab, "kube-proxy", "/O=Example/CN=Example Cluster CA"),
        later: 0,
        found: &[(Error, Signature, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "expired",
        break_it: |lab| lab.sign("kube-node", &["-days", "1"]),
        later: 2,
        found: &[(Error, Expired, "kube-node.pem")],
        rke: None,
    },
    Case {
        what: "ends soon",
        break_it: |lab| lab.sign("kube-node", &["-days", "30"]),
        later: 0,
        found: &[(Warning, EndsSoon, "kube-node.pem")],
        rke: None,
    },
    Case {
        what: "outlives its CA",
        break_it: |lab| lab.sign("kube-node", &["-days", "9000"]),
        later: 0,
        found: &[(Warning, OutlivesAuthority, "kube-node.pem")],
        rke: None,
    },
    Case {
        what: "names lost on the way",
        break_it: |lab| {
            lab.sign_as("kube-apiserver", "extendedKeyUsage=clientAuth,serverAuth");
        },
        later: 0,
        found: &[(Error, MissingName, "kube-apiserver.pem")],
        rke: None,
    },
    Case {
        what: "a wildcard instead of a name, and one name more",
        break_it: |lab| {
            lab.sign_as(
                "kube-kubelet-10-0-0-2",
                "extendedKeyUsage=clientAuth,serverAuth\nsubjectAltName=DNS:w1,DNS:w2,IP:10.0.0.2",
            );
        },
        later: 0,
        found: &[(Note, ExtraName, "kube-kubelet-10-0-0-2.pem")],
        rke: None,
    },
    Case {
        what: "the API server is no client",
        break_it: |lab| {
            lab.sign_as(
                "kube-etcd-10-0-0-1",
                "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:cp1,DNS:localhost,\
                 DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,\
                 DNS:kubernetes.default.svc.cluster.local,IP:10.0.0.1,IP:127.0.0.1,IP:10.43.0.1",
            );
        },
        later: 0,
        found: &[(Error, Purpose, "kube-etcd-10-0-0-1.pem")],
        rke: None,
    },
    Case {
        what: "a kubelet that is a server only",
        break_it: |lab| {
            lab.sign_as(
                "kube-kubelet-10-0-0-2",
                "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:w1,IP:10.0.0.2",
            );
        },
        later: 0,
        found: &[(Note, UnusedPurpose, "kube-kubelet-10-0-0-2.pem")],
        rke: None,
    },
    Case {
        what: "no purposes",
        break_it: |lab| lab.sign_as("kube-proxy", ""),
        later: 0,
        found: &[(Note, AnyPurpose, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "a key that may not sign",
        break_it: |lab| {
            let extensions = "keyUsage=critical,keyEncipherment\nextendedKeyUsage=clientAuth";
            lab.sign_with("kube-proxy", "kube-ca", extensions, false, &[]);
        },
        later: 0,
        found: &[(Error, KeyUsage, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "another's key",
        break_it: |lab| copy(lab, "kube-node-key.pem", "kube-proxy-key.pem"),
        later: 0,
        found: &[(Error, KeyMismatch, "kube-proxy-key.pem")],
        rke: None,
    },
    Case {
        what: "another's key for the CA",
        break_it: |lab| copy(lab, "kube-node-key.pem", "kube-ca-key.pem"),
        later: 0,
        found: &[(Error, KeyMismatch, "kube-ca-key.pem")],
        rke: None,
    },
    Case {
        what: "another user",
        break_it: |lab| subject(lab, "kube-scheduler", "/CN=kube-scheduler"),
        later: 0,
        found: &[(Error, User, "kube-scheduler.pem")],
        rke: None,
    },
    Case {
        what: "the administrator's group is missing",
        break_it: |lab| subject(lab, "kube-admin", "/CN=kube-admin"),
        later: 0,
        found: &[(Error, User, "kube-admin.pem")],
        rke: None,
    },
    Case {
        what: "the administrators' group for kube-proxy",
        break_it: |lab| subject(lab, "kube-proxy", "/O=system:masters/CN=system:kube-proxy"),
        later: 0,
        found: &[(Warning, ExtraGroup, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "the company's name",
        break_it: |lab| subject(lab, "kube-proxy", "/C=CH/O=Example/CN=system:kube-proxy"),
        later: 0,
        found: &[(Note, ExtraGroup, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "another name for etcd, which nobody reads",
        break_it: |lab| subject(lab, "kube-etcd-10-0-0-1", "/CN=etcd"),
        later: 0,
        found: &[(Note, OtherSubject, "kube-etcd-10-0-0-1.pem")],
        rke: None,
    },
    Case {
        what: "a leaf that is a CA",
        break_it: |lab| {
            let extensions = "basicConstraints=critical,CA:TRUE\nextendedKeyUsage=clientAuth";
            lab.sign_with("kube-proxy", "kube-ca", extensions, false, &[]);
        },
        later: 0,
        found: &[(Error, LeafIsAuthority, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "a CA that is a leaf",
        break_it: |lab| reissue(lab, "kube-ca", "basicConstraints=critical,CA:FALSE"),
        later: 0,
        found: &[(Error, NotAuthority, "kube-ca.pem")],
        rke: None,
    },
    Case {
        what: "a CA that may not sign",
        break_it: |lab| {
            let front = "kube-apiserver-requestheader-ca";
            reissue(
                lab,
                front,
                "basicConstraints=critical,CA:TRUE\nkeyUsage=digitalSignature",
            );
        },
        later: 0,
        found: &[
            (Error, NoCertSign, "kube-apiserver-requestheader-ca.pem"),
            (Error, Path, "kube-apiserver-proxy-client.pem"),
        ],
        rke: None,
    },
    Case {
        what: "a CA for mail",
        break_it: |lab| {
            let front = "kube-apiserver-requestheader-ca";
            let extensions = "basicConstraints=critical,CA:TRUE\nextendedKeyUsage=emailProtection";
            reissue(lab, front, extensions);
        },
        later: 0,
        found: &[(Error, Path, "kube-apiserver-proxy-client.pem")],
        rke: None,
    },
    Case {
        what: "a CA for other names",
        break_it: |lab| {
            let extensions = "basicConstraints=critical,CA:TRUE\nnameConstraints=critical,excluded;\
                              DNS:kubernetes.default.svc";
            reissue(lab, "kube-ca", extensions);
        },
        later: 0,
        found: &[
            (Error, Path, "kube-apiserver.pem"),
            (Error, Path, "kube-etcd-10-0-0-1.pem"),
        ],
        rke: None,
    },
    Case {
        what: "SHA-1",
        break_it: |lab| lab.sign("kube-proxy", &["-sha1"]),
        later: 0,
        found: &[(Error, WeakSignature, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "a short key",
        break_it: |lab| key(lab, "kube-proxy", &["genrsa", "-traditional", "1024"]),
        later: 0,
        found: &[(Error, UnreadableKey, "kube-proxy-key.pem")],
        rke: None,
    },
    Case {
        what: "a key that is no RSA key",
        break_it: |lab| {
            let curve = "ec_paramgen_curve:P-256";
            key(
                lab,
                "kube-proxy",
                &["genpkey", "-algorithm", "EC", "-pkeyopt", curve],
            );
        },
        later: 0,
        found: &[(Refused, KeyNotRsa, "kube-proxy-key.pem")],
        rke: None,
    },
    Case {
        what: "an encrypted key",
        break_it: |lab| {
            let args = ["genrsa", "-aes128", "-passout", "pass:secret", "2048"];
            key(lab, "kube-proxy", &args);
        },
        later: 0,
        found: &[(Refused, UnreadableKey, "kube-proxy-key.pem")],
        rke: Some(
            "failed to read key [kube-proxy-key.pem], make sure it is not encrypted: data does not contain a valid RSA or ECDSA private key",
        ),
    },
    Case {
        what: "a certificate that is none",
        break_it: |lab| fs::write(lab.file("kube-proxy.pem"), b"mail\n").unwrap(),
        later: 0,
        found: &[(Refused, UnreadableCertificate, "kube-proxy.pem")],
        rke: Some(
            "failed to read certificate [kube-proxy.pem]: data does not contain any valid RSA or ECDSA certificates",
        ),
    },
    Case {
        what: "a foreign file that is no certificate",
        break_it: |lab| fs::write(lab.file("dhparam.pem"), b"numbers\n").unwrap(),
        later: 0,
        found: &[
            (Note, UnreadableCertificate, "dhparam.pem"),
            (Note, Foreign, "dhparam.pem"),
        ],
        rke: Some(
            "failed to read certificate [dhparam.pem]: data does not contain any valid RSA or ECDSA certificates",
        ),
    },
    Case {
        what: "a chain in a leaf's file",
        break_it: |lab| append(lab, "kube-ca.pem", "kube-proxy.pem"),
        later: 0,
        found: &[(Warning, Chain, "kube-proxy.pem")],
        rke: None,
    },
    Case {
        what: "two CAs, the right one first",
        break_it: |lab| append(lab, "kube-apiserver-requestheader-ca.pem", "kube-ca.pem"),
        later: 0,
        found: &[(Warning, Authorities, "kube-ca.pem")],
        rke: None,
    },
    Case {
        what: "two CAs, the right one last",
        break_it: |lab| {
            lab.root("root", "/CN=Root");
            append(lab, "kube-apiserver-requestheader-ca.pem", "root.pem");
            copy(lab, "root.pem", "kube-apiserver-requestheader-ca.pem");
            remove(lab, "root.pem");
            remove(lab, "root-key.pem");
            remove(lab, "kube-apiserver-requestheader-ca-key.pem");
        },
        later: 0,
        found: &[
            (
                Refused,
                NotSignedByRequestHeaderAuthority,
                "kube-apiserver-proxy-client.pem",
            ),
            (Warning, Authorities, "kube-apiserver-requestheader-ca.pem"),
            (
                Note,
                KeylessRequestHeaderAuthority,
                "kube-apiserver-requestheader-ca-key.pem",
            ),
        ],
        rke: Some(
            "Component [kube-apiserver-proxy-client] is not signed by the custom Request Header CA certificate",
        ),
    },
    Case {
        what: "two with one key",
        break_it: |lab| same_key(lab, "kube-node", "kube-proxy"),
        later: 0,
        found: &[(Warning, SharedKey, "kube-node.pem")],
        rke: None,
    },
    Case {
        what: "a leaf with the CA's key",
        break_it: |lab| same_key(lab, "kube-ca", "kube-proxy"),
        later: 0,
        found: &[(Error, SharedKey, "kube-ca.pem")],
        rke: None,
    },
    Case {
        what: "one CA for both",
        break_it: |lab| {
            copy(lab, "kube-ca.pem", "kube-apiserver-requestheader-ca.pem");
            copy(
                lab,
                "kube-ca-key.pem",
                "kube-apiserver-requestheader-ca-key.pem",
            );
            lab.sign("kube-apiserver-proxy-client", &[]);
        },
        later: 0,
        found: &[(
            Warning,
            SharedAuthority,
            "kube-apiserver-requestheader-ca.pem",
        )],
        rke: None,
    },
    Case {
        what: "two CAs of one name",
        break_it: |lab| {
            let name = "/O=Example/CN=Example Cluster CA";
            lab.root("kube-apiserver-requestheader-ca", name);
            lab.sign("kube-apiserver-proxy-client", &[]);
        },
        later: 0,
        found: &[(Warning, SameName, "kube-apiserver-requestheader-ca.pem")],
        rke: None,
    },
    Case {
        what: "one serial number twice",
        break_it: |lab| {
            lab.sign("kube-node", &["-set_serial", "7"]);
            lab.sign("kube-proxy", &["-set_serial", "7"]);
        },
        later: 0,
        found: &[(Warning, SameSerial, "kube-node.pem")],
        rke: None,
    },
    Case {
        what: "the CA's key stays with the company",
        break_it: |lab| remove(lab, "kube-ca-key.pem"),
        later: 0,
        found: &[(Warning, KeylessAuthority, "kube-ca-key.pem")],
        rke: None,
    },
    Case {
        what: "the other CA's key stays with the company",
        break_it: |lab| remove(lab, "kube-apiserver-requestheader-ca-key.pem"),
        later: 0,
        found: &[(
            Note,
            KeylessRequestHeaderAuthority,
            "kube-apiserver-requestheader-ca-key.pem",
        )],
        rke: None,
    },
    Case {
        what: "no kubelet's certificate",
        break_it: |lab| remove(lab, "kube-kubelet-10-0-0-2.pem"),
        later: 0,
        found: &[(Error, MissingServing, "kube-kubelet-10-0-0-2.pem")],
        rke: None,
    },
    Case {
        what: "no kubelet's key",
        break_it: |lab| remove(lab, "kube-kubelet-10-0-0-1-key.pem"),
        later: 0,
        found: &[(Error, MissingServing, "kube-kubelet-10-0-0-1-key.pem")],
        rke: None,
    },
    Case {
        what: "no service-account key",
        break_it: |lab| {
            remove(lab, "kube-service-account-token.pem");
            remove(lab, "kube-service-account-token-key.pem");
        },
        later: 0,
        found: &[(
            Error,
            NoServiceAccountKey,
            "kube-service-account-token-key.pem",
        )],
        rke: None,
    },
    Case {
        what: "a lone service-account key",
        break_it: |lab| remove(lab, "kube-service-account-token.pem"),
        later: 0,
        found: &[(
            Note,
            LoneServiceAccountKey,
            "kube-service-account-token-key.pem",
        )],
        rke: None,
    },
    Case {
        what: "a service-account key beside another's certificate",
        break_it: |lab| {
            key(
                lab,
                "kube-service-account-token",
                &["genrsa", "-traditional", "2048"],
            )
        },
        later: 0,
        found: &[(Warning, KeyMismatch, "kube-service-account-token-key.pem")],
        rke: None,
    },
    Case {
        what: "a certificate of a node that is gone",
        break_it: |lab| copy(lab, "kube-etcd-10-0-0-1.pem", "kube-etcd-10-9-9-9.pem"),
        later: 0,
        found: &[(Note, Foreign, "kube-etcd-10-9-9-9.pem")],
        rke: None,
    },
    Case {
        what: "a key that others can read",
        break_it: |lab| {
            let mode = fs::Permissions::from_mode(0o640);
            fs::set_permissions(lab.file("kube-node-key.pem"), mode).unwrap();
        },
        later: 0,
        found: &[(Note, OpenKey, "kube-node-key.pem")],
        rke: None,
    },
];

#[test]
fn each_rule_is_broken_once() {
    assert!(CASES.len() > 50);
    let mut wrong = Vec::new();
    for case in CASES {
        let lab = Lab::new();
        (case.break_it)(&lab);
        // OpenSSL's new keys have the process' mode.
        for entry in lab
            .entries()
            .iter()
            .map(String::as_str)
            .chain(["kube-service-account-token"])
        {
            let key = lab.file(&format!("{entry}-key.pem"));
            if key.exists() && !matches!(case.found, [(_, OpenKey, _)]) {
                private(&key);
            }
        }
        let verdict = lab.verdict_at(today().plus(case.later * DAY));
        let found: Vec<_> = verdict
            .findings
            .iter()
            .map(|it| (it.severity, it.rule, it.file.as_str()))
            .collect();
        if found != case.found {
            wrong.push(format!("{}: {:#?}", case.what, verdict.findings));
        }
        let passes = case.found.iter().all(|(severity, ..)| *severity > Error);
        assert_eq!(verdict.set.is_some(), passes, "{}", case.what);
        let words = verdict.rke_text();
        let words = words
            .as_deref()
            .map(|text| text.split_once("]: ").unwrap().1);
        if words != case.rke {
            wrong.push(format!("{}: RKE says {words:?}", case.what));
        }
        for finding in &verdict.findings {
            assert!(!finding.message.contains("secret"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
