//! A supervisor as a node speaks to it: CA files, certificates for requests (reference section
//! 6.2).

use std::fmt;
use std::net::IpAddr;

use kubepki::token::Token;
use pki::{Certificate, CertificateRequest, PrivateKey, UnixTime};
use reqwest::header::AUTHORIZATION;
use reqwest::{Client, RequestBuilder, Url};
use zeroize::Zeroizing;

use crate::answer::client;
use crate::fault::SupervisorError;
use crate::supervisor::{
    FirstUse, Seen, answered, at, node_refused, parse, pinned, sensitive, unreachable,
};
use crate::tls::{ClientIdentity, trusting};

/// The user that K3s's agents log in as, whoever the token names.
const USER: &str = "node";

/// A connection to a supervisor whose CA is known, with what the node logs in with.
pub struct AgentConnection {
    base: Url,
    client: Client,
    authorization: Option<Zeroizing<String>>,
    seen: Option<Seen>,
}

/// How a node proves that a name is its own.
pub struct NodeProof<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its password: made once, kept on the node. None is sent where it was lost.
    pub password: Option<&'a str>,
    /// Its addresses, where the certificate is to carry them.
    pub addresses: &'a [IpAddr],
}

impl AgentConnection {
    /// Looks at `/cacerts`, holds it to the hash or the keys in the token, and trusts nothing else
    /// from then on: not the system's store either. Nothing is sent before that.
    ///
    /// Where the token pins keys, only certificates with these keys are trusted, and the server's
    /// own must lead to one: that a CA stands in the bundle proves nothing, for the bundle is
    /// public.
    ///
    /// # Errors
    ///
    /// [`SupervisorError`]; then nothing secret was sent.
    pub async fn with_token(
        base: &str,
        token: &Token,
        first_use: FirstUse,
        now: UnixTime,
    ) -> Result<Self, SupervisorError> {
        let base = parse(base)?;
        let (client, seen) = pinned(&base, token, first_use, now, node_refused).await?;
        Ok(Self {
            base,
            client,
            authorization: Some(token.authorization(USER)),
            seen: Some(seen),
        })
    }

    /// Trusts `bundle`, which the node has already, and logs in with the token (reference section
    /// 5.4): whoever has no certificate under it gets nothing.
    ///
    /// # Errors
    ///
    /// [`SupervisorError`] for a URL that cannot be used; nothing is sent yet.
    pub fn with_bundle(
        base: &str,
        bundle: &[Certificate],
        token: &Token,
        now: UnixTime,
    ) -> Result<Self, SupervisorError> {
        Ok(Self {
            authorization: Some(token.authorization(USER)),
            ..Self::trusting(base, bundle, None, now)?
        })
    }

    /// Trusts `bundle` and logs in with the node's certificate.
    ///
    /// # Errors
    ///
    /// [`SupervisorError`] for a URL or key that cannot be used; nothing is sent yet.
    pub fn with_certificate(
        base: &str,
        bundle: &[Certificate],
        chain: &[Certificate],
        key: &PrivateKey,
        now: UnixTime,
    ) -> Result<Self, SupervisorError> {
        Self::trusting(base, bundle, Some(ClientIdentity { chain, key }), now)
    }

    fn trusting(
        base: &str,
        bundle: &[Certificate],
        identity: Option<ClientIdentity<'_>>,
        now: UnixTime,
    ) -> Result<Self, SupervisorError> {
        let base = parse(base)?;
        let tls = trusting(bundle, now, identity).map_err(|error| unreachable(&base, error))?;
        let client = client(tls).map_err(|error| unreachable(&base, error))?;
        Ok(Self {
            base,
            client,
            authorization: None,
            seen: None,
        })
    }

    /// What it showed as its CA, where that decided.
    pub fn seen(&self) -> Option<&Seen> {
        self.seen.as_ref()
    }

    /// What lies at `path`: a CA file.
    ///
    /// # Errors
    ///
    /// [`SupervisorError::NodeRefused`] for every answer but 2xx,
    /// [`SupervisorError::OtherIssuer`] for a server whose CA is not the one that is trusted.
    pub async fn get(&self, path: &str) -> Result<Vec<u8>, SupervisorError> {
        let request = self.logged_in(self.client.get(at(&self.base, path)?))?;
        self.answered(&format!("GET {path}"), request).await
    }

    /// What the server answers to a request for a certificate, DER as K3s wants it.
    ///
    /// # Errors
    ///
    /// [`SupervisorError::NodeRefused`] for every answer but 2xx,
    /// [`SupervisorError::OtherIssuer`] for a server whose CA is not the one that is trusted.
    pub async fn certificate(
        &self,
        path: &str,
        proof: &NodeProof<'_>,
        csr: &CertificateRequest,
    ) -> Result<Vec<u8>, SupervisorError> {
        let request = self
            .client
            .post(at(&self.base, path)?)
            .body(csr.der().to_vec());
        let mut request = self.logged_in(request)?.header("k3s-Node-Name", proof.name);
        if let Some(password) = proof.password {
            request = request.header("k3s-Node-Password", sensitive(&self.base, password)?);
        }
        if !proof.addresses.is_empty() {
            let texts: Vec<String> = proof.addresses.iter().map(IpAddr::to_string).collect();
            request = request.header("k3s-Node-IP", texts.join(","));
        }
        self.answered(&format!("POST {path}"), request).await
    }

    async fn answered(
        &self,
        call: &str,
        request: RequestBuilder,
    ) -> Result<Vec<u8>, SupervisorError> {
        let answer = answered(&self.base, call, request, node_refused).await;
        answer.map_err(|error| match self.seen {
            Some(_) => error,
            None => error.against_known_authority(),
        })
    }

    fn logged_in(&self, request: RequestBuilder) -> Result<RequestBuilder, SupervisorError> {
        Ok(match &self.authorization {
            Some(text) => request.header(AUTHORIZATION, sensitive(&self.base, text)?),
            None => request,
        })
    }
}

impl fmt::Debug for AgentConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentConnection({})", self.base)
    }
}
