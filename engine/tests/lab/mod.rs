//! What the container tests share: a root of their own, a launcher, an image made of one static busybox, and containers
//! that are gone, with everything that belongs to them, when a test ends, however it ends.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::missing_panics_doc, reason = "it is part of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rcompose_engine::container::config::{ContainerConfig, NetworkMode};
use rcompose_engine::container::log;
use rcompose_engine::container::spec::{Inputs, generate};
use rcompose_engine::container::user;
use rcompose_engine::host::Host;
use rcompose_engine::id::Id;
use rcompose_engine::root::Root;
use rcompose_engine::shim::client::Client;
use rcompose_engine::shim::config::ShimConfig;
use rcompose_engine::shim::launcher::Launcher;
use rcompose_engine::shim::protocol::{Exec, Exit, Failure, FromShim, Spawn, Task, ToShim};
use rcompose_engine::sys;

/// How long a test waits for what should come within a second, and does in a minute where the processor is emulated.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// A place to run containers in.
pub struct Lab {
    directory: tempfile::TempDir,
    _run: tempfile::TempDir,
    pub root: Root,
    pub host: Host,
    pub project: String,
    launcher: Launcher,
    /// Process ids of containers that others share namespaces with.
    pub pids: BTreeMap<Id, i32>,
    pub image: serde_json::Value,
}

