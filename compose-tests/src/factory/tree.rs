//! The files of one layer: an overlay over the layers below, packages unpacked into it, commands run in it. What is in
//! the overlay's upper folder afterwards is the layer.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context, bail};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use super::{
    apt::Deb,
    recipe::{LayerRecipe, Recipe},
};

/// What no image needs of a package: documentation, translations, and what other package managers read.
const EXCLUDED: &[&str] = &[
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/info/*",
    "./usr/share/locale/*",
    "./usr/share/lintian/*",
    "./usr/share/bug/*",
    "./usr/share/bash-completion/*",
    "./usr/share/initramfs-tools/*",
    "./lib/systemd/*",
    "./usr/lib/systemd/*",
];

/// One layer to make.
#[derive(Debug)]
pub struct Step<'a> {
    pub recipe: &'a Recipe,
    pub step: &'a LayerRecipe,
    pub debs: &'a [Deb],
    /// The trees of the layers below, the lowest first.
    pub lowers: &'a [PathBuf],
    /// Where the layer's own tree goes; created here.
    pub upper: &'a Path,
    /// An unused path beside `upper`, on the same file system.
    pub scratch: &'a Path,
}

/// Gives this process a mount namespace of its own, so that nothing mounted here is seen elsewhere or outlives it.
///
/// Must be called before any thread is started.
pub fn private_mounts() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace (the image factory must run as root)")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make the mounts private")
}

/// Makes the tree of one layer.
pub fn make(step: &Step<'_>) -> anyhow::Result<()> {
    fs::create_dir_all(step.upper)?;
    fs::set_permissions(step.upper, fs::Permissions::from_mode(0o755))?;
    if step.lowers.is_empty() {
        return fill(step, step.upper);
    }
    let merged = step.scratch.join("merged");
    let work = step.scratch.join("work");
    fs::create_dir_all(&merged)?;
    fs::create_dir_all(&work)?;
    let mut options = OsString::from("index=off,redirect_dir=off,metacopy=off,lowerdir=");
    for (index, lower) in step.lowers.iter().rev().enumerate() {
        if index > 0 {
            options.push(":");
        }
        options.push(lower);
    }
    options.push(",upperdir=");
    options.push(step.upper);
    options.push(",workdir=");
    options.push(&work);
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_os_str()))
        .with_context(|| format!("cannot mount an overlay of {} layers at {}", step.lowers.len(), merged.display()))?;
    let filled = fill(step, &merged).and_then(|()| spell_out_hidden(step, &merged));
    let unmounted = umount2(&merged, MntFlags::empty()).with_context(|| format!("cannot unmount {}", merged.display()));
    filled.and(unmounted)?;
    fs::remove_dir_all(step.scratch).with_context(|| format!("cannot delete {}", step.scratch.display()))
}

/// Does the steps of the recipe, in the order in which [`LayerRecipe`] declares them.
fn fill(step: &Step<'_>, root: &Path) -> anyhow::Result<()> {
    for folder in &step.step.folders {
        let path = root.join(folder);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    for (link, target) in &step.step.links {
        let path = root.join(link);
        if target.is_absolute() {
            bail!("the link /{link} must be relative");
        }
        symlink(target, &path).with_context(|| format!("cannot link {}", path.display()))?;
    }
    if let Some(files) = &step.step.files {
        let source = step.recipe.folder.join(files);
        copy_tree(&source, root).with_context(|| format!("cannot copy {}", source.display()))?;
    }
    unpack(step.debs, root)?;
    for path in &step.step.remove {
        let path = root.join(path);
        let metadata = fs::symlink_metadata(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        if metadata.is_dir() {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    run(step, root)
}

/// Copies a folder of the recipe: its modes and links are kept, everything belongs to root.
fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if !target.is_dir() {
                fs::create_dir(&target)?;
                fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
            }
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &target)?;
        } else {
            if fs::symlink_metadata(&target).is_ok() {
                fs::remove_file(&target)?;
            }
            fs::copy(entry.path(), &target)?;
            // The group and other bits of a checkout depend on the umask it was made with.
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            fs::set_permissions(&target, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
        }
    }
    Ok(())
}

/// Unpacks packages and enters them into dpkg's database as installed.
fn unpack(debs: &[Deb], root: &Path) -> anyhow::Result<()> {
    if debs.is_empty() {
        return Ok(());
    }
    let next = Mutex::new(debs.iter());
    let status = Mutex::new(Vec::new());
    let database = root.join("var/lib/dpkg");
    fs::create_dir_all(database.join("info"))?;
    let threads = thread::available_parallelism().map_or(2, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    loop {
                        let Some(deb) = next.lock().expect("no panic while taking a package").next() else {
                            return Ok(());
                        };
                        let entry = unpack_one(deb, root, &database)
                            .with_context(|| format!("cannot unpack {}", deb.file.display()))?;
                        status.lock().expect("no panic while adding an entry").push((deb.package.clone(), entry));
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("an unpacking thread does not panic"))
    })?;
    let mut status = status.into_inner().expect("all threads have ended");
    // The order in which threads finished must not show in the layer.
    status.sort();
    let mut file = fs::OpenOptions::new().create(true).append(true).open(database.join("status"))?;
    for (_, entry) in status {
        file.write_all(entry.as_bytes())?;
    }
    Ok(())
}

/// Unpacks one package and returns its paragraph for dpkg's status file.
fn unpack_one(deb: &Deb, root: &Path, database: &Path) -> anyhow::Result<String> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&deb.file)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let archive_pipe = archive.stdout.take().expect("stdout was asked for as a pipe");
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--verbose", "--file=-", "--same-owner", "--same-permissions", "--numeric-owner"])
        // /bin, /lib and /sbin are links into /usr, and packages still ship files below the old names.
        .arg("--keep-directory-symlink")
        .arg("--directory")
        .arg(root)
        .stdin(archive_pipe);
    for pattern in EXCLUDED {
        tar.arg(format!("--exclude={pattern}"));
    }
    let unpacked = tar.output().context("cannot run tar")?;
    let archived = archive.wait()?;
    if !unpacked.status.success() || !archived.success() {
        bail!(
            "dpkg-deb ended with {archived}, tar with {}: {}",
            unpacked.status,
            String::from_utf8_lossy(&unpacked.stderr).trim_end()
        );
    }
    let list: String = String::from_utf8_lossy(&unpacked.stdout)
        .lines()
        .map(|line| line.trim_start_matches('.').trim_end_matches('/'))
        .map(|path| if path.is_empty() { "/." } else { path })
        .fold(String::new(), |list, path| list + path + "\n");
    let control = Command::new("dpkg-deb").arg("--field").arg(&deb.file).output()?;
    if !control.status.success() {
        bail!("dpkg-deb --field ended with {}", control.status);
    }
    let control = String::from_utf8_lossy(&control.stdout);
    let field = |name: &str| control.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let listed = match (field("Multi-Arch:"), field("Architecture:")) {
        (Some("same"), Some(architecture)) => format!("{}:{architecture}.list", deb.package),
        _ => format!("{}.list", deb.package),
    };
    fs::write(database.join("info").join(listed), list)?;
    let mut lines = control.lines();
    let mut entry = format!("{}\nStatus: install ok installed\n", lines.next().unwrap_or_default());
    for line in lines {
        entry.push_str(line);
        entry.push('\n');
    }
    entry.push('\n');
    Ok(entry)
}

/// Runs the recipe's commands inside the tree.
fn run(step: &Step<'_>, root: &Path) -> anyhow::Result<()> {
    if step.step.run.is_empty() {
        return Ok(());
    }
    let made_dev = mount_point(&root.join("dev"))?;
    let made_proc = mount_point(&root.join("proc"))?;
    let result = with_dev_and_proc(root, || {
        let default = ["/bin/sh".to_owned(), "-euc".to_owned()];
        let shell = step.step.shell.as_deref().unwrap_or(&default);
        for line in &step.step.run {
            let output = Command::new("chroot")
                .arg(root)
                .args(shell)
                .arg(line)
                .env_clear()
                .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
                .env("HOME", "/root")
                .env("LC_ALL", "C.UTF-8")
                // useradd and its kind write the day into /etc/shadow.
                .env("SOURCE_DATE_EPOCH", super::layer::MTIME.to_string())
                .stdin(Stdio::null())
                .output()
                .context("cannot run chroot")?;
            if !output.status.success() {
                bail!(
                    "`{line}` ended with {}:\n{}{}",
                    output.status,
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
        Ok(())
    });
    // ldconfig's own notes hold inode numbers and times, which differ from one run to the next.
    let notes = root.join("var/cache/ldconfig/aux-cache");
    if notes.exists() {
        fs::remove_file(&notes).with_context(|| format!("cannot remove {}", notes.display()))?;
    }
    // An image without /dev and /proc is a valid one, and a trap for engines: don't make them by accident.
    for (path, made) in [("dev", made_dev), ("proc", made_proc)] {
        if made {
            fs::remove_dir(root.join(path))?;
        }
    }
    result
}

fn mount_point(path: &Path) -> anyhow::Result<bool> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot create {}", path.display())),
    }
}

fn with_dev_and_proc(root: &Path, inside: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (dev, proc) = (root.join("dev"), root.join("proc"));
    mount(Some("tmpfs"), &dev, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    let result = (|| {
        for name in ["null", "zero", "urandom"] {
            let target = dev.join(name);
            fs::write(&target, "")?;
            let source = Path::new("/dev").join(name);
            mount(Some(&source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        }
        symlink("/proc/self/fd", dev.join("fd"))?;
        mount(Some("proc"), &proc, Some("proc"), MsFlags::empty(), None::<&str>)?;
        let result = inside();
        umount2(&proc, MntFlags::empty())?;
        result
    })();
    umount2(&dev, MntFlags::MNT_DETACH)?;
    result
}

/// Turns "this folder was replaced" into one whiteout for each entry that no longer shows.
///
/// The kernel notes a replaced folder in an extended attribute of the upper folder; plain whiteouts say the same, and
/// only they are looked for when the layer is written.
fn spell_out_hidden(step: &Step<'_>, merged: &Path) -> anyhow::Result<()> {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let mut present = BTreeSet::new();
        for entry in fs::read_dir(step.upper.join(&folder))? {
            let entry = entry?;
            present.insert(entry.file_name());
            if entry.file_type()?.is_dir() {
                folders.push(folder.join(entry.file_name()));
            }
        }
        for name in visible_below(step.lowers, &folder)? {
            if !present.contains(&name) && fs::symlink_metadata(merged.join(&folder).join(&name)).is_err() {
                bail!(
                    "the folder /{} was replaced; delete its entries one by one instead (as {})",
                    folder.display(),
                    name.display()
                );
            }
        }
    }
    Ok(())
}

/// Returns the names that the layers below show in a folder.
fn visible_below(lowers: &[PathBuf], folder: &Path) -> anyhow::Result<BTreeSet<OsString>> {
    let mut shown = BTreeSet::new();
    let mut hidden = BTreeSet::new();
    for lower in lowers.iter().rev() {
        let path = lower.join(folder);
        match fs::symlink_metadata(&path) {
            Err(_) => continue,
            Ok(metadata) if !metadata.is_dir() => break,
            Ok(_) => {}
        }
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            if is_whiteout(&entry.metadata()?) {
                hidden.insert(entry.file_name());
            } else if !hidden.contains(&entry.file_name()) {
                shown.insert(entry.file_name());
            }
        }
    }
    Ok(shown)
}

/// Whether the overlay uses this node to say "deleted": a character device 0:0.
pub fn is_whiteout(metadata: &fs::Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}
