//! What K3s's servers keep of nodes: Secrets `kube-system/<node>.node-password.k3s` (reference
//! section 5.8).

use super::sealed::Encryption;
use super::secret::{Secret, Unreadable};

/// Where K3s keeps the password of a node of that name, in lower case.
pub fn node_password_key(node: &str) -> String {
    format!("/registry/secrets/kube-system/{node}.node-password.k3s")
}

/// The hash in that Secret, as K3s wrote it: `$1:<salt>:15:8:1:<scrypt>`. One that awaits its
/// removal counts, as with K3s.
///
/// # Errors
///
/// [`Unreadable`]: encrypted otherwise, or no such Secret.
pub fn node_password(
    value: &[u8],
    encryption: &Encryption,
    node: &str,
) -> Result<String, Unreadable> {
    let malformed = |problem| Unreadable::Malformed { problem };
    let secret = Secret::parse(&encryption.open(value)?)?;
    if secret.namespace != "kube-system" || secret.name != format!("{node}.node-password.k3s") {
        return Err(malformed("it names itself otherwise than its key does"));
    }
    let hash = secret.text("hash").filter(|it| !it.is_empty());
    Ok(hash.ok_or(malformed("it has no hash"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use testkit::kube::{KubeSecret, aes_cbc, encryption_config};

    use super::*;

    #[test]
    fn the_hash_is_found_in_every_stored_form() {
        let secret = KubeSecret::node_password("worker-1", "$1:00:15:8:1:AA");
        assert_eq!(secret.key(), node_password_key("worker-1"));
        let key = [9; 32];
        let sealed = aes_cbc(&secret.protobuf(), "key", &key);
        let encryption = Encryption::of(encryption_config("key", &key).as_bytes());
        for value in [secret.protobuf(), secret.json(), sealed.clone()] {
            let found = node_password(&value, &encryption, "worker-1");
            assert_eq!(found.as_deref(), Ok("$1:00:15:8:1:AA"));
            let other = node_password(&value, &encryption, "worker-2");
            assert!(matches!(other, Err(Unreadable::Malformed { .. })));
        }
        let closed = node_password(&sealed, &Encryption::default(), "worker-1");
        assert!(matches!(closed, Err(Unreadable::NoKey { .. })));
        let empty = secret.with("hash", None).protobuf();
        let empty = node_password(&empty, &encryption, "worker-1");
        assert!(matches!(empty, Err(Unreadable::Malformed { .. })));
    }
}
