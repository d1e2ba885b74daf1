//! Whose hash it is that a token pins.

use std::fmt;

use pki::{Certificate, Digest, UnixTime};

use super::hash::{Hashes, How, hashes};
use super::pins::keys_led_to;
use crate::catalogue::K3S;
use crate::inventory::{DetectedRelease, Inventory};

/// Which of its two rules K3s makes token hashes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Always the SHA-256 of the server CA's file: before v1.26.2, v1.25.7, v1.24.11 and v1.23.17.
    WholeFile,
    /// Of several certificates the root's; see [`super::hash_of`].
    Root,
}

impl Rule {
    /// The rule of a release; the newer one where the release is not known.
    pub fn of(release: DetectedRelease) -> Self {
        match (release, Self::is_newer(release)) {
            (DetectedRelease::Known(_), false) => Self::WholeFile,
            _ => Self::Root,
        }
    }

    /// The rule of the K3s that a tree belongs to. Releases with the newer rule write
    /// `server-ca.nochain.crt` at every start, so a server that has started and lacks it is older.
    pub fn of_tree(inventory: &Inventory) -> Self {
        let started = inventory
            .row("client-admin")
            .is_some_and(|row| !row.file.is_absent());
        match started && !Self::is_newer(inventory.release) {
            true => Self::WholeFile,
            false => Self::of(inventory.release),
        }
    }

    /// The newer rule came with rotate-ca and the files `*.nochain.crt`.
    fn is_newer(release: DetectedRelease) -> bool {
        K3S.row("server-ca.nochain")
            .is_none_or(|row| release.expects(row))
    }
}

impl Hashes {
    /// The hash that a K3s with that rule computes now.
    pub fn by(&self, rule: Rule) -> Digest {
        match rule {
            Rule::WholeFile => self.whole_file,
            Rule::Root => self.current,
        }
    }
}

/// Whose hash a token pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// This cluster's, now.
    Present,
    /// This cluster's, once a set of CA files has taken the present one's place.
    Staged,
    /// This cluster's from that moment on, because a certificate of its chain ends or begins.
    From(UnixTime),
    /// This cluster's CA by the other rule; no server of this release accepts it.
    OtherRule,
    /// Of the present CA file's first certificate, which K3s's script
    /// `rotate-default-ca-certs.sh` prints and no server accepts.
    FirstCertificate,
    /// A former CA's; where that was seen.
    Former(String),
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("this cluster's CA"),
            Self::Staged => f.write_str("this cluster's CA after the staged set"),
            Self::From(moment) => write!(f, "this cluster's CA from {moment} on"),
            Self::OtherRule => {
                f.write_str("this cluster's CA, by the rule of another release of K3s")
            }
            Self::FirstCertificate => f.write_str(
                "the first certificate of this cluster's CA file, as \
                 rotate-default-ca-certs.sh prints it",
            ),
            Self::Former(place) => write!(f, "a former CA of this cluster ({place})"),
        }
    }
}

/// The hashes that belong to one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    rule: Rule,
    /// Each with its owner, the better one first.
    hashes: Vec<(String, Whose)>,
    present: Digest,
    /// The keys that the server CA is or leads to, now and when the staged set is in force.
    keys: Vec<Digest>,
    staged_keys: Vec<Digest>,
    /// The keys of every certificate in a CA's file that it has, has had, or is to have.
    all_keys: Vec<Digest>,
}

impl Known {
    /// The hashes that follow from the server CA's file in force: its own, and those of the CAs
    /// that it still trusts.
    ///
    /// # Errors
    ///
    /// When the file holds no certificates.
    pub fn of(file: &[u8], rule: Rule, now: UnixTime) -> Result<Self, pki::Error> {
        let found = hashes(file, now)?;
        let present = found.by(rule);
        let mut known = Self {
            rule,
            hashes: vec![(present.to_string(), Whose::Present)],
            present,
            keys: Vec::new(),
            staged_keys: Vec::new(),
            all_keys: Vec::new(),
        };
        if let (Rule::Root, Some(change)) = (rule, found.change) {
            known.add(change.hash, Whose::From(change.at));
        }
        for other in [found.current, found.whole_file] {
            known.add(other, Whose::OtherRule);
        }
        let certificates = Certificate::all_from_pem(file)?;
        known.keys = keys_led_to(&certificates, now);
        known.add_keys(&certificates);
        for trusted in certificates.iter().skip(1).filter(|it| it.is_self_issued()) {
            let place = || Whose::Former(format!("{} in the trust bundle", trusted.subject()));
            // A CA that K3s made stood alone in its file, as it is written here.
            known.add(pki::sha256(trusted.to_pem().as_bytes()), place());
            known.add(trusted.fingerprint(), place());
        }
        if found.how != How::OneCertificate {
            known.add(found.first_certificate, Whose::FirstCertificate);
        }
        Ok(known)
    }

