//! From either file to values, with RKE's defaults (`cluster/defaults.go`).

use super::error::{ConfigError, Stage};
use super::source::Value;
use super::{
    Bastion, ClusterConfig, DEFAULT_DOMAIN, DEFAULT_SERVICE_RANGE, DEFAULT_SSH_KEY_PATH, Etcd,
    Images, Node, Role, RotateCertificates, validate,
};
use crate::rke::{Json, Service, names};
use crate::yaml::Document;

pub(super) fn yaml(text: &str) -> Result<ClusterConfig, ConfigError> {
    if text.trim().is_empty() {
        return Err(ConfigError {
            stage: Stage::Parse,
            line: None,
            place: String::new(),
            message: "the file is empty".to_owned(),
            advice: Some("it is to list the nodes"),
        });
    }
    let document = Document::parse_as_go(text.as_bytes()).map_err(|error| ConfigError {
        stage: Stage::Parse,
        line: (error.line > 0).then_some(error.line),
        place: String::new(),
        message: error.detail,
        advice: None,
    })?;
    read(&Value::yaml(&document))
}

pub(super) fn json(config: &Json) -> Result<ClusterConfig, ConfigError> {
    read(&Value::json(config))
}

fn read(root: &Value<'_>) -> Result<ClusterConfig, ConfigError> {
    let or = |text: String, default: &str| match text.is_empty() {
        true => default.to_owned(),
        false => text,
    };
    let ssh_key_path = or(root.text_at(&["ssh_key_path"])?, DEFAULT_SSH_KEY_PATH);
    let ssh_agent_auth = root.flag(&["ssh_agent_auth"])?;
    let nodes = root.list(&["nodes"])?;
    let mut config = ClusterConfig {
        cluster_name: or(root.text_at(&["cluster_name"])?, "local"),
        kubernetes_version: root.some_text(&["kubernetes_version"])?,
        prefix_path: or(root.text_at(&["prefix_path"])?, "/"),
        nodes: nodes
            .iter()
            .map(|value| node(value, &ssh_key_path, ssh_agent_auth))
            .collect::<Result<_, _>>()?,
        bastion: bastion(root, &ssh_key_path, ssh_agent_auth)?,
        ssh_key_path,
        ssh_cert_path: root.some_text(&["ssh_cert_path"])?,
        ssh_agent_auth,
        ignore_docker_version: root.flag(&["ignore_docker_version"])?,
        authentication_strategy: or(root.text_at(&["authentication", "strategy"])?, "x509"),
        sans: root.texts(&["authentication", "sans"])?,
        etcd: etcd(root)?,
        service_range: or(
            root.text_at(&["services", "kube-api", "service_cluster_ip_range"])?,
            DEFAULT_SERVICE_RANGE,
        ),
        cluster_domain: or(
            root.text_at(&["services", "kubelet", "cluster_domain"])?,
            DEFAULT_DOMAIN,
        ),
        serving_certificates: root.flag(&[
            "services",
            "kubelet",
            "generate_serving_certificate",
        ])?,
        network_plugin: or(root.text_at(&["network", "plugin"])?, "canal"),
        images: images(root)?,
        rotate: rotate(root)?,
        extra_files: extra_files(root)?,
    };
    // RKE reads roles as text and looks at them late.
    let roles: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| node.texts(&["role"]))
        .collect::<Result<_, _>>()?;
    for (node, roles) in config.nodes.iter_mut().zip(&roles) {
        node.roles = roles.iter().filter_map(|role| Role::named(role)).collect();
    }
    validate::validate(root, &nodes, &config, &roles)?;
    Ok(config)
}

fn node(value: &Value<'_>, key_path: &str, agent: bool) -> Result<Node, ConfigError> {
    let or = |text: String, default: &str| match text.is_empty() {
        true => default.to_owned(),
        false => text,
    };
    let address = value.text_at(&["address"])?;
    Ok(Node {
        port: or(value.text_at(&["port"])?, "22"),
        internal_address: or(value.text_at(&["internal_address"])?, &address),
        roles: Vec::new(),
        hostname: or(value.text_at(&["hostname_override"])?, &address).to_lowercase(),
        user: value.text_at(&["user"])?,
        docker_socket: value.some_text(&["docker_socket"])?,
        ssh_agent_auth: agent,
        ssh_key: value.some_secret(&["ssh_key"])?,
        ssh_key_path: or(value.text_at(&["ssh_key_path"])?, key_path),
        ssh_cert: value.some_text(&["ssh_cert"])?,
        ssh_cert_path: value.some_text(&["ssh_cert_path"])?,
        address,
    })
}

