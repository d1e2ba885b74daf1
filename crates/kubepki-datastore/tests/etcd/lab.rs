//! What the tests share.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kubepki::bootstrap::{Passphrase, open};
use kubepki::datastore::{Former, Record};
use kubepki_datastore::Tls;
use kubepki_datastore::etcd::EtcdStore;
use testkit::{Etcd, Fixture};
use zeroize::Zeroizing;

/// The bootstrap key of the fixtures' token.
pub const KEY: &str = "/bootstrap/d0bdc7873da2";
const TOKEN: &str = "fixture-token-0123456789abcdef";

/// What `etcdctl get /bootstrap --prefix -w json` recorded.
pub fn recorded(fixture: &Fixture) -> Vec<Record> {
    let json: serde_json::Value =
        serde_json::from_str(&fixture.extra_text("bootstrap.json")).unwrap();
    let bytes = |value: &serde_json::Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
    json["kvs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kv| Record {
            key: String::from_utf8(bytes(&kv["key"])).unwrap(),
            value: Zeroizing::new(bytes(&kv["value"])),
            revision: kv["mod_revision"].as_i64().unwrap(),
            create_revision: kv["create_revision"].as_i64().unwrap(),
        })
        .collect()
}

/// Asserts that `value` opens with the fixtures' token and holds the tree's CAs.
pub fn assert_opens(value: &[u8], fixture: &Fixture) {
    let plain = open(value, &Passphrase::new(TOKEN.to_owned())).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&plain).unwrap();
    let held = json["ServerCA"]["Content"].as_str().unwrap();
    let file = fixture.data_dir().join("server/tls/server-ca.crt");
    assert_eq!(STANDARD.decode(held).unwrap(), std::fs::read(file).unwrap());
}

pub async fn connect(etcd: &Etcd) -> EtcdStore {
    EtcdStore::connect(&etcd.urls(), &Tls::default())
        .await
        .unwrap()
}

/// Keys, values and revisions, to be compared in one go.
pub fn told(former: &[Former]) -> Vec<(&str, &[u8], i64)> {
    former
        .iter()
        .map(|it| (it.key.as_str(), it.value.as_slice(), it.revision.unwrap()))
        .collect()
}
