//! The image factory: makes the images that tests, examples and benches use out of Debian packages, with no container
//! tool, and puts them into a local registry under the names that compose files use.
//!
//! A recipe (`images/<name>/recipe.json` and the files beside it) says what an image is; the code here is the same for
//! all of them. Everything made is cached by the content of the recipe, so that only changed recipes cost time.

pub mod apt;
pub mod cache;
pub mod image;
pub mod layer;
pub mod recipe;
pub mod registry;
pub mod tree;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Condvar, Mutex},
    thread,
    time::Instant,
};

use anyhow::{Context, bail};

use self::{apt::Apt, cache::Cache, image::BuiltImage, recipe::Recipe};

/// Changes whenever the code makes something else of the same recipe; part of every cache key.
const FACTORY_VERSION: u32 = 2;

/// Makes every image whose recipe is not in the cache and returns all of them, by recipe name.
///
/// Must run as root in a mount namespace of its own (see [`tree::private_mounts`]): it mounts overlays and runs
/// programs of the images in a chroot.
pub fn build_all(
    recipes: &[Recipe],
    cache: &Cache,
    say: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<BTreeMap<String, BuiltImage>> {
    let mut done: BTreeMap<String, BuiltImage> = BTreeMap::new();
    let mut wanted: Vec<&Recipe> = Vec::new();
    for recipe in recipes {
        match cache.load(recipe, recipes)? {
            Some(image) => {
                done.insert(recipe.name.clone(), image);
            }
            None => wanted.push(recipe),
        }
    }
    if wanted.is_empty() {
        return Ok(done);
    }
    // The tree of a parent is needed again when only a child changed; `cache.load` answers without it.
    let apt = Apt::new(cache)?;
    apt.update()?;
    let state = Mutex::new(Work { done, wanted, failed: None });
    let changed = Condvar::new();
    let threads = thread::available_parallelism().map_or(2, usize::from).min(4);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| worker(&state, &changed, recipes, cache, &apt, say));
        }
    });
    let state = state.into_inner().expect("no worker panicked while it held the lock");
    match state.failed {
        Some(error) => Err(error),
        None => Ok(state.done),
    }
}

struct Work<'a> {
    done: BTreeMap<String, BuiltImage>,
    wanted: Vec<&'a Recipe>,
    failed: Option<anyhow::Error>,
}

fn worker(
    state: &Mutex<Work<'_>>,
    changed: &Condvar,
    recipes: &[Recipe],
    cache: &Cache,
    apt: &Apt,
    say: &(dyn Fn(&str) + Sync),
) {
    let mut guard = state.lock().expect("no worker panicked while it held the lock");
    loop {
        if guard.failed.is_some() || guard.wanted.is_empty() {
            return;
        }
        let ready = guard
            .wanted
            .iter()
            .position(|recipe| recipe.from.as_ref().is_none_or(|from| guard.done.contains_key(from)));
        let Some(index) = ready else {
            guard = changed.wait(guard).expect("no worker panicked while it held the lock");
            continue;
        };
        let recipe = guard.wanted.remove(index);
        let parent = recipe.from.as_ref().map(|from| guard.done[from].clone());
        drop(guard);
        let started = Instant::now();
        let result = build_one(recipe, parent.as_ref(), recipes, cache, apt)
            .with_context(|| format!("cannot make image {}", recipe.name));
        guard = state.lock().expect("no worker panicked while it held the lock");
        match result {
            Ok(image) => {
                say(&format!(
                    "{}: {} layers, {} MB, {:.1} s",
                    recipe.name,
                    image.layers.len(),
                    image.layers.iter().map(|layer| layer.size).sum::<u64>() / 1_000_000,
                    started.elapsed().as_secs_f64()
                ));
                guard.done.insert(recipe.name.clone(), image);
            }
            Err(error) => guard.failed = Some(error),
        }
        changed.notify_all();
    }
}

/// Makes one image: each layer of the recipe on top of the one before, then the configuration.
fn build_one(
    recipe: &Recipe,
    parent: Option<&BuiltImage>,
    recipes: &[Recipe],
    cache: &Cache,
    apt: &Apt,
) -> anyhow::Result<BuiltImage> {
    let work = cache.work_dir(&recipe.name)?;
    let mut trees = parent.map(|parent| parent.trees.clone()).unwrap_or_default();
    let mut layers = parent.map(|parent| parent.layers.clone()).unwrap_or_default();
    let mut packages = parent.map(|parent| parent.packages.clone()).unwrap_or_default();
    if let Some(missing) = trees.iter().find(|tree| !tree.exists()) {
        bail!("the unpacked layer {} of its base image is gone", missing.display());
    }
    for (index, step) in recipe.layers.iter().enumerate() {
        let debs = apt
            .fetch(&step.packages, &step.without, &packages)
            .with_context(|| format!("cannot fetch the packages of layer {index}"))?;
        let upper = work.join(format!("{index}"));
        tree::make(&tree::Step {
            recipe,
            step,
            debs: &debs,
            lowers: &trees,
            upper: &upper,
            scratch: &work.join(format!("{index}.scratch")),
        })
        .with_context(|| format!("cannot make the tree of layer {index}"))?;
        layers.push(
            layer::write(&upper, &trees, step, cache)
                .with_context(|| format!("cannot write the blob of layer {index}"))?,
        );
        trees.push(upper);
        packages.extend(debs.into_iter().map(|deb| deb.package));
    }
    let is_parent = recipes.iter().any(|other| other.from.as_deref() == Some(&recipe.name));
    let own = parent.map_or(0, |parent| parent.trees.len());
    let trees = cache.settle(recipe, recipes, &work, trees, own, is_parent)?;
    let image = image::assemble(recipe, parent, layers, trees, packages, cache)?;
    cache.store(recipe, recipes, &image)?;
    Ok(image)
}

/// Returns the folder of the recipes that ship with this crate.
pub fn recipes_dir() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/images"))
}
