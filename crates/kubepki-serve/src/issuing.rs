//! A request for a leaf: who asks, for what, under which CA; and nothing leaves unrecorded.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kubepki::log::Issued;
use pki::{Certificate, Serial, UnixTime};
use zeroize::Zeroizing;

use crate::access::{Identity, is_random};
use crate::health::{Part, State};
use crate::leaf::{Asked, Issuer, Order, issue, read};
use crate::node::{Node, Strictness, addresses, node_of};
use crate::password::{PasswordError, Question, Standing};
use crate::reserved::{address_of_server, name_of_server};
use crate::route::LeafKind;
use crate::service::{Caller, Line, Loaded, Request, Service};
use crate::status::{Answer, Refusal, TEXT};
use crate::throttle::Proof;

/// PEM, in legacy mode only.
type SharedKey = Option<Zeroizing<Vec<u8>>>;

impl Service {
    /// Issues what is asked for, if the caller may have it.
    pub(crate) async fn leaf(
        &self,
        request: &Request<'_>,
        kind: LeafKind,
        caller: Caller,
    ) -> Result<Answer, Refusal> {
        let caller = self.known_in_force(request, caller).await?;
        let (identity, loaded) = (&caller.identity, &caller.loaded);
        let now = self.refuse_forgotten(request, &caller).await?;
        // A token for one node or for so many must know which one asks.
        let token = caller.token.as_ref();
        let bound = token.is_some_and(|entry| entry.made.is_bound());
        // K3s asks for the node only where the certificate names it, so that every holder of the
        // agent token can be kube-proxy.
        let node = match kind.names_node() || self.strictness == Strictness::Strict || bound {
            true => Some(node_of(identity, &request.node, self.strictness)?),
            false => None,
        };
        let mut standing = Standing::Held;
        if let Some(node) = &node {
            if self.strictness == Strictness::Strict {
                self.refuse_as_server(identity, &node.name, request.peer)?;
            }
            if let Some(token) = token {
                self.token_permits(request, token, &node.name)?;
            }
            standing = self.check_password(request, &caller, node).await?;
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
        let (spki, shared) = self.wanted(request, kind, loaded)?;
        // Whoever asks for what cannot be had takes neither a use nor a name.
        if let (Some(token), Some(node)) = (token, name) {
            self.spend(request, token, node).await?;
        }
        if let (Standing::New, Some(node)) = (standing, &node) {
            self.register(request, &caller, node).await?;
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
        let shared = shared.as_ref().map(|it| it.as_slice());
        self.issue_in_force(request, &caller, order, shared).await
    }

    /// The key to be certified, and in legacy mode the shared one that goes with it.
    fn wanted(
        &self,
        request: &Request<'_>,
        kind: LeafKind,
        loaded: &Loaded,
    ) -> Result<(Vec<u8>, SharedKey), Refusal> {
        let is_post = request.method == "POST";
        let asked = read(request.path, is_post, &request.body, self.strictness);
        self.say_old_agent(request, &asked);
        match asked? {
            Asked::Request(spki) => Ok((spki, None)),
            Asked::Legacy => {
                let shared = loaded.tree.shared_key(kind.shared_key());
                let (key, pem) = shared.map_err(|error| self.internal(request, &error))?;
                Ok((key.spki_der().to_vec(), Some(pem)))
            }
        }
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
        caller: &Caller,
    ) -> Result<UnixTime, Refusal> {
        let now = self.clock.now();
        let Some((own, shown, authorities)) = by_certificate(request, caller) else {
            return Ok(now);
        };
        let (datastore, forgotten) = (self.datastore.as_ref(), &self.passwords.forgotten);
        forgotten
            .check(datastore, (own, shown), authorities, now)
            .await
    }

    /// Every holder of an agent token may be any node, but not the node that a server is: its name
    /// and addresses are the API server's. From an address of that server's machine it may; from one
    /// that is only among its names it may not: that may be a load balancer's, from which anybody
    /// comes.
    fn refuse_as_server(
        &self,
        identity: &Identity,
        node: &str,
        peer: SocketAddr,
    ) -> Result<(), Refusal> {
        if identity.node().is_some() || identity.is_server() {
            return Ok(());
        }
        let from = peer.ip().to_canonical();
        if !self.settings.node_name.eq_ignore_ascii_case(node) {
            return self.cluster.refuse_name_of_server(node, from);
        }
        // A connection's own local address is among those.
        match from.is_loopback() || self.names.is_local(&from) {
            true => Ok(()),
            false => Err(name_of_server(node)),
        }
    }

    /// The listener's certificate learns at which addresses the server is reached: another node
    /// that has one of them in its own could pass for the API server there.
    fn refuse_local(&self, node: &str, addresses: &[IpAddr]) -> Result<(), Refusal> {
        if self.settings.node_name.eq_ignore_ascii_case(node) {
            return Ok(());
        }
        // A name that looks like an address is taken for one by some clients.
        let name = node.parse().ok();
        let mut asked = addresses.iter().copied().chain(name);
        match asked.find(|it| self.names.is_local(it)) {
            Some(address) => Err(address_of_server(address, node)),
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

    /// The caller, by the CAs and users in force: where those that it was admitted by were replaced
    /// it proves anew who it is.
    async fn known_in_force(
        &self,
        request: &Request<'_>,
        mut caller: Caller,
    ) -> Result<Caller, Refusal> {
        loop {
            let loaded = self.in_force(request).await?;
            if Arc::ptr_eq(&loaded, &caller.loaded) {
                return Ok(caller);
            }
            caller = self.anew(request).await?;
        }
    }

    /// Issues under the CA that is the cluster's when the answer leaves. Others may have come
    /// while a password was looked up or the record was written: what they replaced stays here.
    async fn issue_in_force(
        &self,
        request: &Request<'_>,
        admitted: &Caller,
        mut order: Order<'_>,
        shared: Option<&[u8]>,
    ) -> Result<Answer, Refusal> {
        let mut loaded = self.in_force(request).await?;
        loop {
            if !Arc::ptr_eq(&loaded, &admitted.loaded) {
                let caller = self.anew(request).await?;
                // What was looked up of its node may not hold for another one.
                if !caller.is(admitted) {
                    let why = "the cluster's CAs or tokens were replaced meanwhile: ask again";
                    return Err(Refusal::Unavailable(why.to_owned()));
                }
                order.serial = self.serial()?;
                order.now = self.refuse_forgotten(request, &caller).await?;
                loaded = caller.loaded;
            }
            let issuer = match order.kind {
                LeafKind::ServingKubelet => &loaded.tree.server.issuer,
                _ => &loaded.tree.client.issuer,
            };
            let identity = &admitted.identity;
            let (answer, fields) = self
                .issue(request, identity, issuer, &order, shared)
                .await?;
            let then = self.in_force(request).await?;
            if Arc::ptr_eq(&loaded, &then) {
                self.metrics.issued(order.kind);
                (self.journal)(&Line {
                    message: "issued",
                    fields,
                });
                return Ok(answer);
            }
            loaded = then;
        }
    }

    fn serial(&self) -> Result<Serial, Refusal> {
        let serial = Serial::random(|bytes| self.entropy.fill(bytes));
        serial.map_err(|error| Refusal::Internal(error.to_string()))
    }

    /// Issues, and has it written down before it is let go. Answers what is to be said of it then.
    async fn issue(
        &self,
        request: &Request<'_>,
        identity: &Identity,
        issuer: &Issuer,
        order: &Order<'_>,
        shared: Option<&[u8]>,
    ) -> Result<(Answer, Vec<(&'static str, String)>), Refusal> {
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
        let mut body = leaf.to_pem().into_bytes();
        body.extend_from_slice(issuer.chain.as_bytes());
        body.extend_from_slice(shared.unwrap_or_default());
        Ok((Answer::ok(TEXT, body), fields))
    }

    async fn check_password(
        &self,
        request: &Request<'_>,
        caller: &Caller,
        node: &Node,
    ) -> Result<Standing, Refusal> {
        let Some(question) = self.question(request, caller, node) else {
            return Ok(Standing::Held);
        };
        let proof = Proof::of_node(&node.name);
        let Question { password, now, .. } = question;
        let is_no_guess =
            || is_random(password) && self.passwords.is_fresh(&node.name, password, now);
        if !self.may_try(request.peer, proof) && !is_no_guess() {
            return Err(Refusal::TooMany);
        }
        let checked = self.passwords.check(&question).await;
        checked.map_err(|error| self.wrong_password(request, proof, error))
    }

    /// The password becomes the node's own.
    async fn register(
        &self,
        request: &Request<'_>,
        caller: &Caller,
        node: &Node,
    ) -> Result<(), Refusal> {
        let Some(question) = self.question(request, caller, node) else {
            return Ok(());
        };
        let proof = Proof::of_node(&node.name);
        let registered = self.passwords.register(&question).await;
        registered.map_err(|error| self.wrong_password(request, proof, error))
    }

    /// What a node shows; `None` where its certificate is enough.
    fn question<'a>(
        &'a self,
        request: &'a Request<'_>,
        caller: &'a Caller,
        node: &'a Node,
    ) -> Option<Question<'a>> {
        let certificate = by_certificate(request, caller);
        Some(Question {
            datastore: &self.datastore,
            entropy: self.entropy.as_ref(),
            encryption: &caller.loaded.tree.encryption,
            certificate: certificate.map(|(_, shown, authorities)| (shown, authorities)),
            node: &node.name,
            password: node.password.as_ref()?,
            now: self.clock.now(),
        })
    }

    fn wrong_password(&self, request: &Request<'_>, proof: Proof, error: PasswordError) -> Refusal {
        match error {
            PasswordError::Refused(refusal) => {
                if matches!(refusal, Refusal::ForbiddenFor(_)) {
                    self.was_wrong_by(request.peer, proof);
                }
                refusal
            }
            PasswordError::Unusable { .. } => {
                self.say("a node was not let in", request, error.to_string());
                let why = "what K3s has of the node's password cannot be used";
                Refusal::Unavailable(why.to_owned())
            }
        }
    }
}

/// The node that a caller is by its certificate, that certificate, and the CAs of which one issued
/// it.
fn by_certificate<'a>(
    request: &'a Request<'_>,
    caller: &'a Caller,
) -> Option<(&'a str, &'a [u8], &'a [Certificate])> {
    let own = caller.identity.node()?;
    let shown = request.certificates.first()?;
    Some((own, shown, &caller.loaded.tree.client.certificates))
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
