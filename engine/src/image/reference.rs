//! Image references: `[registry/]repository[:tag][@digest]`.
//!
//! The grammar is that of the distribution project's `reference` package, with Docker's defaults: a name without a
//! registry is on `docker.io`, one without a slash there is in `library/`, and one without tag and digest means
//! `:latest`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::digest::{Digest, DigestError};

/// The registry of a name that has none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of a reference that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// Longest repository name, the registry included.
const MAX_NAME: usize = 255;
/// Longest tag.
const MAX_TAG: usize = 128;

/// A complete reference to an image: which registry, which repository, and which tag or content there.
///
/// `Display` prints the canonical form (`docker.io/library/redis:7`), [`Reference::familiar`] the short one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A string that is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing was given.
    #[error("invalid reference format: the image name is empty")]
    Empty,
    /// The part that names the registry is not `host[:port]`.
    #[error("invalid reference format: {registry:?} is not a registry host")]
    Registry {
        /// The offending part.
        registry: String,
    },
    /// The repository has upper-case letters.
    #[error("invalid reference format: repository name ({repository}) must be lowercase")]
    Uppercase {
        /// The offending part.
        repository: String,
    },
    /// The repository breaks the grammar.
    #[error("invalid reference format: {repository:?} is not a repository name")]
    Repository {
        /// The offending part.
        repository: String,
    },
    /// The repository could be mistaken for an image id.
    #[error("invalid repository name ({repository}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId {
        /// The offending part.
        repository: String,
    },
    /// Registry and repository together are too long.
    #[error("invalid reference format: repository name must not be more than {MAX_NAME} characters")]
    TooLong,
    /// The tag breaks the grammar.
    #[error("invalid reference format: {tag:?} is not a tag")]
    Tag {
        /// The offending part.
        tag: String,
    },
    /// The digest breaks the grammar or is of an unknown algorithm.
    #[error("invalid reference format: {0}")]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Returns the registry as named: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository within the registry: `library/redis`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag. A reference by digest alone has none.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest that the content must have.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Returns what to ask the registry for: the digest if there is one, the tag otherwise.
    pub fn identifier(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Returns the name without tag and digest: `docker.io/library/redis`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Returns the short form that people type: `redis:7`, `user/app:1`, `registry.example/app:1`.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.push_suffix(&mut text);
        text
    }

    /// Returns the short form without tag and digest.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match self.repository.strip_prefix("library/") {
            // `library/a/b` would be read back as `docker.io/a/b`.
            Some(short) if !short.contains('/') => short.to_owned(),
            // `docker.io/localhost/x` must keep its registry, or `localhost` would be taken for one.
            _ if is_registry_like(self.repository.split('/').next().unwrap_or_default()) => self.name(),
            _ => self.repository.clone(),
        }
    }

    /// Returns the same repository with another tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        check_tag(tag)?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// Returns the same repository pinned to a digest, with the tag kept.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        self.push_suffix(&mut text);
        formatter.pad(&text)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::LooksLikeId { repository: text.to_owned() });
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if is_registry_like(first) => (first, rest),
            _ => (DEFAULT_REGISTRY, rest),
        };
        // The last colon starts a tag: a repository has none, and the registry's port is already split off.
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if !is_registry(registry) {
            return Err(ReferenceError::Registry { registry: registry.to_owned() });
        }
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
            other => other,
        };
        check_repository(repository)?;
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Tells whether the first component of a name is a registry and not the start of a repository.
fn is_registry_like(component: &str) -> bool {
    component.contains(['.', ':']) || component == "localhost" || component.bytes().any(|b| b.is_ascii_uppercase())
}

/// Checks `host[:port]`, where host is a name, an IPv4 address or a bracketed IPv6 address.
fn is_registry(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return false;
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match rest.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if rest.is_empty() => (None, None),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        }
    };
    let host_is_valid = host.is_none_or(|host| {
        host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    });
    host_is_valid && port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

fn check_repository(repository: &str) -> Result<(), ReferenceError> {
    if repository.split('/').all(is_path_component) {
        return Ok(());
    }
    let repository = repository.to_owned();
    if repository.to_ascii_lowercase().split('/').all(is_path_component) {
        Err(ReferenceError::Uppercase { repository })
    } else {
        Err(ReferenceError::Repository { repository })
    }
}

