//! The two routes that change the cluster, with K3s's codes (reference sections 3.2 and 5.7).

use serde_json::Value;
use zeroize::{Zeroize as _, Zeroizing};

use crate::cluster::Undone;
use crate::service::{Caller, Request, Service};
use crate::status::{Answer, Refusal};

impl Service {
    /// `PUT /v1-k3s/cert/cacerts`: 204, or 500 with a number under which the log has the reason.
    pub(crate) async fn put_authorities(
        &self,
        request: &Request<'_>,
        mut caller: Caller,
    ) -> Result<Answer, Refusal> {
        let component = "certificate";
        let members = self.members(request, component)?;
        if members.is_empty() {
            return Ok(Answer::empty());
        }
        forget(Value::Object(members));
        let control = self.cluster.control().ok_or_else(none)?;
        loop {
            let (body, force) = (request.body.clone(), force(request.query));
            match control.put_authorities(body, force, &caller.loaded).await {
                Ok(()) => return Ok(Answer::empty()),
                Err(Undone::Overtaken) => caller = self.anew(request).await?,
                Err(Undone::Failed(why)) => return Err(self.with_id(request, component, &why)),
            }
        }
    }

    /// `PUT /v1-k3s/token`: 200, or 500 in the same way.
    pub(crate) async fn put_token(
        &self,
        request: &Request<'_>,
        mut caller: Caller,
    ) -> Result<Answer, Refusal> {
        let component = "token";
        let mut members = self.members(request, component)?;
        let Some(Value::String(text)) = members.remove("newToken") else {
            // K3s's handler dies of its absence.
            return Err(self.with_id(request, component, "newToken is missing or no text"));
        };
        let new = Zeroizing::new(text);
        let control = self.cluster.control().ok_or_else(none)?;
        loop {
            match control.put_token(new.clone(), &caller.loaded).await {
                Ok(()) => return Ok(Answer::done()),
                Err(Undone::Overtaken) => caller = self.anew(request).await?,
                Err(Undone::Failed(why)) => return Err(self.with_id(request, component, &why)),
            }
        }
    }

    fn members(
        &self,
        request: &Request<'_>,
        component: &str,
    ) -> Result<serde_json::Map<String, Value>, Refusal> {
        if request.method != "PUT" {
            return Err(Refusal::Method(request.path.to_owned()));
        }
        if request.is_form {
            return Err(self.with_id(request, component, "the body is a form, not JSON"));
        }
        match serde_json::from_slice(&request.body) {
            Ok(Value::Object(members)) => Ok(members),
            _ => Err(self.with_id(request, component, "the body is no JSON object")),
        }
    }
}

/// CA keys stand in it.
fn forget(value: Value) {
    match value {
        Value::String(mut text) => text.zeroize(),
        Value::Object(members) => members.into_iter().for_each(|(_, it)| forget(it)),
        _ => {}
    }
}

fn none() -> Refusal {
    Refusal::Unavailable("this server takes no changes".to_owned())
}

/// Go's `strconv.ParseBool`; what it does not read is no.
fn force(query: Option<&str>) -> bool {
    let pairs = query.unwrap_or_default().split('&');
    let mut values = pairs.filter_map(|pair| pair.strip_prefix("force="));
    values
        .next()
        .is_some_and(|it| ["1", "t", "T", "TRUE", "true", "True"].contains(&it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn force_is_read_as_go_reads_it() {
        for yes in ["force=1", "force=true", "x=1&force=T", "force=TRUE&force=0"] {
            assert!(force(Some(yes)), "{yes}");
        }
        for no in [
            "",
            "force",
            "force=",
            "force=yes",
            "force=tRUE",
            "forced=1",
            "force=0&force=1",
        ] {
            assert!(!force(Some(no)), "{no}");
        }
        assert!(!force(None));
    }
}
