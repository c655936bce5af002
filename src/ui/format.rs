//! What `--format` of Docker's listings may say: `table`, `json`, a Go template, or `table` and a template.

use serde_json::{Map, Value};

use super::table;
use crate::template::{Template, TemplateError};

/// A column of a listing: the field's name in templates, and its heading.
pub type Column = (&'static str, &'static str);

/// The rows of a listing, and how they are shown.
#[derive(Debug)]
pub struct Listing<'a> {
    /// Every field that a template may ask for.
    pub columns: &'a [Column],
    /// The fields of the usual table.
    pub default: &'a [&'a str],
    /// An object each, with a text for every field.
    pub rows: &'a [Value],
    /// Whether the usual table is shown whole, although a terminal may have no room for it.
    pub whole: bool,
}

impl Listing<'_> {
    /// Returns the text for what `--format` says.
    pub fn render(&self, format: &str) -> Result<String, TemplateError> {
        // The shell gives us these as they were typed.
        let format = format.replace("\\t", "\t").replace("\\n", "\n");
        match format.trim() {
            "" | "table" => Ok(self.table()),
            "json" => Ok(super::lines(self.rows.iter().map(without_methods))),
            _ => {
                if let Some(template) = format.trim_start().strip_prefix("table ") {
                    return self.own_table(template.trim());
                }
                let template = Template::parse(&format)?;
                self.rows.iter().try_fold(String::new(), |text, row| Ok(text + &template.execute(row)? + "\n"))
            }
        }
    }

    fn table(&self) -> String {
        let heading = |field: &&str| self.columns.iter().find(|(name, _)| name == field).map_or("", |(_, text)| *text);
        let header = self.default.iter().map(heading).collect::<Vec<_>>();
        let cells = |row: &Value| self.default.iter().map(|field| text(&row[*field])).collect::<Vec<_>>();
        table::fitted(table::DOCKER, &header, &self.rows.iter().map(cells).collect::<Vec<_>>(), self.whole)
    }

    fn own_table(&self, template: &str) -> Result<String, TemplateError> {
        let template = Template::parse(template)?;
        // As in Go, a field without a heading has no value there.
        let fields = self.rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys().cloned());
        let mut headings: Map<String, Value> = fields.map(|field| (field, Value::Null)).collect();
        headings.insert(LABEL.to_owned(), Map::new().into());
        headings.extend(self.columns.iter().map(|(field, heading)| ((*field).to_owned(), (*heading).into())));
        let split = |text: String| text.split('\t').map(str::to_owned).collect::<Vec<_>>();
        let header = split(template.execute(&Value::Object(headings))?);
        let rows = self.rows.iter().map(|row| template.execute(row).map(split)).collect::<Result<Vec<_>, _>>()?;
        Ok(table::render(table::DOCKER, &header.iter().map(String::as_str).collect::<Vec<_>>(), &rows))
    }
}

/// The field for `.Label "name"`, a method of Docker's lists: the labels by name. It is for templates alone.
pub const LABEL: &str = "Label";

fn without_methods(row: &Value) -> Value {
    let mut row = row.clone();
    if let Some(fields) = row.as_object_mut() {
        fields.shift_remove(LABEL);
    }
    row
}

/// Returns documents as Docker's `inspect` shows them: each through a template, all in one line as JSON, or laid out.
pub fn documents(documents: &[Value], template: Option<&Template>, compact: bool) -> Result<String, TemplateError> {
    match template {
        Some(template) => {
            documents.iter().try_fold(String::new(), |text, document| Ok(text + &template.execute(document)? + "\n"))
        }
        None if compact => Ok(format!("{}\n", Value::from(documents))),
        None => {
            let mut text = Vec::new();
            let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
            serde::Serialize::serialize(documents, &mut serializer).expect("JSON can be written to memory");
            Ok(format!("{}\n", String::from_utf8_lossy(&text)))
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(format: &str) -> String {
        let rows = [json!({"ID": "1", "Tag": "a"}), json!({"ID": "2", "Tag": "bb"})];
        let columns = [("ID", "IMAGE ID"), ("Tag", "TAG")];
        let listing = Listing { columns: &columns, default: &["Tag", "ID"], rows: &rows, whole: true };
        listing.render(format).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn every_form_is_known() {
        assert_eq!(render("table"), "TAG       IMAGE ID\na         1\nbb        2\n");
        assert_eq!(render("json"), "{\"ID\":\"1\",\"Tag\":\"a\"}\n{\"ID\":\"2\",\"Tag\":\"bb\"}\n");
        assert_eq!(render("{{.ID}}:{{.Tag}}"), "1:a\n2:bb\n");
        assert_eq!(render(r"{{.ID}}\t{{.Tag}}"), "1\ta\n2\tbb\n");
        assert_eq!(render(r"table {{.ID}}\t{{.Tag}}"), "IMAGE ID   TAG\n1          a\n2          bb\n");
        assert!(render("{{.No}}").contains("no entry for key \"No\""));
    }
}
