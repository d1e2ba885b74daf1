//! A good directory with one thing broken at a time: what is found, and what RKE says.

mod leaves;
mod sets;

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

#[test]
fn each_rule_is_broken_once() {
    let cases = || leaves::CASES.iter().chain(sets::CASES);
    assert!(cases().count() > 50);
    let mut wrong = Vec::new();
    for case in cases() {
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
