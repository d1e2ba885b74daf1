//! What kubepki asks of others over the network: K3s's supervisor and the Kubernetes API.
