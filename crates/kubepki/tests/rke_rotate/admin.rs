//! The files on the operator's machine: whom the kubeconfig names, and where links lead.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;

use kubepki::host::LocalHost;
use kubepki::plan::{Action, Before, Content};
use kubepki::rke::Rotation;
use kubepki::rke::kubeconfig;
use kubepki::rke::rotate::Site;
use kubepki::rke::state::Files;

use crate::lab::Lab;
use crate::refuse::edit;

/// The kubeconfig goes on naming whom it names, if that is there and one of the control plane.
#[test]
fn the_administrators_server_stays_where_it_can() {
    let server = |lab: &Lab| {
        let (plan, _) = lab.plan(&Rotation::All);
        let mut servers = plan.steps.iter().filter_map(|step| match &step.action {
            Action::Put {
                content: Content::AdminKubeconfig { server, .. },
                ..
            } => Some(server.clone()),
            _ => None,
        });
        let told = plan.notes.iter().any(|it| it.contains("as RKE makes it"));
        (servers.next().unwrap(), told)
    };
    let url = |address: &str| format!("https://{address}:6443");
    let lab = || {
        let mut lab = Lab::of_members(4);
        lab.options.allow_etcd_outage = true;
        lab
    };
    // What the state says, where there is no file: nothing of this cluster.
    assert_eq!(server(&lab()), (url("10.0.0.1"), false));
    for (present, named, told) in [
        ("https://10.0.0.3:6443", "10.0.0.3", false),
        ("https://10.0.0.3:6443/", "10.0.0.3", false),
        ("https://10.0.0.9:6443", "10.0.0.1", true),
        ("https://balancer.example:6443", "10.0.0.1", true),
    ] {
        let mut lab = lab();
        lab.server = Some(present.to_owned());
        assert_eq!(server(&lab), (url(named), told), "{present}");
    }
    // One that is away is not waited for.
    let mut lab = lab();
    lab.server = Some(url("10.0.0.1"));
    lab.away("10.0.0.1");
    lab.options.skip_unreachable = BTreeSet::from(["10.0.0.1".to_owned()]);
    assert_eq!(server(&lab), (url("10.0.0.2"), true));
    // The state's word, where there is no file.
    let mut lab = Lab::of_members(4);
    lab.options.allow_etcd_outage = true;
    edit(&mut lab, "kube-admin", |entry| {
        let config = kubeconfig::admin("10.0.0.4", "c", "", "", "");
        *entry = entry.clone().with_admin_config(config, "./x");
    });
    assert_eq!(server(&lab), (url("10.0.0.4"), false));
}

async fn open(root: &Path) -> Result<(Site, Option<Vec<u8>>), kubepki::host::HostError> {
    let files = Files::of(Path::new("cluster.yml"));
    let (site, entry) = Site::open(&LocalHost, root.to_owned(), &files).await?;
    Ok((site, entry.and_then(|it| it.bytes().map(<[u8]>::to_vec))))
}

/// As RKE follows links, so do we, once: the real file is what is backed up and replaced.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "an operator's files")]
async fn links_lead_to_the_real_files() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().canonicalize().unwrap();
    let (root, vault) = (base.join("clusters"), base.join("vault"));
    for folder in [&root, &vault, &vault.join("deep")] {
        std::fs::create_dir(folder).unwrap();
    }
    let real = vault.join("prod.rkestate");
    std::fs::write(&real, "{}").unwrap();
    let config = kubeconfig::admin("10.0.0.3", "c", "", "", "");
    let admin = vault.join("deep/config");
    std::fs::write(&admin, config.as_bytes()).unwrap();
    // In two steps, and from above.
    symlink("../vault/./deep/../prod.rkestate", root.join("step")).unwrap();
    symlink("step", root.join("cluster.rkestate")).unwrap();
    symlink(&admin, root.join("kube_config_cluster.yml")).unwrap();
    let (site, bytes) = open(&root).await.unwrap();
    assert_eq!((site.root, site.state), (root.clone(), real));
    assert_eq!(bytes.unwrap(), b"{}");
    assert_eq!(site.kubeconfig, admin);
    let server = site.kubeconfig_server.as_deref();
    assert_eq!(server, Some("https://10.0.0.3:6443"));
    assert_eq!(site.kubeconfig_spelled, "./kube_config_cluster.yml");

    // Above a link is not above where it leads.
    symlink(vault.join("deep"), root.join("shortcut")).unwrap();
    std::fs::remove_file(root.join("step")).unwrap();
    symlink("shortcut/../prod.rkestate", root.join("step")).unwrap();
    let (site, bytes) = open(&root).await.unwrap();
    assert_eq!(site.state, root.join("shortcut/../prod.rkestate"));
    assert_eq!(bytes.unwrap(), b"{}");

    // To what is yet to be made, and in a circle.
    std::fs::remove_file(root.join("step")).unwrap();
    symlink(vault.join("new"), root.join("step")).unwrap();
    let (site, bytes) = open(&root).await.unwrap();
    assert_eq!((site.state, bytes), (vault.join("new"), None));
    assert_eq!(site.state_before, Before::Absent);
    symlink(root.join("step"), vault.join("new")).unwrap();
    let error = open(&root).await.unwrap_err();
    let text = kubepki::error_chain(&error);
    assert!(text.contains("cannot read /"), "{text}");
    assert!(text.contains("symbolic links"), "{text}");
}
