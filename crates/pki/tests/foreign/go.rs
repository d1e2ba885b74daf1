//! Path building and checking, held to Go's `crypto/x509`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::verify::{Options, VerifyError, go_words, verify};
use pki::{Certificate, Purpose, UnixTime};
use serde::{Deserialize, Serialize};

/// Where the two answer differently on purpose: case, Go's class, our class, why.
const DIFFERENCES: [(&str, &str, &str, &str); 7] = [
    ("RSA 1024 SHA384-RSA", "", "path", SHORT_RSA),
    ("RSA 1024 SHA256-RSAPSS", "", "path", SHORT_RSA),
    ("RSA 1024 SHA384-RSAPSS", "", "path", SHORT_RSA),
    (
        "curve P-224",
        "",
        "path",
        "aws-lc has no signatures on P-224",
    ),
    ("extension 33 critical true", "", "leaf", NO_POLICIES),
    ("extension 36 critical true", "path", "leaf", NO_POLICIES),
    ("extension 36 critical false", "path", "leaf", NO_POLICIES),
];

const SHORT_RSA: &str = "aws-lc checks RSA under 2048 bits with PKCS#1 and SHA-256 or SHA-512 only";
const NO_POLICIES: &str = "policies are not evaluated, so what depends on them is refused";

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Case {
    pub id: String,
    pub op: String,
    pub leaf: String,
    pub intermediates: Vec<String>,
    pub roots: Vec<String>,
    pub at: i64,
    pub purposes: Vec<String>,
    pub host: String,
    pub data: String,
    pub chains: Option<Vec<Vec<String>>>,
    pub class: String,
    pub detail: String,
    pub facts: Option<super::parse::Facts>,
    pub blocks: Vec<super::parse::Block>,
}

/// Builds the oracle once and runs it.
pub fn oracle(arguments: &[&str], input: &[u8]) -> Vec<Case> {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (directory, program) = BUILT.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("oracle");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/go");
        let built = Command::new(toolchain())
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(source)
            .env("GOFLAGS", "-mod=mod")
            .env("GOPROXY", "off")
            .env("GOTOOLCHAIN", "local")
            .output()
            .unwrap_or_else(|error| panic!("go: {error}; see the head of tests/foreign"));
        assert!(
            built.status.success(),
            "go build: {}",
            String::from_utf8_lossy(&built.stderr)
        );
        (directory, program)
    });
    // The module says Go 1.19 so that old toolchains build it; a new one must still answer as
    // it does for a current Kubernetes.
    let settings = "GODEBUG=x509negativeserial=0,x509usepolicies=1,rsa1024min=1";
    let program = program.to_str().unwrap();
    let mut all = vec![settings, "TZ=UTC", program];
    all.extend(arguments);
    let output = super::run(directory.path(), "env", &all, input);
    assert!(
        output.status.success(),
        "oracle: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap()
}

/// `GO`, else Go where its own installer puts it, which is newer than what distributions have.
fn toolchain() -> String {
    let installed = "/usr/local/go/bin/go";
    std::env::var("GO").unwrap_or_else(|_| {
        let found = std::path::Path::new(installed).exists();
        if found { installed } else { "go" }.to_owned()
    })
}

pub fn ask(cases: &[Case]) -> Vec<Case> {
    let lines: Vec<u8> = cases
        .iter()
        .flat_map(|case| serde_json::to_vec(case).unwrap())
        .collect();
    oracle(&["answer"], &lines)
}

fn read(text: &str) -> Result<Certificate, pki::Error> {
    Certificate::from_der(&STANDARD.decode(text).unwrap())
}

fn read_all(texts: &[String]) -> Result<Vec<Certificate>, pki::Error> {
    texts.iter().map(|text| read(text)).collect()
}

/// Leaf, roots, intermediates.
type Pki = (Certificate, Vec<Certificate>, Vec<Certificate>);

fn certificates(case: &Case) -> Result<Pki, pki::Error> {
    Ok((
        read(&case.leaf)?,
        read_all(&case.roots)?,
        read_all(&case.intermediates)?,
    ))
}

fn purposes(case: &Case) -> Vec<Purpose> {
    case.purposes
        .iter()
        .map(|name| match name.as_str() {
            "server" => Purpose::ServerAuth,
            "client" => Purpose::ClientAuth,
            "code" => Purpose::Other("1.3.6.1.5.5.7.3.3".to_owned()),
            _ => Purpose::Any,
        })
        .collect()
}

