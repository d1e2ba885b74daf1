//! Two servers on one datastore of each kind: uses are counted once, whoever is asked, and a
//! bootstrap token that Kubernetes keeps there is good at both until it is deleted.

use testkit::kube::KubeSecret;
use testkit::server::{MariaDb, Postgres};
use testkit::{Etcd, Fixture, Run};

use crate::lab::{Serve, assert_ends, full, join, kine_delete, kine_insert};

const USES: usize = 3;
const NODES: usize = 8;

/// What stands in for kube-apiserver: puts a Secret into the datastore, or takes it out.
type Apiserver<'a> = &'a dyn Fn(&KubeSecret, bool);

fn serve_two(name: &str, trees: [Fixture; 2], endpoint: &str, apiserver: Apiserver<'_>) {
    let [first, second] = trees;
    let serves = [
        Serve::start(first, "one", Some(endpoint)),
        Serve::start(second, "two", Some(endpoint)),
    ];
    let folder = tempfile::tempdir().unwrap();
    uses_are_counted_once(&serves, folder.path());

    // Taken back at one, a token is refused by the other with its next request.
    let (token, id) = serves[0].create(&["--role", "agent"]);
    assert_ends(&serves[1].token(&["revoke", &id]), 0, "was revoked");
    let secret = KubeSecret::bootstrap_token("kube01", "0123456789abcdef", None);
    apiserver(&secret, true);
    let theirs = full(&serves[0], "kube01.0123456789abcdef");
    for (serve, node) in serves.iter().zip(["late", "later"]) {
        let run = join(&serve.url, folder.path(), &token, node, &[]);
        assert_ends(&run, 5, "401");
        let run = join(&serve.url, folder.path(), &theirs, node, &[]);
        assert_ends(&run, 0, "files written");
        assert_eq!(serve.listed("kube01")["keeper"], "kubernetes", "{name}");
    }
    apiserver(&secret, false);
    for serve in &serves {
        let again = ["--window", "400"];
        let run = join(&serve.url, folder.path(), &theirs, "late", &again);
        assert_ends(&run, 5, "401");
    }
}

fn uses_are_counted_once(serves: &[Serve; 2], folder: &std::path::Path) {
    let uses = USES.to_string();
    // Made at one, known to both.
    let (token, id) = serves[0].create(&["--role", "agent", "--uses", &uses]);
    let codes: Vec<(String, Run)> = std::thread::scope(|scope| {
        let joins: Vec<_> = (0..NODES)
            .map(|number| {
                let (url, token) = (&serves[number % 2].url, &token);
                let name = format!("racer-{number}");
                scope.spawn(move || {
                    let run = join(url, folder, token, &name, &[]);
                    (name, run)
                })
            })
            .collect();
        joins.into_iter().map(|it| it.join().unwrap()).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = codes.into_iter().partition(|it| it.1.success());
    assert_eq!(won.len(), USES, "{won:?} {lost:?}");
    for (_, run) in lost {
        assert_ends(&run, 5, "the token has ended");
    }
    let entry = serves[1].listed(&id);
    let nodes = entry["nodes"].as_array().unwrap().iter();
    let mut listed: Vec<&str> = nodes.map(|it| it["node"].as_str().unwrap()).collect();
    listed.sort_unstable();
    let mut won: Vec<String> = won.into_iter().map(|it| it.0).collect();
    won.sort();
    assert_eq!(listed, won, "who is counted is who came in");
}

#[test]
fn postgres() {
    let server = Postgres::start(false);
    let trees = [(); 2].map(|()| Fixture::new("k3s-1.36-postgres"));
    server.load("kubernetes", &trees[0].extra("kubernetes.sql"));
    let bytes = |bytes: &[u8]| format!("decode('{}', 'hex')", pki::hex(bytes));
    let apiserver = |secret: &KubeSecret, there: bool| {
        let statement = match there {
            true => kine_insert(secret, &secret.protobuf(), bytes),
            false => kine_delete(secret, bytes),
        };
        server.sql("kubernetes", &statement);
    };
    serve_two(
        "postgres",
        trees,
        &server.endpoint("kubernetes"),
        &apiserver,
    );
}

#[test]
fn maria_db() {
    let server = MariaDb::start(false);
    let trees = [(); 2].map(|()| Fixture::new("k3s-1.36-mariadb"));
    server.load("kubernetes", &trees[0].extra("kubernetes.sql"));
    let bytes = |bytes: &[u8]| format!("x'{}'", pki::hex(bytes));
    let apiserver = |secret: &KubeSecret, there: bool| {
        let statement = match there {
            true => kine_insert(secret, &secret.protobuf(), bytes),
            false => kine_delete(secret, bytes),
        };
        server.sql("kubernetes", &statement);
    };
    serve_two("mariadb", trees, &server.endpoint("kubernetes"), &apiserver);
}

#[test]
fn sqlite() {
    // Two processes on one file, as an operator beside a server.
    let trees = [(); 2].map(|()| Fixture::new("k3s-1.36-sqlite"));
    let file = trees[0].data_dir().join("server/db/state.db");
    let bytes = |bytes: &[u8]| format!("x'{}'", pki::hex(bytes));
    let apiserver = |secret: &KubeSecret, there: bool| {
        let statement = match there {
            true => kine_insert(secret, &secret.protobuf(), bytes),
            false => kine_delete(secret, bytes),
        };
        crate::lab::sqlite(&file, &statement);
    };
    let endpoint = format!("sqlite://{}", file.display());
    serve_two("sqlite", trees, &endpoint, &apiserver);
}

#[test]
fn etcd() {
    let trees = [(); 2].map(|()| Fixture::new("k3s-1.36-etcd-external"));
    let etcd = Etcd::restore(&trees[0].extra("etcd-snapshot.db"));
    let apiserver = |secret: &KubeSecret, there: bool| {
        let json = String::from_utf8(secret.json()).unwrap();
        match there {
            true => etcd.control(&["put", &secret.key(), &json]),
            false => etcd.control(&["del", &secret.key()]),
        };
    };
    serve_two("etcd", trees, &etcd.url(0), &apiserver);
}
