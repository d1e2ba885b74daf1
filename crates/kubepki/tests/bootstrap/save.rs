//! Steps that write.

use kubepki::bootstrap::{
    Passphrase, Restoration, STAGED_NAME, Source, create, locate, open, plan_restore, save, save_as,
};
use kubepki::edge::SystemEntropy;
use kubepki::plan::{Action, Before, Content, PlanId, Step, Target, TxnOperation};
use pki::UnixTime;

use crate::locate::{bundle, record, tokens};

/// Key, condition and kind of a step on the datastore.
fn shape(step: &Step) -> (String, Before, &'static str) {
    let (Target::DatastoreKey { key }, Action::Txn { operation }) = (&step.target, &step.action)
    else {
        panic!("{step:?} is no transaction");
    };
    let kind = match operation {
        TxnOperation::Create(Content::Staged { name, .. }) if name == STAGED_NAME => "create",
        TxnOperation::Update(Content::Staged { name, .. }) if name == STAGED_NAME => "update",
        TxnOperation::Delete => "delete",
        other => panic!("{other:?}"),
    };
    (key.clone(), step.before.clone(), kind)
}

#[test]
fn a_write_replaces_exactly_what_was_read() {
    let opened = locate(&[record("secret", 4)], &tokens(&["secret"])).unwrap();
    let saved = save(&opened, &bundle(b"new"), &SystemEntropy, "why").unwrap();
    let shapes: Vec<_> = saved.steps.iter().map(shape).collect();
    assert_eq!(shapes, [(opened.key(), Before::Revision(4), "update")]);
    let json = open(&saved.staged.bytes, &Passphrase::new("secret".to_owned())).unwrap();
    assert_eq!(json, bundle(b"new").to_json());
    let sha256 = pki::sha256(&saved.staged.bytes).to_string();
    assert!(format!("{:?}", saved.steps).contains(&sha256));
}

#[test]
fn a_write_moves_former_keys_as_k3s_does() {
    let former = locate(&[record("", 4)], &tokens(&["secret"])).unwrap();
    let saved = save(&former, &bundle(b"new"), &SystemEntropy, "why").unwrap();
    let shapes: Vec<_> = saved.steps.iter().map(shape).collect();
    let expected = [
        (former.key(), Before::Absent, "create"),
        (record("", 0).key, Before::Revision(4), "delete"),
    ];
    assert_eq!(shapes, expected);

    let both = [record("", 4), record("secret", 9)];
    let both = locate(&both, &tokens(&["secret"])).unwrap();
    let saved = save(&both, &bundle(b"new"), &SystemEntropy, "why").unwrap();
    let shapes: Vec<_> = saved.steps.iter().map(shape).collect();
    let expected = [
        (both.key(), Before::Revision(9), "update"),
        (record("", 0).key, Before::Revision(4), "delete"),
    ];
    assert_eq!(shapes, expected);
}

#[test]
fn another_token_is_another_key() {
    let opened = locate(&[record("secret", 4)], &tokens(&["secret"])).unwrap();
    let owner = Passphrase::new("next".to_owned());
    let saved = save_as(&opened, &owner, &bundle(b"new"), &SystemEntropy, "why").unwrap();
    let shapes: Vec<_> = saved.steps.iter().map(shape).collect();
    let expected = [
        (owner.key_name(), Before::Absent, "create"),
        (opened.record.key.clone(), Before::Revision(4), "delete"),
    ];
    assert_eq!(shapes, expected);
    assert!(open(&saved.staged.bytes, &owner).is_ok());
    let begun = create(&owner, &bundle(b"new"), &SystemEntropy, "why").unwrap();
    let shapes: Vec<_> = begun.steps.iter().map(shape).collect();
    assert_eq!(shapes, [(owner.key_name(), Before::Absent, "create")]);
}

#[test]
fn what_is_not_whole_is_not_restored() {
    let opened = locate(&[record("secret", 4)], &tokens(&["secret"])).unwrap();
    let root = std::path::Path::new("/data");
    let error = plan_restore(&Restoration {
        id: &PlanId("id".to_owned()),
        opened: Some(&opened),
        source: Source::Disk(root),
        bundle: &bundle(b"no certificate"),
        owner: &opened.owner,
        datastore: "sqlite:///data/state.db",
        root,
        node: "node",
        now: UnixTime::from_secs(1_800_000_000),
        entropy: &SystemEntropy,
    })
    .unwrap_err()
    .to_string();
    assert!(error.contains("is not whole"), "{error}");
    assert!(error.contains("ServerCA"), "{error}");
    assert!(error.contains("ClientCAKey is missing"), "{error}");
}
