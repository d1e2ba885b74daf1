//! The programs that people use for it.

use std::path::Path;
use std::process::Command;

use super::ours::make_authority;
use super::{COUNT, Contender, SANS, good_leaves};
use crate::measure::{Cost, Failure, cost, program};

/// Those that are installed; the others are named.
pub(super) fn installed() -> Vec<Contender> {
    let mut found = Vec::new();
    for (file, package, contenders) in [
        ("/usr/bin/openssl", "openssl", vec![OPENSSL, OPENSSL_ONE]),
        ("/usr/bin/cfssl", "golang-cfssl", vec![CFSSL]),
        (EASYRSA_PROGRAM, "easy-rsa", vec![EASYRSA]),
    ] {
        if Path::new(file).exists() {
            found.extend(contenders);
        } else {
            println!("left out: {file} is not installed (Debian: {package})");
        }
    }
    found
}

/// As K3s's script for CAs does: a key, a request and a certificate, a process each.
const OPENSSL: Contender = Contender {
    name: "openssl, three processes a leaf",
    prepare: |folder| {
        make_authority(folder)?;
        let names = san_list();
        let extensions = format!(
            "[x]\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n\
             authorityKeyIdentifier=keyid\nsubjectAltName={names}\n"
        );
        write(&folder.join("extensions"), &extensions)
    },
    issue: |folder| {
        let mut total = Cost::default();
        for index in 0..COUNT {
            let steps = [
                format!("ecparam -name prime256v1 -genkey -noout -out out/leaf-{index}.key"),
                format!(
                    "req -new -key out/leaf-{index}.key -subj /O=system:masters/CN=leaf-{index} \
                     -out out/leaf-{index}.csr"
                ),
                format!(
                    "x509 -req -in out/leaf-{index}.csr -CA ca.crt -CAkey ca.key -days 365 \
                     -extfile extensions -extensions x -out out/leaf-{index}.crt"
                ),
            ];
            for step in steps {
                total = total.then(run("openssl", &step, folder)?);
            }
        }
        Ok(total)
    },
    look: look_in_out,
};

/// The least that OpenSSL 3 can do it with.
const OPENSSL_ONE: Contender = Contender {
    name: "openssl, one process a leaf",
    prepare: make_authority,
    issue: |folder| {
        let mut total = Cost::default();
        for index in 0..COUNT {
            let line = format!(
                "req -x509 -CA ca.crt -CAkey ca.key -newkey ec -pkeyopt \
                 ec_paramgen_curve:P-256 -nodes -subj /O=system:masters/CN=leaf-{index} -days 365 \
                 -addext basicConstraints=critical,CA:FALSE \
                 -addext keyUsage=critical,digitalSignature \
                 -addext extendedKeyUsage=serverAuth,clientAuth -addext subjectAltName={} \
                 -keyout out/leaf-{index}.key -out out/leaf-{index}.crt",
                san_list()
            );
            total = total.then(run("openssl", &line, folder)?);
        }
        Ok(total)
    },
    look: look_in_out,
};

/// `cfssl gencert` and `cfssljson`, which turns its answer into files.
const CFSSL: Contender = Contender {
    name: "cfssl and cfssljson",
    prepare: |folder| {
        make_authority(folder)?;
        let hosts = SANS.map(|san| format!("\"{san}\"")).join(",");
        for index in 0..COUNT {
            let request = format!(
                "{{\"CN\":\"leaf-{index}\",\"hosts\":[{hosts}],\
                 \"key\":{{\"algo\":\"ecdsa\",\"size\":256}},\
                 \"names\":[{{\"O\":\"system:masters\"}}]}}"
            );
            write(&folder.join(format!("leaf-{index}.json")), &request)?;
        }
        let config = "{\"signing\":{\"default\":{\"expiry\":\"8760h\",\"usages\":\
                      [\"digital signature\",\"server auth\",\"client auth\"]}}}";
        write(&folder.join("config.json"), config)
    },
    issue: |folder| {
        let mut total = Cost::default();
        for index in 0..COUNT {
            let line = format!(
                "cfssl gencert -loglevel=5 -ca ca.crt -ca-key ca.key -config config.json \
                 leaf-{index}.json | cfssljson -bare out/leaf-{index}"
            );
            total = total.then(cost(shell(&line).current_dir(folder), 0)?);
        }
        Ok(total)
    },
    look: |folder| {
        for index in 0..COUNT {
            let out = folder.join("out");
            std::fs::hard_link(
                out.join(format!("leaf-{index}.pem")),
                out.join(format!("leaf-{index}.crt")),
            )?;
            std::fs::hard_link(
                out.join(format!("leaf-{index}-key.pem")),
                out.join(format!("leaf-{index}.key")),
            )?;
        }
        look_in_out(folder)
    },
};

const EASYRSA_PROGRAM: &str = "/usr/share/easy-rsa/easyrsa";

const EASYRSA: Contender = Contender {
    name: "easy-rsa",
    prepare: |folder| {
        cost(&mut easyrsa(folder, &["init-pki"]), 0)?;
        cost(&mut easyrsa(folder, &["build-ca", "nopass"]), 0).map(drop)
    },
    issue: |folder| {
        let mut total = Cost::default();
        for index in 0..COUNT {
            let names = format!("--subject-alt-name={}", san_list());
            let leaf = format!("leaf-{index}");
            let words = [names.as_str(), "build-serverClient-full", &leaf, "nopass"];
            total = total.then(cost(&mut easyrsa(folder, &words), 0)?);
        }
        Ok(total)
    },
    look: |folder| {
        let pki = folder.join("pki");
        good_leaves(
            &pki.join("ca.crt"),
            &pki.join("issued"),
            &pki.join("private"),
        )
    },
};

fn easyrsa(folder: &Path, words: &[&str]) -> Command {
    let mut command = program(EASYRSA_PROGRAM);
    command.arg("--batch").args(words).current_dir(folder);
    command.env("EASYRSA", "/usr/share/easy-rsa");
    command.env("EASYRSA_PKI", folder.join("pki"));
    for (name, value) in [
        ("EASYRSA_ALGO", "ec"),
        ("EASYRSA_CURVE", "prime256v1"),
        ("EASYRSA_CERT_EXPIRE", "365"),
    ] {
        command.env(name, value);
    }
    command
}

fn look_in_out(folder: &Path) -> Result<usize, Failure> {
    let out = folder.join("out");
    good_leaves(&folder.join("ca.crt"), &out, &out)
}

/// Names as OpenSSL's configuration has them.
fn san_list() -> String {
    let kind = |san: &str| match san.parse::<std::net::IpAddr>() {
        Ok(_) => "IP",
        Err(_) => "DNS",
    };
    SANS.map(|san| format!("{}:{san}", kind(san))).join(",")
}

fn run(name: &str, words: &str, folder: &Path) -> Result<Cost, Failure> {
    let mut command = program(name);
    command.args(words.split_whitespace()).current_dir(folder);
    cost(&mut command, 0)
}

fn shell(line: &str) -> Command {
    let mut command = program("sh");
    command.arg("-c").arg(line);
    command
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
