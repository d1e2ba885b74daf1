//! The stored form of a configuration: what RKE's `rkeConfig` would say, as far as we know it.

use super::{Bastion, ClusterConfig, Node, RotateCertificates};
use crate::rke::Json;

/// Keys of `rkeConfig`, in RKE's order (`types/rke_types.go`).
const TOP: [&str; 30] = [
    "nodes",
    "services",
    "network",
    "authentication",
    "addons",
    "addonsInclude",
    "systemImages",
    "sshKeyPath",
    "sshCertPath",
    "sshAgentAuth",
    "authorization",
    "ignoreDockerVersion",
    "enableCriDockerd",
    "kubernetesVersion",
    "privateRegistries",
    "ingress",
    "clusterName",
    "cloudProvider",
    "prefixPath",
    "winPrefixPath",
    "addonJobTimeout",
    "bastionHost",
    "monitoring",
    "restore",
    "rotateCertificates",
    "rotateEncryptionKey",
    "dns",
    "upgradeStrategy",
    "criDockerdStreamServerAddress",
    "criDockerdStreamServerPort",
];
const SERVICES: [&str; 6] = [
    "etcd",
    "kubeApi",
    "kubeController",
    "scheduler",
    "kubelet",
    "kubeproxy",
];
/// Keys of a service, those of all services and of each.
const SERVICE: [&str; 32] = [
    "image",
    "extraArgs",
    "extraArgsArray",
    "extraBinds",
    "extraEnv",
    "winExtraArgs",
    "winExtraArgsArray",
    "winExtraBinds",
    "winExtraEnv",
    "externalUrls",
    "caCert",
    "cert",
    "key",
    "path",
    "uid",
    "gid",
    "snapshot",
    "retention",
    "creation",
    "backupConfig",
    "clusterCidr",
    "serviceClusterIpRange",
    "serviceNodePortRange",
    "podSecurityConfiguration",
    "alwaysPullImages",
    "secretsEncryptionConfig",
    "auditLog",
    "clusterDomain",
    "infraContainerImage",
    "clusterDnsServer",
    "failSwapOn",
    "generateServingCertificate",
];
const NODE: [&str; 14] = [
    "nodeName",
    "address",
    "port",
    "internalAddress",
    "role",
    "hostnameOverride",
    "user",
    "dockerSocket",
    "sshAgentAuth",
    "sshKey",
    "sshKeyPath",
    "sshCert",
    "sshCertPath",
    "labels",
];
const BASTION: [&str; 9] = [
    "address",
    "port",
    "user",
    "sshAgentAuth",
    "sshKey",
    "sshKeyPath",
    "sshCert",
    "sshCertPath",
    "ignoreProxyEnvVars",
];
const AUTHENTICATION: [&str; 3] = ["strategy", "sans", "webhook"];
const IMAGES: [&str; 6] = [
    "etcd",
    "alpine",
    "nginxProxy",
    "certDownloader",
    "kubernetesServicesSidecar",
    "kubernetes",
];

impl ClusterConfig {
    /// Writes what is known here into a stored `rkeConfig`; everything else in it stays, nodes
    /// are told apart by address. Empty values are left out, as Go leaves them out.
    ///
    /// Into an empty object it makes the configuration of a first state. RKE fills in the rest
    /// from its metadata at the next `rke up`. The result may hold SSH keys.
    pub fn write_into(&self, config: &mut Json) {
        let former: Vec<Json> = config
            .get("nodes")
            .and_then(Json::items)
            .map_or_else(Vec::new, <[Json]>::to_vec);
        let nodes = self.nodes.iter().map(|node| stored_node(node, &former));
        config.set("nodes", Json::List(nodes.collect()), &TOP);
        config.edit("services", &TOP, |services| self.write_services(services));
        config.edit("network", &TOP, |network| {
            put(network, "plugin", &self.network_plugin, &["plugin"]);
        });
        config.edit("authentication", &TOP, |authentication| {
            put(
                authentication,
                "strategy",
                &self.authentication_strategy,
                &AUTHENTICATION,
            );
            put_list(authentication, "sans", &self.sans, &AUTHENTICATION);
        });
        config.edit("systemImages", &TOP, |images| self.write_images(images));
        put(config, "sshKeyPath", &self.ssh_key_path, &TOP);
        put_some(config, "sshCertPath", self.ssh_cert_path.as_deref(), &TOP);
        config.set("sshAgentAuth", Json::Bool(self.ssh_agent_auth), &TOP);
        config.set(
            "ignoreDockerVersion",
            Json::Bool(self.ignore_docker_version),
            &TOP,
        );
        // Where RKE would take its default, what is stored is that.
        if let Some(version) = &self.kubernetes_version {
            put(config, "kubernetesVersion", version, &TOP);
        }
        put(config, "clusterName", &self.cluster_name, &TOP);
        put(config, "prefixPath", &self.prefix_path, &TOP);
        config.edit("bastionHost", &TOP, |bastion| {
            write_bastion(bastion, self.bastion.as_ref());
        });
        match &self.rotate {
            Some(rotate) => config.set("rotateCertificates", stored_rotate(rotate), &TOP),
            None => {
                config.remove("rotateCertificates");
            }
        }
    }

