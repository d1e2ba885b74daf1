//! A request for a leaf: who asks, for what, under which CA; and nothing leaves unrecorded.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kubepki::log::Issued;
use kubepki::token::made::Entry;
use pki::{San, Serial, UnixTime};

use crate::access::Identity;
use crate::cluster::name_of_server;
use crate::health::{Part, State};
use crate::leaf::{Asked, Issuer, Order, issue, read};
use crate::node::{Node, Strictness, addresses, node_of};
use crate::route::LeafKind;
use crate::service::{Line, Loaded, Request, Service};
use crate::status::{Answer, Refusal, TEXT};

impl Service {
    /// Issues what is asked for, if the caller may have it.
    pub(crate) async fn leaf(
        &self,
        request: &Request<'_>,
        kind: LeafKind,
        (identity, token): (&Identity, Option<&Entry>),
    ) -> Result<Answer, Refusal> {
        let loaded = self.in_force(request).await?;
        let now = self.refuse_forgotten(request, identity, &loaded).await?;
        // A token for one node or for so many must know which one asks.
        let bound = token.is_some_and(|entry| entry.made.is_bound());
        // K3s asks for the node only where the certificate names it, so that every holder of the
        // agent token can be kube-proxy.
        let node = match kind.names_node() || self.strictness == Strictness::Strict || bound {
            true => Some(node_of(identity, &request.node, self.strictness)?),
            false => None,
        };
        if let Some(node) = &node {
            if self.strictness == Strictness::Strict {
                self.refuse_as_server(identity, &node.name, request.peer)?;
            }
            if let Some(token) = token {
                self.token_permits(request, token, &node.name)?;
            }
            self.check_password(node, request.peer).await?;
        }
        let name = node.as_ref().map(|node| node.name.as_str());
        let addresses = match kind {
            LeafKind::ServingKubelet => addresses(
                request.node.addresses.as_deref(),
                name.unwrap_or_default(),
                &loaded.reserved,
                self.strictness,
            )?,
            _ => Vec::new(),
        };
        if let (Strictness::Strict, Some(name)) = (self.strictness, name) {
            self.cluster.refuse_others(name, &addresses)?;
            self.refuse_local(name, &addresses)?;
        }
        let is_post = request.method == "POST";
        let asked = read(request.path, is_post, &request.body, self.strictness);
        self.say_old_agent(request, &asked);
        let (spki, shared) = match asked? {
            Asked::Request(spki) => (spki, None),
            Asked::Legacy => {
                let shared = loaded.tree.shared_key(kind.shared_key());
                let (key, pem) = shared.map_err(|error| self.internal(request, &error))?;
                (key.spki_der().to_vec(), Some(pem))
            }
        };
        if let (Some(token), Some(node)) = (token, name) {
            self.spend(request, token, node).await?;
        }
        let order = Order {
            kind,
            node: name,
            addresses: &addresses,
            spki: &spki,
            serial: self.serial()?,
            now,
            lifetime: self.leaf_lifetime,
        };
        self.issue_in_force(request, identity, order, shared.as_deref())
            .await
    }

    /// An operator whose agents are old finds out what they need.
    fn say_old_agent(&self, request: &Request<'_>, asked: &Result<Asked, Refusal>) {
        if let Err(Refusal::Method(_)) = asked {
            let why = "agents before v1.32 send no request and want a key that all of them share; \
                       --k3s-compatible gives it";
            self.say("a certificate was not issued", request, why.to_owned());
        }
    }

    /// A certificate from before its node was forgotten proves nothing any more. Answers since
    /// when a leaf that is issued upon it counts: see [`Forgotten::check`].
    ///
    /// [`Forgotten::check`]: crate::forgotten::Forgotten::check
    async fn refuse_forgotten(
        &self,
        request: &Request<'_>,
        identity: &Identity,
        loaded: &Loaded,
    ) -> Result<UnixTime, Refusal> {
        let now = self.clock.now();
        let (Some(own), Some(shown)) = (identity.node(), request.certificates.first()) else {
            return Ok(now);
        };
        let authorities = &loaded.tree.client.certificates;
        let (datastore, forgotten) = (self.datastore.as_ref(), &self.passwords.forgotten);
        forgotten
            .check(datastore, (own, shown), authorities, now)
            .await
    }

    /// Every holder of an agent token may be any node, but not the node that a server is: its name
    /// and addresses are the API server's. From that server's own addresses it may.
    fn refuse_as_server(
        &self,
        identity: &Identity,
        node: &str,
        peer: SocketAddr,
    ) -> Result<(), Refusal> {
        if identity.node().is_some() || identity.is_server() {
            return Ok(());
        }
        let (own, from) = (&self.settings, peer.ip().to_canonical());
        if node != own.node_name {
            return self.cluster.refuse_name_of_server(node, from);
        }
        let at_home = from.is_loopback() || from == own.advertise_ip || self.names.is_local(&from);
        match at_home || own.sans.contains(&San::Ip(from)) {
            true => Ok(()),
            false => Err(name_of_server(node)),
        }
    }

