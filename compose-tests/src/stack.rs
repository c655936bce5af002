//! One project under test: a root, a project folder, a registry and a network namespace of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};
use serde_json::Value;

use crate::{
    census::{self, Census, Scope},
    expect,
    factory::registry::{self, Registry},
    http::{self, Response},
    output::Output,
    process::{self, Process},
    wait,
};

/// How long a single command may take before the test calls it hung. Pulling an image takes minutes where the processor is
/// emulated.
const COMMAND_LIMIT: Duration = Duration::from_mins(10);

/// A project under test. Ends with `down` and a check that nothing is left ([`Stack::finish`]); when the test panics
/// before that, everything is taken away without a check.
#[derive(Debug)]
pub struct Stack {
    pub project: String,
    folder: tempfile::TempDir,
    environment: BTreeMap<String, String>,
    registry: Option<Registry>,
    own_network: bool,
    before: Census,
    finished: bool,
}

impl Stack {
    /// Makes a stack in a network namespace of its own: the calling thread enters it and stays there, so fixed ports
    /// and addresses do not meet those of other tests or of the host.
    pub fn new(name: &str) -> Stack {
        if is_peer() {
            return Stack::on_host(name);
        }
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made (tests run as root)");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("iproute2 is installed");
        assert!(up.success(), "cannot set lo up");
        Stack::make(name, true)
    }

    /// Makes a stack that uses the network of the host, as a user's would.
    pub fn on_host(name: &str) -> Stack {
        Stack::make(name, false)
    }

