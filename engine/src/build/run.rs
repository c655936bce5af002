//! `RUN`: from a step to a container, and to the layer of what it changed.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use oci_spec::image::ImageConfiguration;

use super::forward::Forward;
use super::layer::Draft;
use super::runner::{self, Attached, MemoryFile, Report, Request};
use crate::container::beneath;
use crate::container::config::{ContainerConfig, FileContent, Mount, MountSource, NetworkMode, Ulimit};
use crate::container::spec::{self, Inputs, SpecError};
use crate::container::step::{Context as _, Step};
use crate::container::user::ResolvedUser;
use crate::host::Host;
use crate::id::Id;
use crate::image::{LayerStack, LookupError};
use crate::network::sandbox::Sandbox;
use crate::root::Root;
use crate::shim::config::{MountExtra, Network, Rootfs};
use crate::shim::protocol::Failure;
use crate::sys::socket;

/// What a container of a build is called, as BuildKit calls it.
pub(crate) const HOSTNAME: &str = "buildkitsandbox";

/// The project that containers of builds belong to; none of a user's can have this name.
pub(crate) const PROJECT: &str = ".build";

/// The longest line of output that is passed on at once, in bytes.
const LINE: usize = 64 << 10;

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// What it asks for makes no container.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A step of making the container failed.
    #[error("{0}")]
    Container(Failure),
    /// The process that runs it could not be started.
    #[error("cannot start the process that runs the command")]
    Start(#[source] io::Error),
    /// That process was killed.
    #[error("the process that runs the command was killed")]
    Killed,
    /// The command ended with another code than 0.
    #[error("process {command:?} did not complete successfully: exit code: {code}{}", if *oom_killed { ": cannot allocate memory" } else { "" })]
    Exit {
        /// The command line, its words separated by blanks.
        command: String,
        /// As a shell says it: 128 + n after signal n.
        code: i32,
        /// The kernel killed it for want of memory.
        oom_killed: bool,
    },
    /// The layers below it cannot be read.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> Self {
        Self::Container(failure)
    }
}

/// A command that is ready to be run.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: Id,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<String>,
    pub(crate) user: ResolvedUser,
    pub(crate) directory: String,
    pub(crate) hostname: String,
    pub(crate) insecure: bool,
    pub(crate) devices: Vec<String>,
    pub(crate) mounts: Vec<RunMount>,
    pub(crate) shm_size: Option<u64>,
    pub(crate) memory: Option<u64>,
    pub(crate) ulimits: Vec<Ulimit>,
    pub(crate) cgroup_parent: Option<String>,
    pub(crate) network: ContainerNetwork,
    /// The content of `/etc/hosts` and `/etc/resolv.conf`.
    pub(crate) hosts: String,
    pub(crate) resolv_conf: String,
}

/// Where its network is.
#[derive(Debug)]
pub(crate) enum ContainerNetwork {
    Sandbox(Sandbox),
    None,
    Host,
}

/// Something that is mounted for one command.
#[derive(Debug)]
pub(crate) struct RunMount {
    pub(crate) target: String,
    pub(crate) source: RunSource,
}

#[derive(Debug)]
pub(crate) enum RunSource {
    /// A part of a file system, its layers topmost first.
    Layers {
        layers: Vec<PathBuf>,
        path: PathBuf,
    },
    /// Likewise, with changes that are thrown away. The draft takes them.
    Discarded {
        layers: Vec<PathBuf>,
        path: PathBuf,
        draft: Draft,
    },
    /// A part of a directory of the host.
    Directory {
        directory: PathBuf,
        path: PathBuf,
        read_only: bool,
    },
    /// The socket of an SSH agent.
    Agent(Forward),
    Tmpfs {
        size: Option<u64>,
    },
    Secret {
        content: Vec<u8>,
        uid: u32,
        gid: u32,
        mode: u32,
    },
}

/// Where the machinery for commands is.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) root: Root,
    pub(crate) host: Host,
    /// This program, out of reach of what it runs.
    pub(crate) program: Arc<OwnedFd>,
}