/// Lower-case letters and digits, joined by one dot, one or two underscores, or any number of hyphens.
fn is_path_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_word(first)
        && is_word(last)
        && bytes
            .split(|&b| is_word(b))
            .filter(|separator| !separator.is_empty())
            .all(|separator| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-');
    if valid { Ok(()) } else { Err(ReferenceError::Tag { tag: tag.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(input: &str, canonical: &str, familiar: &str) {
        let reference: Reference = input.parse().unwrap_or_else(|error| panic!("{input}: {error}"));
        assert_eq!(reference.to_string(), canonical, "{input}");
        assert_eq!(reference.familiar(), familiar, "{input}");
        assert_eq!(familiar.parse::<Reference>().as_ref(), Ok(&reference), "{input}");
        assert_eq!(canonical.parse::<Reference>().as_ref(), Ok(&reference), "{input}");
    }

    #[test]
    fn defaults_are_dockers() {
        check("redis", "docker.io/library/redis:latest", "redis:latest");
        check("redis:7-alpine", "docker.io/library/redis:7-alpine", "redis:7-alpine");
        check("user/app", "docker.io/user/app:latest", "user/app:latest");
        check("docker.io/redis", "docker.io/library/redis:latest", "redis:latest");
        check("index.docker.io/a/b:1", "docker.io/a/b:1", "a/b:1");
        check("localhost/app", "localhost/app:latest", "localhost/app:latest");
        check("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1");
        check("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest", "127.0.0.1:5000/a/b/c:latest");
        check("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest");
        check("ghcr.io/o/r:Tag_1.2-x", "ghcr.io/o/r:Tag_1.2-x", "ghcr.io/o/r:Tag_1.2-x");
        check("MYHOST/app", "MYHOST/app:latest", "MYHOST/app:latest");
        check("rcompose.local/whoami", "rcompose.local/whoami:latest", "rcompose.local/whoami:latest");
        check("a__b/c---d.e_f", "docker.io/a__b/c---d.e_f:latest", "a__b/c---d.e_f:latest");
        check("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest");
    }

    #[test]
    fn digests_stand_alone_or_beside_a_tag() {
        check(&format!("redis@{DIGEST}"), &format!("docker.io/library/redis@{DIGEST}"), &format!("redis@{DIGEST}"));
        check(&format!("h:1/redis:7@{DIGEST}"), &format!("h:1/redis:7@{DIGEST}"), &format!("h:1/redis:7@{DIGEST}"));
        let reference: Reference = format!("redis:7@{DIGEST}").parse().unwrap();
        assert_eq!(reference.identifier(), DIGEST);
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        use ReferenceError as E;
        let fails = |text: &str| text.parse::<Reference>().expect_err(text);
        assert_eq!(fails(""), E::Empty);
        assert!(matches!(fails("Redis"), E::Uppercase { .. }));
        assert!(matches!(fails("host.tld/App"), E::Uppercase { .. }));
        for text in ["/redis", "a//b", "a/", "re dis", "-a", "a-", "a..b", "a___b", "../x", "a/../b", "a:"] {
            assert!(matches!(fails(text), E::Repository { .. } | E::Tag { .. } | E::Registry { .. }), "{text}");
        }
        for text in ["ho_st.x/a", "host:99999/a", "host:x/a", "[::g]/a", "-h.x/a", "h..x/a", "../../etc/passwd"] {
            assert!(matches!(fails(text), E::Registry { .. }), "{text}");
        }
        assert!(matches!(fails("a:b:c"), E::Tag { .. }));
        assert!(matches!(fails(&format!("a:{}", "t".repeat(129))), E::Tag { .. }));
        assert!(matches!(fails("a@sha256:12"), E::Digest(_)));
        assert!(matches!(fails(&"a".repeat(260)), E::TooLong));
        assert!(matches!(fails(&"a".repeat(64)), E::LooksLikeId { .. }));
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_parses_round_trips(text in "\\PC{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse::<Reference>(), Ok(reference));
            }
        }

        #[test]
        fn references_made_by_the_grammar_parse(
            registry in proptest::option::of("[a-z][a-z0-9]{0,8}(\\.[a-z0-9]{1,6}){1,2}(:[1-9][0-9]{0,3})?|localhost(:5000)?|\\[::1\\]:80"),
            path in "[a-z0-9]{1,5}((\\.|_|__|-|--)[a-z0-9]{1,5}){0,2}(/[a-z0-9]{1,6}){0,2}",
            tag in proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}"),
            pinned in any::<bool>(),
        ) {
            // Without a registry, a first component with a dot would be read as one.
            prop_assume!(registry.is_some() || !is_registry_like(path.split('/').next().unwrap()) || !path.contains('/'));
            let mut text = String::new();
            if let Some(registry) = &registry {
                text = format!("{registry}/");
            }
            text += &path;
            if let Some(tag) = &tag {
                text = format!("{text}:{tag}");
            }
            if pinned {
                text = format!("{text}@{DIGEST}");
            }
            let reference: Reference = text.parse().map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
            prop_assert_eq!(reference.registry(), registry.as_deref().unwrap_or(DEFAULT_REGISTRY));
            prop_assert!(reference.repository().ends_with(&path));
            prop_assert_eq!(reference.digest().is_some(), pinned);
            prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference.clone()));
            prop_assert_eq!(reference.familiar().parse::<Reference>(), Ok(reference));
        }
    }
}
