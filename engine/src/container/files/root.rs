//! A container's root as a descriptor, whether it runs or not.

use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use oci_spec::runtime::Spec;

use super::FilesError;
use crate::container::beneath;
use crate::container::mounts::options::Options;
use crate::container::mounts::{Mounter, clone_elsewhere};
use crate::container::rootfs;
use crate::container::state::ProcessStart;
use crate::container::step::{Context as _, Step, fault};
use crate::container::store::{self, Container};
use crate::error::chain;
use crate::id::Id;
use crate::root::Root;
use crate::shim;
use crate::shim::config::ShimConfig;
use crate::sys::mount::{self, Attributes};

/// How much of a container is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Everything with its mounts, to read and to change it.
    Whole { write: bool },
    /// Its own files only: what an image of it would be.
    Layers,
}

/// Calls `work` with the container's root, and returns what that returns.
pub fn with_root<T: Send>(
    root: &Root,
    container: &Container,
    view: View,
    work: impl FnOnce(BorrowedFd<'_>) -> T + Send,
) -> Result<T, FilesError> {
    // The mounts of a container that does not run are made in a namespace that only this thread is in, and go with it.
    let done = thread::scope(|scope| {
        let seen = scope.spawn(|| -> Step<T> { open(root, container, view).map(|root| work(root.as_fd())) });
        seen.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    done.map_err(|failure| FilesError::Root { name: container.config.name.clone(), failure })
}

fn open(root: &Root, container: &Container, view: View) -> Step<OwnedFd> {
    let id = &container.config.id;
    let mut state = container.state.clone();
    while let Some(pid) = state.pid.filter(|_| state.status.is_running()) {
        let opened = of_process(pid, view);
        // The number may have been given to another process meanwhile.
        let lives = ProcessStart::of(pid).step(|| format!("read /proc/{pid}/stat"))?;
        if lives.is_some() && lives == state.pid_started {
            return opened;
        }
        // It has just ended, which may not be written down yet, or it has even been started anew.
        match store::load(root, id).map_err(|error| fault(format!("look at its state: {}", chain(&error))))? {
            Some(now) if now.state.pid_started != state.pid_started => state = now.state,
            // If it is started anew at this moment, its root is not to be mounted twice for writing.
            _ if view == (View::Whole { write: true }) => return Err(fault("it has just ended".into())),
            _ => break,
        }
    }
    of_layers(root, id, view)
}

/// Returns the root of a process of a container.
fn of_process(pid: i32, view: View) -> Step<OwnedFd> {
    match view {
        View::Whole { .. } => open_path(&format!("/proc/{pid}/root")),
        View::Layers => own_files(pid),
    }
}

/// Returns the root of a container that does not run.
fn of_layers(root: &Root, id: &Id, view: View) -> Step<OwnedFd> {
    let bundle = root.container(id);
    let config = shim::read_config(&bundle)?;
    if view == View::Layers {
        return rootfs::view(&config.rootfs, false);
    }
    unshare(CloneFlags::CLONE_NEWNS).step(|| "make a mount namespace".into())?;
    let host = open_path("/")?;
    let private = Attributes { propagation: libc::MS_PRIVATE, ..Attributes::default() };
    mount::mount_setattr(host.as_fd(), true, private).step(|| "make the mounts private".into())?;
    // Of all directories that exist the one that no mount of the container comes from.
    let place = root.data().join("images");
    let write = view == View::Whole { write: true };
    let assembled = if write {
        rootfs::assemble(&config.rootfs, &place)?
    } else {
        let tree = rootfs::view(&config.rootfs, true)?;
        let at = open_path(&place.to_string_lossy())?;
        mount::move_mount(tree.as_fd(), at.as_fd()).step(|| "mount the root".into())?;
        tree
    };
    bind(&bundle, &config, &assembled, write)?;
    Ok(assembled)
}

/// Returns the files of a running container without what is mounted on them.
fn own_files(pid: i32) -> Step<OwnedFd> {
    // To visit another mount namespace a thread must not share its root and working directory.
    unshare(CloneFlags::CLONE_FS).step(|| "unshare the working directory".into())?;
    clone_elsewhere(Path::new(&format!("/proc/{pid}/ns/mnt")), Path::new("/"))
        .step(|| "clone the container's root".into())
}

/// Mounts the volumes and host directories of a container that does not run.
fn bind(bundle: &Path, config: &ShimConfig, root: &OwnedFd, write: bool) -> Step<()> {
    let path = bundle.join("config.json");
    let spec: Spec = File::open(&path)
        .step(|| format!("open {}", path.display()))
        .and_then(|file| serde_json::from_reader(file).step(|| format!("parse {}", path.display())))?;
    let mut extras = config.mounts.clone();
    for extra in extras.values_mut() {
        // To look at a container is not to start it.
        extra.copy_up = false;
    }
    let early = std::collections::BTreeMap::new();
    let mut mounter = Mounter {
        root: root.as_fd(),
        extras: &extras,
        cgroup: &config.cgroup,
        own_cgroups: false,
        early,
        dev: None,
        devpts: None,
    };
    for item in spec.mounts().iter().flatten() {
        let bind = Options::parse(item.options().iter().flatten()).bind || item.typ().as_deref() == Some("bind");
        let there = match item.source() {
            Some(source) => source.try_exists().step(|| format!("look for {}", source.display()))?,
            None => false,
        };
        let elsewhere = extras
            .get(&*item.destination().to_string_lossy())
            .is_some_and(|extra| extra.namespace.is_some() || !extra.layers.is_empty());
        // What the container has not got yet is not made by looking at it.
        let place = write || beneath::open(root, item.destination(), OFlag::O_PATH).is_ok();
        if bind && there && place && !elsewhere && !item.destination().starts_with("/dev") {
            mounter.mount(item)?;
        }
    }
    Ok(())
}

fn open_path(path: &str) -> Step<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .step(|| format!("open {path}"))
}
