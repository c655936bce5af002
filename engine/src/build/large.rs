//! What of a context takes most of what is copied, where that is so much that something was probably meant to be left out.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use super::tree::{Match, kind};

/// From how many bytes on it is said.
const LARGE: u64 = 1_000_000_000;
/// How many files and directories are named.
const NAMED: usize = 5;

/// A directory, or a file, which has nothing in it.
#[derive(Default)]
struct Node<'a> {
    size: u64,
    files: u64,
    children: BTreeMap<&'a Path, Node<'a>>,
}

/// Says what is large of these, and how it is left out, in lines, of which the first says it all. None: it is not so much.
pub(super) fn remark(found: &[Match]) -> Option<Vec<String>> {
    let files = found.iter().flat_map(|found| found.found.iter().map(|file| (file.below(&found.base), file)));
    let files: Vec<_> = files.filter(|(_, file)| kind(&file.stat) == libc::S_IFREG).collect();
    let sizes = files.iter().map(|(path, file)| (path.as_path(), u64::try_from(file.stat.st_size).unwrap_or(0)));
    lines(sizes)
}

fn lines<'a>(files: impl Iterator<Item = (&'a Path, u64)>) -> Option<Vec<String>> {
    let mut root = Node::default();
    for (path, size) in files {
        let mut node = &mut root;
        node.add(size);
        for name in path.components().filter(|part| matches!(part, Component::Normal(_))) {
            node = node.children.entry(Path::new(name.as_os_str())).or_default();
            node.add(size);
        }
    }
    if root.size < LARGE {
        return None;
    }
    let mut largest: Vec<(String, &Node<'_>)> =
        root.children.iter().map(|(name, node)| node.most(name.display().to_string())).collect();
    largest.retain(|(_, node)| node.size >= root.size / 20);
    largest.sort_by_key(|(_, node)| std::cmp::Reverse(node.size));
    largest.truncate(NAMED);
    let named: Vec<String> = largest.iter().map(|(path, node)| node.named(path)).collect();
    let most = if named.is_empty() { String::new() } else { format!(", most of it {}", named.join(", ")) };
    let mut lines = vec![format!("the build context is large: {} are copied{most}", root.amount())];
    if named.is_empty() {
        lines.push("what is not needed of it can be left out, by lines in .dockerignore".to_owned());
    } else {
        lines.push("what is not needed of that can be left out, by lines in .dockerignore:".to_owned());
        lines.extend(largest.iter().map(|(path, _)| format!("  {}", pattern(path))));
    }
    Some(lines)
}

impl<'a> Node<'a> {
    fn add(&mut self, size: u64) {
        self.size += size;
        self.files += 1;
    }

    /// Returns what in it has nearly all of it, or itself.
    fn most(&'a self, path: String) -> (String, &'a Self) {
        let large = self.children.iter().find(|(_, child)| child.size >= self.size / 10 * 9);
        match large {
            Some((name, child)) => child.most(format!("{path}/{}", name.display())),
            None => (path, self),
        }
    }

    fn named(&self, path: &str) -> String {
        let slash = if self.children.is_empty() { "" } else { "/" };
        format!("{path}{slash} ({})", self.amount())
    }

    fn amount(&self) -> String {
        let size = format!("{}.{} GB", self.size / 1_000_000_000, self.size / 100_000_000 % 10);
        if self.children.is_empty() { size } else { format!("{size} in {} files", self.files) }
    }
}

/// Returns the line of `.dockerignore` that leaves a path out.
fn pattern(path: &str) -> String {
    let mut pattern = String::new();
    for letter in path.chars() {
        if "*?[\\".contains(letter) || (pattern.is_empty() && "!#".contains(letter)) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::ignore::Patterns;

    fn said(files: &[(&str, u64)]) -> Option<Vec<String>> {
        lines(files.iter().map(|(path, size)| (Path::new(*path), *size)))
    }

    #[test]
    fn what_takes_most_is_named_with_how_it_is_left_out() {
        const MB: u64 = 1_000_000;
        assert_eq!(said(&[("a", 999 * MB)]), None);
        let files = [
            ("data/old/dump.sql", 9000 * MB),
            ("data/new", 10 * MB),
            ("modules/a", 400 * MB),
            ("modules/b", 800 * MB),
            ("src", MB),
        ];
        assert_eq!(
            said(&files).unwrap(),
            [
                "the build context is large: 10.2 GB in 5 files are copied, most of it data/old/dump.sql (9.0 GB), modules/ (1.2 GB in 2 files)",
                "what is not needed of that can be left out, by lines in .dockerignore:",
                "  data/old/dump.sql",
                "  modules",
            ]
        );
        let many: Vec<(String, u64)> = (0..100).map(|number| (format!("{number}"), 20 * MB)).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|(path, size)| (path.as_str(), *size)).collect();
        assert_eq!(said(&many).unwrap().len(), 2);
    }

    #[test]
    fn a_line_leaves_out_the_path_and_nothing_else() {
        for path in ["a", "a*b", "[a]", "#a", "!a", "a\\b", "a?", "x/#y"] {
            let patterns = Patterns::new(&[pattern(path)]).unwrap();
            assert!(patterns.matches(path), "{path}");
            assert!(!patterns.matches("axb") && !patterns.matches("ab"), "{path}");
        }
    }
}
