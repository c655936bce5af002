//! From what a container was asked to be, and its image, to the OCI runtime configuration and what the shim needs besides.
//!
//! The defaults are Docker's (moby, `oci/defaults.go`): images are made to work with those.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{
    Capabilities, Linux, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxDevice, LinuxDeviceBuilder,
    LinuxDeviceType, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Mount as OciMount, MountBuilder,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

use super::apparmor::AppArmorError;
use super::cdi::{self, CdiError, Edits};
use super::cgroup::devices::{self, Rule};
use super::cgroup::{self, limits};
use super::config::{ContainerConfig, Device, Mount, MountSource, NamespaceMode, NetworkMode};
use super::sysctl::SysctlError;
use super::user::ResolvedUser;
use super::{apparmor, capabilities, seccomp, sysctl};
use crate::host::Host;
use crate::id::Id;
use crate::root::Root;
use crate::shim::config::{MountExtra, Namespace, Namespaces, Network, Rootfs, Seccomp, ShimConfig, Time};
use crate::sys::capabilities::Set;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of `/dev/shm` unless told.
const SHM_SIZE: u64 = 64 << 20;

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a specification is made from.
#[expect(missing_debug_implementations, reason = "it holds functions")]
pub struct Inputs<'a> {
    pub config: &'a ContainerConfig,
    pub image: &'a ImageConfiguration,
    pub user: &'a ResolvedUser,
    pub host: &'a Host,
    pub root: &'a Root,
    /// The directories of the image's layers, topmost first.
    pub layers: &'a [PathBuf],
    /// Whether the container's own layer is thrown away with it.
    pub volatile: bool,
    /// Files of the bundle that are mounted as `/etc/<name>`: `hosts`, `hostname`, `resolv.conf`.
    pub etc: &'a [&'a str],
    /// The process id of PID 1 of another container, where it runs.
    pub pid_of: &'a dyn Fn(&Id) -> Option<i32>,
    /// The layers of another image, topmost first.
    pub layers_of: &'a dyn Fn(&str) -> Option<Vec<PathBuf>>,
    /// How a supervisor is started anew: arguments of our own program.
    pub supervisor_command: &'a [String],
}

