//! Gives away what was built, as its outputs say: images of the store, archives, files.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rcompose_engine::build::{BuildError, Builder, Built, FileSystem, Predicate, Provenance, Request, Shape, Solved};
use rcompose_engine::image::{
    Archive, ArchiveError, Descriptor, Dialect, Digest, Folder, Platform, Reference, ReferenceError, Store, StoreError,
};

use super::cache::{CachePlace, CacheTarget};
use super::output::{Annotated, Annotation, Destination, Digests, Format, Output, Push};
use super::recipe::{Attested, Recipe, Sbom};
use crate::project::whole_file::write_whole;

/// Why what was built could not be given away.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    #[error("refusing to write an archive to a terminal: give --output a dest, or redirect")]
    Terminal,
    #[error(
        "a Docker archive has one image and no attestations: use type=oci for several platforms, or for provenance"
    )]
    DockerIndex,
    #[error("annotations and attestations need media types of the OCI: leave oci-mediatypes=false out")]
    Dialect,
    #[error("invalid name {name:?}")]
    Name {
        name: String,
        #[source]
        source: ReferenceError,
    },
    #[error("a worker stopped unexpectedly")]
    Worker,
}

/// What was given away.
#[derive(Debug, Clone, Default)]
pub struct Delivered {
    /// The image; of several platforms the one that this machine runs, or else the first.
    pub image: Option<Built>,
    /// The index of all, if there is one.
    pub index: Option<Descriptor>,
    /// Names of the store that are to be sent to their registries.
    pub push: Vec<Reference>,
    /// Caches of the store that are to be sent to registries.
    pub(super) caches: Vec<(CacheTarget, Descriptor)>,
}

impl Delivered {
    /// Returns what stands for the whole image.
    pub fn descriptor(&self) -> Option<&Descriptor> {
        self.index.as_ref().or(self.image.as_ref().map(|image| &image.descriptor))
    }

    /// Returns the image's id; of several platforms the digest of the index.
    pub fn id(&self) -> Option<Digest> {
        self.index.as_ref().map(|index| index.digest).or(self.image.as_ref().map(|image| image.id))
    }
}

/// What was built, for each platform.
pub(super) type Builds = Vec<(Arc<Request>, Arc<Solved>)>;

/// Makes all outputs of a recipe. It may take long, and keeps a thread.
pub(super) fn deliver(
    builder: &Builder,
    store: &Store,
    recipe: &Recipe,
    started: Timestamp,
    builds: &Builds,
) -> Result<Delivered, DeliverError> {
    let mut delivered = Delivered::default();
    let usual = [Output { compression: recipe.compression, ..Output::image() }];
    let outputs = if recipe.outputs.is_empty() { &usual[..] } else { &recipe.outputs[..] };
    for output in outputs {
        match output.format {
            Format::Nothing => {}
            Format::Local => copy(trees(builder, (recipe, started), output, builds)?, output)?,
            Format::Tar => {
                let trees = trees(builder, (recipe, started), output, builds)?;
                write(output, |out| Ok(FileSystem::archive(&trees, out)?))?;
            }
            Format::Image | Format::Docker | Format::Oci => {
                let mut names: Vec<Reference> = recipe.tags.iter().chain(&output.names).cloned().collect();
                let made = Made::new(builder, (recipe, started), output, &names, builds)?;
                made.name_by_digest(output, &mut names)?;
                made.put(store, output, &names, recipe.is_kept_plain(output))?;
                if output.push != Push::No {
                    delivered.push.extend(names);
                }
                delivered.image = Some(made.image);
                delivered.index = made.index;
            }
        }
    }
    for target in recipe.cache_to.iter().filter(|target| target.place != CachePlace::Inline) {
        let cache = builder.cache(builds, target.all, target.compression)?;
        match &target.place {
            CachePlace::Directory { path, tag } => store.save_cache(&cache, path.clone(), tag)?,
            _ => delivered.caches.push((target.clone(), cache)),
        }
    }
    Ok(delivered)
}

/// An image that was made.
struct Made {
    image: Built,
    index: Option<Descriptor>,
    /// Remarks on what refers to it in a layout.
    remarks: BTreeMap<String, String>,
}

