//! `--format`: a row or an object through a template in the form that docker and podman users know from Go.
//!
//! `{{.Field}}` and `{{.Field.Inner}}` stand for what the JSON output has there, `{{json .Field}}` for its JSON and `{{.}}` for
//! all of it; `\t` and `\n` are a tab and a line feed. With `table ` in front, tabs part columns below a header. Names match whatever their
//! case, with or without underscores: `{{.ExitCode}}` is `exit_code`, and docker's `{{.Names}}` and `{{.State}}` are understood. Loops and conditions are jq's business: `--format json | jq`.

use serde_json::Value;

/// Why a template can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A brace isn't closed.
    #[error("The format {0:?} has a {{{{ without its }}}}")]
    Open(String),
    /// Something else than a field.
    #[error(
        "The format has {{{{{0}}}}}, but only {{{{.Field}}}} and {{{{json .Field}}}} are known: for more, use --format json and jq"
    )]
    Unknown(String),
    /// There is no such field.
    #[error("The format names the field .{name}; there are {known}")]
    Field {
        /// The field.
        name: String,
        /// Those that are there.
        known: String,
    },
}

/// A template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    /// Whether columns are aligned below a header.
    table: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field { path: Vec<String>, json: bool },
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let (table, mut rest) = text.strip_prefix("table ").map_or((false, text), |rest| (true, rest));
        let mut parts = Vec::new();
        while let Some((before, after)) = rest.split_once("{{") {
            let (field, behind) = after.split_once("}}").ok_or_else(|| FormatError::Open(text.to_owned()))?;
            parts.push(Part::Text(unescape(before)));
            parts.push(part(field.trim())?);
            rest = behind;
        }
        parts.push(Part::Text(unescape(rest)));
        Ok(Self { parts, table })
    }

    /// The rows through the template, each as a line, below a header where it asks for a table.
    ///
    /// # Errors
    /// [`FormatError::Field`].
    pub fn render(&self, rows: &[Value]) -> Result<String, FormatError> {
        let mut lines = rows.iter().map(|row| self.line(row)).collect::<Result<Vec<_>, _>>()?;
        if self.table {
            lines.insert(0, self.header());
            lines = align(&lines, "   ");
        }
        Ok(lines.into_iter().map(|line| line + "\n").collect())
    }

    fn line(&self, row: &Value) -> Result<String, FormatError> {
        let texts = self.parts.iter().map(|part| match part {
            Part::Text(text) => Ok(text.clone()),
            Part::Field { path, json } => {
                find(row, path).map(|value| if *json { value.to_string() } else { plain(value) })
            }
        });
        texts.collect()
    }

    fn header(&self) -> String {
        let texts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Field { path, .. } => path.last().map(|name| name.to_uppercase()).unwrap_or_default(),
        });
        texts.collect()
    }
}

fn part(text: &str) -> Result<Part, FormatError> {
    let (json, field) = text.strip_prefix("json ").map_or((false, text), |field| (true, field.trim()));
    let unknown = || FormatError::Unknown(text.to_owned());
    let path = field.strip_prefix('.').ok_or_else(unknown)?;
    let path: Vec<String> = path.split('.').filter(|_| !path.is_empty()).map(str::to_owned).collect();
    let is_name = |name: &String| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    if path.iter().all(is_name) { Ok(Part::Field { path, json }) } else { Err(unknown()) }
}

/// Names of docker's and podman's that are another field here.
const OTHER_NAMES: [(&str, &str); 2] = [("Names", "name"), ("State", "status")];

/// What is at this path of a row.
fn find<'a>(row: &'a Value, path: &[String]) -> Result<&'a Value, FormatError> {
    let mut value = row;
    for name in path {
        let fields = value.as_object();
        let find = |name: &str| fields.and_then(|fields| fields.iter().find(|(key, _)| same(key, name)));
        let other = || OTHER_NAMES.iter().find(|(other, _)| same(other, name)).and_then(|(_, own)| find(own));
        let found = find(name).or_else(other);
        value = found.map(|(_, value)| value).ok_or_else(|| {
            let known = fields.map(|fields| fields.keys().map(|key| format!(".{key}")).collect::<Vec<_>>().join(", "));
            let known = known.filter(|known| !known.is_empty()).unwrap_or_else(|| "none".to_owned());
            FormatError::Field { name: path.join("."), known }
        })?;
    }
    Ok(value)
}

/// Whether two names are the same but for case and underscores.
fn same(one: &str, other: &str) -> bool {
    let letters = |name: &str| name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect::<String>();
    letters(one) == letters(other)
}

/// A value as Go would print it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Object(fields) => {
            let pairs: Vec<_> = fields.iter().map(|(key, value)| format!("{key}={}", plain(value))).collect();
            pairs.join(",")
        }
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

/// The lines with their columns, which tabs part, below one another with `gap` between them.
pub(super) fn align(lines: &[String], gap: &str) -> Vec<String> {
    let mut widths: Vec<usize> = Vec::new();
    for line in lines {
        for (column, cell) in line.split('\t').enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    let aligned = lines.iter().map(|line| {
        let mut aligned = String::with_capacity(line.len());
        for (cell, width) in line.split('\t').zip(&widths) {
            aligned.push_str(cell);
            let missing = width.saturating_sub(cell.chars().count());
            aligned.extend(std::iter::repeat_n(' ', missing));
            aligned.push_str(gap);
        }
        aligned.truncate(aligned.trim_end().len());
        aligned
    });
    aligned.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn render(template: &str, row: Value) -> Result<String, FormatError> {
        Template::parse(template)?.render(&[row])
    }

    #[test]
    fn fields_are_found_whatever_their_case() {
        let row = json!({"id": "abc", "exit_code": 3, "labels": {"team": "a"}, "reason": null, "ports": [1, 2]});
        let template = r"{{.ID}}\t{{ .ExitCode }} {{.exit_code}} {{.Labels.team}} {{.Labels}} {{json .labels}}{{.Reason}} {{.Ports}}!";
        assert_eq!(render(template, row).unwrap(), "abc\t3 3 a team=a {\"team\":\"a\"} 1 2!\n");
        assert_eq!(render("{{json .}}", json!({"a": 1})).unwrap(), "{\"a\":1}\n");
        assert_eq!(
            render("{{.Names}} {{.State}}", json!({"name": "web", "status": "RUNNING"})).unwrap(),
            "web RUNNING\n"
        );
    }

    #[test]
    fn a_table_has_a_header_and_columns() {
        let rows = [json!({"id": "1", "name": "long one"}), json!({"id": "234567", "name": "x"})];
        let table = Template::parse(r"table {{.Name}}\t{{.ID}}").unwrap().render(&rows).unwrap();
        assert_eq!(table, "NAME       ID\nlong one   1\nx          234567\n");
    }

    #[test]
    fn what_cannot_be_is_named() {
        let error = |template: &str| render(template, json!({"id": "1"})).unwrap_err().to_string();
        assert_eq!(error("{{.Nmae}}"), "The format names the field .Nmae; there are .id");
        assert!(error("{{range .x}}").contains("jq"));
        assert!(error("{{.id").contains("without its }}"));
        assert!(error("{{.id.x}}").contains("there are none"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[{}.a \\\\tn]{0,24}") {
            let _ = Template::parse(&text).map(|template| template.render(&[json!({"a": {"a": 1}})]));
        }
    }
}
