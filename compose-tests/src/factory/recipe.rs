//! What an image is made of: the recipe file and the files beside it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// One image: `images/<name>/recipe.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The folder's name; what other recipes say in `from`.
    #[serde(skip)]
    pub name: String,
    #[serde(skip)]
    pub folder: PathBuf,
    /// Repository and tag of each name the image gets in the registry, e.g. `library/busybox:1.36`.
    pub names: Vec<String>,
    /// The recipe whose layers and configuration this one starts from.
    pub from: Option<String>,
    pub layers: Vec<LayerRecipe>,
    /// The OCI image configuration's `config` object; `Env` adds to the parent's, all other keys replace.
    #[serde(default)]
    pub config: BTreeMap<String, serde_json::Value>,
    /// What the tag names: how official images are published, and the two older ways.
    #[serde(default)]
    pub publish: Publish,
}

/// The document that a tag points at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Publish {
    /// An OCI index that names another platform first, as official images do.
    #[default]
    Index,
    /// A Docker manifest list with Docker media types.
    DockerList,
    /// A single OCI manifest.
    Manifest,
}

/// One layer. The steps run in the order of the fields.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LayerRecipe {
    /// Folders that are there before anything else, and links between them (relative, so that nothing that follows them
    /// leaves the tree).
    pub folders: Vec<String>,
    pub links: BTreeMap<String, PathBuf>,
    /// A folder beside the recipe that is copied in, owned by root, with the modes it has (symbolic links too).
    pub files: Option<String>,
    /// Debian packages with all they depend on, except what the layers below have. Unpacked, not configured: what
    /// their maintainer scripts would do and the image needs is said in `run`.
    pub packages: Vec<String>,
    /// Packages of that closure which the image works without.
    pub without: Vec<String>,
    /// Paths that are deleted, each with everything below it; relative to the root.
    pub remove: Vec<String>,
    /// Command lines for the shell, in a chroot with /dev/null and /proc.
    pub run: Vec<String>,
    /// The shell of `run`, when the tree has no /bin/sh yet.
    pub shell: Option<Vec<String>>,
    /// Paths that the layer declares deleted whether or not the tree below has them.
    pub whiteouts: Vec<String>,
    /// Folders that the layer declares opaque: nothing of the layers below shows through.
    pub opaque: Vec<String>,
}

/// Reads all recipes of a folder, sorted by name.
pub fn load_all(folder: &Path) -> anyhow::Result<Vec<Recipe>> {
    let mut recipes = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let folder = entry?.path();
        let file = folder.join("recipe.json");
        if !file.exists() {
            continue;
        }
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut recipe: Recipe =
            serde_json::from_str(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        recipe.name = folder.file_name().expect("an entry of a folder has a name").to_string_lossy().into_owned();
        recipe.folder = folder;
        recipes.push(recipe);
    }
    recipes.sort_by(|a, b| a.name.cmp(&b.name));
    for recipe in &recipes {
        if let Some(from) = &recipe.from
            && !recipes.iter().any(|other| &other.name == from)
        {
            bail!("recipe {} starts from {from}, which does not exist", recipe.name);
        }
        ancestors(recipe, &recipes)?;
    }
    Ok(recipes)
}

/// Returns the recipe and all it starts from, the root last.
pub fn ancestors<'a>(recipe: &'a Recipe, all: &'a [Recipe]) -> anyhow::Result<Vec<&'a Recipe>> {
    let mut chain = vec![recipe];
    let mut current = recipe;
    while let Some(from) = &current.from {
        current =
            all.iter().find(|other| &other.name == from).with_context(|| format!("recipe {from} does not exist"))?;
        if chain.iter().any(|seen| seen.name == current.name) {
            bail!("recipe {} starts from itself", recipe.name);
        }
        chain.push(current);
    }
    Ok(chain)
}

/// Returns the cache key: a digest of the recipe, the files beside it, its ancestors and the factory's version.
pub fn key(recipe: &Recipe, all: &[Recipe]) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    hash.update(super::FACTORY_VERSION.to_le_bytes());
    hash.update(super::apt::SUITE.as_bytes());
    for recipe in ancestors(recipe, all)? {
        hash_folder(&recipe.folder, &recipe.folder, &mut hash)?;
        hash.update([0xff]);
    }
    let digest = hash.finalize();
    Ok(super::layer::hex(&digest[..12]))
}

fn hash_folder(root: &Path, folder: &Path, hash: &mut Sha256) -> anyhow::Result<()> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for path in entries {
        let metadata = fs::symlink_metadata(&path)?;
        let relative = path.strip_prefix(root).expect("a walk stays below its root");
        hash.update(relative.as_os_str().as_bytes());
        hash.update([0]);
        if metadata.is_dir() {
            hash_folder(root, &path, hash)?;
        } else if metadata.is_symlink() {
            hash.update(fs::read_link(&path)?.as_os_str().as_bytes());
        } else {
            hash.update([u8::from(metadata.permissions().mode() & 0o100 != 0)]);
            hash.update(metadata.len().to_le_bytes());
            hash.update(fs::read(&path)?);
        }
        hash.update([1]);
    }
    Ok(())
}
