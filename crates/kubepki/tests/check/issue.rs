//! Certificates made to be wrong in one way.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pki::{
    Authority, DAY, KeyAlgorithm, LeafRequest, Name, PrivateKey, Purpose, San, Serial, UnixTime,
    Validity,
};

use crate::tree::{AT, Tree};

/// A leaf to issue; what is not said is as K3s does.
pub struct Sample<'a> {
    pub common_name: &'a str,
    pub organizations: &'a [&'a str],
    pub sans: &'a [&'a str],
    pub sans_of: Option<&'a str>,
    pub purposes: &'a [Purpose],
}

impl Default for Sample<'_> {
    fn default() -> Self {
        Self {
            common_name: "",
            organizations: &[],
            sans: &[],
            sans_of: None,
            purposes: &[Purpose::ServerAuth],
        }
    }
}

/// A CA that issues into a tree.
pub struct Short(Authority);

impl Short {
    pub fn existing(tree: &Tree, stem: &str) -> Self {
        let certificate = tree.certificates(&format!("{stem}.crt")).remove(0);
        let key = PrivateKey::from_pem(&tree.read(&format!("{stem}.key"))).unwrap();
        Self(Authority::new(certificate, key).unwrap())
    }

    /// A CA of `days` days, in place of the one that is there.
    pub fn authority(tree: &Tree, stem: &str, name: &str, days: i64) -> Self {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        tree.write(&format!("{stem}.key"), key.to_pem().unwrap().as_bytes());
        let name = Name::new(&[], name).unwrap();
        let serial = Serial::random(pki::random).unwrap();
        let ca = Authority::self_signed(&name, key, serial, validity(days)).unwrap();
        tree.write(&format!("{stem}.crt"), ca.certificate().to_pem().as_bytes());
        Self(ca)
    }

    pub fn issue(&self, tree: &Tree, stem: &str, sample: &Sample<'_>) {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let sans = match sample.sans_of {
            Some(path) => tree.certificates(path)[0].sans().to_vec(),
            None => sample
                .sans
                .iter()
                .map(|name| San::from_text(name))
                .collect(),
        };
        let organizations: Vec<String> = sample
            .organizations
            .iter()
            .map(|o| (*o).to_owned())
            .collect();
        let end = self.0.certificate().validity().not_after;
        let leaf = self
            .0
            .issue(&LeafRequest {
                organizations: &organizations,
                common_name: sample.common_name,
                sans: &sans,
                purposes: sample.purposes,
                spki_der: key.spki_der(),
                serial: Serial::random(pki::random).unwrap(),
                validity: Validity {
                    not_after: validity(365).not_after.min(end),
                    ..validity(365)
                },
            })
            .unwrap();
        let chain = leaf.to_pem() + &self.0.certificate().to_pem();
        tree.write(&format!("{stem}.crt"), chain.as_bytes());
        tree.write(&format!("{stem}.key"), key.to_pem().unwrap().as_bytes());
    }
}

fn validity(days: i64) -> Validity {
    let not_before = UnixTime::from_secs(AT.as_secs() - 3_600);
    Validity {
        not_before,
        not_after: not_before.plus(days * DAY),
    }
}

/// What our own library refuses to issue, OpenSSL issues: a client leaf of the client CA. Its
/// `ca` command is the one that takes dates.
pub fn openssl_leaf(tree: &Tree, stem: &str, name: &str, key: &str, digest: &str, end: &str) {
    let scratch = tree.path("openssl");
    std::fs::create_dir_all(&scratch).unwrap();
    let own = |name: &str| scratch.join(name).display().to_string();
    let tls = |name: String| {
        tree.path(&format!("server/tls/{name}"))
            .display()
            .to_string()
    };
    std::fs::write(own("index"), "").unwrap();
    let settings = format!(
        "[ca]\ndefault_ca=d\n[d]\ndatabase={}\nnew_certs_dir={}\nrand_serial=yes\npolicy=p\n\
         x509_extensions=x\nunique_subject=no\n[p]\ncommonName=supplied\n\
         [x]\nkeyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth\n\
         authorityKeyIdentifier=keyid\n",
        own("index"),
        scratch.display()
    );
    std::fs::write(own("settings"), settings).unwrap();
    let (key_file, subject) = (tls(format!("{stem}.key")), format!("/CN={name}"));
    let mut make = vec!["req", "-new", "-nodes", "-subj", &subject, "-newkey", key];
    if key == "ec" {
        make.extend(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    }
    let request = own("request");
    make.extend(["-keyout", &key_file, "-out", &request]);
    testkit::openssl_ok(&make, b"");
    let (ca, ca_key) = (
        tls("client-ca.crt".to_owned()),
        tls("client-ca.key".to_owned()),
    );
    let (out, config) = (tls(format!("{stem}.crt")), own("settings"));
    let mut sign = vec![
        "ca", "-batch", "-notext", "-config", &config, "-in", &request,
    ];
    sign.extend([
        "-cert", &ca, "-keyfile", &ca_key, "-md", digest, "-out", &out,
    ]);
    sign.extend(["-startdate", "20261122070000Z", "-enddate", end]);
    testkit::openssl_ok(&sign, b"");
    std::fs::set_permissions(Path::new(&key_file), Permissions::from_mode(0o600)).unwrap();
}