/// Our answer in Go's words: chains, class, detail.
fn answer(case: &Case) -> (Vec<Vec<String>>, &'static str, String) {
    let (leaf, roots, intermediates) = match certificates(case) {
        Ok(read) => read,
        Err(error) => return (Vec::new(), "parse", error.to_string()),
    };
    let purposes = purposes(case);
    let mut options = Options::at(UnixTime::from_secs(case.at)).purposes(&purposes);
    // To Go the empty name is none.
    if !case.host.is_empty() {
        options = options.host(&case.host);
    }
    match verify(&leaf, &intermediates, &roots, &options) {
        Ok(paths) => {
            let sums = |path: &pki::verify::Path<'_>| {
                path.certificates()
                    .iter()
                    .map(|certificate| certificate.fingerprint().to_string())
                    .collect()
            };
            (paths.iter().map(sums).collect(), "", String::new())
        }
        Err(error) => {
            let class = match &error {
                VerifyError::Leaf(_) => "leaf",
                VerifyError::Host { .. } => "host",
                VerifyError::NoPath { .. } => "path",
                VerifyError::Unusable { .. } => "unusable",
                VerifyError::TooManySignatures { .. } => "limit",
            };
            (Vec::new(), class, error.to_string())
        }
    }
}

#[test]
fn paths_and_verdicts_are_those_of_go() {
    if super::without("go") {
        return;
    }
    let mut deviations = Vec::new();
    let mut verdicts = BTreeSet::new();
    for case in oracle(&["generate", "20261122", "4000"], b"") {
        let (chains, class, detail) = answer(&case);
        verdicts.insert(class);
        let listed = DIFFERENCES.iter().find(|(id, ..)| *id == case.id);
        let theirs = case.chains.clone().unwrap_or_default();
        let agree = chains == theirs && class == case.class;
        let expected = match listed {
            None => agree,
            Some((_, go, ours, _)) => !agree && case.class == *go && class == *ours,
        };
        if !expected {
            deviations.push(format!(
                "{}: Go {:?} ({} paths, {}), we {class:?} ({} paths, {detail})",
                case.id,
                case.class,
                theirs.len(),
                case.detail,
                chains.len()
            ));
        }
    }
    assert!(
        deviations.is_empty(),
        "{} deviations:\n{}",
        deviations.len(),
        deviations.join("\n")
    );
    // The random PKIs are worth something only as long as every verdict turns up.
    let wanted = ["", "host", "leaf", "limit", "path", "unusable"];
    assert!(wanted.iter().all(|verdict| verdicts.contains(verdict)));
}

/// What Go itself says, word for word, except for which name a constraint refuses.
#[test]
fn refusals_are_in_the_words_of_go() {
    if super::without("go") {
        return;
    }
    let mut deviations = Vec::new();
    let mut heard = BTreeSet::new();
    for case in oracle(&["generate", "20261123", "3000"], b"") {
        let differs = DIFFERENCES.iter().any(|(id, ..)| *id == case.id);
        let Ok((leaf, roots, intermediates)) = certificates(&case) else {
            continue;
        };
        if differs || case.class == "host" {
            continue;
        }
        let purposes = purposes(&case);
        let options = Options::at(UnixTime::from_secs(case.at)).purposes(&purposes);
        let words = go_words(&leaf, &intermediates, &roots, &options).unwrap_or_default();
        let shown = |text: &str| match text.split_once("sign for this name: ") {
            Some((start, _)) => start.to_owned(),
            None => text.to_owned(),
        };
        let (ours, theirs) = (shown(&words), shown(&case.detail));
        if ours != theirs {
            deviations.push(format!("{}:\n  Go {theirs}\n  we {ours}", case.id));
        }
        let start = ours.split(" (possibly").next().unwrap_or_default();
        heard.insert(
            start
                .split(": current")
                .next()
                .unwrap_or_default()
                .to_owned(),
        );
        let hint = ours.split("because of ").nth(1).unwrap_or_default();
        heard.insert(hint.split(" while").next().unwrap_or_default().to_owned());
    }
    assert!(
        deviations.is_empty(),
        "{} deviations:\n{}",
        deviations.len(),
        deviations.join("\n")
    );
    assert!(heard.len() > 8, "{heard:?}");
}