impl Made {
    fn new(
        builder: &Builder,
        (recipe, started): (&Recipe, Timestamp),
        output: &Output,
        names: &[Reference],
        builds: &Builds,
    ) -> Result<Self, DeliverError> {
        let annotations = || recipe.annotations.iter().chain(&output.annotations);
        let mut images = Vec::new();
        for (request, solved) in builds {
            let platform = &request.graph.platform;
            let shape = Shape {
                compression: recipe.form(output),
                all_layers: output.all_layers,
                dialect: output.dialect,
                annotations: on(annotations(), Annotated::Manifest, Some(platform)),
                inline_cache: recipe.inline_cache(),
            };
            let mut image = builder.image(request, solved, &shape)?;
            for (key, value) in on(annotations(), Annotated::ManifestDescriptor, Some(platform)) {
                image.descriptor = image.descriptor.with_annotation(&key, value);
            }
            images.push(image);
        }
        let mut manifests: Vec<Descriptor> = images.iter().map(|image| image.descriptor.clone()).collect();
        if output.dialect == Dialect::Docker && (recipe.is_attested() || annotations().next().is_some()) {
            return Err(DeliverError::Dialect);
        }
        for ((request, solved), image) in builds.iter().zip(&images) {
            let predicates = predicates(builder, (recipe, started), request, solved)?;
            if !predicates.is_empty() {
                manifests.push(builder.attest(request, image, names, &predicates)?);
            }
        }
        let index = if manifests.len() > 1 || recipe.is_for_several() {
            Some(builder.index(output.dialect, manifests, &on(annotations(), Annotated::Index, None))?)
        } else {
            None
        };
        let host = Platform::host();
        let rank = |image: &Built| image.descriptor.platform.as_ref().and_then(|offered| host.rank(offered));
        let best = (0..images.len()).min_by_key(|at| rank(&images[*at]).unwrap_or(u32::MAX));
        let image = images.swap_remove(best.ok_or(DeliverError::Worker)?);
        Ok(Self { image, index, remarks: on(annotations(), Annotated::IndexDescriptor, None) })
    }

    /// Adds the names with a digest that an output asks for.
    fn name_by_digest(&self, output: &Output, names: &mut Vec<Reference>) -> Result<(), DeliverError> {
        let digest = self.index.as_ref().map_or(self.image.digest, |index| index.digest);
        let untagged = |name: &Reference| named(&name.name(), digest);
        match &output.digests {
            _ if output.push == Push::ByDigest => {
                *names = names.iter().map(untagged).collect::<Result<_, _>>()?;
                names.dedup();
            }
            Digests::Beside => {
                let canonical = names.iter().map(untagged).collect::<Result<Vec<_>, _>>()?;
                names.extend(canonical);
            }
            Digests::Behind(prefix) if names.is_empty() => names.push(named(prefix, digest)?),
            Digests::Behind(_) | Digests::None => {}
        }
        Ok(())
    }

    fn put(&self, store: &Store, output: &Output, names: &[Reference], kept_plain: bool) -> Result<(), DeliverError> {
        let image = &self.image;
        if output.destination == Destination::Store {
            let index = self.index.as_ref();
            return Ok(store.name_image(names, &image.id, &image.descriptor, index, kept_plain)?);
        }
        let docker = output.format == Format::Docker;
        if docker && self.index.is_some() {
            return Err(DeliverError::DockerIndex);
        }
        let mut whole = self.index.clone().unwrap_or_else(|| image.descriptor.clone());
        for (key, value) in &self.remarks {
            whole = whole.with_annotation(key, value.clone());
        }
        if let Destination::Directory(path) = &output.destination {
            let mut folder = Folder::new(path.clone()).map_err(failed("create", path))?;
            return Ok(store.save_as(&whole, names, docker, &mut folder)?);
        }
        write(output, |out| {
            let mut archive = Archive::new(out);
            store.save_as(&whole, names, docker, &mut archive)?;
            archive.finish().map_err(|error| ArchiveError::Write(error).into())
        })
    }
}

fn named(name: &str, digest: Digest) -> Result<Reference, DeliverError> {
    let text = format!("{name}@{digest}");
    text.parse().map_err(|source| DeliverError::Name { name: text, source })
}

