//! Any sequence of writes, right and wrong ones, against a model of a few lines.

use std::collections::BTreeMap;

use kubepki::datastore::DatastoreError;
use kubepki_datastore::{Access, SqliteStore, Store};
use proptest::prelude::*;
use testkit::fixture;

#[derive(Clone, Debug)]
enum Verb {
    Create,
    Update,
    Delete,
}

/// A verb, which of three keys, a value of any length, and how far off the revision is.
type Step = (Verb, usize, Vec<u8>, i64);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let verb = prop_oneof![Just(Verb::Create), Just(Verb::Update), Just(Verb::Delete)];
    let value = proptest::collection::vec(any::<u8>(), 0..20);
    let off = prop_oneof![4 => Just(0_i64), 1 => -2..3_i64];
    proptest::collection::vec((verb, 0..3_usize, value, off), 1..30)
}

/// Of each key that is there: revision, revision of its creation, value.
type Model = BTreeMap<String, (i64, i64, Vec<u8>)>;

async fn take(store: &dyn Store, model: &mut Model, (verb, key, value, off): Step) {
    let key = format!("/bootstrap/{key}");
    let live = model.get(&key).cloned();
    let revision = live.as_ref().map_or(7, |it| it.0) + off;
    let (expected, done) = match verb {
        Verb::Create => (None, store.create(&key, &value).await),
        Verb::Update => (Some(revision), store.update(&key, revision, &value).await),
        Verb::Delete => {
            let done = store.delete(&key, revision).await;
            (Some(revision), done.map(Option::unwrap))
        }
    };
    let there = live.as_ref().map(|it| it.0);
    match done {
        Ok(id) => {
            assert_eq!(there, expected);
            assert_eq!(store.newest_revision().await.unwrap(), id);
            let created = live.map_or(id, |it| it.1);
            match verb {
                Verb::Delete => drop(model.remove(&key)),
                _ => drop(model.insert(key, (id, created, value))),
            }
        }
        Err(DatastoreError::Conflict { found, .. }) => {
            assert_ne!(there, expected);
            assert_eq!(found, there);
        }
        Err(other) => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_table_behaves_like_a_map_with_revisions(steps in steps()) {
        let fixture = fixture("k3s-1.36-sqlite");
        let file = fixture.data_dir().join("server/db/state.db");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = SqliteStore::open(&file, Access::Write).await.unwrap();
            let mut model = Model::new();
            for step in steps {
                take(&store, &mut model, step).await;
                let store: &dyn Store = &store;
                let all = store.list("/bootstrap/").await.unwrap();
                // One more is there: the cluster's own.
                let found: Model = all
                    .into_iter()
                    .filter(|it| it.key.len() == "/bootstrap/0".len())
                    .map(|it| (it.key, (it.revision, it.create_revision, it.value.to_vec())))
                    .collect();
                assert_eq!(found, model);
            }
        });
    }
}