fn bastion(root: &Value<'_>, key_path: &str, agent: bool) -> Result<Option<Bastion>, ConfigError> {
    let Some(value) = root.get("bastion_host")? else {
        return Ok(None);
    };
    let address = value.text_at(&["address"])?;
    if address.is_empty() {
        return Ok(None);
    }
    let port = value.some_text(&["port"])?;
    let ssh_key_path = value.some_text(&["ssh_key_path"])?;
    Ok(Some(Bastion {
        address,
        port: port.unwrap_or_else(|| "22".to_owned()),
        user: value.text_at(&["user"])?,
        ssh_agent_auth: agent,
        ssh_key: value.some_secret(&["ssh_key"])?,
        ssh_key_path: ssh_key_path.unwrap_or_else(|| key_path.to_owned()),
        ssh_cert: value.some_text(&["ssh_cert"])?,
        ssh_cert_path: value.some_text(&["ssh_cert_path"])?,
        ignore_proxy: value.flag(&["ignore_proxy_env_vars"])?,
    }))
}

fn etcd(root: &Value<'_>) -> Result<Etcd, ConfigError> {
    let Some(value) = root.at(&["services", "etcd"])? else {
        return Ok(Etcd::default());
    };
    Ok(Etcd {
        external_urls: value.texts(&["external_urls"])?,
        ca_cert: value.text_at(&["ca_cert"])?,
        cert: value.text_at(&["cert"])?,
        key: value.some_secret(&["key"])?.unwrap_or_default(),
        path: value.text_at(&["path"])?,
        uid: value.number(&["uid"])?,
        gid: value.number(&["gid"])?,
    })
}

fn images(root: &Value<'_>) -> Result<Images, ConfigError> {
    let Some(value) = root.get("system_images")? else {
        return Ok(Images::default());
    };
    Ok(Images {
        cert_downloader: value.some_text(&["cert_downloader"])?,
        alpine: value.some_text(&["alpine"])?,
        kubernetes: value.some_text(&["kubernetes"])?,
        etcd: value.some_text(&["etcd"])?,
        sidecar: value.some_text(&["kubernetes_services_sidecar"])?,
        nginx_proxy: value.some_text(&["nginx_proxy"])?,
    })
}

fn rotate(root: &Value<'_>) -> Result<Option<RotateCertificates>, ConfigError> {
    let Some(value) = root.get("rotate_certificates")? else {
        return Ok(None);
    };
    Ok(Some(RotateCertificates {
        authorities: value.flag(&["cacertificates"])?,
        services: value.texts(&["services"])?,
    }))
}

/// Arguments that the operator gives to a service beside RKE's own, as far as they name files
/// that may change: `cluster-signing-key-file` of the controller manager is a common one.
fn extra_files(root: &Value<'_>) -> Result<Vec<(Service, String)>, ConfigError> {
    let services = [
        ("etcd", Service::Etcd),
        ("kube-api", Service::KubeApiserver),
        ("kube-controller", Service::KubeControllerManager),
        ("scheduler", Service::KubeScheduler),
        ("kubelet", Service::Kubelet),
        ("kubeproxy", Service::KubeProxy),
    ];
    let mut found = Vec::new();
    for (key, service) in services {
        for arguments in ["extra_args", "extra_args_array"] {
            let Some(value) = root.at(&["services", key, arguments])? else {
                continue;
            };
            for text in value.leaves() {
                let file = text
                    .strip_prefix(names::SSL_DIRECTORY)
                    .and_then(|rest| rest.strip_prefix('/'));
                if let Some(file) = file {
                    found.push((service, file.to_owned()));
                }
            }
        }
    }
    Ok(found)
}
