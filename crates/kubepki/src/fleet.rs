//! What runs in a cluster, as far as a CA rotation concerns it: plain data, filled from the
//! Kubernetes API where it answers.

/// A cluster's nodes and the pods that trust its CA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Every node, by name.
    pub nodes: Vec<Node>,
    /// How many pods run in each namespace, by name; all of them hold the server CA's bundle in
    /// their service-account volume.
    pub pods: Vec<(String, usize)>,
    /// Service-account tokens kept in Secrets, `namespace/name`: they never expire, and end only
    /// with the key that signed them.
    pub lasting_tokens: Vec<String>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses, internal ones first.
    pub addresses: Vec<String>,
    /// Whether it runs the control plane: a K3s server. The others are agents.
    pub is_server: bool,
    /// What its kubelet calls itself: `v1.36.3+k3s1`.
    pub version: String,
    /// Whether its kubelet reports itself ready.
    pub is_ready: bool,
}

impl Fleet {
    /// The servers, by name.
    pub fn servers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_server)
    }

    /// The agents, by name.
    pub fn agents(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| !node.is_server)
    }

    /// How many pods there are.
    pub fn pod_count(&self) -> usize {
        self.pods.iter().map(|(_, count)| count).sum()
    }
}