impl Machine {
    /// Runs a command on top of these layers, topmost first; what it changes gets into the draft. `control` is kept until
    /// it has ended: whoever hangs it up ends it.
    pub(crate) fn run(
        &self,
        container: Container,
        layers: &[PathBuf],
        draft: &Draft,
        control: (Arc<OwnedFd>, OwnedFd),
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<(), RunError> {
        let stubs = Stubs::foresee(layers, &container.mounts)?;
        let command = container.arguments.join(" ");
        let directory = self.root.data().join("build/tmp").join(container.id.as_str());
        crate::root::make_directory(&directory).step(|| format!("create {}", directory.display()))?;
        let ended = self.run_in(&directory, container, layers, draft, control, output);
        // Only the place of a mount that has gone; another build removes what is left.
        fs::remove_dir(&directory).ok();
        let (code, oom_killed) = ended?;
        if code != 0 {
            return Err(RunError::Exit { command, code, oom_killed });
        }
        stubs.remove(draft)?;
        restore_places(layers, draft)
    }

    fn run_in(
        &self,
        directory: &Path,
        container: Container,
        layers: &[PathBuf],
        draft: &Draft,
        (control, theirs): (Arc<OwnedFd>, OwnedFd),
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<(i32, bool), RunError> {
        let network = match &container.network {
            ContainerNetwork::Sandbox(sandbox) => {
                Some(sandbox.netns().try_clone().step(|| "hand over the network".into())?)
            }
            ContainerNetwork::None | ContainerNetwork::Host => None,
        };
        let (request, _held) = self.request(directory, container, layers, draft)?;
        let (reader, writer) = io::pipe().map_err(RunError::Start)?;
        let mut child = Command::new(beneath::proc_path(&*self.program))
            .arg(runner::FRONT_DOOR)
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(RunError::Start)?;
        let attached = Attached { output: writer.into(), network };
        let sent = runner::request(control.as_fd(), &request, &attached);
        drop((attached, request));
        if sent.is_ok() {
            pass_on(reader, output);
        }
        let report = sent.and_then(|()| runner::report(control.as_fd()));
        socket::hang_up(&*control);
        child.wait().map_err(RunError::Start)?;
        match report? {
            Some(Report::Exited { code, oom_killed }) => Ok((code, oom_killed)),
            Some(Report::Failed(failure)) => Err(failure.into()),
            None => Err(RunError::Killed),
        }
    }

    /// Describes the container as the engine's own are described. What is returned besides is needed while it runs.
    fn request(
        &self,
        directory: &Path,
        container: Container,
        layers: &[PathBuf],
        draft: &Draft,
    ) -> Result<(Request, Held), RunError> {
        // The engine's paths for a container, below the directory of this step.
        let place = Root::below(directory);
        let bundle = place.container(&container.id);
        let mut config = configured(&container);
        let mut parts = Parts::new(directory);
        for (name, text) in [
            ("hosts", container.hosts),
            ("resolv.conf", container.resolv_conf),
            ("hostname", format!("{}\n", container.hostname)),
        ] {
            parts.file(&bundle.join(name), text.into_bytes(), (0, 0, 0o644));
        }
        for mount in container.mounts {
            let mount = parts.mount(config.mounts.len(), mount, &place, &container.id);
            config.mounts.push(mount);
        }
        let (spec, mut shim) = spec::generate(&Inputs {
            config: &config,
            image: &ImageConfiguration::default(),
            user: &container.user,
            host: &self.host,
            root: &place,
            layers,
            volatile: true,
            etc: &["hostname", "hosts", "resolv.conf"],
            pid_of: &|_| None,
            layers_of: &|number| parts.layers.get(number).cloned(),
            supervisor_command: &[],
        })?;
        shim.rootfs = draft.overlay(layers.to_vec(), Some(self.root.data().join("places")));
        for (target, path) in parts.extras {
            shim.mounts.insert(target, MountExtra { subpath: part(&path).map(PathBuf::from), ..MountExtra::default() });
        }
        if matches!(container.network, ContainerNetwork::None) {
            shim.network = Network::New;
        }
        let Parts { files, overlays, drafts, forwards, .. } = parts;
        Ok((Request { directory: directory.to_owned(), spec, shim, files, overlays }, (drafts, forwards)))
    }
}

/// What mounts need as long as a command runs.
type Held = (Vec<Draft>, Vec<Forward>);

/// Returns the configuration of a command's container, without its mounts.
fn configured(container: &Container) -> ContainerConfig {
    let name = container.id.short().to_owned();
    let mut config = ContainerConfig::new(name, PROJECT.to_owned(), String::new(), String::new());
    config.id = container.id.clone();
    config.entrypoint = Some(Vec::new());
    config.command = Some(container.arguments.clone());
    let variable = |variable: &String| {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        (name.to_owned(), Some(value.to_owned()))
    };
    config.environment = container.environment.iter().map(variable).collect();
    config.working_dir = Some(container.directory.clone());
    config.hostname = Some(container.hostname.clone());
    config.privileged = container.insecure;
    config.cdi_devices.clone_from(&container.devices);
    config.shm_size = container.shm_size;
    config.resources.memory = container.memory;
    config.ulimits.clone_from(&container.ulimits);
    config.cgroup_parent.clone_from(&container.cgroup_parent);
    config.network = match container.network {
        ContainerNetwork::Host => NetworkMode::Host,
        ContainerNetwork::Sandbox(_) | ContainerNetwork::None => NetworkMode::None,
    };
    config
}

/// What mounts need besides what a container's configuration says.
struct Parts<'a> {
    /// The directory of the step.
    directory: &'a Path,
    files: Vec<MemoryFile>,
    layers: BTreeMap<String, Vec<PathBuf>>,
    overlays: BTreeMap<PathBuf, Rootfs>,
    drafts: Vec<Draft>,
    forwards: Vec<Forward>,
    extras: BTreeMap<String, PathBuf>,
}

impl<'a> Parts<'a> {
    fn new(directory: &'a Path) -> Self {
        Self {
            directory,
            files: Vec::new(),
            layers: BTreeMap::new(),
            overlays: BTreeMap::new(),
            drafts: Vec::new(),
            forwards: Vec::new(),
            extras: BTreeMap::new(),
        }
    }