    fn make(name: &str, own_network: bool) -> Stack {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let project = format!("rct{}x{number}-{name}", std::process::id());
        let folder = tempfile::Builder::new().prefix("rct-").tempdir().expect("a temporary folder can be made");
        fs::create_dir(folder.path().join("project")).expect("a folder can be made in a new one");
        let registry = Registry::start(&registry::storage().expect("a cache folder is named"))
            .expect("the registry starts (compose-tests/run installs it and makes its images)");
        let settings = registry::write_settings(folder.path(), registry.address()).expect("settings can be written");
        let mut environment = BTreeMap::from([
            ("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("HOME".to_owned(), folder.path().display().to_string()),
            ("RCOMPOSE_ROOT".to_owned(), folder.path().join("root").display().to_string()),
            ("RCOMPOSE_REGISTRIES".to_owned(), settings.display().to_string()),
            ("COMPOSE_PROJECT_NAME".to_owned(), project.clone()),
            ("NO_COLOR".to_owned(), "1".to_owned()),
        ]);
        for port in ["PORT1", "PORT2"] {
            environment.insert(port.to_owned(), free_port().to_string());
        }
        let mut stack = Stack {
            project,
            folder,
            environment,
            registry: Some(registry),
            own_network,
            before: Census::default(),
            finished: false,
        };
        stack.before = stack.census();
        stack
    }

    /// Returns `RCOMPOSE_ROOT`.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Returns the folder that the compose file is in and commands run in.
    pub fn project_folder(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    /// Returns the address of the registry that docker.io images come from.
    pub fn registry_address(&self) -> SocketAddr {
        self.registry.as_ref().expect("the registry of this stack was stopped").address()
    }

    /// Stops the registry: nothing can be pulled any more.
    pub fn stop_registry(&mut self) {
        self.registry = None;
    }

    /// Replaces the registry by one over another folder.
    pub fn serve(&mut self, storage: &Path) {
        let registry = Registry::start(storage).expect("the registry starts");
        registry::write_settings(self.folder.path(), registry.address()).expect("settings can be written");
        self.registry = Some(registry);
    }

    /// Sets a variable for all further commands.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Writes a file of the project.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.project_folder().join(path);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("folders can be made");
        fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Copies a folder into the project.
    pub fn copy(&self, from: &Path) {
        self.copy_to(from, "");
    }

    /// Copies a folder of `examples/` into the project.
    pub fn copy_example(&self, name: &str) {
        self.copy(&repository().join("examples").join(name));
    }

    /// Copies a folder to a path in the project.
    pub fn copy_to(&self, from: &Path, path: &str) {
        copy_folder(from, &self.project_folder().join(path))
            .unwrap_or_else(|error| panic!("cannot copy {}: {error:#}", from.display()));
    }

    /// Makes lines of shell find what a reader of the documentation has: `rcompose`, also as `docker-compose` and as
    /// `rcompose-oci`, and `sudo`.
    pub fn be_installed(&mut self) {
        let folder = self.folder.path().join("bin");
        fs::create_dir(&folder).expect("a stack is installed once");
        for name in ["rcompose", "docker-compose", "rcompose-oci"] {
            symlink(binary(), folder.join(name)).expect("links can be made in a new folder");
        }
        let sudo = folder.join("sudo");
        fs::write(&sudo, "#!/bin/sh\n[ \"$1\" != -E ] || shift\nexec \"$@\"\n").expect("files can be made there too");
        fs::set_permissions(&sudo, fs::Permissions::from_mode(0o755)).expect("our file has the mode that we want");
        let path = format!("{}:{}", folder.display(), self.environment["PATH"]);
        self.set("PATH", &path);
    }

    /// Replaces `{project}`, `{root}`, `{folder}`, `{registry}`, `{PORT1}` and `{PORT2}` in a text.
    pub fn fill(&self, text: &str) -> String {
        let mut text = text
            .replace("{project}", &self.project)
            .replace("{root}", &self.root().display().to_string())
            .replace("{folder}", &self.project_folder().display().to_string());
        for port in ["PORT1", "PORT2"] {
            text = text.replace(&format!("{{{port}}}"), &self.environment[port]);
        }
        if let Some(registry) = &self.registry {
            text = text.replace("{registry}", &registry.address().to_string());
        }
        text
    }

    /// Runs rcompose to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        self.run_with(arguments, &BTreeMap::new(), "")
    }

    /// Runs rcompose with further variables and something on standard input.
    pub fn run_with<S: AsRef<OsStr>>(
        &self,
        arguments: &[S],
        environment: &BTreeMap<String, String>,
        stdin: &str,
    ) -> Output {
        let mut command = self.command(arguments);
        command.envs(environment);
        finish(command, stdin)
    }

    /// Runs a line of shell in the folder of the project, in which `dc` is rcompose.
    pub fn shell(&self, line: &str) -> Output {
        finish(self.shell_command(line), "")
    }

    fn shell_command(&self, line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("dc() {{ \"$PROGRAM\" \"$@\"; }}; {line}")]);
        command.current_dir(self.project_folder()).env_clear().envs(&self.environment).env("PROGRAM", binary());
        command
    }

    /// Starts rcompose and leaves it running, with its output in files.
    pub fn spawn<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Running {
        self.start(self.command(arguments))
    }

    /// Starts a line of shell and leaves it running, likewise.
    pub fn spawn_shell(&self, line: &str) -> Running {
        self.start(self.shell_command(line))
    }

    fn start(&self, mut command: Command) -> Running {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let file = |name: &str| self.folder.path().join(format!("running-{number}.{name}"));
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).expect("files can be made in a temporary folder"))
            .stderr(File::create(&stderr).expect("files can be made in a temporary folder"))
            .spawn()
            .expect("the binary under test runs");
        Running { child, command: words(&command), stdout, stderr, started: Instant::now() }
    }

    /// Returns rcompose with these arguments, in the environment and the folder of the project and nothing else.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.project_folder()).env_clear().envs(&self.environment);
        command
    }

    /// Returns what `ps -a --format json` says, one object per container.
    pub fn containers(&self) -> Vec<Value> {
        let output = self.run(&["ps", "-a", "--format", "json"]).ok();
        expect::objects(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{output:?}"))
    }

    /// Returns what `ps` says about the first container of a service.
    pub fn container(&self, service: &str) -> Value {
        self.containers()
            .into_iter()
            .find(|container| container["Service"] == service)
            .unwrap_or_else(|| panic!("no container of {service}: {:#?}", self.containers()))
    }

    /// Waits until the first container of a service has all members of `wanted`.
    pub fn wait_for(&self, service: &str, wanted: &Value) -> Value {
        wait::until(wait::PATIENCE, &format!("{service} to be {wanted}"), || {
            let container = self.container(service);
            if expect::contains(&container, wanted) { Ok(container) } else { Err(container) }
        })
    }

    /// Returns where a service's port is published on this host.
    pub fn published(&self, service: &str, port: u16) -> SocketAddr {
        let container = self.container(service);
        let publishers = container["Publishers"].as_array().cloned().unwrap_or_default();
        publishers
            .iter()
            .find(|publisher| publisher["TargetPort"] == port && publisher["PublishedPort"] != 0)
            .and_then(|publisher| {
                let address: IpAddr = publisher["URL"].as_str()?.parse().ok()?;
                let address = if address.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address };
                Some(SocketAddr::new(address, u16::try_from(publisher["PublishedPort"].as_u64()?).ok()?))
            })
            .unwrap_or_else(|| panic!("port {port} of {service} is not published: {container:#?}"))
    }

    /// Asks a published port by HTTP until it answers at all.
    pub fn get(&self, service: &str, port: u16, path: &str) -> Response {
        let address = self.published(service, port);
        wait::until(wait::PATIENCE, &format!("an answer of {service} at http://{address}{path}"), || {
            http::get(address, path)
        })
    }

    /// Returns the supervisor, its launcher and the shims of this root. They run from a view of the program that has no
    /// path, and all have the supervisor's command line.
    pub fn own_processes(&self) -> Vec<Process> {
        process::of_root(&self.root())
            .into_iter()
            .filter(|process| process.words.get(1).is_some_and(|word| word == "__supervisor"))
            .collect()
    }

    /// Returns the project's supervisor.
    pub fn supervisor(&self) -> Process {
        wait::until(wait::PATIENCE, "the supervisor", || {
            let all = self.own_processes();
            all.iter()
                .find(|process| !["rcompose-shim", "rcompose-launch", "rcompose-init"].contains(&&*process.name))
                .cloned()
                .ok_or(all)
        })
    }

    /// Returns the shim of a service's first container: the one that has the container's folder open.
    pub fn shim(&self, service: &str) -> Process {
        let container = self.container(service);
        let id = container["ID"].as_str().expect("ps gives an id").to_owned();
        let id = &id[..id.len().min(12)];
        wait::until(wait::PATIENCE, &format!("the shim of {service}"), || {
            let all = self.own_processes();
            all.iter()
                .find(|process| process.name == "rcompose-shim" && process.has_open(id))
                .cloned()
                .ok_or_else(|| format!("{id} in {all:#?}"))
        })
    }

    /// Returns what there is of the project on the host.
    pub fn census(&self) -> Census {
        let containers = census::container_ids(&self.root());
        self.census_of(&containers)
    }

    /// Returns what there is on the host; `containers` are the ones to look for.
    pub fn census_of(&self, containers: &BTreeSet<String>) -> Census {
        Census::take(&Scope { root: &self.root(), project: &self.project, containers, own_network: self.own_network })
    }

    /// Takes away what a failed test left of its containers. Their processes are killed, and links go with the namespace.
    fn take_away(&self) {
        // Last those that others are below.
        for item in self.census().items.iter().rev() {
            match item.split_once(' ') {
                // The fifth field of `proc_pid_mountinfo(5)`.
                Some(("mount", line)) => {
                    line.split(' ').nth(4).map(|place| umount2(place, MntFlags::MNT_DETACH));
                }
                Some(("cgroup", path)) => {
                    let started = Instant::now();
                    // A process that was killed is in it for another moment.
                    while fs::remove_dir(path).is_err_and(|error| error.kind() == ErrorKind::ResourceBusy)
                        && started.elapsed() < Duration::from_secs(5)
                    {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes the project down and checks that nothing of it is left anywhere.
    pub fn finish(mut self) {
        let containers = census::container_ids(&self.root());
        self.run(&["--profile", "*", "down", "-v", "-t", "0", "--remove-orphans"]).ok();
        self.assert_nothing_left(&containers);
        self.finished = true;
    }

    /// Checks that nothing is left, after a test that took everything down itself.
    pub fn finish_without_down(mut self, containers: &BTreeSet<String>) {
        self.assert_nothing_left(containers);
        self.finished = true;
    }

    /// Panics with the list of what is there and was not before the stack was made.
    ///
    /// The kernel takes links and cgroups away a moment after the command has returned.
    pub fn assert_nothing_left(&self, containers: &BTreeSet<String>) {
        wait::until(wait::PATIENCE, "everything to be gone", || {
            let left = self.census_of(containers).beyond(&self.before);
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // The test has failed already; this only keeps its remains away from the next one.
        let mut down = self.command(&["--profile", "*", "down", "-v", "-t", "0", "--remove-orphans"]);
        down.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Ok(mut child) = down.spawn() {
            let started = Instant::now();
            while child.try_wait().is_ok_and(|status| status.is_none()) {
                if started.elapsed() > Duration::from_secs(20) {
                    drop(child.kill());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        for process in process::of_root(&self.root()) {
            process.signal(Signal::SIGKILL);
        }
        self.take_away();
    }
}

/// A command that was left running.
#[derive(Debug)]
pub struct Running {
    pub child: Child,
    command: String,
    stdout: PathBuf,
    stderr: PathBuf,
    started: Instant,
}

impl Running {
    /// Returns what it has printed so far, with an exit code of -1.
    pub fn so_far(&self) -> Output {
        self.output(-1)
    }

    /// Waits until it has printed something that `wanted` accepts.
    pub fn wait_output(&self, what: &str, wanted: impl Fn(&Output) -> bool) -> Output {
        wait::until(wait::PATIENCE, what, || {
            let output = self.so_far();
            if wanted(&output) { Ok(output) } else { Err(output) }
        })
    }

    /// Returns the file that its standard output goes to.
    pub fn stdout(&self) -> &Path {
        &self.stdout
    }

    /// Sends a signal to the command.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid fits");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("the command still runs");
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Output {
        let code =
            wait::until(COMMAND_LIMIT, &format!("the end of {}", self.command), || match self.child.try_wait() {
                Ok(Some(status)) => Ok(code(status)),
                Ok(None) => Err("it runs".to_owned()),
                Err(error) => Err(error.to_string()),
            });
        self.output(code)
    }

    fn output(&self, code: i32) -> Output {
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        Output {
            command: self.command.clone(),
            code,
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
            took: self.started.elapsed(),
        }
    }
}

/// Returns the folder of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the repository")
}

/// Whether the binary under test is another implementation (`RCOMPOSE_TEST_PEER=1`, with Docker Compose as
/// `RCOMPOSE_BIN`): its daemon uses the host's network, and images must be in it already. This is how the cases
/// themselves are checked.
pub fn is_peer() -> bool {
    env::var_os("RCOMPOSE_TEST_PEER").is_some_and(|value| value == "1")
}

/// Returns the binary under test: `$RCOMPOSE_BIN`, or the one beside this test's own.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("RCOMPOSE_BIN").filter(|path| !path.is_empty()) {
        return std::path::absolute(path).expect("a path can be made absolute");
    }
    let me = env::current_exe().expect("a program knows its path");
    let mut folder = me.parent().expect("a program lies in a folder");
    if folder.ends_with("deps") {
        folder = folder.parent().expect("deps lies in a folder");
    }
    let path = folder.join("rcompose");
    assert!(path.exists(), "there is no {}: build rcompose first or set RCOMPOSE_BIN", path.display());
    path
}

/// Returns a port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Runs a command to its end, feeding it `stdin`.
pub fn finish(mut command: Command, stdin: &str) -> Output {
    let text = words(&command);
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {text}: {error}"));
    let mut input = child.stdin.take().expect("stdin was asked for as a pipe");
    let mut output = child.stdout.take().expect("stdout was asked for as a pipe");
    let mut error = child.stderr.take().expect("stderr was asked for as a pipe");
    let (stdout, stderr, status) = std::thread::scope(|scope| {
        scope.spawn(move || {
            // The command may end without reading everything.
            drop(input.write_all(stdin.as_bytes()));
        });
        let stdout = scope.spawn(move || read_all(&mut output));
        let stderr = scope.spawn(move || read_all(&mut error));
        let mut killed = false;
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if started.elapsed() > COMMAND_LIMIT && !killed {
                child.kill().expect("a running child can be killed");
                killed = true;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        (stdout.join().expect("reading does not panic"), stderr.join().expect("reading does not panic"), status)
    });
    Output { command: text, code: code(status), stdout, stderr, took: started.elapsed() }
}

fn read_all(reader: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("a pipe can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn words(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