impl Lab {
    /// Makes a lab, or says why the test cannot run here.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        if !Path::new("/bin/busybox").exists() {
            println!("skipped: needs Debian's busybox-static at /bin/busybox");
            return None;
        }
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let launcher = Launcher::start().unwrap();
        let directory = tempfile::Builder::new().prefix("rcompose-lab-").tempdir().unwrap();
        // On tmpfs, as the real one is.
        let run = tempfile::Builder::new().prefix("rcompose-lab-").tempdir_in("/dev/shm").unwrap();
        let root = Root::new(directory.path().join("lib"), run.path().to_owned());
        let layer = root.layers().join("busybox");
        for path in ["bin", "etc", "tmp", "root", "var", "data/sub", "dev", "proc", "sys"] {
            fs::create_dir_all(layer.join(path)).unwrap();
        }
        fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
        let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
        for name in String::from_utf8(list.stdout).unwrap().lines().filter(|name| *name != "busybox") {
            symlink("busybox", layer.join("bin").join(name)).unwrap();
        }
        fs::write(layer.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n").unwrap();
        fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1001:\nextra:x:1002:app\n").unwrap();
        fs::write(layer.join("data/sub/file"), "from the image\n").unwrap();
        fs::write(layer.join("noexec"), "not executable\n").unwrap();
        let project = format!("lab-{}", Id::random().short());
        let image = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": []}
        });
        Some(Self {
            directory,
            _run: run,
            root,
            host: Host::detect().unwrap(),
            project,
            launcher,
            pids: BTreeMap::new(),
            image,
        })
    }

    pub fn layer(&self) -> PathBuf {
        self.root.layers().join("busybox")
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Returns a container that runs a shell script on the host's network.
    pub fn shell(&self, script: &str) -> ContainerConfig {
        self.config(&["sh", "-c", script])
    }

    pub fn config(&self, command: &[&str]) -> ContainerConfig {
        let config = ContainerConfig::new(String::new(), self.project.clone(), "busybox".into(), "sha256:0".into());
        ContainerConfig {
            name: format!("{}-{}", self.project, config.id.short()),
            command: Some(command.iter().map(ToString::to_string).collect()),
            network: NetworkMode::Host,
            ..config
        }
    }

    /// Writes a container's bundle.
    pub fn bundle(&self, config: &ContainerConfig) -> ShimConfig {
        let layers = [self.layer()];
        let image = serde_json::from_value(self.image.clone()).unwrap();
        let user = config.user.clone().unwrap_or_default();
        let user = user::resolve_in_layers(&layers, &user, &config.group_add).unwrap();
        let bundle = self.root.container(&config.id);
        fs::create_dir_all(&bundle).unwrap();
        for name in ["hosts", "hostname", "resolv.conf"] {
            fs::write(bundle.join(name), format!("{name} of {}\n", config.name)).unwrap();
        }
        let inputs = Inputs {
            config,
            image: &image,
            user: &user,
            host: &self.host,
            root: &self.root,
            layers: &layers,
            volatile: true,
            etc: &["hosts", "hostname", "resolv.conf"],
            pid_of: &|id| self.pids.get(id).copied(),
            layers_of: &|_| None,
            supervisor_command: &[],
        };
        let (spec, shim) = generate(&inputs).unwrap();
        fs::write(bundle.join("config.json"), serde_json::to_vec_pretty(&spec).unwrap()).unwrap();
        self.write_shim(config, &shim);
        fs::create_dir_all(self.root.container_run(&config.id)).unwrap();
        shim
    }

    pub fn write_shim(&self, config: &ContainerConfig, shim: &ShimConfig) {
        fs::write(self.root.container(&config.id).join("shim.json"), serde_json::to_vec(shim).unwrap()).unwrap();
    }

    pub fn spawn(&self, config: &ContainerConfig, task: Task, fds: &[BorrowedFd<'_>]) -> Client {
        let spawn = Spawn {
            id: config.id.clone(),
            bundle: self.root.container(&config.id),
            run: self.root.container_run(&config.id),
            task,
        };
        Client::from_socket(self.launcher.spawn(&spawn, fds).unwrap())
    }

    /// Starts a container, or returns what failed.
    pub fn try_start(&self, config: &ContainerConfig) -> Result<Container, Failure> {
        let shim = self.bundle(config);
        self.try_start_with(config, &shim)
    }

    /// Starts a container whose bundle exists.
    pub fn start_with(&self, config: &ContainerConfig, shim: &ShimConfig) -> Container {
        self.write_shim(config, shim);
        self.try_start_with(config, shim).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Kills a container and lets go of it.
    pub fn forget(&self, config: &ContainerConfig, client: Client, fds: Vec<OwnedFd>) {
        let bundle = self.root.container(&config.id);
        let shim = rcompose_engine::shim::read_config(&bundle).unwrap();
        let run = self.root.container_run(&config.id);
        drop(Container { id: config.id.clone(), bundle, run, shim, client, pid: 0, fds, exit: None });
    }

    /// Starts a container with the bundle as it is on disk.
    pub fn start_again(&self, config: &ContainerConfig) -> Result<(), Failure> {
        match receive(&self.spawn(config, Task::Create, &[])) {
            Some((FromShim::Failed(failure), _)) => Err(failure),
            other => panic!("unexpected answer {other:?}"),
        }
    }

    fn try_start_with(&self, config: &ContainerConfig, shim: &ShimConfig) -> Result<Container, Failure> {
        let client = self.spawn(config, Task::Create, &[]);
        let network = if matches!(config.network, NetworkMode::Host) { None } else { Some(network_namespace()) };
        if let Some(network) = &network {
            client.send(&ToShim::Network, &[network.as_fd()]).unwrap();
        }
        match receive(&client) {
            Some((FromShim::Started { pid }, fds)) => Ok(Container {
                bundle: self.root.container(&config.id),
                run: self.root.container_run(&config.id),
                id: config.id.clone(),
                shim: shim.clone(),
                client,
                pid,
                fds,
                exit: None,
            }),
            Some((FromShim::Failed(failure), _)) => Err(failure),
            other => panic!("unexpected answer {other:?}"),
        }
    }

    pub fn start(&self, config: &ContainerConfig) -> Container {
        self.try_start(config).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// Runs a container to its end and returns its exit code and output.
    pub fn run(&self, config: &ContainerConfig) -> (i32, String) {
        let mut container = self.start(config);
        let exit = container.wait();
        (exit.code, container.output())
    }

    /// Lists the cgroups that a project has, in every hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let unified = PathBuf::from("/sys/fs/cgroup");
        let others = fs::read_dir(&unified).unwrap().flatten().map(|entry| entry.path());
        let own = Path::new("rcompose").join(&self.project);
        others.chain([unified.clone()]).map(|hierarchy| hierarchy.join(&own)).filter(|path| path.exists()).collect()
    }
}

/// A container that runs. Killed and cleaned up when dropped.
pub struct Container {
    pub id: Id,
    pub bundle: PathBuf,
    pub run: PathBuf,
    pub shim: ShimConfig,
    pub client: Client,
    pub pid: i32,
    /// pidfd, network namespace, and streams or terminal.
    pub fds: Vec<OwnedFd>,
    exit: Option<Exit>,
}

impl Container {
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.fds[0].as_fd()
    }

    pub fn kill(&self, signal: i32) {
        sys::pidfd::send_signal(self.pidfd(), signal).unwrap();
    }

    /// Waits for the end of PID 1.
    pub fn wait(&mut self) -> Exit {
        loop {
            match receive(&self.client) {
                Some((FromShim::Exited(exit), _)) => {
                    self.exit = Some(exit.clone());
                    return exit;
                }
                Some(_) => {}
                None => panic!("the shim ended without telling how the container did"),
            }
        }
    }

    /// Returns what the log has, both streams in order.
    pub fn output(&self) -> String {
        let mut text = Vec::new();
        let mut emit = |entry: log::reader::Entry<'_>| {
            text.extend_from_slice(entry.text);
            Ok(())
        };
        log::read(&log::path(&self.bundle, &self.id), &log::Options::default(), &mut emit).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Waits until the log has this text in it.
    pub fn wait_output(&self, wanted: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let output = self.output();
            if output.contains(wanted) {
                return output;
            }
            assert!(Instant::now() < end, "waited for `{wanted}`, saw: {output}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs a further process and returns its exit code and output.
    pub fn exec(&self, request: Exec) -> (i32, String) {
        let mut client = Client::connect(&self.run).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let null = fs::File::open("/dev/null").unwrap();
        let (exec, _, _) = match client.exec(request, &[null.as_fd(), writer.as_fd(), writer.as_fd()]) {
            Ok(started) => started,
            Err(error) => panic!("{error}"),
        };
        drop(writer);
        let mut output = String::new();
        std::io::Read::read_to_string(&mut reader, &mut output).unwrap();
        (client.wait(exec).unwrap(), output)
    }

    /// Returns the process id of the shim: the parent of PID 1.
    pub fn shim_pid(&self) -> nix::unistd::Pid {
        parent(self.pid)
    }
}

/// Returns the process id of a process's parent.
pub fn parent(pid: i32) -> nix::unistd::Pid {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat[stat.rfind(')').unwrap() + 2..].split(' ').nth(1).unwrap().parse().unwrap();
    nix::unistd::Pid::from_raw(parent)
}

impl Drop for Container {
    fn drop(&mut self) {
        sys::pidfd::send_signal(self.pidfd(), libc::SIGKILL).ok();
        if self.exit.is_none() {
            while let Some((message, _)) = try_receive(&self.client, DEADLINE) {
                if matches!(message, FromShim::Exited(_)) {
                    break;
                }
            }
        }
        self.client.send(&ToShim::Release, &[]).ok();
        // The shim's end closes when it has ended.
        try_receive(&self.client, DEADLINE);
        sys::pidfd::exit_code(self.pidfd());
        let removed = self.shim.cgroup.remove();
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// Receives one message within the deadline; `None`: the shim is gone.
pub fn receive(client: &Client) -> Option<(FromShim, Vec<OwnedFd>)> {
    wait_readable(client.as_fd(), DEADLINE);
    client.receive().unwrap()
}

fn try_receive(client: &Client, patience: Duration) -> Option<(FromShim, Vec<OwnedFd>)> {
    let mut fds = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap();
    poll(&mut fds, timeout).ok().filter(|count| *count > 0)?;
    client.receive().ok().flatten()
}

pub fn wait_readable(fd: BorrowedFd<'_>, patience: Duration) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let count = poll(&mut fds, PollTimeout::try_from(patience).unwrap()).unwrap();
    assert!(count > 0, "nothing happened within {patience:?}");
}

/// Makes a network namespace.
pub fn network_namespace() -> OwnedFd {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        fs::File::open("/proc/thread-self/ns/net").unwrap().into()
    });
    thread.join().unwrap()
}

/// Returns an exec request.
pub fn exec(args: &[&str]) -> Exec {
    Exec { args: args.iter().map(ToString::to_string).collect(), ..Exec::default() }
}
