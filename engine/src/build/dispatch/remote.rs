//! Sources that are no files of a context: git repositories, web servers, named contexts.

use crate::build::dockerfile::{Fault, go};
use crate::build::graph::Git;

/// What a git URL says, and whether its `.git` stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GitUrl {
    pub(crate) git: Git,
    pub(crate) keep_git_dir: Option<bool>,
}

/// Reads the URL of a git repository: `git://…`, `ssh://…`, `git@host:path`, or `http(s)://….git`, each with
/// `#reference:subdirectory` or with a query. None where it is no such URL.
pub(crate) fn git(url: &str) -> Option<Result<GitUrl, Fault>> {
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
    let is_web = remote.starts_with("http://") || remote.starts_with("https://");
    let is_git = ["git://", "ssh://"].iter().any(|scheme| remote.starts_with(scheme))
        || (is_web && remote.strip_suffix(".git").is_some())
        || is_scp_like(remote);
    is_git.then(|| read_git(remote, query, fragment))
}

/// Returns whether it is `user@host:path`.
fn is_scp_like(remote: &str) -> bool {
    let Some((user, rest)) = remote.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    let is_word = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.chars().all(|character| character.is_ascii_alphanumeric() || "-._".contains(character))
    };
    is_word(user) && is_word(host) && !path.is_empty() && !path.starts_with('-')
}

fn read_git(remote: &str, query: &str, fragment: &str) -> Result<GitUrl, Fault> {
    let (reference, subdirectory) = fragment.split_once(':').unwrap_or((fragment, ""));
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let mut url = GitUrl {
        git: Git {
            remote: remote.to_owned(),
            reference: text(reference),
            subdirectory: text(subdirectory).map(|path| go::clean_path(&path)).filter(|path| path != "."),
            keep_git_dir: false,
            checksum: None,
        },
        keep_git_dir: None,
    };
    if !query.is_empty() && !fragment.is_empty() {
        return Err(Fault::new(format!("cannot use both a query and a fragment in the git URL {}", go::quote(remote))));
    }
    for (key, value) in
        query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    {
        match key {
            "ref" => url.git.reference = text(value),
            "tag" => url.git.reference = Some(format!("refs/tags/{}", value.trim_start_matches("refs/tags/"))),
            "branch" => url.git.reference = Some(format!("refs/heads/{}", value.trim_start_matches("refs/heads/"))),
            "subdir" => url.git.subdirectory = text(value).map(|path| go::clean_path(&path)),
            "checksum" | "commit" => url.git.checksum = text(value),
            "keep-git-dir" => {
                let invalid = || Fault::new(format!("invalid value for keep-git-dir: {}", go::quote(value)));
                let keep = if value.is_empty() { Some(true) } else { go::parse_bool(value) };
                url.keep_git_dir = Some(keep.ok_or_else(invalid)?);
            }
            _ => return Err(Fault::new(format!("unexpected query {}", go::quote(key)))),
        }
    }
    // What begins with a hyphen would be an option of git, and what goes up leaves the repository.
    let is_bad = |value: &Option<String>| value.as_deref().is_some_and(|value| value.starts_with('-'));
    if remote.starts_with('-') || is_bad(&url.git.reference) {
        return Err(Fault::new(format!("invalid git URL {}", go::quote(remote))));
    }
    if url.git.subdirectory.as_deref().is_some_and(|path| path == ".." || path.starts_with("../")) {
        return Err(Fault::new("the subdirectory of the git URL is outside of the repository"));
    }
    Ok(url)
}

/// Returns whether a source is what a web server has.
pub(crate) fn is_web(source: &str) -> bool {
    (source.starts_with("http://") || source.starts_with("https://")) && git(source).is_none()
}

/// Returns what a file of a web server is called: the last part of its path.
pub(crate) fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = path.split_once('/').and_then(|(_, path)| path.rsplit('/').find(|part| !part.is_empty()));
    let name =
        name.map(percent_decoded).filter(|name| !matches!(name.as_str(), "." | "..") && !name.contains(['/', '\0']));
    name.unwrap_or_else(|| "__unnamed__".to_owned())
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code =
            (*first == b'%').then(|| tail.get(..2)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = code.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// What a named context (`--build-context NAME=VALUE`) is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory.
    Directory(String),
    /// An image: a reference, or `oci-layout://PATH[:TAG|@DIGEST]`.
    Image(String),
    /// A tree of a git repository.
    Git(Git),
    /// The files of an archive that a web server has.
    Archive(String),
}

impl NamedContext {
    /// Reads what a context is: `docker-image://REF`, `oci-layout://PATH`, a git URL, the URL of an archive, or the path of
    /// a directory.
    pub fn parse(value: &str) -> Result<Self, Fault> {
        if let Some(reference) = value.strip_prefix("docker-image://") {
            return Ok(Self::Image(reference.to_owned()));
        }
        if value.starts_with("oci-layout://") {
            return Ok(Self::Image(value.to_owned()));
        }
        match git(value) {
            Some(url) => url.map(|url| Self::Git(Git { keep_git_dir: url.keep_git_dir.unwrap_or(false), ..url.git })),
            None if is_web(value) => Ok(Self::Archive(value.to_owned())),
            None => Ok(Self::Directory(value.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_urls_are_told_from_paths() {
        let read = |url| git(url).map(|url| url.map(|url| (url.git.remote, url.git.reference, url.git.subdirectory)));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            read("https://host.test/a/b.git#v1:sub/dir"),
            Some(Ok(("https://host.test/a/b.git".to_owned(), some("v1"), some("sub/dir"))))
        );
        assert_eq!(read("git@host.test:a/b.git"), Some(Ok(("git@host.test:a/b.git".to_owned(), None, None))));
        assert_eq!(
            read("ssh://host.test/a?branch=x&subdir=s"),
            Some(Ok(("ssh://host.test/a".to_owned(), some("refs/heads/x"), some("s"))))
        );
        for path in ["a", "./a@b", "https://host.test/a.tar", "a:b", "-x@h:p"] {
            assert!(git(path).is_none(), "{path}");
        }
        assert!(git("git://host.test/a#-upload-pack=x").unwrap().is_err());
        assert!(git("git://host.test/a#:../x").unwrap().is_err());
        assert!(git("git://host.test/a?x=y").unwrap().is_err());
    }

    #[test]
    fn files_of_web_servers_have_names() {
        assert_eq!(file_name("https://host.test/a/b.tar.gz?x=/y"), "b.tar.gz");
        assert_eq!(file_name("https://host.test/a%20b/"), "a b");
        assert_eq!(file_name("https://host.test"), "__unnamed__");
        assert_eq!(file_name("https://host.test/%2e%2e"), "__unnamed__");
        assert_eq!(file_name("https://host.test/a%2Fb"), "__unnamed__");
    }

    #[test]
    fn named_contexts_are_read() {
        assert_eq!(NamedContext::parse("docker-image://a:1").unwrap(), NamedContext::Image("a:1".to_owned()));
        assert_eq!(NamedContext::parse("../dir").unwrap(), NamedContext::Directory("../dir".to_owned()));
        assert!(matches!(NamedContext::parse("https://host.test/a.git"), Ok(NamedContext::Git(_))));
        let url = "https://host.test/a.tar";
        assert_eq!(NamedContext::parse(url).unwrap(), NamedContext::Archive(url.to_owned()));
    }
}
