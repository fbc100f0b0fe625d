//! Comma-separated values (RFC 4180, with plain line feeds): the fields of the JSON output, in their order.
//!
//! What isn't known is an empty field; an object (labels) is its JSON text.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// Writes a header and `lines`; without any line, nothing.
pub(super) fn write<T: Serialize>(lines: &[T], out: &mut impl Write) -> io::Result<()> {
    for (index, line) in lines.iter().enumerate() {
        let Fields(fields) = serde_json::from_str(&serde_json::to_string(line)?)?;
        if index == 0 {
            write_line(fields.iter().map(|(name, _)| name.clone()), out)?;
        }
        write_line(fields.into_iter().map(|(_, value)| text(value)), out)?;
    }
    Ok(())
}

fn write_line(cells: impl Iterator<Item = String>, out: &mut impl Write) -> io::Result<()> {
    let cells: Vec<String> = cells.map(|cell| quoted(&cell)).collect();
    writeln!(out, "{}", cells.join(","))
}

fn text(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// The text, in quotation marks where it has what would end a field.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

/// The fields of an object in their order, which a map would lose.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        #[derive(Serialize)]
        struct Line {
            z: Option<u8>,
            a: &'static str,
            m: Value,
        }
        let lines = [
            Line { z: Some(1), a: "plain", m: json!({}) },
            Line { z: None, a: "say \"a,b\"\nand more", m: json!({"k": 1}) },
        ];
        let mut out = Vec::new();
        write(&lines, &mut out).unwrap();
        let expected = "z,a,m\n1,plain,{}\n,\"say \"\"a,b\"\"\nand more\",\"{\"\"k\"\":1}\"\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
