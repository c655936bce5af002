//! What is to become of what was built: `--output`, `--push`, `--load`, `--annotation`.

use std::path::PathBuf;

use rcompose_engine::image::{Compression, Dialect, Platform, Reference};

use super::csv::{fields, flag};

/// One thing that is made of what was built.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub format: Format,
    /// Where it goes, if it is not kept in the store.
    pub destination: Destination,
    /// Names beside those of the build.
    pub names: Vec<Reference>,
    pub push: Push,
    /// The form of layers; `None`: what is usual where they go.
    pub compression: Option<Compression>,
    /// Layers of the base have that form too.
    pub all_layers: bool,
    /// Whose media types the image has.
    pub dialect: Dialect,
    pub digests: Digests,
    /// Files are in a directory of their platform; `None`: those of several platforms are.
    pub split: Option<bool>,
    /// What the names of statements about files begin with.
    pub attestation_prefix: String,
    pub annotations: Vec<Annotation>,
}

/// Whether an image is sent to the registries of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    No,
    Named,
    /// By its digest, with no tag.
    ByDigest,
}

/// Which names with its digest an image has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Digests {
    None,
    /// One beside each of its names.
    Beside,
    /// One behind this, if it has no other name.
    Behind(String),
}

/// What counts only together.
#[derive(Default)]
struct Told {
    kind: Option<String>,
    destination: Option<String>,
    archive: bool,
    push: bool,
    by_digest: bool,
    level: Option<i32>,
}

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An image of the store.
    Image,
    /// A Docker archive.
    Docker,
    /// An OCI image layout.
    Oci,
    /// The files.
    Local,
    /// An archive of the files.
    Tar,
    /// Nothing but what the cache has of it.
    Nothing,
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Into the store.
    Store,
    /// To standard output.
    Stdout,
    File(PathBuf),
    Directory(PathBuf),
}

/// A remark in a manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    pub on: Annotated,
    /// For which machine's; `None`: for all.
    pub platform: Option<Platform>,
    pub key: String,
    pub value: String,
}

/// What a remark is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Annotated {
    Manifest,
    ManifestDescriptor,
    Index,
    IndexDescriptor,
}

impl Output {
    /// An image of the store.
    pub fn image() -> Self {
        Self {
            format: Format::Image,
            destination: Destination::Store,
            names: Vec::new(),
            push: Push::No,
            compression: None,
            all_layers: false,
            dialect: Dialect::Oci,
            digests: Digests::None,
            split: None,
            attestation_prefix: String::new(),
            annotations: Vec::new(),
        }
    }

