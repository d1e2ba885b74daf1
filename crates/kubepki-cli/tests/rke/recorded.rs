//! The files of the cluster that RKE 1.6 made, as they are recorded.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use crate::scene::Scene;

/// What lies on the hosts is what RKE puts there, but for what the golden list names.
pub fn same_files_as_rkes(scene: &Scene, fixture: &testkit::Fixture) {
    let ours: BTreeSet<_> = scene
        .on_hosts()
        .into_iter()
        .map(|((node, file), (mode, _))| (node, file, mode))
        .collect();
    let mut theirs = BTreeSet::new();
    for (host, node) in [("h1", "cp1"), ("h2", "cp2"), ("h3", "w1")] {
        let folder = fixture.extra(&format!("hosts/{host}/etc-kubernetes/ssl"));
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            let name = entry.file_name().into_string().unwrap();
            theirs.insert((node.to_owned(), name, mode));
        }
    }
    assert_eq!(ours.difference(&theirs).collect::<Vec<_>>(), [] as [&_; 0]);
    let golden = testkit::repository().join("crates/kubepki/tests/golden/rke-host-differences.txt");
    let golden = std::fs::read_to_string(golden).unwrap();
    let named: BTreeSet<_> = golden
        .lines()
        .filter_map(|line| line.split_once(' ').filter(|_| !line.starts_with('#')))
        .map(|(host, file)| {
            let node = ["cp1", "cp2", "w1"][host[1..].parse::<usize>().unwrap() - 1];
            (node.to_owned(), file.to_owned(), 0o600)
        })
        .collect();
    let missing: BTreeSet<_> = theirs.difference(&ours).cloned().collect();
    assert_eq!(missing, named);
}