    fn write_services(&self, services: &mut Json) {
        services.edit("etcd", &SERVICES, |etcd| {
            let own = &self.etcd;
            put_list(etcd, "externalUrls", &own.external_urls, &SERVICE);
            for (key, text) in [
                ("caCert", own.ca_cert.as_str()),
                ("cert", &own.cert),
                ("key", &own.key),
                ("path", &own.path),
            ] {
                put(etcd, key, text, &SERVICE);
            }
            for (key, id) in [("uid", own.uid), ("gid", own.gid)] {
                match id {
                    0 => {
                        etcd.remove(key);
                    }
                    id => etcd.set(key, Json::Number(id.to_string()), &SERVICE),
                }
            }
        });
        services.edit("kubeApi", &SERVICES, |api| {
            put(api, "serviceClusterIpRange", &self.service_range, &SERVICE);
        });
        for service in ["kubeController", "scheduler"] {
            services.edit(service, &SERVICES, |_| {});
        }
        services.edit("kubelet", &SERVICES, |kubelet| {
            put(kubelet, "clusterDomain", &self.cluster_domain, &SERVICE);
            match self.serving_certificates {
                true => kubelet.set("generateServingCertificate", Json::Bool(true), &SERVICE),
                false => {
                    kubelet.remove("generateServingCertificate");
                }
            }
        });
        services.edit("kubeproxy", &SERVICES, |_| {});
    }

    /// Images that `cluster.yml` names; others stay as RKE's metadata had them.
    fn write_images(&self, images: &mut Json) {
        let own = &self.images;
        for (key, image) in [
            ("etcd", &own.etcd),
            ("alpine", &own.alpine),
            ("nginxProxy", &own.nginx_proxy),
            ("certDownloader", &own.cert_downloader),
            ("kubernetesServicesSidecar", &own.sidecar),
            ("kubernetes", &own.kubernetes),
        ] {
            if let Some(image) = image {
                put(images, key, image, &IMAGES);
            }
        }
    }
}

/// The node's stored form, built on the one of the same address.
fn stored_node(node: &Node, former: &[Json]) -> Json {
    let same = |stored: &&Json| {
        let address = stored.get("address").and_then(Json::as_text);
        address == Some(node.address.as_str())
    };
    let mut stored = former
        .iter()
        .find(same)
        .cloned()
        .unwrap_or(Json::Object(Vec::new()));
    let roles: Vec<String> = node
        .roles
        .iter()
        .map(|role| role.name().to_owned())
        .collect();
    put(&mut stored, "address", &node.address, &NODE);
    put(&mut stored, "port", &node.port, &NODE);
    put(
        &mut stored,
        "internalAddress",
        &node.internal_address,
        &NODE,
    );
    put_list(&mut stored, "role", &roles, &NODE);
    put(&mut stored, "hostnameOverride", &node.hostname, &NODE);
    put(&mut stored, "user", &node.user, &NODE);
    put_some(
        &mut stored,
        "dockerSocket",
        node.docker_socket.as_deref(),
        &NODE,
    );
    put_true(&mut stored, "sshAgentAuth", node.ssh_agent_auth, &NODE);
    put_some(&mut stored, "sshKey", node.ssh_key.as_deref(), &NODE);
    put(&mut stored, "sshKeyPath", &node.ssh_key_path, &NODE);
    put_some(&mut stored, "sshCert", node.ssh_cert.as_deref(), &NODE);
    put_some(
        &mut stored,
        "sshCertPath",
        node.ssh_cert_path.as_deref(),
        &NODE,
    );
    stored
}

fn write_bastion(stored: &mut Json, bastion: Option<&Bastion>) {
    let Some(bastion) = bastion else {
        *stored = Json::Object(Vec::new());
        return;
    };
    put(stored, "address", &bastion.address, &BASTION);
    put(stored, "port", &bastion.port, &BASTION);
    put(stored, "user", &bastion.user, &BASTION);
    put_true(stored, "sshAgentAuth", bastion.ssh_agent_auth, &BASTION);
    put_some(stored, "sshKey", bastion.ssh_key.as_deref(), &BASTION);
    put(stored, "sshKeyPath", &bastion.ssh_key_path, &BASTION);
    put_some(stored, "sshCert", bastion.ssh_cert.as_deref(), &BASTION);
    put_some(
        stored,
        "sshCertPath",
        bastion.ssh_cert_path.as_deref(),
        &BASTION,
    );
    put_true(stored, "ignoreProxyEnvVars", bastion.ignore_proxy, &BASTION);
}

fn stored_rotate(rotate: &RotateCertificates) -> Json {
    let keys = ["caCertificates", "services"];
    let mut stored = Json::Object(Vec::new());
    put_true(&mut stored, "caCertificates", rotate.authorities, &keys);
    put_list(&mut stored, "services", &rotate.services, &keys);
    stored
}

fn put(object: &mut Json, key: &str, text: &str, order: &[&str]) {
    match text.is_empty() {
        true => {
            object.remove(key);
        }
        false => object.set(key, Json::text(text), order),
    }
}

fn put_some(object: &mut Json, key: &str, text: Option<&str>, order: &[&str]) {
    put(object, key, text.unwrap_or_default(), order);
}

fn put_true(object: &mut Json, key: &str, flag: bool, order: &[&str]) {
    match flag {
        true => object.set(key, Json::Bool(true), order),
        false => {
            object.remove(key);
        }
    }
}

fn put_list(object: &mut Json, key: &str, items: &[String], order: &[&str]) {
    match items {
        [] => {
            object.remove(key);
        }
        items => {
            let items = items.iter().map(|item| Json::text(item)).collect();
            object.set(key, Json::List(items), order);
        }
    }
}
