//! `--mount` of `RUN`: comma-separated `key=value`.

use super::fault::Fault;
use super::go;
use super::words::Word;
use crate::build::graph::Sharing;

const KINDS: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARINGS: [&str; 3] = ["shared", "private", "locked"];
const KEYS: [&str; 18] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "ro",
    "rw",
    "readwrite",
    "size",
    "env",
];

/// A mount as it was typed, its variables expanded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TypedMount {
    /// `bind`, `cache`, `tmpfs`, `secret` or `ssh`.
    pub(crate) kind: String,
    pub(crate) from: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) env: Option<String>,
    pub(crate) read_only: bool,
    pub(crate) required: bool,
    pub(crate) sharing: Option<Sharing>,
    pub(crate) size: Option<u64>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// Returns the stage, image or context whose files a mount shows, which has no variables; refuses one that has.
pub(crate) fn check(given: &Word) -> Result<Option<String>, Fault> {
    let mut from = None;
    for field in fields(&given.text).map_err(|message| Fault::new(message).at(given.span))? {
        let Some((key, value)) = field.split_once('=') else { continue };
        if !key.eq_ignore_ascii_case("from") {
            continue;
        }
        if value.trim_end_matches('$').contains('$') {
            let message = "'from' doesn't support variable expansion, define alias stage instead";
            return Err(Fault::new(message).at(given.span));
        }
        from = Some(value.to_owned()).filter(|value| !value.is_empty());
    }
    Ok(from)
}

/// Reads a mount, whose values are expanded by a function.
pub(crate) fn parse(given: &Word, mut expand: impl FnMut(&str) -> Result<String, Fault>) -> Result<TypedMount, Fault> {
    let fault = |message: String| Fault::new(message).at(given.span);
    let mut mount = TypedMount { kind: "bind".to_owned(), ..TypedMount::default() };
    let mut read_only = None;
    for field in fields(&given.text).map_err(fault)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(expand(value)?)),
            None => (field.to_lowercase(), None),
        };
        let unexpected = || fault(format!("unexpected key '{key}' for mount type '{}'", mount.kind));
        let Some(value) = value else {
            match key.as_str() {
                "readonly" | "ro" => read_only = Some(true),
                "readwrite" | "rw" => read_only = Some(false),
                "required" if matches!(mount.kind.as_str(), "secret" | "ssh") => mount.required = true,
                "required" => return Err(unexpected()),
                _ => return Err(fault(format!("invalid field '{field}' must be a key=value pair"))),
            }
            continue;
        };
        let invalid = || fault(format!("invalid value for {key}: {value}"));
        let invalid_number = || fault(format!("invalid value {value} for {key}"));
        match key.as_str() {
            "type" => {
                let kind = value.to_lowercase();
                if !KINDS.contains(&kind.as_str()) {
                    return Err(fault(format!("unsupported mount type {}", go::quote(&value))).suggest(&value, KINDS));
                }
                mount.kind = kind;
            }
            "from" => mount.from = Some(value),
            "source" | "src" => mount.source = Some(value),
            "target" | "dst" | "destination" => mount.target = Some(value),
            "readonly" | "ro" => read_only = Some(go::parse_bool(&value).ok_or_else(invalid)?),
            "readwrite" | "rw" => read_only = Some(!go::parse_bool(&value).ok_or_else(invalid)?),
            "required" if matches!(mount.kind.as_str(), "secret" | "ssh") => {
                mount.required = go::parse_bool(&value).ok_or_else(invalid)?;
            }
            "size" if mount.kind == "tmpfs" => mount.size = Some(go::parse_bytes(&value).ok_or_else(invalid)?),
            "required" | "size" => return Err(unexpected()),
            "id" => mount.id = Some(value),
            "sharing" => {
                mount.sharing = Some(match value.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => {
                        let message = format!("unsupported sharing value {}", go::quote(&value));
                        return Err(fault(message).suggest(&value, SHARINGS));
                    }
                });
            }
            "mode" => mount.mode = Some(u32::from_str_radix(&value, 8).map_err(|_| invalid_number())?),
            "uid" => mount.uid = Some(value.parse().map_err(|_| invalid_number())?),
            "gid" => mount.gid = Some(value.parse().map_err(|_| invalid_number())?),
            "env" => mount.env = Some(value),
            _ => return Err(fault(format!("unexpected key '{key}' in '{field}'")).suggest(&key, KEYS)),
        }
    }
    mount.read_only = read_only.unwrap_or(!matches!(mount.kind.as_str(), "cache" | "tmpfs"));
    for text in [&mut mount.from, &mut mount.source, &mut mount.target, &mut mount.id, &mut mount.env] {
        *text = text.take().filter(|text| !text.is_empty());
    }
    validate(&mount).map_err(fault)?;
    Ok(mount)
}

