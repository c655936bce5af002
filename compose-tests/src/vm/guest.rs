//! What the virtual machine boots: a kernel, a first file system with the modules that find the disk, and the disk.
//!
//! All of it comes out of one recipe of the image factory (`vm/guest/recipe.json`), and is kept in the cache.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use super::newc::Archive;
use crate::factory::{self, cache::Cache, layer, recipe, tree};

/// The modules without which the disk with the others cannot be reached.
const EARLY_MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// What runs before the disk is there.
const EARLY_INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs devtmpfs /dev
while read -r module; do /bin/busybox insmod \"$module\"; done </modules
until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox cp /system-init /root/init
exec /bin/busybox switch_root /root /init
";

/// PID 1 of the system.
const INIT: &[u8] = include_bytes!("../../vm/init");

/// The size of the system's disk, most of which is a hole in its file.
const DISK_SIZE: &str = "6G";

/// Files that a virtual machine boots from.
#[derive(Debug, Clone)]
pub struct Guest {
    pub kernel: PathBuf,
    pub first: PathBuf,
    pub disk: PathBuf,
}

impl Guest {
    /// Returns the guest, made of Debian packages if it is not in the cache.
    ///
    /// Must run as root in a mount namespace of its own ([`tree::private_mounts`]).
    pub fn make(say: &(dyn Fn(&str) + Sync)) -> anyhow::Result<Guest> {
        let recipes = recipe::load_all(&folder())?;
        let cache = Cache::open()?;
        let recipe = recipes.iter().find(|recipe| recipe.name == "guest").context("there is no recipe of the guest")?;
        let init = layer::digest(&[EARLY_INIT.as_bytes(), INIT].concat());
        let home = cache.folder("vm")?.join(format!("{}-{}", recipe::key(recipe, &recipes)?, &init[7..19]));
        let guest = Guest { kernel: home.join("vmlinuz"), first: home.join("first"), disk: home.join("disk") };
        if home.exists() {
            return Ok(guest);
        }
        tree::private_mounts()?;
        let images = factory::build_all(&recipes, &cache, say)?;
        let image = images.get("guest").context("the factory made no guest")?;
        let work = cache.work_dir("vm")?;
        let root = work.join("root");
        fs::create_dir(&root)?;
        for layer in &image.layers {
            run(Command::new("tar")
                .args(["--extract", "--gzip", "--same-owner", "--same-permissions", "--numeric-owner"])
                .arg("--file")
                .arg(cache.blob(&layer.digest))
                .arg("--directory")
                .arg(&root))?;
        }
        let new = work.join("new");
        fs::create_dir(&new)?;
        fs::copy(one_of(&root.join("boot"), "vmlinuz-")?, new.join("vmlinuz"))?;
        first_file_system(&root, &new.join("first"))?;
        make_disk(&root, &new.join("disk"), DISK_SIZE)?;
        fs::rename(&new, &home).with_context(|| format!("cannot write {}", home.display()))?;
        fs::remove_dir_all(&work)?;
        Ok(guest)
    }
}

/// Returns the folder of the guest's recipe.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vm")
}

/// Makes an ext4 file system in a file, with the content of a folder.
pub(super) fn make_disk(content: &Path, disk: &Path, size: &str) -> anyhow::Result<()> {
    // Everything is written now: a machine that is killed after seconds has no time for it.
    run(Command::new("mke2fs")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
            "-d",
        ])
        .arg(content)
        .arg(disk)
        .arg(size))
}

/// Makes an empty ext4 file system in a file.
pub fn make_empty_disk(disk: &Path, size: &str) -> anyhow::Result<()> {
    let nothing = tempfile::tempdir()?;
    make_disk(nothing.path(), disk, size)
}

/// Writes the archive that the kernel starts from.
fn first_file_system(root: &Path, target: &Path) -> anyhow::Result<()> {
    let modules = one_of(&root.join("lib/modules"), "")?;
    let text = fs::read_to_string(modules.join("modules.dep")).context("cannot read the list of modules")?;
    let dependencies = dependencies(&text)?;
    let mut order = Vec::new();
    for name in EARLY_MODULES {
        add_module(name, &dependencies, &mut order)?;
    }
    // ext4 asks for it by an alias, which is of no use before there is a modprobe.
    add_module("crc32c_generic", &dependencies, &mut order)?;
    let mut archive = Archive::new(BufWriter::new(File::create(target)?));
    for folder in ["bin", "dev", "root", "lib"] {
        archive.folder(folder)?;
    }
    archive.file("bin/busybox", &fs::read(root.join("bin/busybox"))?)?;
    archive.file("init", EARLY_INIT.as_bytes())?;
    archive.file("system-init", INIT)?;
    let mut list = Vec::new();
    for path in order {
        let name = Path::new(path).file_name().context("a module without a name")?.to_string_lossy().into_owned();
        archive.file(&format!("lib/{name}"), &fs::read(modules.join(path))?)?;
        list.extend(format!("/lib/{name}\n").into_bytes());
    }
    archive.file("modules", &list)?;
    archive.finish()?.into_inner().context("cannot write the first file system")?;
    Ok(())
}

/// Reads `modules.dep`: each module's file, by its name, with the files it needs, the farthest last.
fn dependencies(text: &str) -> anyhow::Result<BTreeMap<String, (&str, Vec<&str>)>> {
    let mut modules = BTreeMap::new();
    for line in text.lines() {
        let (path, needs) = line.split_once(':').with_context(|| format!("unexpected line in modules.dep: {line}"))?;
        modules.insert(module_name(path), (path, needs.split_whitespace().collect()));
    }
    Ok(modules)
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

fn add_module<'a>(
    name: &str,
    modules: &BTreeMap<String, (&'a str, Vec<&'a str>)>,
    order: &mut Vec<&'a str>,
) -> anyhow::Result<()> {
    let (path, needs) = modules.get(name).with_context(|| format!("the kernel has no module {name}"))?;
    let wanted = needs.iter().rev().chain([path]);
    let seen: BTreeSet<&str> = order.iter().copied().collect();
    order.extend(wanted.filter(|path| !seen.contains(**path)));
    Ok(())
}

/// Returns the one entry of a folder whose name begins like this.
fn one_of(folder: &Path, beginning: &str) -> anyhow::Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(beginning) {
            found.push(entry.path());
        }
    }
    match &found[..] {
        [one] => Ok(one.clone()),
        _ => bail!("{} has {} entries named {beginning}… instead of one", folder.display(), found.len()),
    }
}

/// Runs a program to its end, which must be a good one.
pub(super) fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            command.get_program().display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let text = "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko\nkernel/fs/jbd2/jbd2.ko:\n\
                    kernel/lib/crc16.ko:\nkernel/virtio-blk.ko: kernel/lib/crc16.ko\n";
        let modules = dependencies(text).unwrap();
        let mut order = Vec::new();
        for name in ["ext4", "virtio_blk"] {
            add_module(name, &modules, &mut order).unwrap();
        }
        assert_eq!(
            order,
            ["kernel/lib/crc16.ko", "kernel/fs/jbd2/jbd2.ko", "kernel/fs/ext4/ext4.ko", "kernel/virtio-blk.ko"]
        );
        assert!(add_module("absent", &modules, &mut order).is_err());
    }
}
