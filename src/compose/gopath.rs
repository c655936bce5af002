//! Paths as text, in the manner of Go's `path` and `filepath`: what compose files say, and what `config` prints, is made with these.

/// Removes `.`, `..`, double and trailing slashes by text alone.
pub(super) fn clean(path: &str) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&"..") | None => {
                    if !rooted {
                        parts.push("..");
                    }
                }
                Some(_) => {
                    parts.pop();
                }
            },
            _ => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// Joins two paths and cleans the result; an absolute second path is put below the first all the same.
pub(super) fn join(base: &str, path: &str) -> String {
    match (base.is_empty(), path.is_empty()) {
        (true, true) => String::new(),
        (true, false) => clean(path),
        (false, true) => clean(base),
        (false, false) => clean(&format!("{base}/{path}")),
    }
}

/// Everything before the last slash, cleaned.
pub(super) fn parent(path: &str) -> String {
    path.rfind('/').map_or_else(|| ".".to_owned(), |at| clean(&path[..=at]))
}

/// How to get from one directory to a path; both absolute.
pub(super) fn relative(base: &str, path: &str) -> String {
    let (base, path) = (clean(base), clean(path));
    let split = |path: &str| path.split('/').filter(|part| !part.is_empty()).map(ToOwned::to_owned).collect::<Vec<_>>();
    let (base, path) = (split(&base), split(&path));
    let common = base.iter().zip(&path).take_while(|(a, b)| a == b).count();
    let ups = std::iter::repeat_n("..", base.len() - common);
    let result: Vec<&str> = ups.chain(path[common..].iter().map(String::as_str)).collect();
    if result.is_empty() { ".".to_owned() } else { result.join("/") }
}

/// Whether a path is absolute on Windows: `C:\…`, `C:/…`, `\\server\…`.
pub(super) fn is_windows_absolute(path: &str) -> bool {
    let slash = |byte: Option<&u8>| matches!(byte, Some(b'/' | b'\\'));
    let bytes = path.as_bytes();
    if bytes.get(1) == Some(&b':') {
        return slash(bytes.get(2));
    }
    // A share has a server and a name.
    slash(bytes.first()) && slash(bytes.get(1)) && path.len() > 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_text() {
        for (path, expected) in [
            ("", "."),
            ("a/./b/..//c", "a/c"),
            ("/..", "/"),
            ("../../a", "../../a"),
            ("/a/", "/a"),
            (".", "."),
            ("a/..", "."),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
        assert_eq!(join("/a/b", "../c"), "/a/c");
        assert_eq!(join(".", "./x"), "x");
        assert_eq!(relative("/a/b", "/a/c/d"), "../c/d");
        assert_eq!(relative("/a", "/a"), ".");
        assert_eq!(parent("/a/b.yaml"), "/a");
        assert!(is_windows_absolute("C:\\x") && !is_windows_absolute("C:x") && !is_windows_absolute("/x"));
    }

    proptest::proptest! {
        #[test]
        fn cleaning_twice_is_cleaning_once(path in "[./ab]{0,12}") {
            let once = clean(&path);
            proptest::prop_assert_eq!(clean(&once), once);
        }
    }
}
