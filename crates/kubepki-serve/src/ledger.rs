//! The issuance log that lasts: [`kubepki::log`], as the server asks for it.

use async_trait::async_trait;
use kubepki::error_chain;
use kubepki::log::{Issued, Log};

use crate::issuance::{IssuanceLog, LogError, Position};

#[async_trait]
impl IssuanceLog for Log {
    async fn append(&self, record: Issued) -> Result<Position, LogError> {
        let receipt = Self::append(self, record).await;
        let receipt = receipt.map_err(|error| LogError {
            reason: error_chain(&error),
        })?;
        Ok(Position(receipt.seq))
    }
}
