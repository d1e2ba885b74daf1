//! The bootstrap data in the clear: JSON that Go's encoder writes and its lenient decoder reads
//! (K3s `pkg/bootstrap/bootstrap.go`).

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use zeroize::Zeroizing;

use super::Field;

/// A moment as the bootstrap data writes it: seconds since 1970 and nanoseconds. A file's
/// modification time becomes one, and becomes the file's again when it is extracted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds beyond them.
    pub nanoseconds: u32,
}

impl Stamp {
    /// Go's zero time, which data of K3s 1.21 and older counts as.
    pub const ZERO: Self = Self {
        seconds: -62_135_596_800,
        nanoseconds: 0,
    };

    /// A whole second.
    pub fn at(moment: pki::UnixTime) -> Self {
        Self {
            seconds: moment.as_secs(),
            nanoseconds: 0,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let moment: jiff::Timestamp = text.parse().ok()?;
        // Both parts have the sign of the whole.
        let nanoseconds = moment.subsec_nanosecond();
        let (borrowed, nanoseconds) = match u32::try_from(nanoseconds) {
            Ok(nanoseconds) => (0, nanoseconds),
            Err(_) => (1, u32::try_from(1_000_000_000 + nanoseconds).ok()?),
        };
        Some(Self {
            seconds: moment.as_second() - borrowed,
            nanoseconds,
        })
    }
}

impl fmt::Display for Stamp {
    /// RFC 3339 in UTC with as many digits after the second as are needed, as Go writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = pki::UnixTime::from_secs(self.seconds).to_string();
        if self.nanoseconds == 0 {
            return f.write_str(&moment);
        }
        let fraction = format!("{:09}", self.nanoseconds);
        let whole = moment.strip_suffix('Z').unwrap_or(&moment);
        write!(f, "{whole}.{}Z", fraction.trim_end_matches('0'))
    }
}

/// One file of the bootstrap data.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedFile {
    /// Its modification time where it was read.
    pub stamp: Stamp,
    /// Its bytes.
    pub content: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for SharedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.content.len(), self.stamp)
    }
}

/// The bootstrap data in the clear. Its files are secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// The files, by field.
    pub files: BTreeMap<Field, SharedFile>,
    /// Entries that this program does not know, kept as they are.
    pub others: BTreeMap<String, SharedFile>,
    /// Whether it is in the form of K3s 1.21 and older, without times.
    pub legacy: bool,
}

/// Bootstrap data that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No JSON, or JSON of another shape.
    #[error("the bootstrap data is no JSON of the kind that K3s writes")]
    Json(#[source] serde_json::Error),
    /// Files with and without a time side by side.
    #[error("the bootstrap data mixes the forms of K3s before and since 1.22")]
    Mixed,
}

impl Bundle {
    /// Reads both forms: objects with `Timestamp` and `Content`, or bare base64 before K3s 1.22.
    ///
    /// # Errors
    ///
    /// [`BundleError`]; it tells a place, never content.
    pub fn parse(json: &[u8]) -> Result<Self, BundleError> {
        let raw: BTreeMap<String, Raw> = serde_json::from_slice(json).map_err(BundleError::Json)?;
        let without_time = raw.values().filter(|it| matches!(it, Raw::Bare(_))).count();
        if without_time != 0 && without_time != raw.len() {
            return Err(BundleError::Mixed);
        }
        let mut bundle = Self {
            legacy: without_time != 0,
            ..Self::default()
        };
        for (name, raw) in raw {
            let file = match raw {
                Raw::File(file) => file,
                Raw::Bare(content) => SharedFile {
                    stamp: Stamp::ZERO,
                    content,
                },
            };
            match Field::named(&name) {
                Some(field) => drop(bundle.files.insert(field, file)),
                None => drop(bundle.others.insert(name, file)),
            }
        }
        Ok(bundle)
    }

    /// The JSON that K3s since 1.22 writes: names sorted bytewise, no blanks, a line end.
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let known = self.files.iter().map(|(field, file)| (field.name(), file));
        let others = self.others.iter().map(|(name, file)| (name.as_str(), file));
        let sorted: BTreeMap<&str, &SharedFile> = known.chain(others).collect();
        let size: usize = sorted
            .values()
            .map(|it| it.content.len() * 4 / 3 + 100)
            .sum();
        let mut json = Zeroizing::new(String::with_capacity(size + 16));
        json.push('{');
        for (index, (name, file)) in sorted.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let name = serde_json::Value::from(name);
            let _ = write!(json, "{comma}{name}:{{\"Timestamp\":\"{}\",", file.stamp);
            json.push_str("\"Content\":\"");
            STANDARD.encode_string(&*file.content, &mut json);
            json.push_str("\"}");
        }
        json.push_str("}\n");
        Zeroizing::new(json.as_bytes().to_vec())
    }

    /// A file's bytes.
    pub fn content(&self, field: Field) -> Option<&[u8]> {
        self.files.get(&field).map(|file| file.content.as_slice())
    }

    /// Gives every file the time `stamp`, so that no server finds its own files newer.
    #[must_use]
    pub fn restamped(mut self, stamp: Stamp) -> Self {
        for file in self.files.values_mut().chain(self.others.values_mut()) {
            file.stamp = stamp;
        }
        self.legacy = false;
        self
    }
}