/// Returns what is attested of what was built for one platform.
fn predicates(
    builder: &Builder,
    (recipe, started): (&Recipe, Timestamp),
    request: &Request,
    solved: &Solved,
) -> Result<Vec<Predicate>, DeliverError> {
    let mut predicates = if recipe.sbom == Sbom::None { Vec::new() } else { builder.sbom(request, solved)? };
    predicates.extend(provenance(recipe, started).map(|provenance| provenance.predicate(request)));
    Ok(predicates)
}

/// Returns what is attested of where the images come from, in the words of BuildKit.
fn provenance(recipe: &Recipe, started: Timestamp) -> Option<Provenance> {
    let max = match recipe.provenance {
        Attested::None => return None,
        Attested::Min => false,
        Attested::Max => true,
    };
    let named = |(name, value): (&String, &String)| (format!("build-arg:{name}"), value.clone());
    let mut arguments: BTreeMap<String, String> = recipe.arguments.iter().map(named).collect();
    arguments.extend(recipe.target.clone().map(|target| ("target".to_owned(), target)));
    arguments.extend(recipe.labels.iter().map(|(name, value)| (format!("label:{name}"), value.clone())));
    Some(Provenance { max, entry_point: recipe.dockerfile.clone(), arguments, started })
}

/// Returns the remarks that are on something.
fn on<'a>(
    all: impl Iterator<Item = &'a Annotation>,
    on: Annotated,
    platform: Option<&Platform>,
) -> BTreeMap<String, String> {
    let meant = |annotation: &&Annotation| {
        annotation.on == on && (annotation.platform.is_none() || annotation.platform.as_ref() == platform)
    };
    all.filter(meant).map(|annotation| (annotation.key.clone(), annotation.value.clone())).collect()
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DeliverError {
    let path = path.to_owned();
    move |source| DeliverError::File { action, path, source }
}

/// Returns the file systems that were built, with what is attested of them, each with the name of its directory where they are
/// not to be laid over one another.
fn trees(
    builder: &Builder,
    (recipe, started): (&Recipe, Timestamp),
    output: &Output,
    builds: &Builds,
) -> Result<Vec<(PathBuf, FileSystem)>, DeliverError> {
    let several = recipe.is_for_several();
    let split = output.split.unwrap_or(several);
    let tree = |(request, solved): &(Arc<Request>, Arc<Solved>)| {
        let platform = request.graph.platform.to_string().replace('/', "_");
        let predicates = predicates(builder, (recipe, started), request, solved)?.into_iter().map(|predicate| {
            let name = format!("{}{}", output.attestation_prefix, predicate.file);
            // Those of several platforms that are laid over one another say of which they are.
            let name = match name.rsplit_once('.') {
                Some((stem, end)) if !split && several => format!("{stem}.{platform}.{end}"),
                _ => name,
            };
            (name, predicate)
        });
        let files = builder.attest_files(builder.files(request, solved)?, &predicates.collect::<Vec<_>>())?;
        Ok((PathBuf::from(if split { platform } else { String::new() }), files))
    };
    builds.iter().map(tree).collect()
}

fn copy(trees: Vec<(PathBuf, FileSystem)>, output: &Output) -> Result<(), DeliverError> {
    let Destination::Directory(directory) = &output.destination else { return Err(DeliverError::Worker) };
    for (name, files) in trees {
        files.copy_to(&directory.join(name))?;
    }
    Ok(())
}

/// Writes an archive to where it goes. A file is written aside and then renamed: what is there under its name is whole.
fn write(
    output: &Output,
    content: impl FnOnce(&mut dyn Write) -> Result<(), DeliverError>,
) -> Result<(), DeliverError> {
    let path = match &output.destination {
        Destination::File(path) => path,
        _ if io::stdout().is_terminal() => return Err(DeliverError::Terminal),
        _ => {
            let mut out = BufWriter::with_capacity(1 << 17, io::stdout().lock());
            content(&mut out)?;
            return out.flush().map_err(DeliverError::Stdout);
        }
    };
    write_whole(path, content, |action, source| failed(action, path)(source))
}
