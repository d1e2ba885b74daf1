//! The four datastores.

use std::path::PathBuf;

use kubepki_datastore::Store;
use testkit::server::{MariaDb, Postgres};
use testkit::{Tree, fixture};

use crate::scene::{Scene, connect, scratch};

/// A scene, how its files were, and where its rows are.
pub struct Case {
    _folder: tempfile::TempDir,
    pub kept: PathBuf,
    pub scene: Scene,
    pub original: Tree,
    pub endpoint: String,
}

impl Case {
    /// With the rows behind `endpoint`; an empty one is the scene's own SQLite file.
    pub async fn at(endpoint: String) -> Self {
        let folder = scratch();
        let scene = Scene::make(folder.path()).await;
        let kept = folder.path().join("kept");
        scene.keep(&kept);
        let original = scene.tree();
        Self {
            _folder: folder,
            kept,
            scene,
            original,
            endpoint,
        }
    }

    pub async fn sqlite() -> Self {
        Self::at(String::new()).await
    }

    pub async fn store(&self) -> Box<dyn Store> {
        connect(&self.endpoint, &self.scene.server()).await.unwrap()
    }

    /// Files and rows as at first; answers the revision of the old key.
    pub async fn begin(&self) -> i64 {
        self.scene.restore(&self.kept);
        self.scene.reset(self.store().await.as_ref()).await
    }
}

/// An empty kine in a PostgreSQL that all tests share.
pub fn postgres(name: &str) -> String {
    let endpoint = Postgres::shared().database(name);
    Postgres::shared().load(name, &fixture("k3s-1.36-postgres").extra("kubernetes.sql"));
    endpoint
}

/// The same in MariaDB.
pub fn mariadb(name: &str) -> String {
    let endpoint = MariaDb::shared().database(name);
    MariaDb::shared().load(name, &fixture("k3s-1.36-mariadb").extra("kubernetes.sql"));
    endpoint
}