/// Why no specification can be made.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("no command specified")]
    NoCommand,
    #[error("capability `{0}` does not exist")]
    Capability(String),
    #[error("ulimit `{0}` does not exist")]
    Ulimit(String),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error("security option `{0}` is not supported")]
    SecurityOption(String),
    #[error(transparent)]
    Seccomp(#[from] seccomp::ProfileError),
    #[error("cannot use device {}", path.display())]
    Device {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not a device", .0.display())]
    NotADevice(PathBuf),
    #[error("device cgroup rule `{0}` is not valid")]
    DeviceRule(String),
    #[error("mount target `{0}` is not an absolute path")]
    MountTarget(String),
    #[error("container {} does not run, and this one is to share its {kind} namespace", container.short())]
    NotRunning { container: Id, kind: &'static str },
    #[error("image {0} is not here, and a mount needs it")]
    Image(String),
    #[error(transparent)]
    AppArmor(#[from] AppArmorError),
    #[error(transparent)]
    Cdi(#[from] CdiError),
    #[error(transparent)]
    Limit(#[from] limits::LimitError),
    #[error("cannot build the OCI configuration")]
    Oci(#[from] OciSpecError),
}

/// Returns the AppArmor profile that a container is to have now.
pub fn apparmor_profile(config: &ContainerConfig) -> Result<Option<String>, SpecError> {
    let options = SecurityOptions::parse(&config.security_opt)?;
    Ok(apparmor::choose(options.apparmor.as_deref(), config.privileged)?)
}

/// Makes the OCI configuration (`config.json`) and the shim's (`shim.json`).
pub fn generate(inputs: &Inputs<'_>) -> Result<(Spec, ShimConfig), SpecError> {
    let config = inputs.config;
    let options = SecurityOptions::parse(&config.security_opt)?;
    let all = capabilities::available();
    let capabilities = if config.privileged {
        all
    } else {
        capabilities::resolve(&config.cap_add, &config.cap_drop, all).map_err(SpecError::Capability)?
    };
    let seccomp = if config.privileged { SeccompChoice::Unconfined } else { options.seccomp };
    let edits = cdi::resolve(&cdi::DIRECTORIES.map(Path::new), &config.cdi_devices)?;
    let mounts = mounts(inputs, &edits)?;
    let (oci_devices, rules) = devices(config, &edits)?;
    let resources = super::resources::resources(config, &rules);
    let cgroup = limits::plan(cgroup_path(config), &resources, inputs.host)?;
    let namespaces = namespaces(inputs)?;
    for (name, value) in &config.sysctls {
        let own_ipc = namespaces.ipc == Namespace::New;
        sysctl::check(name, value, own_ipc, !matches!(config.network, NetworkMode::Host))?;
    }

    let mut linux = LinuxBuilder::default()
        .cgroups_path(Path::new("/").join(&cgroup.path))
        .namespaces(oci_namespaces(inputs, &namespaces))
        .devices(oci_devices)
        .resources(resources);
    if !config.sysctls.is_empty() {
        linux = linux.sysctl(config.sysctls.clone().into_iter().collect::<HashMap<_, _>>());
    }
    let confined = !config.privileged && !options.system_paths_unconfined;
    linux = linux
        .masked_paths(if confined { MASKED.map(str::to_owned).to_vec() } else { Vec::new() })
        .readonly_paths(if confined { READ_ONLY.map(str::to_owned).to_vec() } else { Vec::new() });
    let mut linux: Linux = linux.build()?;
    let seccomp = match seccomp {
        SeccompChoice::Default => Seccomp::Default,
        SeccompChoice::Unconfined => Seccomp::Unconfined,
        SeccompChoice::Profile(text) => {
            linux.set_seccomp(Some(seccomp::from_docker(&text, capabilities)?));
            Seccomp::Profile
        }
    };

    let mut process = process(inputs, &edits, capabilities, options.no_new_privileges)?;
    process.set_apparmor_profile(apparmor::choose(options.apparmor.as_deref(), config.privileged)?);
    let hostname = match config.uts {
        NamespaceMode::Host | NamespaceMode::Container(_) => None,
        _ => Some(config.hostname.clone().unwrap_or_else(|| config.id.short().to_owned())),
    };
    let spec_hooks = edits.hooks();
    // Where hooks see it; to nobody else it is there.
    let root_path = if spec_hooks.is_some() { inputs.root.container_run(&config.id) } else { "rootfs".into() };
    let mut spec = SpecBuilder::default()
        // Nothing newer is used, and some runtimes refuse what they do not know (crun 1.8).
        .version("1.0.2")
        .root(RootBuilder::default().path(root_path).readonly(config.read_only).build()?)
        .process(process)
        .mounts(mounts.oci)
        .linux(linux);
    if let Some(domainname) = config.domainname.clone().filter(|_| hostname.is_some()) {
        spec = spec.domainname(domainname);
    }
    if !config.annotations.is_empty() {
        spec = spec.annotations(config.annotations.clone().into_iter().collect::<HashMap<_, _>>());
    }
    if let Some(hooks) = &spec_hooks {
        spec = spec.hooks(hooks.clone());
    }
    let bundle = inputs.root.container(&config.id);
    let shim = ShimConfig {
        rootfs: Rootfs {
            layers: inputs.layers.to_vec(),
            places: Some(inputs.root.data().join("places")),
            upper: bundle.join("upper"),
            work: bundle.join("work"),
            volatile: inputs.volatile,
        },
        mounts: mounts.extras,
        create_host_paths: mounts.create,
        cgroup,
        namespaces,
        network: if matches!(config.network, NetworkMode::Host) { Network::Host } else { Network::Sent },
        uid: inputs.user.uid,
        gid: inputs.user.gid,
        stdin_open: config.stdin_open,
        stdin_once: config.stdin_once,
        tty: config.tty,
        init: config.init,
        log: config.log.clone(),
        seccomp,
        hooks: spec_hooks.is_some(),
        supervisor_command: inputs.supervisor_command.to_vec(),
    };
    let mut spec = spec.build()?;
    // The builder would name the host itself.
    spec.set_hostname(hostname);
    Ok((spec, shim))
}

fn cgroup_path(config: &ContainerConfig) -> PathBuf {
    match &config.cgroup_parent {
        Some(parent) => limits::beneath(Path::new(parent)).join(config.id.as_str()),
        None => cgroup::of_project(&config.project).join(config.id.as_str()),
    }
}

/// Returns what the container executes: entrypoint, then command. An entrypoint of its own makes the image's command
/// void.
pub fn command_line(config: &ContainerConfig, image: &ImageConfiguration) -> Vec<String> {
    let image = image.config().as_ref();
    let image_entrypoint = image.and_then(|image| image.entrypoint().clone()).unwrap_or_default();
    let image_command = image.and_then(|image| image.cmd().clone()).unwrap_or_default();
    let (entrypoint, image_command) = match &config.entrypoint {
        // An empty string as the only entry means none, as on Docker's command line.
        Some(own) if own.len() == 1 && own[0].is_empty() => (Vec::new(), Vec::new()),
        Some(own) => (own.clone(), Vec::new()),
        None => (image_entrypoint, image_command),
    };
    let command = config.command.clone().unwrap_or(image_command);
    entrypoint.into_iter().chain(command).collect()
}

/// Returns the container's environment: the defaults, what the image sets, what the container sets.
pub fn environment(config: &ContainerConfig, image: &ImageConfiguration, user: &ResolvedUser) -> Vec<String> {
    let of_image = image.config().as_ref().and_then(|image| image.env().clone()).unwrap_or_default();
    let mut env: Vec<String> = Vec::new();
    let name = |variable: &str| variable.split_once('=').map_or(variable, |(name, _)| name).to_owned();
    let mut set = |variable: String| match env.iter().position(|known| name(known) == name(&variable)) {
        Some(index) => env[index] = variable,
        None => env.push(variable),
    };
    set(PATH.to_owned());
    set(format!("HOSTNAME={}", config.hostname.as_deref().unwrap_or(config.id.short())));
    if config.tty {
        set("TERM=xterm".to_owned());
    }
    of_image.into_iter().for_each(&mut set);
    for (name, value) in &config.environment {
        if let Some(value) = value {
            set(format!("{name}={value}"));
        }
    }
    env.retain(|variable| !matches!(config.environment.get(&name(variable)), Some(None)));
    if env.iter().all(|variable| name(variable) != "HOME") {
        env.push(format!("HOME={}", user.home));
    }
    env
}

fn process(inputs: &Inputs<'_>, edits: &Edits, set: Set, no_new_privileges: bool) -> Result<Process, SpecError> {
    let config = inputs.config;
    let args = command_line(config, inputs.image);
    if args.is_empty() {
        return Err(SpecError::NoCommand);
    }
    let of_image = inputs.image.config().as_ref().and_then(|image| image.working_dir().clone());
    let cwd = config.working_dir.clone().or(of_image).filter(|cwd| !cwd.is_empty());
    let user = inputs.user;
    let mut groups = user.additional_gids.clone();
    groups.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
    let oci_user = UserBuilder::default().uid(user.uid).gid(user.gid).additional_gids(groups).build()?;
    let mut env = environment(config, inputs.image, user);
    env.extend_from_slice(&edits.env);
    let mut process = ProcessBuilder::default()
        .terminal(config.tty)
        .user(oci_user)
        .args(args)
        .env(env)
        .cwd(Path::new("/").join(cwd.as_deref().unwrap_or("/")))
        .capabilities(capability_sets(set)?)
        .no_new_privileges(no_new_privileges)
        .rlimits(rlimits(config)?);
    // Said in any case: the supervisor's own is no business of the container's.
    process = process.oom_score_adj(config.oom_score_adj.unwrap_or(0));
    Ok(process.build()?)
}

/// Nothing is inheritable or ambient (CVE-2022-24769).
fn capability_sets(set: Set) -> Result<LinuxCapabilities, SpecError> {
    let names: Capabilities = capabilities::to_oci(set);
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(names.clone())
        .effective(names.clone())
        .permitted(names)
        .inheritable(Capabilities::default())
        .ambient(Capabilities::default())
        .build()?)
}

fn rlimits(config: &ContainerConfig) -> Result<Vec<PosixRlimit>, SpecError> {
    let limits = config.ulimits.iter().map(|limit| {
        let kind = match limit.name.as_str() {
            "as" => PosixRlimitType::RlimitAs,
            "core" => PosixRlimitType::RlimitCore,
            "cpu" => PosixRlimitType::RlimitCpu,
            "data" => PosixRlimitType::RlimitData,
            "fsize" => PosixRlimitType::RlimitFsize,
            "locks" => PosixRlimitType::RlimitLocks,
            "memlock" => PosixRlimitType::RlimitMemlock,
            "msgqueue" => PosixRlimitType::RlimitMsgqueue,
            "nice" => PosixRlimitType::RlimitNice,
            "nofile" => PosixRlimitType::RlimitNofile,
            "nproc" => PosixRlimitType::RlimitNproc,
            "rss" => PosixRlimitType::RlimitRss,
            "rtprio" => PosixRlimitType::RlimitRtprio,
            "rttime" => PosixRlimitType::RlimitRttime,
            "sigpending" => PosixRlimitType::RlimitSigpending,
            "stack" => PosixRlimitType::RlimitStack,
            _ => return Err(SpecError::Ulimit(limit.name.clone())),
        };
        // Negative is no limit, RLIM_INFINITY.
        let value = |limit: i64| u64::try_from(limit).unwrap_or(u64::MAX);
        Ok(PosixRlimitBuilder::default().typ(kind).soft(value(limit.soft)).hard(value(limit.hard)).build()?)
    });
    limits.collect()
}

/// `security_opt`, understood.
#[derive(Debug, Default)]
struct SecurityOptions {
    no_new_privileges: bool,
    seccomp: SeccompChoice,
    system_paths_unconfined: bool,
    /// The name of a profile, or `unconfined`.
    apparmor: Option<String>,
}

#[derive(Debug, Default)]
enum SeccompChoice {
    #[default]
    Default,
    Unconfined,
    /// The text of a profile in Docker's format.
    Profile(String),
}

impl SecurityOptions {
    fn parse(options: &[String]) -> Result<Self, SpecError> {
        let mut parsed = Self::default();
        for option in options {
            // Docker takes `:` too.
            let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
            match (key, value) {
                ("no-new-privileges", "" | "true") => parsed.no_new_privileges = true,
                ("no-new-privileges", "false") => parsed.no_new_privileges = false,
                ("seccomp", "unconfined") => parsed.seccomp = SeccompChoice::Unconfined,
                ("seccomp", "builtin" | "default") => parsed.seccomp = SeccompChoice::Default,
                ("seccomp", text) if text.trim_start().starts_with('{') => {
                    parsed.seccomp = SeccompChoice::Profile(text.to_owned());
                }
                ("systempaths", "unconfined") => parsed.system_paths_unconfined = true,
                // Without SELinux in use labels have no meaning, and with it we give none.
                ("label", "disable") | ("writable-cgroups", "false") => {}
                ("label", _) if !Path::new("/sys/fs/selinux/enforce").exists() => {}
                ("apparmor", name) => parsed.apparmor = Some(name.to_owned()),
                _ => return Err(SpecError::SecurityOption(option.clone())),
            }
        }
        Ok(parsed)
    }
}

fn namespaces(inputs: &Inputs<'_>) -> Result<Namespaces, SpecError> {
    let config = inputs.config;
    let namespace = |mode: &NamespaceMode, kind: &'static str, file: &str| match mode {
        NamespaceMode::Private | NamespaceMode::Shareable => Ok(Namespace::New),
        NamespaceMode::Host => Ok(Namespace::Host),
        NamespaceMode::Container(id) => match (inputs.pid_of)(id) {
            Some(pid) => Ok(Namespace::Path(format!("/proc/{pid}/ns/{file}").into())),
            None => Err(SpecError::NotRunning { container: id.clone(), kind }),
        },
    };
    Ok(Namespaces {
        pid: namespace(&config.pid, "PID", "pid")?,
        ipc: namespace(&config.ipc, "IPC", "ipc")?,
        uts: namespace(&config.uts, "UTS", "uts")?,
        cgroup: namespace(&config.cgroup, "cgroup", "cgroup")?,
        user: None,
        time: Time::Host,
    })
}

fn oci_namespaces(inputs: &Inputs<'_>, namespaces: &Namespaces) -> Vec<LinuxNamespace> {
    let mut list = vec![(LinuxNamespaceType::Mount, Namespace::New)];
    let network = match &inputs.config.network {
        NetworkMode::Host => Namespace::Host,
        NetworkMode::Container(id) => match (inputs.pid_of)(id) {
            Some(pid) => Namespace::Path(format!("/proc/{pid}/ns/net").into()),
            None => Namespace::New,
        },
        NetworkMode::None | NetworkMode::Networks(_) => Namespace::New,
    };
    list.push((LinuxNamespaceType::Network, network));
    list.push((LinuxNamespaceType::Pid, namespaces.pid.clone()));
    list.push((LinuxNamespaceType::Ipc, namespaces.ipc.clone()));
    list.push((LinuxNamespaceType::Uts, namespaces.uts.clone()));
    list.push((LinuxNamespaceType::Cgroup, namespaces.cgroup.clone()));
    let built = list.into_iter().filter_map(|(kind, namespace)| {
        let builder = LinuxNamespaceBuilder::default().typ(kind);
        match namespace {
            Namespace::Host => None,
            Namespace::New => builder.build().ok(),
            Namespace::Path(path) => builder.path(path).build().ok(),
        }
    });
    built.collect()
}

/// Returns the devices to make and the rules for their use.
fn devices(config: &ContainerConfig, edits: &Edits) -> Result<(Vec<LinuxDevice>, Vec<Rule>), SpecError> {
    let mut rules = devices::defaults();
    let mut made = Vec::new();
    for device in &config.devices {
        add_device(device, &mut made, &mut rules)?;
    }
    for node in &edits.device_nodes {
        let device = Device {
            source: node.host_path.clone().unwrap_or_else(|| node.path.clone()),
            target: node.path.clone(),
            permissions: node.permissions.clone().unwrap_or_default(),
        };
        add_device(&device, &mut made, &mut rules)?;
    }
    if config.privileged {
        made.extend(host_devices());
    }
    for rule in &config.device_cgroup_rules {
        rules.push(Rule::parse(rule).ok_or_else(|| SpecError::DeviceRule(rule.clone()))?);
    }
    Ok((made, rules))
}

fn add_device(device: &Device, made: &mut Vec<LinuxDevice>, rules: &mut Vec<Rule>) -> Result<(), SpecError> {
    let found = describe_device(&device.source, &device.target)
        .map_err(|source| SpecError::Device { path: device.source.clone(), source })?
        .ok_or_else(|| SpecError::NotADevice(device.source.clone()))?;
    let number = |number: i64| u32::try_from(number).ok();
    rules.push(Rule {
        allow: true,
        kind: if found.typ() == LinuxDeviceType::B { 'b' } else { 'c' },
        major: number(found.major()),
        minor: number(found.minor()),
        access: if device.permissions.is_empty() { "rwm".into() } else { device.permissions.clone() },
    });
    made.push(found);
    Ok(())
}

/// Describes a device of the host, or `None` where the path is something else.
fn describe_device(source: &Path, target: &Path) -> std::io::Result<Option<LinuxDevice>> {
    let metadata = std::fs::metadata(source)?;
    let kind = if metadata.file_type().is_char_device() {
        LinuxDeviceType::C
    } else if metadata.file_type().is_block_device() {
        LinuxDeviceType::B
    } else {
        return Ok(None);
    };
    let number = metadata.rdev();
    let device = LinuxDeviceBuilder::default()
        .path(target)
        .typ(kind)
        .major(i64::from(libc::major(number)))
        .minor(i64::from(libc::minor(number)))
        .file_mode(metadata.mode() & 0o777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build();
    device.map(Some).map_err(std::io::Error::other)
}

/// Returns every device of the host's `/dev`, for a privileged container. What cannot be looked at is left out.
fn host_devices() -> Vec<LinuxDevice> {
    /// Made for each container anew.
    const OWN: [&str; 6] = ["pts", "shm", "mqueue", "console", "ptmx", "fd"];
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if OWN.iter().any(|name| path == Path::new("/dev").join(name)) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(path),
                Ok(kind) if kind.is_symlink() => {}
                Ok(_) => found.extend(describe_device(&path, &path).ok().flatten()),
                Err(_) => {}
            }
        }
    }
    found
}

/// The mounts of a container, in both configurations.
#[derive(Debug, Default)]
struct Mounts {
    oci: Vec<OciMount>,
    extras: BTreeMap<String, MountExtra>,
    create: Vec<PathBuf>,
}

impl Mounts {
    /// Adds a mount; one at the same place is replaced.
    fn add(&mut self, target: &str, kind: &str, source: &Path, options: &[&str]) -> Result<(), SpecError> {
        let mount = MountBuilder::default()
            .destination(target)
            .typ(kind)
            .source(source)
            .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
            .build()?;
        self.oci.retain(|known| known.destination() != Path::new(target));
        self.oci.push(mount);
        Ok(())
    }
}

fn mounts(inputs: &Inputs<'_>, edits: &Edits) -> Result<Mounts, SpecError> {
    let config = inputs.config;
    let mut mounts = Mounts::default();
    let shm = format!("size={}", config.shm_size.unwrap_or(SHM_SIZE));
    let sys = if config.privileged { "rw" } else { "ro" };
    mounts.add("/proc", "proc", Path::new("proc"), &["nosuid", "noexec", "nodev"])?;
    mounts.add("/dev", "tmpfs", Path::new("tmpfs"), &["nosuid", "strictatime", "mode=755", "size=65536k"])?;
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    mounts.add("/dev/pts", "devpts", Path::new("devpts"), &pts)?;
    mounts.add("/sys", "sysfs", Path::new("sysfs"), &["nosuid", "noexec", "nodev", sys])?;
    mounts.add("/sys/fs/cgroup", "cgroup", Path::new("cgroup"), &["nosuid", "noexec", "nodev", "relatime", sys])?;
    mounts.add("/dev/mqueue", "mqueue", Path::new("mqueue"), &["nosuid", "noexec", "nodev"])?;
    match &config.ipc {
        NamespaceMode::Host => mounts.add("/dev/shm", "bind", Path::new("/dev/shm"), &["rbind", "rprivate"])?,
        NamespaceMode::Container(id) => {
            // POSIX shared memory is files, so the directory is shared with the namespace.
            let pid =
                (inputs.pid_of)(id).ok_or_else(|| SpecError::NotRunning { container: id.clone(), kind: "IPC" })?;
            let namespace = Some(PathBuf::from(format!("/proc/{pid}/ns/mnt")));
            mounts.extras.insert("/dev/shm".into(), MountExtra { namespace, ..MountExtra::default() });
            mounts.add("/dev/shm", "bind", Path::new("/dev/shm"), &["bind", "rprivate"])?;
        }
        NamespaceMode::Private | NamespaceMode::Shareable => {
            let options = ["nosuid", "noexec", "nodev", "mode=1777", &shm];
            mounts.add("/dev/shm", "tmpfs", Path::new("shm"), &options)?;
        }
    }
    let bundle = inputs.root.container(&config.id);
    for name in inputs.etc {
        mounts.add(&format!("/etc/{name}"), "bind", &bundle.join(name), &["rbind", "rprivate"])?;
    }
    for mount in &config.mounts {
        add_mount(inputs, &mut mounts, mount)?;
    }
    for mount in &edits.mounts {
        let target =
            clean(&mount.container_path).ok_or_else(|| SpecError::MountTarget(mount.container_path.clone()))?;
        let mut options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
        if !options.iter().any(|option| matches!(*option, "bind" | "rbind")) {
            options.push("rbind");
        }
        mounts.extras.remove(&target);
        mounts.add(&target, "bind", &mount.host_path, &options)?;
    }
    // Parents first, and otherwise in the order given: a volume at `/etc` does not hide `/etc/hosts`.
    mounts.oci.sort_by_key(|mount| mount.destination().components().count());
    Ok(mounts)
}

fn add_mount(inputs: &Inputs<'_>, mounts: &mut Mounts, mount: &Mount) -> Result<(), SpecError> {
    let target = clean(&mount.target).ok_or_else(|| SpecError::MountTarget(mount.target.clone()))?;
    let access = if mount.read_only { "ro" } else { "rw" };
    match &mount.source {
        MountSource::Volume { name, no_copy, subpath, .. } => {
            let source = inputs.root.volume(name).join("_data");
            let extra = MountExtra {
                copy_up: !no_copy && subpath.is_none(),
                subpath: subpath.as_ref().map(PathBuf::from),
                ..MountExtra::default()
            };
            mounts.extras.insert(target.clone(), extra);
            mounts.add(&target, "bind", &source, &["rbind", "rprivate", access])
        }
        MountSource::Bind { source, create_host_path, propagation, recursive } => {
            if *create_host_path {
                mounts.create.push(source.clone());
            }
            let propagation = propagation.as_deref().unwrap_or("rprivate");
            let bind = if *recursive { "rbind" } else { "bind" };
            mounts.extras.remove(&target);
            mounts.add(&target, "bind", source, &[bind, propagation, access])
        }
        MountSource::Tmpfs { size, mode, options } => {
            let mut all = vec!["noexec".to_owned(), "nosuid".to_owned(), "nodev".to_owned(), access.to_owned()];
            all.extend(size.map(|size| format!("size={size}")));
            all.extend(mode.map(|mode| format!("mode={mode:o}")));
            all.extend(options.iter().cloned());
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            mounts.extras.remove(&target);
            mounts.add(&target, "tmpfs", Path::new("tmpfs"), &all)
        }
        MountSource::File { .. } => {
            let source = super::memory::path(inputs.root, &inputs.config.id, &mount.target);
            mounts.extras.remove(&target);
            mounts.add(&target, "bind", &source, &["bind", "rprivate", "ro", "nosuid", "nodev", "noexec"])
        }
        MountSource::Image { image_id, subpath } => {
            let layers = (inputs.layers_of)(image_id).ok_or_else(|| SpecError::Image(image_id.clone()))?;
            let source = layers.first().cloned().unwrap_or_default();
            let subpath = subpath.as_ref().map(PathBuf::from);
            let extra = MountExtra { subpath, layers, ..MountExtra::default() };
            mounts.extras.insert(target.clone(), extra);
            mounts.add(&target, "bind", &source, &["bind", "rprivate", "ro"])
        }
    }
}

/// Returns an absolute path without `.`, `..` and empty parts, so that equal places have equal names; `None` where it is
/// relative or the root.
fn clean(target: &str) -> Option<String> {
    if !target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    if parts.is_empty() { None } else { Some(format!("/{}", parts.join("/"))) }
}
