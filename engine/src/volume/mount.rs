//! Volumes that are something else than a directory: what the local driver's options name is mounted on `_data`, as
//! `mount(8)` would, while a container that uses the volume runs.
//!
//! Who uses it is on record in the run-time directory, `volumes/<name>/<container>`, a file per container. The first one to
//! come mounts, the last one to go unmounts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};

use super::{VolumeError, failed, load, make};
use crate::container::config::{ContainerConfig, MountSource};
use crate::image::Lock;
use crate::root::Root;

/// What `o` may ask for that is a flag of `mount(2)`; everything else is the file system's own business.
const FLAGS: [(&str, MsFlags); 16] = [
    ("bind", MsFlags::MS_BIND),
    ("dirsync", MsFlags::MS_DIRSYNC),
    ("mand", MsFlags::MS_MANDLOCK),
    ("noatime", MsFlags::MS_NOATIME),
    ("nodev", MsFlags::MS_NODEV),
    ("nodiratime", MsFlags::MS_NODIRATIME),
    ("noexec", MsFlags::MS_NOEXEC),
    ("nosuid", MsFlags::MS_NOSUID),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC)),
    ("relatime", MsFlags::MS_RELATIME),
    ("remount", MsFlags::MS_REMOUNT),
    ("ro", MsFlags::MS_RDONLY),
    ("rw", MsFlags::empty()),
    ("defaults", MsFlags::empty()),
    ("strictatime", MsFlags::MS_STRICTATIME),
    ("sync", MsFlags::MS_SYNCHRONOUS),
];

/// The options of a volume, understood.
#[derive(Debug, PartialEq, Eq)]
struct Options<'a> {
    kind: &'a str,
    device: &'a str,
    flags: MsFlags,
    data: String,
}

/// Checks the options of a volume that is about to be made.
pub(super) fn check(volume: &str, options: &BTreeMap<String, String>) -> Result<(), VolumeError> {
    parse(volume, options).map(drop)
}

/// Reads `type`, `device` and `o`; `None` where the volume is a mere directory.
fn parse<'a>(volume: &str, options: &'a BTreeMap<String, String>) -> Result<Option<Options<'a>>, VolumeError> {
    let invalid = |reason: String| VolumeError::Option { volume: volume.to_owned(), reason };
    if let Some(key) = options.keys().find(|key| !["type", "device", "o"].contains(&key.as_str())) {
        return Err(invalid(format!("the local driver has no option `{key}` here")));
    }
    let get = |key: &str| options.get(key).map(String::as_str).unwrap_or_default();
    let (kind, device, all) = (get("type"), get("device"), get("o"));
    if device.is_empty() {
        let nothing = kind.is_empty() && all.is_empty();
        return if nothing { Ok(None) } else { Err(invalid("`device` is missing in its options".to_owned())) };
    }
    let (mut flags, mut data) = (MsFlags::empty(), Vec::new());
    for option in all.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        match FLAGS.iter().find(|(name, _)| *name == option) {
            Some((_, flag)) => flags |= *flag,
            None => data.push(option),
        }
    }
    if kind.is_empty() && !flags.contains(MsFlags::MS_BIND) {
        return Err(invalid("`type` is missing in its options".to_owned()));
    }
    Ok(Some(Options { kind, device, flags, data: data.join(",") }))
}

/// Mounts what the container's volumes need. Where one cannot be mounted, none is kept for this container.
pub(crate) fn attach(root: &Root, container: &ContainerConfig) -> Result<(), VolumeError> {
    let attached = names(container).try_for_each(|name| attach_one(root, container, name));
    if attached.is_err() {
        // The first failure is the one to tell.
        let _ = release(root, container);
    }
    attached
}

fn attach_one(root: &Root, container: &ContainerConfig, name: &str) -> Result<(), VolumeError> {
    let Some(volume) = load(root, name)? else { return Ok(()) };
    let Some(options) = parse(name, &volume.config.driver_opts)? else { return Ok(()) };
    let users = users(root, name);
    make(&users, 0o700)?;
    let _lock = lock(root, name)?;
    // The last user may just have taken the directory away.
    make(&users, 0o700)?;
    let user = users.join(container.id.as_str());
    fs::File::create(&user).map_err(failed("create", &user))?;
    let target = root.volume(name).join("_data");
    if is_mounted(&target)? { Ok(()) } else { mount(name, &options, &target) }
}

