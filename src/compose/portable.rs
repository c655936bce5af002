//! A compose file on its way elsewhere, where everything that it names beside itself lies next to it (`publish`).
//!
//! Only the names of env files and of files that are extended are others there. Everything else stays as it was written, comments
//! too; variables are not replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::node::{Node, Value};
use super::remote::Remote;
use super::source::{Origin, SourceFile, Sources};
use super::{Diagnostic, Map, gopath, interpolate, paths, with_stack, yaml};

/// What names in a compose file are relative to.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'s> {
    /// The directory, absolute.
    pub directory: &'s str,
    /// The variables that names may have.
    pub environment: &'s BTreeMap<String, String>,
}

/// A file with the names that there are elsewhere.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Portable {
    pub text: String,
    /// The env files that it names here, absolute.
    pub env_files: BTreeSet<String>,
    /// The files that it extends, likewise.
    pub extended: BTreeSet<String>,
    /// The files of this host that it includes, as it names them.
    pub included: Vec<String>,
}

/// The name that an env file has where everything lies in one directory.
pub fn env_name(path: &str) -> String {
    format!("{}.env", hash(path))
}

/// The name that a file which is extended has where everything lies in one directory.
pub fn extended_name(path: &str) -> String {
    format!("{}.yaml", hash(path))
}

fn hash(path: &str) -> String {
    Sha256::digest(path.as_bytes()).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Gives what a compose file names the names that it has elsewhere.
///
/// # Errors
/// What is wrong with it as YAML.
pub fn portable(path: &str, text: &str, around: Surroundings<'_>) -> Result<Portable, Vec<Diagnostic>> {
    with_stack(|deep_stack| {
        let mut sources = Sources::default();
        let file = SourceFile { path: path.into(), text: text.to_owned(), origin: Origin::Given };
        let number = sources.add(file);
        match yaml::parse(&sources, number, deep_stack) {
            Ok(documents) => {
                let mut walk = Walk { around, edits: BTreeMap::new(), found: Portable::default() };
                for document in &documents {
                    walk.document(&document.root);
                }
                Some(Ok(walk.finish(text)))
            }
            Err(yaml::ParseError::Fault(fault)) => Some(Err(vec![*fault])),
            Err(yaml::ParseError::NeedsStack) => None,
        }
    })
}

struct Walk<'s> {
    around: Surroundings<'s>,
    /// What to write instead of bytes of the file; what an alias repeats stands in it once.
    edits: BTreeMap<(usize, usize), String>,
    found: Portable,
}

impl Walk<'_> {
    fn document(&mut self, root: &Node) {
        for entry in root.get("include").and_then(Node::as_list).into_iter().flatten() {
            for path in each(entry.get("path").unwrap_or(entry)).filter_map(Node::as_str) {
                if Remote::parse(&self.replaced(path)).is_none() {
                    self.found.included.push(path.to_owned());
                }
            }
        }
        for service in root.get("services").and_then(Node::as_map).into_iter().flat_map(Map::values) {
            for entry in service.get("env_file").into_iter().flat_map(each) {
                let named = entry.get("path").unwrap_or(entry);
                let Some(path) = named.as_str().map(|path| self.local(path)) else { continue };
                self.rename(named, env_name(&path));
                self.found.env_files.insert(path);
            }
            let named = service.get("extends").and_then(|extends| extends.get("file"));
            let Some((named, path)) = named.and_then(|named| Some((named, named.as_str()?))) else { continue };
            if Remote::parse(&self.replaced(path)).is_none() {
                let path = self.local(path);
                self.rename(named, extended_name(&path));
                self.found.extended.insert(path);
            }
        }
    }

    fn rename(&mut self, named: &Node, name: String) {
        let place: Range<u32> = named.span.start..named.span.end;
        self.edits.insert((place.start as usize, place.end as usize), name);
    }

    /// Returns a text with the values of its variables. One that has none that can be said has failed to load before.
    fn replaced(&self, text: &str) -> String {
        let lookup = |name: &str| self.around.environment.get(name).map(String::as_str);
        interpolate::substitute(text, &lookup, &mut |_| ()).unwrap_or_else(|_| text.to_owned())
    }

    /// Returns the absolute path that a name means here.
    fn local(&self, name: &str) -> String {
        let home = self.around.environment.get("HOME").map(String::as_str).filter(|home| !home.is_empty());
        gopath::clean(&paths::plain(&self.replaced(name), self.around.directory, home))
    }

    fn finish(mut self, text: &str) -> Portable {
        let mut done = 0;
        for ((start, end), name) in self.edits {
            self.found.text.push_str(&text[done..start]);
            self.found.text.push_str(&name);
            done = end;
        }
        self.found.text.push_str(&text[done..]);
        self.found
    }
}

/// Returns the items of a list, or what stands for a list of one.
fn each(node: &Node) -> impl Iterator<Item = &Node> {
    match &node.value {
        Value::List(list) => list.iter(),
        _ => std::slice::from_ref(node).iter(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_elsewhere_and_the_rest_stays() {
        let text = "\
# A comment
x-all: &all {env_file: \"a.env\"} # and another
include: [oci://r.io/a, {path: [here.yaml, 'https://h/a.git']}]
services:
  one: {image: '${IMAGE}', <<: *all, extends: {file: ../base.yaml, service: b}}
  two:
    env_file:
      - /abs/${WHICH}.env
      - {path: ./sub/../a.env, required: false}
    extends: one
  three: {extends: {file: oci://r.io/b, service: c}}
";
        let environment = BTreeMap::from([("WHICH".to_owned(), "x".to_owned())]);
        let around = Surroundings { directory: "/p/q", environment: &environment };
        let portable = portable("compose.yaml", text, around).unwrap();
        let wanted = text
            .replace("\"a.env\"", &env_name("/p/q/a.env"))
            .replace("../base.yaml", &extended_name("/p/base.yaml"))
            .replace("/abs/${WHICH}.env", &env_name("/abs/x.env"))
            .replace("./sub/../a.env", &env_name("/p/q/a.env"));
        assert_eq!(portable.text, wanted);
        assert_eq!(portable.env_files, ["/abs/x.env", "/p/q/a.env"].map(str::to_owned).into());
        assert_eq!(portable.extended, ["/p/base.yaml".to_owned()].into());
        assert_eq!(portable.included, ["here.yaml"]);
    }
}