    /// The listener's certificate learns at which addresses the server is reached: another node
    /// that has one of them in its own could pass for the API server there.
    fn refuse_local(&self, node: &str, addresses: &[IpAddr]) -> Result<(), Refusal> {
        if node == self.settings.node_name {
            return Ok(());
        }
        // A name that looks like an address is taken for one by some clients.
        let name = node.parse().ok();
        let mut asked = addresses.iter().copied().chain(name);
        match asked.find(|it| self.names.is_local(it)) {
            Some(address) => Err(Refusal::ForbiddenFor(format!(
                "{address} belongs to the servers: node {node} cannot have it in its certificate"
            ))),
            None => Ok(()),
        }
    }

    /// The CAs in force, which are known to be the cluster's. While others are being taken up it
    /// waits for those.
    async fn in_force(&self, request: &Request<'_>) -> Result<Arc<Loaded>, Refusal> {
        self.cluster.settled().await?;
        // A CA that others may have replaced meanwhile, a record that cannot be kept, a clock
        // that is wrong: the reason is for the log and `readyz`.
        let deaf = || {
            let is_deaf = self.cluster.is_deaf();
            is_deaf.then(|| "the datastore has been silent for long".to_owned())
        };
        if let Some(why) = self.health.why_not().or_else(deaf) {
            self.say("a certificate was not issued", request, why);
            return Err(Refusal::Unavailable(
                "nothing is issued for the time being; readyz tells why".to_owned(),
            ));
        }
        self.loaded()
    }

    /// Issues under the CA that is the cluster's when the answer leaves. Others may have come
    /// while a password was looked up or the record was written: what they replaced stays here.
    async fn issue_in_force(
        &self,
        request: &Request<'_>,
        identity: &Identity,
        mut order: Order<'_>,
        shared: Option<&Vec<u8>>,
    ) -> Result<Answer, Refusal> {
        loop {
            let loaded = self.in_force(request).await?;
            let issuer = match order.kind {
                LeafKind::ServingKubelet => &loaded.tree.server.issuer,
                _ => &loaded.tree.client.issuer,
            };
            let answer = self
                .issue(request, identity, issuer, &order, shared)
                .await?;
            if Arc::ptr_eq(&loaded, &self.in_force(request).await?) {
                return Ok(answer);
            }
            order.serial = self.serial()?;
            order.now = self.refuse_forgotten(request, identity, &loaded).await?;
        }
    }

    fn serial(&self) -> Result<Serial, Refusal> {
        let serial = Serial::random(|bytes| self.entropy.fill(bytes));
        serial.map_err(|error| Refusal::Internal(error.to_string()))
    }

    /// Issues, has it written down, and only then lets it go.
    async fn issue(
        &self,
        request: &Request<'_>,
        identity: &Identity,
        issuer: &Issuer,
        order: &Order<'_>,
        shared: Option<&Vec<u8>>,
    ) -> Result<Answer, Refusal> {
        let leaf = issue(issuer, order)?;
        let server = &self.settings.node_name;
        let record = Issued {
            user: identity.user.clone(),
            credential: identity.credential.word().to_owned(),
            peer: Some(request.peer),
            node: order.node.map(str::to_owned),
            ..Issued::of(&leaf, server, request.path, self.clock.now())
        };
        let fields = told(&record);
        self.log.append(record).await.map_err(|error| {
            self.note(Part::Log, State::Warning(error.reason.clone()));
            self.say("a certificate was not issued", request, error.to_string());
            Refusal::Unavailable("the issuance log cannot be written".to_owned())
        })?;
        if self.health.is_troubled(Part::Log) {
            self.note(Part::Log, State::Fine);
        }
        self.metrics.issued(order.kind);
        (self.journal)(&Line {
            message: "issued",
            fields,
        });
        let mut body = leaf.to_pem().into_bytes();
        body.extend_from_slice(issuer.chain.as_bytes());
        body.extend_from_slice(shared.map_or(&[], Vec::as_slice));
        Ok(Answer::ok(TEXT, body))
    }

    async fn check_password(&self, node: &Node, peer: SocketAddr) -> Result<(), Refusal> {
        let Some(password) = &node.password else {
            return Ok(());
        };
        let (datastore, entropy) = (&self.datastore, self.entropy.as_ref());
        let now = self.clock.now();
        let checked = self
            .passwords
            .check(datastore, entropy, &node.name, password, now);
        let checked = checked.await;
        if matches!(checked, Err(Refusal::ForbiddenFor(_))) {
            self.was_wrong(peer);
        }
        checked
    }
}

/// What the server says of a certificate: as much as its log keeps.
fn told(record: &Issued) -> Vec<(&'static str, String)> {
    vec![
        ("path", record.endpoint.clone()),
        (
            "peer",
            record
                .peer
                .map_or_else(String::new, |peer| peer.to_string()),
        ),
        ("user", record.user.clone()),
        ("credential", record.credential.clone()),
        (
            "node",
            record.node.clone().unwrap_or_else(|| "-".to_owned()),
        ),
        ("subject", record.subject.clone()),
        ("sans", record.sans.join(",")),
        ("serial", record.serial.clone()),
        ("spki", record.spki.clone()),
        ("not_after", record.not_after.to_string()),
    ]
}
