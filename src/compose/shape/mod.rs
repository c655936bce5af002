//! The types of attributes: from the file's values to the model's, and from those to what `config` prints.
//!
//! `tables` lists every attribute in the order in which it is printed; `decode` gives each value its type, in place, so that it
//! keeps its place in the file; `emit` prints.

use std::sync::OnceLock;

mod decode;
mod emit;
mod tables;

pub(super) use decode::decode;
pub use emit::{Flavour, emit_project, emit_raw, emit_section, emit_service, emit_untyped};

/// An attribute.
#[derive(Debug)]
pub struct Field {
    /// Its key in files, and in YAML.
    pub key: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its key in JSON, where Docker Compose has another one there.
    pub json: &'static str,
    /// Whether it is printed even if it is empty.
    pub always: bool,
}

/// A group of attributes.
#[derive(Debug)]
pub struct Shape {
    /// The attributes, in the order of printing.
    pub fields: &'static [Field],
    /// The numbers of the fields, sorted by key.
    sorted: OnceLock<Vec<usize>>,
}

impl Shape {
    /// The number of the field with this key.
    fn find(&self, key: &str) -> Option<usize> {
        let sorted = self.sorted.get_or_init(|| {
            let mut numbers: Vec<usize> = (0..self.fields.len()).collect();
            numbers.sort_unstable_by_key(|number| self.fields[*number].key);
            numbers
        });
        let at = sorted.binary_search_by_key(&key, |number| self.fields[*number].key).ok()?;
        Some(sorted[at])
    }
}

/// A type.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Text; empty is the same as absent.
    Text,
    /// A truth value; false is the same as absent.
    Flag,
    /// A truth value that may be absent.
    OptionalFlag,
    /// A whole number; 0 is the same as absent.
    Int,
    /// A whole number that may be absent.
    OptionalInt,
    /// A whole number that is not negative; 0 is the same as absent.
    Unsigned,
    /// A whole number that is not negative, and may be absent.
    OptionalUnsigned,
    /// A number of single precision; 0 is the same as absent.
    Float,
    /// A size; 0 is the same as absent.
    Bytes,
    /// A duration; 0 is the same as absent.
    Duration,
    /// A duration that may be absent.
    OptionalDuration,
    /// A file mode that may be absent.
    OptionalMode,
    /// A number of devices, or `all`.
    Count,
    /// A command line, or its words; absent and empty differ.
    Command,
    /// The command of a health check.
    Test,
    /// A list of text.
    Texts,
    /// Text, or a list of it.
    TextOrTexts,
    /// A list of text and numbers.
    TextsOrNumbers,
    /// A mapping or list whose absent values stay absent.
    Variables,
    /// A mapping or list whose absent values are empty.
    Mapping,
    /// A mapping whose values become text.
    Options,
    /// A mapping whose values are text or numbers.
    StrictOptions,
    /// A mapping whose values are lists of text.
    MultiOptions,
    /// Hosts and their addresses.
    Hosts,
    /// Keys for SSH.
    Ssh,
    /// Env files.
    EnvFiles,
    /// Resource limits of processes.
    Ulimits,
    /// A group that is always there.
    Struct(&'static Shape),
    /// A group.
    OptionalStruct(&'static Shape),
    /// A list of groups.
    List(&'static Shape),
    /// A mapping of groups.
    Dictionary(&'static Shape),
    /// A mapping of groups that may be null.
    OptionalDictionary(&'static Shape),
}

/// A value to be printed.
#[derive(Debug, Clone, PartialEq)]
pub enum Out {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A large whole number.
    Uint(u64),
    /// A number.
    Float(f64),
    /// A number of single precision.
    Float32(f32),
    /// Text.
    Text(String),
    /// A date, which YAML prints without quotes.
    Time(String),
    /// A list.
    List(Vec<Out>),
    /// Keys and values, in the order of printing.
    Map(Vec<(String, Out)>),
}
