//! Where in the tree a pass is: `services.web.ports.0`.

use std::fmt;

/// The keys from the root to a value, as a list that lives on the stack.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    segment: Segment<'p>,
}

#[derive(Debug, Clone, Copy)]
enum Segment<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

/// How long the paths are that rules are about; deeper ones match nothing.
const LONGEST: usize = 8;

/// The keys of a path as a slice, to match on. A list's index is `[]`.
#[derive(Debug)]
pub(super) struct Parts<'p> {
    keys: [&'p str; LONGEST],
    length: usize,
}

impl<'p> Parts<'p> {
    /// The keys; empty for the root, and for a path that is too long to be in any rule.
    pub(super) fn as_slice(&self) -> &[&'p str] {
        &self.keys[..self.length]
    }
}

impl<'p> Path<'p> {
    /// The path of the root.
    pub(super) const ROOT: Path<'static> = Path { parent: None, segment: Segment::Root };

    /// The path of a member.
    pub(super) fn key(&'p self, key: &'p str) -> Path<'p> {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }

    /// The path of an item.
    pub(super) fn index(&'p self, index: usize) -> Path<'p> {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    /// The first two keys.
    pub(super) fn top(&self) -> (Option<&'p str>, Option<&'p str>) {
        let (mut first, mut second) = (None, None);
        let mut path = Some(self);
        while let Some(current) = path {
            if let Segment::Key(key) = current.segment {
                second = first;
                first = Some(key);
            }
            path = current.parent;
        }
        (first, second)
    }

    /// The keys as a slice.
    pub(super) fn parts(&self) -> Parts<'p> {
        let mut keys = [""; LONGEST];
        let mut at = LONGEST;
        let mut path = Some(self);
        while let Some(current) = path {
            let key = match current.segment {
                Segment::Root => break,
                Segment::Key(key) => key,
                Segment::Index(_) => "[]",
            };
            if at == 0 {
                return Parts { keys, length: 0 };
            }
            at -= 1;
            keys[at] = key;
            path = current.parent;
        }
        keys.rotate_left(at);
        Parts { keys, length: LONGEST - at }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            let dot = if matches!(parent.segment, Segment::Root) { "" } else { "." };
            match self.segment {
                Segment::Root => {}
                Segment::Key(key) => write!(f, "{dot}{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_and_match() {
        let services = Path::ROOT.key("services");
        let web = services.key("web");
        let ports = web.key("ports");
        let first = ports.index(0);
        assert_eq!(first.to_string(), "services.web.ports[0]");
        assert_eq!(first.parts().as_slice(), ["services", "web", "ports", "[]"]);
        assert_eq!(Path::ROOT.parts().as_slice(), [""; 0]);
    }
}