fn validate(mount: &TypedMount) -> Result<(), String> {
    let kind = mount.kind.as_str();
    let owned = [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)];
    if let Some((key, _)) = owned.iter().find(|(_, value)| value.is_some() && matches!(kind, "bind" | "tmpfs")) {
        return Err(format!("{key} not allowed for {} type mounts", go::quote(kind)));
    }
    if kind == "secret" {
        if mount.from.is_some() {
            return Err("secret mount should not have a from".to_owned());
        }
        if mount.sharing.is_some() {
            return Err("secret mount should not define sharing".to_owned());
        }
        if mount.source.is_none() && mount.target.is_none() && mount.id.is_none() {
            return Err("invalid secret mount. one of source, target required".to_owned());
        }
        if mount.source.is_some() && mount.id.is_some() {
            return Err("both source and id can't be set".to_owned());
        }
    }
    if mount.sharing.is_some() && kind != "cache" {
        return Err(format!("invalid cache sharing set for {kind} mount"));
    }
    Ok(())
}

/// Splits at commas, as a line of a CSV file: a field in double quotes may have commas, and quotes that are doubled.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let invalid = |why: &str| format!("failed to parse csv mounts: parse error on line 1: {why}");
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, next) = rest.split_once(',').map_or((rest, None), |(field, next)| (field, Some(next)));
            if field.contains('"') {
                return Err(invalid("bare \" in non-quoted field"));
            }
            fields.push(field.to_owned());
            match next {
                Some(next) => rest = next,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut characters = quoted.char_indices().peekable();
        let end = loop {
            match characters.next() {
                None => return Err(invalid("extraneous or missing \" in quoted-field")),
                Some((_, '"')) if characters.next_if(|(_, next)| *next == '"').is_some() => field.push('"'),
                Some((at, '"')) => break at + 1,
                Some((_, other)) => field.push(other),
            }
        };
        fields.push(field);
        match quoted[end..].strip_prefix(',') {
            Some(next) => rest = next,
            None if quoted.len() == end => return Ok(fields),
            None => return Err(invalid("extraneous or missing \" in quoted-field")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::graph::{Position, Span};

    fn read(text: &str) -> Result<TypedMount, String> {
        let position = Position { line: 1, column: 1 };
        let word = Word { text: text.to_owned(), span: Span { start: position, end: position } };
        check(&word).map_err(|fault| fault.to_string())?;
        parse(&word, |value| Ok(value.replace("$v", "value"))).map_err(|fault| fault.to_string())
    }

    #[test]
    fn mounts_are_read() {
        let mount = read("type=cache,target=/$v,sharing=locked,mode=0755,uid=5").unwrap();
        assert_eq!((mount.kind.as_str(), mount.target.as_deref()), ("cache", Some("/value")));
        assert_eq!((mount.sharing, mount.mode, mount.uid), (Some(Sharing::Locked), Some(0o755), Some(5)));
        assert!(!mount.read_only && read("target=/x").unwrap().read_only && !read("rw,target=/x").unwrap().read_only);
        assert_eq!(read("type=tmpfs,target=/x,size=1k").unwrap().size, Some(1024));
        assert_eq!(read("\"target=/a,b\",source=c").unwrap().target.as_deref(), Some("/a,b"));
        assert!(read("type=secret,id=a,required").unwrap().required);
    }

    #[test]
    fn faults_are_named() {
        for (text, message) in [
            ("type=cahce", "unsupported mount type \"cahce\" (did you mean cache?)"),
            ("tpye=cache", "unexpected key 'tpye' in 'tpye=cache' (did you mean type?)"),
            ("from=$x", "'from' doesn't support variable expansion, define alias stage instead"),
            ("target", "invalid field 'target' must be a key=value pair"),
            ("type=bind,mode=7", "mode not allowed for \"bind\" type mounts"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=secret,id=a,source=b", "both source and id can't be set"),
            ("sharing=locked", "invalid cache sharing set for bind mount"),
            ("type=cache,sharing=x", "unsupported sharing value \"x\""),
            ("type=cache,size=1k", "unexpected key 'size' for mount type 'cache'"),
            ("type=cache,mode=9", "invalid value 9 for mode"),
            ("ro=maybe", "invalid value for ro: maybe"),
            ("\"a", "failed to parse csv mounts: parse error on line 1: extraneous or missing \" in quoted-field"),
        ] {
            assert_eq!(read(text).as_ref().map_err(String::as_str), Err(message), "{text}");
        }
    }
}
