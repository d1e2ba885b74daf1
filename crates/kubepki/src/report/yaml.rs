//! YAML: a small emitter for what serialises to JSON.
//!
//! Texts are always in double quotes, so no name of a certificate can turn into a number, a
//! boolean or a document's end.

use serde::Serialize;
use serde_json::Value;

/// `value` as YAML lines, each behind `indent` blanks.
///
/// # Errors
///
/// When the value does not serialise.
pub fn to_yaml<T: Serialize>(value: &T, indent: usize) -> Result<String, serde_json::Error> {
    let value = serde_json::to_value(value)?;
    let mut out = String::new();
    match &value {
        Value::Object(fields) if !fields.is_empty() => block(&mut out, &value, indent),
        Value::Array(items) if !items.is_empty() => block(&mut out, &value, indent),
        scalar => {
            pad(&mut out, indent);
            push_scalar(&mut out, scalar);
            out.push('\n');
        }
    }
    Ok(out)
}

/// The same as an item of a list: the first line carries the dash.
///
/// # Errors
///
/// When the value does not serialise.
pub fn to_yaml_item<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    let text = to_yaml(value, 2)?;
    Ok(format!("- {}", text.trim_start()))
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// A non-empty mapping or sequence.
fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                pad(out, indent);
                push_key(out, key);
                out.push(':');
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        out.push('\n');
                        block(out, value, indent.saturating_add(2));
                    }
                    Value::Array(inner) if !inner.is_empty() => {
                        out.push('\n');
                        block(out, value, indent);
                    }
                    scalar => {
                        out.push(' ');
                        push_scalar(out, scalar);
                        out.push('\n');
                    }
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = String::new();
                match item {
                    Value::Object(fields) if !fields.is_empty() => {
                        block(&mut inner, item, indent.saturating_add(2));
                    }
                    Value::Array(nested) if !nested.is_empty() => {
                        block(&mut inner, item, indent.saturating_add(2));
                    }
                    scalar => {
                        push_scalar(&mut inner, scalar);
                        inner.push('\n');
                    }
                }
                pad(out, indent);
                out.push_str("- ");
                out.push_str(inner.trim_start_matches(' '));
            }
        }
        scalar => push_scalar(out, scalar),
    }
}

/// Our own field names are plain; anything else is quoted.
fn push_key(out: &mut String, key: &str) {
    let plain = key.starts_with(|c: char| c.is_ascii_lowercase())
        && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        && !matches!(
            key,
            "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null"
        );
    match plain {
        true => out.push_str(key),
        false => push_text(out, key),
    }
}

fn push_scalar(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => push_text(out, text),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// Double-quoted style (YAML 1.2 section 7.3.1): what is not printable is escaped by number.
fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' => {
                out.push(c);
            }
            ' '..='~' => out.push(c),
            c => {
                let code = u32::from(c);
                out.push_str(&match code {
                    0..=0xff => format!("\\x{code:02x}"),
                    0x100..=0xffff => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                });
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_as_a_person_expects() {
        let value = json!({
            "schema": 1, "node": null, "names": ["a", "no"],
            "list": [{"x": true, "y": [[1], []]}], "empty": {}, "on": "off",
        });
        insta::assert_snapshot!(to_yaml(&value, 0).unwrap(), @r#"
        schema: 1
        node: null
        names:
        - "a"
        - "no"
        list:
        - x: true
          "y":
          - - 1
          - []
        empty: {}
        "on": "off"
        "#);
    }

    #[test]
    fn an_item_of_a_list_is_indented() {
        let value = json!({"a": 1, "b": [2]});
        assert_eq!(to_yaml_item(&value).unwrap(), "- a: 1\n  b:\n  - 2\n");
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z_]{1,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn another_reader_reads_the_same(value in values()) {
            let text = to_yaml(&value, 0).unwrap();
            let read: Value = serde_saphyr::from_str(&text)
                .unwrap_or_else(|error| panic!("{error}\n{text}"));
            prop_assert_eq!(read, value, "{}", text);
        }
    }
}