    /// Adds the hash that a staged server CA's file will have.
    ///
    /// # Errors
    ///
    /// When it holds no certificates.
    pub fn add_staged(&mut self, file: &[u8], now: UnixTime) -> Result<Digest, pki::Error> {
        let hash = hashes(file, now)?.by(self.rule);
        self.add(hash, Whose::Staged);
        let certificates = Certificate::all_from_pem(file)?;
        self.staged_keys = keys_led_to(&certificates, now);
        self.add_keys(&certificates);
        Ok(hash)
    }

    /// Adds the hashes that a former server CA's file, seen at `place`, may have had.
    ///
    /// # Errors
    ///
    /// When it holds no certificates.
    pub fn add_former(
        &mut self,
        file: &[u8],
        place: &str,
        now: UnixTime,
    ) -> Result<(), pki::Error> {
        let found = hashes(file, now)?;
        // It may have been in force while its chain still verified.
        let certificates = Certificate::all_from_pem(file)?;
        self.add_keys(&certificates);
        let roots = certificates.iter().skip(1).filter(|it| it.is_self_issued());
        let roots: Vec<Digest> = roots.map(Certificate::fingerprint).collect();
        for hash in [found.current, found.whole_file].into_iter().chain(roots) {
            self.add(hash, Whose::Former(place.to_owned()));
        }
        Ok(())
    }

    /// Adds a former hash that is known by itself: hex.
    pub fn add_former_hash(&mut self, hash: &str, place: &str) {
        self.add_text(hash.to_owned(), Whose::Former(place.to_owned()));
    }

    /// Whose that hash is; K3s compares it letter by letter.
    pub fn whose(&self, hash: &str) -> Option<&Whose> {
        let found = self.hashes.iter().find(|(known, _)| known == hash);
        found.map(|(_, whose)| whose)
    }

    /// Whether what the servers show leads to that key of a CA now.
    pub fn leads_to(&self, key: Digest) -> bool {
        self.keys.contains(&key)
    }

    /// Whether it will once the staged set is in force.
    pub fn will_lead_to(&self, key: Digest) -> bool {
        self.staged_keys.contains(&key)
    }

    /// Whether a CA of this cluster has that key, has had it, or shall have it.
    pub fn has_had(&self, key: Digest) -> bool {
        self.all_keys.contains(&key)
    }

    /// The hash that tokens must pin now.
    pub fn present(&self) -> Digest {
        self.present
    }

    fn add_keys(&mut self, certificates: &[Certificate]) {
        let keys = certificates.iter().map(Certificate::spki_sha256);
        self.all_keys.extend(keys);
    }

    fn add(&mut self, hash: Digest, whose: Whose) {
        self.add_text(hash.to_string(), whose);
    }

    fn add_text(&mut self, hash: String, whose: Whose) {
        if self.whose(&hash).is_none() {
            self.hashes.push((hash, whose));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Release;
    use crate::test_pki::{START, authority};

    #[test]
    fn old_releases_have_the_old_rule() {
        for (minor, patch, rule) in [
            (21, 2, Rule::WholeFile),
            (26, 1, Rule::WholeFile),
            (26, 2, Rule::Root),
            (36, 3, Rule::Root),
        ] {
            let release = DetectedRelease::Known(Release::of(minor, patch));
            assert_eq!(Rule::of(release), rule, "{minor}.{patch}");
        }
        assert_eq!(Rule::of(DetectedRelease::Unknown), Rule::Root);
    }

    #[test]
    fn former_authorities_are_known_from_the_trust_bundle() {
        let (new, old) = (authority("new"), authority("k3s-server-ca@1"));
        let old_file = old.certificate().to_pem();
        let file = new.certificate().to_pem() + &old_file;
        let known = Known::of(file.as_bytes(), Rule::Root, START).unwrap();
        let old_hash = pki::sha256(old_file.as_bytes()).to_string();
        assert!(matches!(known.whose(&old_hash), Some(Whose::Former(_))));
        assert_eq!(
            known.whose(&known.present().to_string()),
            Some(&Whose::Present)
        );
        assert_eq!(known.whose(&"0".repeat(64)), None);
        let upper = known.present().to_string().to_uppercase();
        assert_eq!(known.whose(&upper), None, "K3s compares letter by letter");
    }

    #[test]
    fn staged_sets_and_given_hashes_are_told_apart() {
        let (present, staged) = (authority("one"), authority("two"));
        let pem = present.certificate().to_pem();
        let mut known = Known::of(pem.as_bytes(), Rule::Root, START).unwrap();
        let staged = staged.certificate().to_pem();
        let hash = known.add_staged(staged.as_bytes(), START).unwrap();
        assert_eq!(known.whose(&hash.to_string()), Some(&Whose::Staged));
        known.add_former_hash(&"a".repeat(64), "--from-hash");
        let former = Whose::Former("--from-hash".to_owned());
        assert_eq!(known.whose(&"a".repeat(64)), Some(&former));
        // What is in force stays so, whatever else it is.
        known.add_former_hash(&known.present().to_string(), "--from-hash");
        assert_eq!(
            known.whose(&known.present().to_string()),
            Some(&Whose::Present)
        );
    }
}