    /// Reads `--output`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.contains(['=', ',']) {
            let (format, destination) = match text {
                "-" => (Format::Tar, Destination::Stdout),
                path => (Format::Local, Destination::Directory(PathBuf::from(path))),
            };
            return Ok(Self { format, destination, ..Self::image() });
        }
        let mut output = Self::image();
        let mut told = Told { archive: true, ..Told::default() };
        for (key, value) in fields(text)? {
            if !output.take(&mut told, &key, &value)? {
                return Err(format!("unknown key {key:?} in {text:?}"));
            }
        }
        output.compression = with_level(output.compression, told.level)?;
        output.format = match told.kind.as_deref() {
            Some("registry" | "image") => Format::Image,
            Some("docker") => Format::Docker,
            Some("oci") => Format::Oci,
            Some("local") => Format::Local,
            Some("tar") => Format::Tar,
            Some("cacheonly") => Format::Nothing,
            Some(other) => return Err(format!("exporter {other:?} could not be found")),
            None => return Err("type is required for output".to_owned()),
        };
        output.push = match (told.push || told.kind.as_deref() == Some("registry"), told.by_digest) {
            (true, true) => Push::ByDigest,
            (true, false) => Push::Named,
            (false, true) => return Err("push-by-digest needs push=true".to_owned()),
            (false, false) => Push::No,
        };
        if output.dialect == Dialect::Docker && !output.annotations.is_empty() {
            return Err("annotations need oci-mediatypes".to_owned());
        }
        output.destination = output.place(told.destination.as_deref(), told.archive)?;
        Ok(output)
    }

    /// Takes up one of the options. Returns whether there is such a one.
    fn take(&mut self, told: &mut Told, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "type" => told.kind = Some(value.to_owned()),
            "dest" => told.destination = Some(value.to_owned()),
            "name" => {
                let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
                self.names = names
                    .map(|name| name.parse().map_err(|error| format!("invalid name {name:?}: {error}")))
                    .collect::<Result<_, String>>()?;
            }
            "push" => told.push = flag(key, value)?,
            "push-by-digest" => told.by_digest = flag(key, value)?,
            "tar" => told.archive = flag(key, value)?,
            "compression" => self.compression = Some(compression(value)?),
            "compression-level" => {
                told.level = Some(value.parse::<i32>().map_err(|_| format!("{value:?} is no compression level"))?);
            }
            "force-compression" => self.all_layers = flag(key, value)?,
            "oci-mediatypes" => self.dialect = if flag(key, value)? { Dialect::Oci } else { Dialect::Docker },
            "name-canonical" if flag(key, value)? => self.digests = Digests::Beside,
            "dangling-name-prefix" => self.digests = Digests::Behind(value.to_owned()),
            "platform-split" => self.split = Some(flag(key, value)?),
            "attestation-prefix" if value.contains('/') => return Err(format!("{key} {value:?} is no part of a name")),
            "attestation-prefix" => value.clone_into(&mut self.attestation_prefix),
            // How it is here in any case: what is built is in the store, layers are unpacked, and with SOURCE_DATE_EPOCH no file
            // is younger.
            "unpack" | "store" | "rewrite-timestamp" => {
                if !flag(key, value)? {
                    return Err(format!("{key}=false is not supported"));
                }
            }
            "prefer-nondist-layers" if flag(key, value)? => return Err(format!("{key} is not supported")),
            "name-canonical" | "prefer-nondist-layers" => {}
            "registry.insecure" => {
                return Err(format!("{key} is not supported: the registries file says it of a registry"));
            }
            _ => match Annotation::of_output(key, value)? {
                Some(annotation) => self.annotations.push(annotation),
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    fn place(&self, given: Option<&str>, archive: bool) -> Result<Destination, String> {
        let file = |path: &str| match path {
            "-" => Destination::Stdout,
            path => Destination::File(PathBuf::from(path)),
        };
        match (self.format, given) {
            (Format::Image | Format::Docker | Format::Nothing, None) => Ok(Destination::Store),
            (Format::Image | Format::Nothing, Some(_)) => Err("dest is for local, tar, oci and docker".to_owned()),
            (Format::Local, Some(path)) => Ok(Destination::Directory(PathBuf::from(path))),
            (Format::Local, None) => Err("dest is required for local output".to_owned()),
            (Format::Docker | Format::Oci, Some(path)) if !archive => Ok(Destination::Directory(PathBuf::from(path))),
            (Format::Docker | Format::Oci | Format::Tar, given) => Ok(file(given.unwrap_or("-"))),
        }
    }

    /// Returns whether it leaves the store.
    pub(super) fn goes_away(&self) -> bool {
        let archive = matches!(self.format, Format::Oci | Format::Docker) && self.destination != Destination::Store;
        self.push != Push::No || archive
    }
}

/// Reads the form of layers.
pub(super) fn compression(text: &str) -> Result<Compression, String> {
    match text {
        "uncompressed" => Ok(Compression::None),
        "gzip" => Ok(Compression::USUAL),
        "zstd" => Ok(Compression::ZSTD),
        "estargz" => Ok(Compression::ESTARGZ),
        other => Err(format!("unsupported layer compression type {other:?}")),
    }
}

fn with_level(compression: Option<Compression>, level: Option<i32>) -> Result<Option<Compression>, String> {
    let Some(level) = level else { return Ok(compression) };
    let outside = || format!("compression-level {level} is out of range");
    let of_gzip = || u32::try_from(level).ok().filter(|level| *level <= 9).ok_or_else(outside);
    match compression {
        None | Some(Compression::Gzip(_)) => Ok(Some(Compression::Gzip(of_gzip()?))),
        Some(Compression::Estargz(_)) => Ok(Some(Compression::Estargz(of_gzip()?))),
        Some(Compression::Zstd(_)) if (1..=22).contains(&level) => Ok(Some(Compression::Zstd(level))),
        Some(Compression::Zstd(_)) => Err(outside()),
        Some(Compression::None) => Err("compression-level is for gzip, estargz and zstd".to_owned()),
    }
}

impl Annotation {
    /// Reads `--annotation`: `[WHERE[,WHERE…]:]KEY=VALUE`.
    pub fn parse(text: &str) -> Result<Vec<Self>, String> {
        let invalid = || format!("invalid annotation {text:?}, expected key=value");
        let (name, value) = text.split_once('=').ok_or_else(invalid)?;
        let (places, key) = name.rsplit_once(':').unwrap_or(("manifest", name));
        if key.is_empty() {
            return Err(invalid());
        }
        places.split(',').map(|place| Self::on(place, key, value)).collect()
    }

    /// Reads `annotation[-WHERE].KEY` of `--output`.
    fn of_output(name: &str, value: &str) -> Result<Option<Self>, String> {
        let Some((place, key)) = name.strip_prefix("annotation").and_then(|rest| rest.split_once('.')) else {
            return Ok(None);
        };
        let place = place.strip_prefix('-').unwrap_or(place);
        let place = if place.starts_with('[') { format!("manifest{place}") } else { place.to_owned() };
        let place = if place.is_empty() { "manifest" } else { &place };
        Self::on(place, key, value).map(Some)
    }

    fn on(place: &str, key: &str, value: &str) -> Result<Self, String> {
        let (what, platform) = match place.split_once('[') {
            Some((what, rest)) => {
                let platform = rest.strip_suffix(']').ok_or_else(|| format!("invalid annotation type {place:?}"))?;
                (what, Some(platform.parse::<Platform>().map_err(|error| error.to_string())?))
            }
            None => (place, None),
        };
        let on = match what {
            "manifest" => Annotated::Manifest,
            "manifest-descriptor" => Annotated::ManifestDescriptor,
            "index" => Annotated::Index,
            "index-descriptor" => Annotated::IndexDescriptor,
            other => return Err(format!("unknown annotation type {other:?}")),
        };
        Ok(Self { on, platform, key: key.to_owned(), value: value.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_as_docker_reads_them() {
        let read = |text: &str| {
            let output = Output::parse(text)?;
            let away = output.goes_away();
            Ok::<_, String>((output.format, output.destination, away.then_some(output.compression)))
        };
        let file = |path: &str| Destination::File(PathBuf::from(path));
        let folder = |path: &str| Destination::Directory(PathBuf::from(path));
        let (plain, gzip) = (None, Some(None));
        assert_eq!(read("out").unwrap(), (Format::Local, folder("out"), plain));
        assert_eq!(read("-").unwrap(), (Format::Tar, Destination::Stdout, plain));
        assert_eq!(read("type=docker").unwrap(), (Format::Docker, Destination::Store, plain));
        assert_eq!(read("type=docker,dest=a.tar").unwrap(), (Format::Docker, file("a.tar"), gzip));
        assert_eq!(read("type=oci,dest=a,tar=false").unwrap(), (Format::Oci, folder("a"), gzip));
        assert_eq!(read("type=registry").unwrap(), (Format::Image, Destination::Store, gzip));
        let output = Output::parse("type=registry,push-by-digest,name-canonical=true,oci-mediatypes=0").unwrap();
        assert_eq!((output.push, output.digests, output.dialect), (Push::ByDigest, Digests::Beside, Dialect::Docker));
        let zstd = "type=image,push=true,compression=zstd,compression-level=9";
        assert_eq!(read(zstd).unwrap(), (Format::Image, Destination::Store, Some(Some(Compression::Zstd(9)))));
        let estargz = "type=oci,dest=a,compression=estargz,compression-level=9";
        assert_eq!(read(estargz).unwrap(), (Format::Oci, file("a"), Some(Some(Compression::Estargz(9)))));
        for wrong in [
            "dest=x",
            "type=local",
            "type=image,dest=x",
            "type=nothing",
            "type=image,compression=estargz,compression-level=10",
            "type=image,compression=zstd,compression-level=40",
            "type=image,push=perhaps",
            "type=image,unpack=false",
            "type=image,push-by-digest=true",
            "type=image,prefer-nondist-layers=true",
            "type=image,registry.insecure=true",
            "type=image,oci-mediatypes=false,annotation.a=b",
            "type=image,typo=1",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn annotations_say_what_they_are_on() {
        let read = |text: &str| {
            let read = Annotation::parse(text)?.into_iter();
            Ok::<_, String>(
                read.map(|read| (read.on, read.platform.map(|p| p.to_string()), read.key)).collect::<Vec<_>>(),
            )
        };
        let key = || "a.b".to_owned();
        assert_eq!(read("a.b=c").unwrap(), [(Annotated::Manifest, None, key())]);
        assert_eq!(
            read("index,manifest[linux/arm64]:a.b=c").unwrap(),
            [(Annotated::Index, None, key()), (Annotated::Manifest, Some("linux/arm64".into()), key())]
        );
        assert!(read("a").is_err() && read("shelf:a=b").is_err() && read("index:=b").is_err());
        let output = Output::parse("type=image,annotation-index.a.b=c,annotation[linux/arm64].d=e").unwrap();
        assert_eq!(output.annotations[0], Annotation::parse("index:a.b=c").unwrap()[0]);
        assert_eq!(output.annotations[1], Annotation::parse("manifest[linux/arm64]:d=e").unwrap()[0]);
    }
}
