//! JSON of any shape.

use kubepki::rke::{Json, State, json};
use proptest::prelude::*;
use zeroize::Zeroizing;

pub(crate) fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?".prop_map(Json::Number),
        any::<String>().prop_map(|text| Json::Text(Zeroizing::new(text))),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let keys = prop_oneof!["[a-z]{1,4}", any::<String>()];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Json::List),
            proptest::collection::btree_map(keys, inner, 0..6)
                .prop_map(|pairs| Json::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(value in any_json()) {
        let pretty = value.pretty();
        prop_assert!(json::parse(&pretty).unwrap() == value);
        let compact = value.compact();
        prop_assert!(json::parse(&compact).unwrap() == value);
        // The second opinion: as serde_json sees it, but for what it makes of numbers.
        let second: serde_json::Value = serde_json::from_slice(&pretty).unwrap();
        prop_assert_eq!(second, serde_json::from_slice::<serde_json::Value>(&compact).unwrap());
        prop_assert!(!compact.iter().any(|byte| b"<>&\n".contains(byte)));
    }

    #[test]
    fn what_serde_json_writes_is_read(text in any::<String>()) {
        let written = serde_json::to_vec(&text).unwrap();
        let read = json::parse(&written).unwrap();
        prop_assert_eq!(read.as_text(), Some(text.as_str()));
    }

    #[test]
    fn a_state_with_unknown_parts_round_trips(
        rest in any_json(),
        config in any_json(),
        keys in "[a-c]{1,3}",
    ) {
        let object = |key: &str, value: Json| Json::Object(vec![(key.to_owned(), value)]);
        let config = match config {
            config @ (Json::Object(_) | Json::Null) => config,
            other => object(&keys, other),
        };
        let root = Json::Object(vec![
            ("currentState".to_owned(), object("rkeConfig", config)),
            (format!("x{keys}"), rest),
            ("desiredState".to_owned(), Json::Null),
        ]);
        let bytes = root.pretty();
        let state = State::parse(&bytes).unwrap();
        prop_assert!(*state.render() == *bytes);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let ours = json::parse(&bytes);
        let theirs = serde_json::from_slice::<serde_json::Value>(&bytes);
        // What serde_json reads, we read.
        prop_assert!(ours.is_ok() || theirs.is_err());
    }

    #[test]
    fn broken_texts_are_refused_by_both(value in any_json(), cut in 0_usize..400, byte in any::<u8>()) {
        let mut bytes = value.compact().to_vec();
        if let Some(place) = bytes.get_mut(cut) {
            *place = byte;
        }
        let ours = json::parse(&bytes);
        let theirs = serde_json::from_slice::<serde_json::Value>(&bytes);
        // serde_json refuses halves of surrogate pairs, and numbers that f64 cannot hold.
        prop_assert!(ours.is_ok() || theirs.is_err(), "{:?}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn text_is_escaped_as_go_escapes_it() {
    let text = Json::text("<a & b>\u{2028}\u{2029}\u{1}\u{8}\u{c}\n\r\t\"\\/ä\u{7f}😀");
    let written = String::from_utf8(text.compact().to_vec()).unwrap();
    assert_eq!(
        written,
        "\"\\u003ca \\u0026 b\\u003e\\u2028\\u2029\\u0001\\b\\f\\n\\r\\t\\\"\\\\/ä\u{7f}😀\""
    );
}

#[test]
fn what_json_does_not_allow_is_refused_with_its_place() {
    let at = |text: &str| {
        let error = json::parse(text.as_bytes()).unwrap_err();
        (error.line, error.column)
    };
    for (text, place) in [
        ("{\"a\":1,}", (1, 8)),
        ("[1,]", (1, 4)),
        ("[1 2]", (1, 4)),
        ("{a:1}", (1, 2)),
        ("{\"a\" 1}", (1, 6)),
        ("\"a\nb\"", (1, 3)),
        ("\"\\x\"", (1, 2)),
        ("\"\\u12\"", (1, 2)),
        ("tru", (1, 1)),
        ("[\n\n  -]", (3, 4)),
        ("1.", (1, 3)),
        ("1e", (1, 3)),
        ("{}\n{}", (2, 1)),
        ("\u{feff}{}", (1, 1)),
    ] {
        assert_eq!(at(text), place, "{text}");
    }
    assert_eq!(json::parse(b"[\"\xff\"]").unwrap_err().column, 3);
    let deep = "[".repeat(100_000);
    assert_eq!(
        json::parse(deep.as_bytes()).unwrap_err().detail,
        "nested deeper than 200 levels"
    );
}

#[test]
fn the_last_of_equal_keys_counts_and_surrogates_are_joined() {
    let value = json::parse(br#"{"a":1,"b":2,"a":"\ud83d\ude00 \ud800x \udc00"}"#).unwrap();
    assert_eq!(value.pairs().unwrap().len(), 2);
    assert_eq!(
        value.get("a").unwrap().as_text(),
        Some("😀 \u{fffd}x \u{fffd}")
    );
}
