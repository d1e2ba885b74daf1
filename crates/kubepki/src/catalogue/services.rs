//! Which files belong to a unit of rotation.

use std::path::PathBuf;

use super::{Flavour, Kind, Release, Service, Side};

impl Flavour {
    /// The files that `service` stands for, certificate before key, each once, under its side's
    /// directory.
    ///
    /// As K3s has it (`pkg/util/services`): files that a newer release no longer makes stay in
    /// the list, since a tree may still hold them; those that `release` does not know yet are
    /// left out. The dynamic listener has none: it is renewed by a trigger.
    pub fn files_of(&self, service: &Service, release: Option<Release>) -> Vec<(Side, PathBuf)> {
        let mut files = Vec::new();
        let rows = service.rows.iter().filter_map(|id| self.row(id));
        for row in rows.filter(|row| release.is_none_or(|release| row.since.includes(release))) {
            if matches!(row.kind, Kind::Listener { .. }) {
                continue;
            }
            for file in [Some(row.file()), row.key_file()].into_iter().flatten() {
                let entry = (row.side, file);
                if !files.contains(&entry) {
                    files.push(entry);
                }
            }
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use crate::catalogue::{K3S, Release, Side};

    /// Reference section 2.2, written out: `t` is `<server>/tls`, `a` is `<agent>`.
    const TABLE: &[(&str, Side, &[&str])] = &[
        (
            "api-server",
            Side::Server,
            &[
                "t/client-kube-apiserver.crt",
                "t/client-kube-apiserver.key",
                "t/serving-kube-apiserver.crt",
                "t/serving-kube-apiserver.key",
            ],
        ),
        (
            "admin",
            Side::Server,
            &["t/client-admin.crt", "t/client-admin.key"],
        ),
        (
            "auth-proxy",
            Side::Server,
            &["t/client-auth-proxy.crt", "t/client-auth-proxy.key"],
        ),
        (
            "cloud-controller",
            Side::Server,
            &[
                "t/client-k3s-cloud-controller.crt",
                "t/client-k3s-cloud-controller.key",
            ],
        ),
        (
            "controller-manager",
            Side::Server,
            &[
                "t/client-controller.crt",
                "t/client-controller.key",
                "t/kube-controller-manager/kube-controller-manager.crt",
                "t/kube-controller-manager/kube-controller-manager.key",
            ],
        ),
        (
            "etcd",
            Side::Server,
            &[
                "t/etcd/client.crt",
                "t/etcd/client.key",
                "t/etcd/server-client.crt",
                "t/etcd/server-client.key",
                "t/etcd/peer-server-client.crt",
                "t/etcd/peer-server-client.key",
            ],
        ),
        (
            "scheduler",
            Side::Server,
            &[
                "t/client-scheduler.crt",
                "t/client-scheduler.key",
                "t/kube-scheduler/kube-scheduler.crt",
                "t/kube-scheduler/kube-scheduler.key",
            ],
        ),
        (
            "supervisor",
            Side::Server,
            &["t/client-supervisor.crt", "t/client-supervisor.key"],
        ),
        ("k3s-server", Side::Server, &[]),
        (
            "kube-proxy",
            Side::Agent,
            &[
                "t/client-kube-proxy.crt",
                "t/client-kube-proxy.key",
                "a/client-kube-proxy.crt",
                "a/client-kube-proxy.key",
            ],
        ),
        (
            "kubelet",
            Side::Agent,
            &[
                "t/client-kubelet.key",
                "t/serving-kubelet.key",
                "a/client-kubelet.crt",
                "a/client-kubelet.key",
                "a/serving-kubelet.crt",
                "a/serving-kubelet.key",
            ],
        ),
        (
            "k3s-controller",
            Side::Agent,
            &[
                "t/client-k3s-controller.crt",
                "t/client-k3s-controller.key",
                "a/client-k3s-controller.crt",
                "a/client-k3s-controller.key",
            ],
        ),
    ];

    fn files_of(service: &str, release: Option<Release>) -> Vec<String> {
        let service = K3S.service(service).unwrap();
        K3S.files_of(service, release)
            .into_iter()
            .map(|(side, path)| match side {
                Side::Server => format!("t/{}", path.strip_prefix("tls").unwrap().display()),
                Side::Agent => format!("a/{}", path.display()),
                Side::Admin => panic!("no service holds {}", path.display()),
            })
            .collect()
    }

    #[test]
    fn services_are_those_of_k3s_in_its_order() {
        let services: Vec<_> = K3S
            .services
            .iter()
            .map(|service| (service.name, service.side))
            .collect();
        let expected: Vec<_> = TABLE.iter().map(|(name, side, _)| (*name, *side)).collect();
        assert_eq!(services, expected);
    }

    #[test]
    fn files_are_those_of_k3s() {
        // A release that makes no certificate beside the shared keys still has both in its list.
        for release in [
            None,
            Some(Release {
                minor: 36,
                patch: 3,
            }),
        ] {
            for (name, _, files) in TABLE {
                assert_eq!(files_of(name, release), *files, "{name} {release:?}");
            }
        }
    }

    #[test]
    fn an_older_release_knows_fewer() {
        let old = Some(Release {
            minor: 33,
            patch: 0,
        });
        assert_eq!(
            files_of("scheduler", old),
            ["t/client-scheduler.crt", "t/client-scheduler.key"]
        );
        assert_eq!(files_of("kube-proxy", old).len(), 4);
    }
}