fn mount(volume: &str, options: &Options<'_>, target: &Path) -> Result<(), VolumeError> {
    let text = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
    let (kind, data) = (text(options.kind).filter(|kind| kind != "none"), text(&options.data));
    let not_mounted = |error: nix::errno::Errno| VolumeError::Mount {
        volume: volume.to_owned(),
        device: options.device.to_owned(),
        source: error.into(),
    };
    nix::mount::mount(Some(options.device), target, kind.as_deref(), options.flags, data.as_deref())
        .map_err(not_mounted)?;
    let rest = options.flags - (MsFlags::MS_BIND | MsFlags::MS_REC);
    if options.flags.contains(MsFlags::MS_BIND) && !rest.is_empty() {
        // A bind mount takes its flags only when it is there (mount(2), "Remounting").
        let flags = rest | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        nix::mount::mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(|error| {
            let _ = nix::mount::umount2(target, MntFlags::MNT_DETACH);
            not_mounted(error)
        })?;
    }
    Ok(())
}

/// The container does not need its volumes any more.
pub(crate) fn release(root: &Root, container: &ContainerConfig) -> Result<(), VolumeError> {
    for name in names(container) {
        let users = users(root, name);
        let user = users.join(container.id.as_str());
        if !user.try_exists().map_err(failed("look for", &user))? {
            continue;
        }
        let _lock = lock(root, name)?;
        gone(fs::remove_file(&user), &users)?;
        let mut left = fs::read_dir(&users).map_err(failed("read", &users))?;
        if left.next().is_none() {
            unmount(&root.volume(name).join("_data"))?;
            gone(fs::remove_dir(&users), &users)?;
        }
    }
    Ok(())
}

/// Makes sure that nothing is mounted on a volume whose content is about to be removed: it would be removed as well.
pub(super) fn unmount(target: &Path) -> Result<(), VolumeError> {
    while is_mounted(target)? {
        nix::mount::umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|error| failed("unmount", target)(error.into()))?;
    }
    Ok(())
}

fn names(container: &ContainerConfig) -> impl Iterator<Item = &str> {
    container.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume { name, .. } => Some(name.as_str()),
        _ => None,
    })
}

fn users(root: &Root, name: &str) -> PathBuf {
    root.volumes_run().join(name)
}

fn lock(root: &Root, name: &str) -> Result<Lock, VolumeError> {
    let path = root.volumes_run().join(format!(".{name}.lock"));
    Lock::exclusive(&path, || ()).map_err(failed("lock", &path))
}

fn gone(removed: io::Result<()>, path: &Path) -> Result<(), VolumeError> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Returns whether something is mounted at a place (`proc_pid_mountinfo(5)`).
fn is_mounted(target: &Path) -> Result<bool, VolumeError> {
    let target = match fs::canonicalize(target) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("resolve", target)(error)),
    };
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(failed("read", table))?;
    let place = escaped(&target.to_string_lossy());
    Ok(text.lines().any(|line| line.split(' ').nth(4) == Some(place.as_str())))
}

/// Writes a path as the kernel does there.
fn escaped(path: &str) -> String {
    path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_are_flags_and_data() {
        let given = options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=3m,noexec, uid=70")]);
        let expected =
            Options { kind: "tmpfs", device: "tmpfs", flags: MsFlags::MS_NOEXEC, data: "size=3m,uid=70".to_owned() };
        assert_eq!(parse("data", &given).unwrap(), Some(expected));
        assert_eq!(parse("data", &BTreeMap::new()).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_mounted_is_refused() {
        for given in [
            options(&[("type", "nfs")]),
            options(&[("device", "/x")]),
            options(&[("size", "1g")]),
            options(&[("type", "tmpfs"), ("device", "tmpfs"), ("mountpoint", "/x")]),
        ] {
            assert!(parse("data", &given).is_err(), "{given:?}");
        }
        assert!(parse("data", &options(&[("device", "/x"), ("o", "bind")])).is_ok());
    }

    #[test]
    fn what_is_mounted_is_known() {
        assert!(is_mounted(Path::new("/proc")).unwrap());
        assert!(!is_mounted(Path::new("/proc/self")).unwrap());
        assert!(!is_mounted(Path::new("/surely/not/there")).unwrap());
    }
}
