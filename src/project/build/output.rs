//! What is to become of what was built: `--output`, `--push`, `--load`, `--annotation`.

use std::path::PathBuf;

use rcompose_engine::image::{Compression, Platform, Reference};

use super::csv::{fields, flag};

/// One thing that is made of what was built.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub format: Format,
    /// Where it goes, if it is not kept in the store.
    pub destination: Destination,
    /// Names beside those of the build.
    pub names: Vec<Reference>,
    /// It is sent to the registries of its names.
    pub push: bool,
    /// The form of layers; `None`: what is usual where they go.
    pub compression: Option<Compression>,
    pub annotations: Vec<Annotation>,
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
            push: false,
            compression: None,
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
        let (mut kind, mut destination, mut archive, mut level) = (None, None, true, None);
        for (key, value) in fields(text)? {
            match key.as_str() {
                "type" => kind = Some(value),
                "dest" => destination = Some(value),
                "name" => {
                    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
                    output.names = names
                        .map(|name| name.parse().map_err(|error| format!("invalid name {name:?}: {error}")))
                        .collect::<Result<_, String>>()?;
                }
                "push" => output.push = flag(&key, &value)?,
                "tar" => archive = flag(&key, &value)?,
                "compression" => output.compression = Some(compression(&value)?),
                "compression-level" => {
                    level = Some(value.parse::<i32>().map_err(|_| format!("{value:?} is no compression level"))?);
                }
                // How it is here in any case: names stay, layers are unpacked, media types are those of the OCI, and with
                // SOURCE_DATE_EPOCH no file is younger.
                "oci-mediatypes" | "unpack" | "store" | "rewrite-timestamp" => {
                    if !flag(&key, &value)? {
                        return Err(format!("{key}=false is not supported"));
                    }
                }
                "force-compression" | "push-by-digest" | "name-canonical" | "prefer-nondist-layers" => {
                    if flag(&key, &value)? {
                        return Err(format!("{key} is not supported"));
                    }
                }
                _ => match Annotation::of_output(&key, &value)? {
                    Some(annotation) => output.annotations.push(annotation),
                    None => return Err(format!("unknown key {key:?} in {text:?}")),
                },
            }
        }
        output.compression = with_level(output.compression, level)?;
        output.format = match kind.as_deref() {
            Some("registry") => {
                output.push = true;
                Format::Image
            }
            Some("image") => Format::Image,
            Some("docker") => Format::Docker,
            Some("oci") => Format::Oci,
            Some("local") => Format::Local,
            Some("tar") => Format::Tar,
            Some("cacheonly") => Format::Nothing,
            Some(other) => return Err(format!("exporter {other:?} could not be found")),
            None => return Err("type is required for output".to_owned()),
        };
        output.destination = output.place(destination.as_deref(), archive)?;
        Ok(output)
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

    /// Returns the form of layers: what is pushed or written into an archive is compressed, what is only kept is not.
    pub fn form(&self) -> Compression {
        let away =
            self.push || matches!(self.format, Format::Oci | Format::Docker) && self.destination != Destination::Store;
        self.compression.unwrap_or(if away { Compression::USUAL } else { Compression::None })
    }
}

/// Reads the form of layers.
pub(super) fn compression(text: &str) -> Result<Compression, String> {
    match text {
        "uncompressed" => Ok(Compression::None),
        "gzip" => Ok(Compression::USUAL),
        "zstd" => Ok(Compression::ZSTD),
        "estargz" => Err("estargz layers are not supported: use gzip or zstd".to_owned()),
        other => Err(format!("unsupported layer compression type {other:?}")),
    }
}

fn with_level(compression: Option<Compression>, level: Option<i32>) -> Result<Option<Compression>, String> {
    let Some(level) = level else { return Ok(compression) };
    let outside = || format!("compression-level {level} is out of range");
    match compression {
        None | Some(Compression::Gzip(_)) => {
            let level = u32::try_from(level).ok().filter(|level| *level <= 9).ok_or_else(outside)?;
            Ok(Some(Compression::Gzip(level)))
        }
        Some(Compression::Zstd(_)) if (1..=22).contains(&level) => Ok(Some(Compression::Zstd(level))),
        Some(Compression::Zstd(_)) => Err(outside()),
        Some(Compression::None) => Err("compression-level is for gzip and zstd".to_owned()),
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
            let form = output.form();
            Ok::<_, String>((output.format, output.destination, form))
        };
        let file = |path: &str| Destination::File(PathBuf::from(path));
        let folder = |path: &str| Destination::Directory(PathBuf::from(path));
        let (plain, gzip) = (Compression::None, Compression::USUAL);
        assert_eq!(read("out").unwrap(), (Format::Local, folder("out"), plain));
        assert_eq!(read("-").unwrap(), (Format::Tar, Destination::Stdout, plain));
        assert_eq!(read("type=docker").unwrap(), (Format::Docker, Destination::Store, plain));
        assert_eq!(read("type=docker,dest=a.tar").unwrap(), (Format::Docker, file("a.tar"), gzip));
        assert_eq!(read("type=oci,dest=a,tar=false").unwrap(), (Format::Oci, folder("a"), gzip));
        assert_eq!(read("type=registry").unwrap(), (Format::Image, Destination::Store, gzip));
        let zstd = "type=image,push=true,compression=zstd,compression-level=9";
        assert_eq!(read(zstd).unwrap(), (Format::Image, Destination::Store, Compression::Zstd(9)));
        for wrong in [
            "dest=x",
            "type=local",
            "type=image,dest=x",
            "type=nothing",
            "type=image,compression=estargz",
            "type=image,compression=zstd,compression-level=40",
            "type=image,push=perhaps",
            "type=image,unpack=false",
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
