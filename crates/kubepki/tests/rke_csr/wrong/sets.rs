//! Subjects, CAs, forms of keys and files, and what a set holds twice.

use super::*;

pub(super) const CASES: &[Case] = &[
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
