//! What real clusters wrote is read, decrypted, and nothing of it changed.

use kubepki_datastore::Access;
use testkit::fixture;

use crate::common::{KEY, opened, store};

#[tokio::test]
async fn sqlite_files_of_clusters_are_read() {
    for name in ["k3s-1.36-sqlite", "k3s-1.36-custom-ca", "k3s-1.21-sqlite"] {
        let fixture = fixture(name);
        let server = fixture.data_dir().join("server");
        let store = store("", &server, Access::Read).await.unwrap();
        let record = store.get(KEY).await.unwrap().unwrap();
        let bundle = opened(&record.value);
        for (field, file) in &bundle.files {
            let on_disk = std::fs::read(field.under(&server)).unwrap();
            assert_eq!(file.content.as_slice(), on_disk, "{name} {field:?}");
        }
        assert_eq!(store.list("/bootstrap").await.unwrap(), [record], "{name}");
        assert!(store.newest_revision().await.unwrap() > 100, "{name}");
    }
}
