//! The issuance log that lasts: [`kubepki::log`], as the server asks for it.

use async_trait::async_trait;
use kubepki::edge::{Clock as _, SystemClock};
use kubepki::error_chain;
use kubepki::log::{Issued, Log};
use pki::Certificate;

use crate::issuance::{IssuanceLog, IssueRecord, LogError, Need, OwnRecords, Position};

#[async_trait]
impl IssuanceLog for Log {
    async fn append(&self, record: IssueRecord) -> Result<Position, LogError> {
        let receipt = Self::append(self, issued(record)).await;
        let receipt = receipt.map_err(|error| LogError {
            reason: error_chain(&error),
        })?;
        Ok(Position(receipt.seq))
    }
}

/// For who has one log and one clock; what is urgent and not recorded is lost.
impl OwnRecords for Log {
    fn issued(&self, name: &str, leaf: &Certificate, need: Need) -> Result<(), LogError> {
        let record = Issued::own(leaf, self.server(), name, SystemClock.now());
        match (self.append_now(vec![record]), need) {
            (Err(error), Need::CanWait) => Err(LogError {
                reason: error_chain(&error),
            }),
            _ => Ok(()),
        }
    }
}

fn issued(record: IssueRecord) -> Issued {
    Issued {
        time: record.time,
        server: record.server,
        endpoint: record.endpoint,
        user: record.who.user,
        credential: record.who.credential.word().to_owned(),
        peer: Some(record.peer),
        node: record.node,
        subject: record.subject,
        sans: record.sans.iter().map(ToString::to_string).collect(),
        spki: record.spki.to_string(),
        serial: record.serial.to_string(),
        not_after: record.not_after,
    }
}