    /// Adds a file that is kept in memory.
    fn file(&mut self, path: &Path, content: Vec<u8>, (uid, gid, mode): (u32, u32, u32)) {
        let path = path.strip_prefix(self.directory).unwrap_or(path).to_owned();
        self.files.push(MemoryFile { path, content, uid, gid, mode });
    }

    /// Takes up what a mount needs. Returns the mount as a configuration has it, which is the one of this number.
    fn mount(&mut self, number: usize, mount: RunMount, place: &Root, id: &Id) -> Mount {
        let target = mount.target;
        let (source, read_only) = match mount.source {
            RunSource::Layers { layers, path } => {
                self.layers.insert(number.to_string(), layers);
                (MountSource::Image { image_id: number.to_string(), subpath: part(&path) }, true)
            }
            RunSource::Discarded { layers, path, draft } => {
                let at = PathBuf::from("overlays").join(number.to_string());
                self.overlays.insert(at.clone(), draft.overlay(layers, None));
                self.drafts.push(draft);
                self.extras.insert(target.clone(), path);
                (bind(self.directory.join(at)), false)
            }
            RunSource::Directory { directory, path, read_only } => {
                self.extras.insert(target.clone(), path);
                (bind(directory), read_only)
            }
            RunSource::Agent(forward) => {
                let path = forward.path();
                self.forwards.push(forward);
                (bind(path), false)
            }
            RunSource::Tmpfs { size } => (MountSource::Tmpfs { size, mode: None, options: vec!["exec".into()] }, false),
            RunSource::Secret { content, uid, gid, mode } => {
                self.file(&crate::container::memory::path(place, id, &target), content, (uid, gid, mode));
                let content = FileContent::Provided { digest: String::new() };
                (MountSource::File { content, uid, gid, mode }, true)
            }
        };
        Mount { target, read_only, source }
    }
}

fn bind(source: PathBuf) -> MountSource {
    MountSource::Bind { source, create_host_path: false, propagation: None, recursive: false }
}

/// Returns the part of a source that is mounted; `None`: the whole.
fn part(path: &Path) -> Option<String> {
    let path = path.to_string_lossy();
    let path = path.trim_start_matches('/');
    (!matches!(path, "" | ".")).then(|| path.to_owned())
}

/// Passes output on, line by line, until everybody who could write has ended.
fn pass_on(reader: io::PipeReader, output: &mut dyn FnMut(&[u8])) {
    let mut reader = BufReader::with_capacity(LINE, reader);
    let mut line = Vec::new();
    loop {
        let (taken, ended) = match reader.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A pipe that cannot be read has nothing more to say.
            Err(_) | Ok([]) => break,
            Ok(bytes) => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
                (end.map_or(bytes.len(), |end| end + 1), end.is_some() || line.len() >= LINE)
            }
        };
        reader.consume(taken);
        if ended {
            output(&line);
            line.clear();
        }
    }
    if !line.is_empty() {
        output(&line);
    }
}

