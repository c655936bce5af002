//! What was made before: images by recipe key, blobs by digest, and the unpacked trees of images that others start from.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, bail};

use super::{image::BuiltImage, recipe::Recipe};

/// The cache folder, locked against other factories for as long as this value lives.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    /// Holds the lock; closing the file gives it up.
    _lock: fs::File,
}

impl Cache {
    /// Opens the cache, waiting for another factory that works in it.
    ///
    /// It lies in `$RCOMPOSE_TEST_CACHE`, else in `rcompose-tests` below `$XDG_CACHE_HOME` or `~/.cache`.
    pub fn open() -> anyhow::Result<Cache> {
        Cache::open_at(&cache_root()?)
    }

    /// Opens the cache in this folder.
    pub fn open_at(root: &Path) -> anyhow::Result<Cache> {
        let root = root.to_owned();
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        // Overlay options and apt's configuration are text with separators of their own.
        if root.to_string_lossy().contains([':', ',', '"', '\\']) {
            bail!("the cache folder {} has a character in its name that overlayfs cannot take", root.display());
        }
        let path = root.join("lock");
        let lock = fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        // What a factory left that was interrupted.
        let work = root.join("work");
        if work.exists() {
            fs::remove_dir_all(&work).with_context(|| format!("cannot delete {}", work.display()))?;
        }
        Ok(Cache { root, _lock: lock })
    }

    /// Creates and returns a folder of the cache.
    pub fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    /// Returns an empty folder to work in, on the file system of the cache.
    pub fn work_dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("work").join(format!("{name}-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    /// Returns where the blob of a digest lies or will lie.
    pub fn blob(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(digest.replace(':', "/"))
    }

    /// Returns the image of a recipe if it was made and everything of it is still there.
    pub fn load(&self, recipe: &Recipe, all: &[Recipe]) -> anyhow::Result<Option<BuiltImage>> {
        let file = self.image_file(recipe, all)?;
        let Ok(text) = fs::read_to_string(&file) else { return Ok(None) };
        let image: BuiltImage =
            serde_json::from_str(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        let whole = image
            .layers
            .iter()
            .all(|layer| fs::metadata(self.blob(&layer.digest)).is_ok_and(|blob| blob.len() == layer.size));
        let is_parent = all.iter().any(|other| other.from.as_deref() == Some(&recipe.name));
        let trees = !is_parent || (!image.trees.is_empty() && image.trees.iter().all(|tree| tree.exists()));
        Ok((whole && trees).then_some(image))
    }

    /// Remembers a finished image.
    pub fn store(&self, recipe: &Recipe, all: &[Recipe], image: &BuiltImage) -> anyhow::Result<()> {
        let file = self.image_file(recipe, all)?;
        fs::create_dir_all(file.parent().expect("an image file has a folder"))?;
        let new = file.with_extension("new");
        fs::write(&new, serde_json::to_vec(image)?)?;
        fs::rename(&new, &file).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Moves the recipe's own trees (those after the first `inherited`) out of the work folder if other recipes start
    /// from this one, deletes them if not, and returns where all trees of the image lie.
    pub fn settle(
        &self,
        recipe: &Recipe,
        all: &[Recipe],
        work: &Path,
        mut trees: Vec<PathBuf>,
        inherited: usize,
        is_parent: bool,
    ) -> anyhow::Result<Vec<PathBuf>> {
        if is_parent {
            let home = self.root.join("trees").join(format!("{}-{}", recipe.name, super::recipe::key(recipe, all)?));
            if home.exists() {
                fs::remove_dir_all(&home)?;
            }
            fs::create_dir_all(&home)?;
            for (index, tree) in trees.iter_mut().enumerate().skip(inherited) {
                let settled = home.join(index.to_string());
                fs::rename(&*tree, &settled)
                    .with_context(|| format!("cannot move {} to {}", tree.display(), settled.display()))?;
                *tree = settled;
            }
        } else {
            trees.clear();
        }
        fs::remove_dir_all(work).with_context(|| format!("cannot delete {}", work.display()))?;
        Ok(trees)
    }

    fn image_file(&self, recipe: &Recipe, all: &[Recipe]) -> anyhow::Result<PathBuf> {
        let key = super::recipe::key(recipe, all)?;
        Ok(self.root.join("images").join(format!("{}-{key}.json", recipe.name)))
    }
}

/// Returns the folder that the cache lies in.
pub fn cache_root() -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os("RCOMPOSE_TEST_CACHE").filter(|path| !path.is_empty()) {
        return Ok(std::path::absolute(path)?);
    }
    let base = match env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => {
            PathBuf::from(env::var_os("HOME").context("neither RCOMPOSE_TEST_CACHE nor HOME is set")?).join(".cache")
        }
    };
    Ok(base.join("rcompose-tests"))
}
