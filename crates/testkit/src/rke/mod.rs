//! Machines of an RKE cluster, all on this one: each with its own network address, file system
//! (`/etc`, `/opt`, `/run`, `/var/lib`, `/home`, `/root`, `/tmp`), processes, OpenSSH server and
//! Docker engine.
//!
//! A machine is a set of Linux namespaces, so what RKE says of a node is true here word for word:
//! `localhost` is the node itself, ports are the real ones (22, 2379, 6443, 10250, …), the socket
//! is `/var/run/docker.sock`, certificates lie in `/etc/kubernetes/ssl`. Machines reach each other
//! and are reached from the test over a virtual switch.
//!
//! ```no_run
//! use testkit::rke::{Cluster, Spec, restarted};
//!
//! let cluster = Cluster::prepare(&Spec::recorded());
//! cluster.adopt(&testkit::fixture("rke-1.6-live"));
//! cluster.start();
//! let (watch, before) = (cluster.watch(), cluster.starts());
//! // … a rotation with `cluster.cluster_yml()` and `cluster.known_hosts()` …
//! cluster.wait_healthy();
//! println!("{:?}", restarted(&before, &cluster.starts()));
//! let seen = watch.finish(&cluster);
//! assert!(seen.missed.is_empty());
//! ```
//!
//! Nothing of it is left on this machine: when the values go, or the test program however it ends,
//! the processes are killed, and with the last of them the namespaces, their mounts and their
//! network devices are gone. Only root can make them.

mod certificates;
mod cluster;
mod components;
mod docker;
mod guard;
mod health;
mod host;
mod images;
mod layout;
mod members;
mod network;
mod watch;
mod writer;

pub use cluster::{Call, Cluster, Fault, Starts, restarted};
pub use docker::{Container, Docker, Start};
pub use host::{Host, USER};
pub use images::{ETCD_IMAGE, KUBERNETES_IMAGE, TOOLS_IMAGE};
pub use layout::{Node, Role, Spec};
pub use network::Network;
pub use watch::{Seen, Shown, Watch};
pub use writer::{Writer, Writes};
