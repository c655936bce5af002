//! Caches that a build is given, and that it makes: `cache_from`, `cache_to`, `--cache-from`, `--cache-to`.

use std::path::PathBuf;

use rcompose_engine::image::{CacheSource, Compression, Digest, Reference};

use super::csv::{fields, flag};

/// Where the cache of a build is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTarget {
    pub place: CachePlace,
    /// Every step, and not only those whose layers the image has.
    pub all: bool,
    pub compression: Compression,
    /// A cache that cannot be written is no error.
    pub ignore_error: bool,
}

/// Where that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    Registry(Reference),
    Directory { path: PathBuf, tag: String },
    Inline,
}

/// What a build was told of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told<T> {
    Known(T),
    /// Of a kind that is not made here: the build goes on without.
    Unsupported(String),
}

/// The kinds that BuildKit knows besides. The first is that of one CI service; outside of it Docker passes over it too.
const ELSEWHERE: [&str; 3] = ["gha", "s3", "azblob"];

fn unsupported<T>(kind: &str) -> Told<T> {
    Told::Unsupported(format!(
        "the cache of type {kind} is ignored: type=registry, type=local and type=inline are supported"
    ))
}

/// Reads `--cache-from`: a reference, or `type=registry,ref=…`, `type=local,src=…`.
pub(super) fn source(text: &str) -> Result<Told<CacheSource>, String> {
    if !text.contains(['=', ',']) {
        return reference(text).map(|name| Told::Known(CacheSource::Registry(name)));
    }
    let (mut kind, mut name, mut path, mut tag, mut digest) = (None, None, None, None, None);
    for (key, value) in fields(text)? {
        match key.as_str() {
            "type" => kind = Some(value),
            "ref" => name = Some(value),
            "src" => path = Some(value),
            "tag" => tag = Some(value),
            "digest" => digest = Some(value.parse::<Digest>().map_err(|error| error.to_string())?),
            // Those of other kinds.
            _ => {}
        }
    }
    match kind.as_deref() {
        Some("registry") => {
            let name = name.ok_or("ref is required for the cache of type registry")?;
            Ok(Told::Known(CacheSource::Registry(reference(&name)?)))
        }
        Some("local") => {
            let path = PathBuf::from(path.ok_or("src is required for the cache of type local")?);
            Ok(Told::Known(CacheSource::Directory { path, tag: tag.unwrap_or_else(|| "latest".to_owned()), digest }))
        }
        Some(kind) if ELSEWHERE.contains(&kind) => Ok(unsupported(kind)),
        Some(other) => Err(format!("unknown cache importer: {other:?}")),
        None => Err("type is required for a cache".to_owned()),
    }
}

/// Reads `--cache-to`: a reference, or `type=registry,ref=…`, `type=local,dest=…`, `type=inline`, with `mode=max`, `compression`.
pub(super) fn target(text: &str) -> Result<Told<CacheTarget>, String> {
    let plain = |place| CacheTarget { place, all: false, compression: Compression::USUAL, ignore_error: false };
    if !text.contains(['=', ',']) {
        return Ok(Told::Known(plain(CachePlace::Registry(reference(text)?))));
    }
    let (mut kind, mut name, mut path, mut tag) = (None, None, None, None);
    let mut target = plain(CachePlace::Inline);
    for (key, value) in fields(text)? {
        match key.as_str() {
            "type" => kind = Some(value),
            "ref" => name = Some(value),
            "dest" => path = Some(value),
            "tag" => tag = Some(value),
            "mode" => {
                target.all = match value.as_str() {
                    "min" => false,
                    "max" => true,
                    other => return Err(format!("unknown cache mode {other:?}: min and max are known")),
                }
            }
            "compression" => target.compression = compression(&value)?,
            "ignore-error" => target.ignore_error = flag(&key, &value)?,
            // How it is in any case: a manifest with media types of the OCI.
            "oci-mediatypes" | "image-manifest" => {
                flag(&key, &value)?;
            }
            // Those of other kinds.
            _ => {}
        }
    }
    target.place = match kind.as_deref() {
        Some("registry") => {
            CachePlace::Registry(reference(&name.ok_or("ref is required for the cache of type registry")?)?)
        }
        Some("local") => {
            let path = PathBuf::from(path.ok_or("dest is required for the cache of type local")?);
            CachePlace::Directory { path, tag: tag.unwrap_or_else(|| "latest".to_owned()) }
        }
        Some("inline") => CachePlace::Inline,
        // As where a cache cannot be written.
        Some(kind) if ELSEWHERE[1..].contains(&kind) && !target.ignore_error => {
            return Err(format!(
                "the cache of type {kind} cannot be written: type=registry, type=local and type=inline are supported; with \
                 ignore-error=true the build goes on without it"
            ));
        }
        Some(kind) if ELSEWHERE.contains(&kind) => return Ok(unsupported(kind)),
        Some(other) => return Err(format!("unknown cache exporter: {other:?}")),
        None => return Err("type is required for a cache".to_owned()),
    };
    Ok(Told::Known(target))
}

fn compression(text: &str) -> Result<Compression, String> {
    match super::output::compression(text)? {
        // Steps are found by the layers below them, and such a layer is another one than the step has made.
        Compression::Estargz(_) => Err("a cache cannot have estargz layers: use gzip or zstd".to_owned()),
        known => Ok(known),
    }
}

fn reference(text: &str) -> Result<Reference, String> {
    text.parse().map_err(|error| format!("invalid reference {text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_read_as_docker_reads_them() {
        let name = || "registry.internal/app:cache".parse::<Reference>().unwrap();
        assert_eq!(source("registry.internal/app:cache").unwrap(), Told::Known(CacheSource::Registry(name())));
        assert_eq!(
            source("type=registry,ref=registry.internal/app:cache").unwrap(),
            Told::Known(CacheSource::Registry(name()))
        );
        let Told::Known(CacheSource::Directory { path, tag, digest: None }) = source("type=local,src=c").unwrap()
        else {
            panic!("a directory is one");
        };
        assert_eq!((path, tag.as_str()), (PathBuf::from("c"), "latest"));
        let Told::Known(found) = target("type=local,dest=c,mode=max,compression=zstd,tag=t").unwrap() else {
            panic!("a directory is one");
        };
        assert!(found.all && found.compression == Compression::ZSTD);
        assert_eq!(found.place, CachePlace::Directory { path: PathBuf::from("c"), tag: "t".to_owned() });
        assert!(matches!(source("type=gha").unwrap(), Told::Unsupported(why) if why.contains("gha")));
        assert!(matches!(source("type=s3,bucket=b").unwrap(), Told::Unsupported(why) if why.contains("s3")));
        assert!(matches!(target("type=gha").unwrap(), Told::Unsupported(why) if why.contains("gha")));
        let ignored = target("type=azblob,ignore-error=true").unwrap();
        assert!(matches!(ignored, Told::Unsupported(why) if why.contains("azblob")));
        assert!(target("type=s3,bucket=b").unwrap_err().contains("type s3 cannot be written"));
        assert!(target("type=local,dest=c,compression=estargz").unwrap_err().contains("cannot have estargz layers"));
        for wrong in ["type=local", "type=registry", "type=inline,mode=most", "type=shelf", "mode=max", "type=azblob"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }
}