enum Raw {
    File(SharedFile),
    Bare(Zeroizing<Vec<u8>>),
}

/// Base64 as Go decodes it; `null` is nothing.
struct Base64(Zeroizing<Vec<u8>>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.map(Zeroizing::new);
        match text {
            None => Ok(Self(Zeroizing::default())),
            Some(text) => decode(&text)
                .map(Self)
                .ok_or_else(|| D::Error::custom(NOT_BASE64)),
        }
    }
}

const NOT_BASE64: &str = "a file's content is not base64";

fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    // Go skips line ends inside base64.
    let folded = text.contains(['\r', '\n']);
    let decoded = match folded {
        false => STANDARD.decode(text),
        true => STANDARD.decode(&*Zeroizing::new(text.replace(['\r', '\n'], ""))),
    };
    decoded.ok().map(Zeroizing::new)
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with Timestamp and Content, or base64")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Raw, E> {
        decode(text)
            .map(Raw::Bare)
            .ok_or_else(|| E::custom(NOT_BASE64))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let (mut stamp, mut content) = (Stamp::ZERO, Zeroizing::default());
        // Go's decoder does not care about the case of names, nor about further ones.
        while let Some(name) = map.next_key::<String>()? {
            if name.eq_ignore_ascii_case("Timestamp") {
                let text: String = map.next_value()?;
                stamp = Stamp::parse(&text)
                    .ok_or_else(|| A::Error::custom("a file's Timestamp is not RFC 3339"))?;
            } else if name.eq_ignore_ascii_case("Content") {
                let Base64(bytes) = map.next_value()?;
                content = bytes;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Raw::File(SharedFile { stamp, content }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &str =
        "{\"ServerCA\":{\"Timestamp\":\"2023-11-14T22:13:20.123Z\",\"Content\":\"YWJj\"}}\n";

    #[test]
    fn reads_and_writes_what_go_writes() {
        let bundle = Bundle::parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!(bundle.content(Field::ServerCa), Some(&b"abc"[..]));
        let stamp = bundle.files[&Field::ServerCa].stamp;
        assert_eq!(
            (stamp.seconds, stamp.nanoseconds),
            (1_700_000_000, 123_000_000)
        );
        assert_eq!(bundle.to_json().as_slice(), SAMPLE.as_bytes());
    }

    #[test]
    fn reads_what_go_would_accept() {
        let json = r#"{"ServerCA":{"content":null,"timestamp":"2023-11-14T23:13:20+01:00","x":[1]},
                       "Unheard":{"Content":"YWJj","Timestamp":"0001-01-01T00:00:00Z"}}"#;
        let bundle = Bundle::parse(json.as_bytes()).unwrap();
        assert_eq!(bundle.content(Field::ServerCa), Some(&b""[..]));
        assert_eq!(bundle.files[&Field::ServerCa].stamp.seconds, 1_700_000_000);
        assert_eq!(bundle.others["Unheard"].stamp, Stamp::ZERO);
        assert!(!bundle.legacy);
    }

    #[test]
    fn reads_the_old_form() {
        let bundle = Bundle::parse(br#"{"ServerCA":"YWJj","PasswdFile":""}"#).unwrap();
        assert!(bundle.legacy);
        assert_eq!(bundle.content(Field::ServerCa), Some(&b"abc"[..]));
        assert_eq!(bundle.files[&Field::PasswdFile].stamp, Stamp::ZERO);
    }

    #[test]
    fn nonsense_has_an_error_that_tells_no_content() {
        for json in [
            "",
            "[]",
            "{",
            "null",
            "{\"ServerCA\":1}",
            "{\"ServerCA\":\"SECRET!\"}",
            "{\"ServerCA\":{\"Content\":\"SECRET!\"}}",
            "{\"ServerCA\":{\"Timestamp\":\"SECRET\"}}",
        ] {
            let error = Bundle::parse(json.as_bytes()).unwrap_err();
            assert!(!crate::error_chain(&error).contains("SECRET"), "{error}");
        }
        let mixed = br#"{"ServerCA":"YWJj","ClientCA":{"Content":"YWJj"}}"#;
        assert!(matches!(Bundle::parse(mixed), Err(BundleError::Mixed)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            contents in proptest::collection::vec(any::<Vec<u8>>(), 15),
            seconds in -62_135_596_800_i64..253_402_300_000,
            nanoseconds in 0_u32..1_000_000_000,
        ) {
            let stamp = Stamp { seconds, nanoseconds };
            let files = Field::ALL.into_iter().zip(contents).map(|(field, content)| {
                (field, SharedFile { stamp, content: content.into() })
            });
            let bundle = Bundle { files: files.collect(), ..Bundle::default() };
            prop_assert_eq!(Bundle::parse(&bundle.to_json()).unwrap(), bundle);
        }
    }
}
