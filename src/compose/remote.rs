//! What a compose file may be instead of a local path: an artifact in a registry, or a file in a git repository.
//!
//! Only the syntax is here. Fetching is the business of [`Files::fetch`](super::Files::fetch).

use std::fmt;

/// Beginnings of what git is asked for; HTTP only where the path ends in `.git`.
const GIT_SCHEMES: [&str; 4] = ["git://", "ssh://", "http://", "https://"];

/// A compose file that lies elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Remote {
    /// `oci://REFERENCE`: what `docker compose publish` pushed. The reference is not checked yet.
    Oci(String),
    /// A repository, as `URL#REF:SUBDIRECTORY`.
    Git(GitUrl),
}

/// A place in a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GitUrl {
    /// What `git fetch` is given.
    pub repository: String,
    /// A branch, tag or commit; empty: the default branch.
    pub reference: String,
    /// A directory or file in the tree; empty: its top.
    pub subdirectory: String,
}

impl Remote {
    /// Reads what was given as a path; `None` where it is one.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(reference) = text.strip_prefix("oci://") {
            return Some(Self::Oci(reference.to_owned()));
        }
        let (url, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (mut reference, mut subdirectory) = fragment.split_once(':').unwrap_or((fragment, ""));
        let (url, query) = match url.split_once('?') {
            Some((before, query)) if url.contains("://") => (before, query),
            _ => (url, ""),
        };
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "ref" | "branch" | "tag" | "commit" if reference.is_empty() => reference = value,
                "subdir" if subdirectory.is_empty() => subdirectory = value,
                _ => {}
            }
        }
        let repository = if url.starts_with("github.com/") {
            format!("https://{url}")
        } else if let Some(scheme) = GIT_SCHEMES.iter().find(|scheme| url.starts_with(**scheme)) {
            if scheme.starts_with("http") && url.strip_suffix(".git").is_none() {
                return None;
            }
            url.to_owned()
        } else if is_scp_like(url) {
            url.to_owned()
        } else {
            return None;
        };
        Some(Self::Git(GitUrl { repository, reference: reference.to_owned(), subdirectory: subdirectory.to_owned() }))
    }
}

/// `user@host:path`, which is SSH.
fn is_scp_like(text: &str) -> bool {
    let is_word = |text: &str, also: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
    };
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    is_word(user, "-_") && is_word(host, "-.") && !host.starts_with('-') && !path.is_empty()
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oci(reference) => write!(f, "oci://{reference}"),
            Self::Git(GitUrl { repository, reference, subdirectory }) => {
                f.write_str(repository)?;
                match (reference.as_str(), subdirectory.as_str()) {
                    ("", "") => Ok(()),
                    (reference, "") => write!(f, "#{reference}"),
                    (reference, subdirectory) => write!(f, "#{reference}:{subdirectory}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(repository: &str, reference: &str, subdirectory: &str) -> Remote {
        let [repository, reference, subdirectory] = [repository, reference, subdirectory].map(ToOwned::to_owned);
        Remote::Git(GitUrl { repository, reference, subdirectory })
    }

    #[test]
    fn what_is_elsewhere() {
        assert_eq!(Remote::parse("oci://r.io/a:b"), Some(Remote::Oci("r.io/a:b".to_owned())));
        assert_eq!(Remote::parse("https://h/a.git"), Some(git("https://h/a.git", "", "")));
        assert_eq!(
            Remote::parse("https://h/a.git#main:sub/x.yaml"),
            Some(git("https://h/a.git", "main", "sub/x.yaml"))
        );
        assert_eq!(Remote::parse("git://h/a#:sub"), Some(git("git://h/a", "", "sub")));
        assert_eq!(Remote::parse("https://h/a.git?ref=v1&subdir=s"), Some(git("https://h/a.git", "v1", "s")));
        assert_eq!(Remote::parse("git@h:a/b.git#v1"), Some(git("git@h:a/b.git", "v1", "")));
        assert_eq!(Remote::parse("github.com/a/b"), Some(git("https://github.com/a/b", "", "")));
    }

    #[test]
    fn what_is_a_path() {
        for path in ["compose.yaml", "./a@b:c", "https://h/a", "file:///a.git", "/a", "-x@-h:y", "a@b", "a:b", ""] {
            assert_eq!(Remote::parse(path), None, "{path}");
        }
    }
}
