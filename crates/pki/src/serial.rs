//! Serial numbers.

use core::fmt;

use crate::Error;

/// A certificate's serial number: the octets of a DER INTEGER's content.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// A positive number of 127 random bits: at most 16 octets, far under the 20 that RFC 5280
    /// section 4.1.2.2 allows.
    ///
    /// `fill` supplies the randomness.
    ///
    /// # Errors
    ///
    /// What `fill` answers.
    pub fn random(fill: impl FnOnce(&mut [u8]) -> Result<(), Error>) -> Result<Self, Error> {
        let mut octets = [0; 16];
        fill(&mut octets)?;
        if let Some(first) = octets.first_mut() {
            // The top bit is the sign; the next one set keeps the length, and zero away.
            *first = *first & 0x7f | 0x40;
        }
        Ok(Self(octets.to_vec()))
    }

    /// The content octets of an INTEGER, as read.
    pub(crate) fn from_octets(octets: &[u8]) -> Self {
        Self(octets.to_vec())
    }

    /// From lower- or upper-case hex.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] unless it is the hex of a positive number of at most 20 octets.
    pub fn from_hex(text: &str) -> Result<Self, Error> {
        let octets = crate::unhex(text)
            .ok_or_else(|| Error::malformed("serial number", format!("{text:?} is not hex")))?;
        // DER knows one form of a number only: the shortest.
        let padding = octets
            .windows(2)
            .take_while(|pair| matches!(pair, [0, 0..=0x7f]))
            .count();
        let octets = octets.get(padding..).unwrap_or_default().to_vec();
        let positive = octets.first().is_some_and(|first| *first < 0x80)
            && octets.iter().any(|octet| *octet != 0);
        if !positive || octets.len() > 20 {
            return Err(Error::malformed(
                "serial number",
                "not positive or over 20 octets",
            ));
        }
        Ok(Self(octets))
    }

    /// The content octets.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    /// Whether RFC 5280 section 4.1.2.2 would take it: positive, at most 20 octets. K3s's own CAs
    /// have the number zero.
    pub fn is_conformant(&self) -> bool {
        self.0.len() <= 20
            && self.0.first().is_some_and(|first| *first < 0x80)
            && self.0.iter().any(|octet| *octet != 0)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex(&self.0))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