/// Places that are made so that something can be mounted there, and that are not to be in the layer.
#[derive(Debug, Default)]
struct Stubs(Vec<PathBuf>);

impl Stubs {
    fn foresee(layers: &[PathBuf], mounts: &[RunMount]) -> Result<Self, RunError> {
        let mut missing = Vec::new();
        if mounts.is_empty() {
            return Ok(Self(missing));
        }
        let stack = LayerStack::open(layers)?;
        for mount in mounts {
            for path in Path::new(&mount.target).ancestors() {
                if path == Path::new("/") || stack.stat(&path.to_string_lossy())?.is_some() {
                    break;
                }
                missing.push(path.to_owned());
            }
        }
        // What is deepest goes first.
        missing.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        missing.dedup();
        Ok(Self(missing))
    }

    /// Removes those that are still empty, each by its parent's descriptor and without following a link.
    fn remove(&self, draft: &Draft) -> Result<(), RunError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let root = open(&draft.root())?;
        for path in &self.0 {
            let parent = path.parent().and_then(|parent| parent.strip_prefix("/").ok()).unwrap_or(Path::new(""));
            let (Some(name), Ok(parent)) = (path.file_name(), beneath::open_directory(&root, parent)) else { continue };
            let name = beneath::c_string(name).step(|| format!("remove {}", path.display()))?;
            remove_if_empty(&parent, &name).step(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }
}

fn remove_if_empty(parent: &OwnedFd, name: &CString) -> nix::Result<()> {
    let stat = match nix::sys::stat::fstatat(parent, name.as_c_str(), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(()),
        stat => stat?,
    };
    let result = match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => unlinkat(parent, name.as_c_str(), UnlinkatFlags::RemoveDir),
        libc::S_IFREG if stat.st_size == 0 => unlinkat(parent, name.as_c_str(), UnlinkatFlags::NoRemoveDir),
        _ => Ok(()),
    };
    match result {
        Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOENT) => Ok(()),
        result => result,
    }
}

fn open(path: &Path) -> Step<OwnedFd> {
    File::open(path).map(OwnedFd::from).step(|| format!("open {}", path.display()))
}

/// Gives directories that were copied from the engine's own ones (`Rootfs::places`) back what they have in the image.
fn restore_places(layers: &[PathBuf], draft: &Draft) -> Result<(), RunError> {
    let root = draft.root();
    for name in ["dev", "etc", "proc", "sys"] {
        let made = match fs::symlink_metadata(root.join(name)) {
            Ok(made) if made.is_dir() => made,
            _ => continue,
        };
        if (made.uid(), made.gid(), made.mode() & 0o7777) != (0, 0, 0o755) {
            continue;
        }
        let Some((mode, uid, gid)) = LayerStack::open(layers)?.stat(&format!("/{name}"))? else { continue };
        if (uid, gid, mode & 0o7777) != (0, 0, 0o755) && mode & libc::S_IFMT == libc::S_IFDIR {
            let opened = open(&root.join(name))?;
            fchown(&opened, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .and_then(|()| nix::sys::stat::fchmod(&opened, Mode::from_bits_truncate(mode & 0o7777)))
                .step(|| format!("set the mode of /{name}"))?;
        }
    }
    Ok(())
}
