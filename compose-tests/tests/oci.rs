//! The OCI front door, beside other runtimes and by itself (OCI runtime specification).
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    os::{fd::AsRawFd as _, unix::net::UnixListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use compose_tests::{
    output::Output,
    stack::{self, Stack},
    terminal::Terminal,
    wait,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A service whose bundle the tests begin with.
const PROJECT: &str = "services:
  app: {image: busybox, command: 'true', network_mode: none}
";

/// A project with a container that was exported as a bundle, and bundles made from that.
struct Bundles {
    stack: Stack,
}

impl Bundles {
    fn new(name: &str) -> Bundles {
        let stack = Stack::new(name);
        stack.write("compose.yaml", PROJECT);
        stack.run(&["create"]).ok();
        stack.run(&["export", "--bundle", "app", "app"]).ok();
        Bundles { stack }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.stack.project_folder().join(name)
    }

    /// Makes a bundle that runs a shell script, as the default configuration says but for a change.
    fn make(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let bundle = self.path(name);
        fs::create_dir(&bundle).unwrap();
        self.stack.run(&["oci", "spec", "--bundle", name]).ok();
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["root"]["path"] = json!("../app/rootfs");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        change(&mut config);
        fs::write(&path, config.to_string()).unwrap();
        bundle
    }

    fn oci(&self, args: &[&str]) -> Output {
        self.stack.run(&[&["oci"], args].concat())
    }

    /// Runs something that leaves a container with its standard output and error.
    fn start(&self, args: &[&str]) -> i32 {
        let open = |name: &str| File::options().create(true).append(true).open(self.path(name)).unwrap();
        let mut command = self.stack.command(&[&["oci"], args].concat());
        let command = command.stdin(Stdio::null()).stdout(open("stdout")).stderr(open("stderr"));
        command.status().unwrap().code().unwrap()
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path("stdout")).unwrap() + &fs::read_to_string(self.path("stderr")).unwrap()
    }

    fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.oci(&["state", id]).ok().stdout).unwrap()
    }

    fn wait_for(&self, id: &str, status: &str) {
        wait::until(wait::PATIENCE, status, || {
            let state = self.state(id);
            if state["status"] == status { Ok(()) } else { Err(state) }
        });
    }

    /// Ends, and makes sure that nothing is left of any container.
    fn finish(self) {
        assert_eq!(self.oci(&["list", "--quiet"]).ok().stdout, "");
        let state = self.stack.root().join("run/oci");
        assert_eq!(fs::read_dir(state).map(Iterator::count).unwrap_or_default(), 0);
        self.stack.finish();
    }
}

/// What makes a configuration another.
type Change = fn(&mut Value);

/// Returns a hook that runs a shell script on the host.
fn hook(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
}

/// What a process sees of itself, of its mounts, devices and namespaces, a line for each.
const SEE: &str = r#"
echo "user $(id)"; echo "directory $(pwd)"; echo "umask $(umask)"; echo "host $(hostname)"
env | grep -v -e '^_=' -e '^SHLVL=' | sort | sed 's/^/env /'
grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status
cat /proc/self/limits /proc/self/oom_score_adj
while read id parent device root point options rest; do
  set -- $rest; while [ "$1" != - ]; do shift; done
  case $point in /sys/fs/cgroup*) ;; *) echo "mount $point $options $2";; esac
done < /proc/self/mountinfo | sort
for file in /dev/*; do [ $file = /dev/core ] || ls -ld $file | tr -s ' ' | cut -d' ' -f1,3,4,5,6,10-; done
ls /proc/self/fd | wc -l
mkdir /tmp/denied; cat /data/word; touch /data/new; touch /new; ls -A /run/hidden
head -1 /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; ip -o link | cut -d: -f2
"#;

/// The properties of the configuration that are compared, all at once.
fn many(config: &mut Value, data: &Path) {
    config["ociVersion"] = json!("1.0.2");
    config["hostname"] = json!("elsewhere");
    let capabilities = json!(["CAP_KILL", "CAP_CHOWN", "CAP_NET_BIND_SERVICE"]);
    let process = &mut config["process"];
    process["cwd"] = json!("/tmp");
    process["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [7, 8], "umask": 0o27});
    process["env"] = json!(["PATH=/bin:/usr/bin:/sbin:/usr/sbin", "A=b", "HOME=/x"]);
    process["oomScoreAdj"] = json!(100);
    process["noNewPrivileges"] = json!(true);
    process["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}
    ]);
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        process["capabilities"][set] = capabilities.clone();
    }
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.push(json!({
        "destination": "/data", "type": "bind", "source": data, "options": ["rbind", "ro", "nosuid", "rprivate"]
    }));
    mounts.push(json!({
        "destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=1777", "noexec"]
    }));
    let linux = &mut config["linux"];
    linux["devices"] = json!([
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 3, "gid": 4}
    ]);
    linux["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "9000"});
    linux["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
    });
    linux["resources"] = json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 50}});
    // The others make what they cover of different filesystems.
    linux["maskedPaths"] = json!([]);
}

#[test]
fn a_process_sees_the_same_as_under_other_runtimes() {
    let bundles = Bundles::new("oci-same");
    fs::create_dir(bundles.path("data")).unwrap();
    fs::write(bundles.path("data/word"), "word\n").unwrap();
    let data = bundles.path("data");
    let bundle = bundles.make("many", SEE, |config| many(config, &data));
    let ours = bundles.oci(&["run", "--bundle", "many", "one"]);
    assert!(ours.stdout.contains("user uid=5 gid=6 groups=7,8"), "{ours:?}");
    let state = bundles.path("others");
    for program in OTHERS {
        let theirs = other(program, &state, &bundle, &format!("{}-same", bundles.stack.project));
        let lines = |output: &Output| output.stdout.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&ours), lines(&theirs), "{program:?}\n{theirs:?}");
        assert_eq!(ours.code, theirs.code);
    }
    bundles.finish();
}

/// Other runtimes, which `compose-tests/prepare` has installed. That crun wants no host with both versions of cgroups, so
/// it gets to see one with the second alone.
const OTHERS: [&str; 2] = [
    "exec runc --root \"$1\" run --bundle \"$2\" \"$3\"",
    "mount --make-rprivate / && umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
        exec crun --root \"$1\" --cgroup-manager=disabled run --bundle \"$2\" \"$3\"",
];

/// Runs a bundle to its end under another runtime.
fn other(script: &str, state: &Path, bundle: &Path, id: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(state).arg(bundle).arg(id);
    stack::finish(command, "")
}

#[test]
fn a_service_runs_under_other_runtimes() {
    let stack = Stack::new("oci-service");
    stack.write(
        "compose.yaml",
        "services:
  app:
    image: busybox
    command: [sh, -c, 'id -u; hostname; pwd; echo $$WORD; cat /etc/hosts | head -1; cat /data/file; ulimit -n;
      grep -E \"Cap|Seccomp:\" /proc/self/status; ls /dev; touch /x || echo read-only; exit 3']
    network_mode: none
    hostname: elsewhere
    user: '7'
    working_dir: /tmp
    environment: {WORD: here}
    read_only: true
    cap_drop: [ALL]
    cap_add: [KILL]
    ulimits: {nofile: 99}
    mem_limit: 64m
    volumes: ['data:/data', './file:/data/file:ro']
    tmpfs: [/scratch]
volumes: {data: {}}
",
    );
    stack.write("file", "content\n");
    let ours = stack.run(&["up", "--no-log-prefix"]);
    stack.run(&["export", "--bundle", "bundle", "app"]).ok();
    let wanted: Vec<&str> = ours.stdout.lines().filter(|line| !line.is_empty()).collect();
    assert!(wanted.contains(&"read-only") && wanted.contains(&"content"), "{ours:?}");
    let bundle = stack.project_folder().join("bundle");
    let (state, id) = (stack.project_folder().join("others"), format!("{}-service", stack.project));
    let mut outputs = vec![stack.run(&["oci", "run", "--bundle", "bundle", &id])];
    for program in OTHERS {
        outputs.push(other(program, &state, &bundle, &id));
    }
    for output in outputs {
        assert_eq!(output.code, 3, "{output:?}");
        for line in output.stdout.lines().filter(|line| *line != "core") {
            assert!(wanted.contains(&line), "{line:?} is not in what the service wrote\n{output:?}\n{ours:?}");
        }
        assert_eq!(output.stdout.lines().filter(|line| line.starts_with("Cap")).count(), 5, "{output:?}");
    }
    stack.run(&["down", "-v"]).ok();
    stack.finish();
}

#[test]
fn a_container_goes_through_its_life() {
    let bundles = Bundles::new("oci-life");
    bundles.make("life", "echo started; trap 'exit 3' TERM; while :; do sleep 0.1; done", |config| {
        config["annotations"] = json!({"key": "value"});
    });
    let pid_file = bundles.path("pid");
    let pid_option = format!("--pid-file={}", pid_file.display());
    assert_eq!(bundles.start(&["create", "--bundle", "life", &pid_option, "one"]), 0, "{}", bundles.said());
    let state = bundles.state("one");
    let pid = fs::read_to_string(&pid_file).unwrap();
    assert_eq!(state["pid"].to_string(), pid);
    assert_eq!(state["bundle"], json!(bundles.path("life").canonicalize().unwrap()));
    assert_eq!((&state["status"], &state["annotations"]["key"]), (&json!("created"), &json!("value")));
    assert_eq!(bundles.said(), "", "the program is not executed before the start");
    assert_eq!(bundles.start(&["create", "--bundle", "life", "one"]), 1);
    assert!(bundles.said().contains("already exists"), "{}", bundles.said());
    bundles.oci(&["delete", "one"]).fails().complains("container not stopped");
    bundles.oci(&["start", "one"]).ok();
    assert_eq!(bundles.state("one")["status"], "running");
    bundles.oci(&["start", "one"]).fails().complains("container not created");
    wait::until(wait::PATIENCE, "the output", || {
        let said = bundles.said();
        if said.contains("started") { Ok(()) } else { Err(said) }
    });

    bundles
        .oci(&["exec", "--env", "A=5", "--cwd", "/tmp", "--user", "7:8", "one", "sh", "-c", "echo $A $(pwd) $(id -u)"])
        .ok()
        .stdout
        .contains("5 /tmp 7")
        .then_some(())
        .expect("the process is as told");
    assert_eq!(bundles.oci(&["exec", "one", "sh", "-c", "exit 9"]).code, 9);
    assert_eq!(bundles.oci(&["exec", "one", "/missing"]).code, 127);
    let process = json!({"args": ["sh", "-c", "id -u; echo $B"], "cwd": "/", "env": ["PATH=/bin", "B=6"],
        "user": {"uid": 4, "gid": 4}});
    fs::write(bundles.path("process.json"), process.to_string()).unwrap();
    assert_eq!(bundles.oci(&["exec", "--process", "process.json", "one"]).ok().text(), "4\n6");
    assert_eq!(bundles.start(&["exec", "--detach", &pid_option, "one", "sleep", "1000"]), 0, "{}", bundles.said());
    let further = fs::read_to_string(&pid_file).unwrap();
    let pids: Vec<i32> = serde_json::from_str(&bundles.oci(&["ps", "--format", "json", "one"]).ok().stdout).unwrap();
    assert!(pids.iter().any(|one| one.to_string() == further), "{pids:?} {further}");

    bundles.oci(&["pause", "one"]).ok();
    assert_eq!(bundles.state("one")["status"], "paused");
    bundles.oci(&["exec", "one", "true"]).fails().complains("container not running");
    bundles.oci(&["resume", "one"]).ok();
    fs::write(bundles.path("resources.json"), r#"{"pids": {"limit": 77}}"#).unwrap();
    bundles.oci(&["update", "--resources", "resources.json", "one"]).ok();
    let table = bundles.oci(&["list"]).ok().stdout;
    assert!(table.lines().any(|line| line.starts_with("one ") && line.contains(" running ")), "{table}");
    bundles.oci(&["kill", "one", "NONSENSE"]).fails().complains("NONSENSE");
    bundles.oci(&["kill", "one", "SIGTERM"]).ok();
    bundles.wait_for("one", "stopped");
    bundles.oci(&["kill", "one", "9"]).fails().complains("container not running");
    bundles.oci(&["exec", "one", "true"]).fails().complains("container not running");
    bundles.oci(&["delete", "one"]).ok();
    for command in
        [&["state", "one"][..], &["start", "one"], &["kill", "one"], &["delete", "one"], &["exec", "one", "x"]]
    {
        bundles.oci(command).fails().complains("container does not exist");
    }
    bundles.oci(&["delete", "--force", "one"]).ok();
    bundles.finish();
}

#[test]
fn a_run_in_the_foreground_gives_the_exit_code_and_leaves_nothing() {
    let bundles = Bundles::new("oci-run");
    bundles.make("exits", "cat; exit 7", |_| {});
    let output = bundles.stack.run_with(&["oci", "run", "-b", "exits", "one"], &BTreeMap::new(), "typed");
    assert_eq!((output.code, &*output.stdout), (7, "typed"), "{output:?}");
    bundles.make("killed", "kill -9 $$", |config| {
        config["linux"]["namespaces"] =
            json!([{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "cgroup"}]);
        config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/proc");
    });
    assert_eq!(bundles.oci(&["run", "-b", "killed", "one"]).code, 137);
    bundles.make("missing", "", |config| config["process"]["args"] = json!(["/missing"]));
    let output = bundles.oci(&["run", "-b", "missing", "one"]);
    assert_eq!(output.code, 127, "{output:?}");
    bundles.finish();
}

#[test]
fn hooks_run_in_their_order_with_the_state() {
    let bundles = Bundles::new("oci-hooks");
    let log = bundles.path("log");
    bundles.make("hooked", "cat /dev/shm/mark", |config| {
        for name in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
            let script = format!("echo {name} $(sed 's/.*\"status\":\"\\([a-z]*\\).*/\\1/') >> {}", log.display());
            config["hooks"][name] = json!([hook(&script)]);
        }
        let mut inside = hook("cat > /dev/shm/mark; test -z \"$PATH_OF_HOST\"");
        inside["env"] = json!(["PATH=/bin"]);
        config["hooks"]["startContainer"] = json!([inside]);
    });
    let state: Value = serde_json::from_str(&bundles.oci(&["run", "-b", "hooked", "one"]).ok().stdout).unwrap();
    assert_eq!((&state["id"], &state["status"]), (&json!("one"), &json!("created")));
    let want =
        "prestart creating\ncreateRuntime creating\ncreateContainer creating\npoststart running\npoststop stopped\n";
    assert_eq!(fs::read_to_string(&log).unwrap(), want);

    for name in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"] {
        let bundle = format!("fails-{name}");
        bundles.make(&bundle, "exec sleep 1000", |config| {
            config["hooks"][name] = json!([hook("echo broken >&2; exit 3")]);
        });
        let output = bundles.oci(&["run", "--detach", "-b", &bundle, "one"]).fails();
        assert!(output.stderr.contains(name) && output.stderr.contains("broken"), "{output:?}");
    }
    bundles.finish();
}

#[test]
fn hooks_of_a_cdi_device_run() {
    let stack = Stack::new("oci-cdi");
    let vendor = format!("{}.example.com", stack.project);
    let log = stack.project_folder().join("log");
    let hooks = ["createRuntime", "createContainer", "startContainer", "poststart", "poststop"].map(|name| {
        let script = match name {
            "startContainer" => "echo inside > /dev/shm/mark".to_owned(),
            _ => format!("echo {name} >> {}", log.display()),
        };
        let mut hook = hook(&script);
        hook["hookName"] = json!(name);
        hook
    });
    let specification = json!({"cdiVersion": "0.6.0", "kind": format!("{vendor}/thing"),
        "devices": [{"name": "0", "containerEdits": {"hooks": hooks}}]});
    fs::create_dir_all("/run/cdi").unwrap();
    let path = PathBuf::from(format!("/run/cdi/{vendor}.json"));
    let cleanup = RemoveFile(path.clone());
    // Whole from the first moment, since others read the directory.
    fs::write(path.with_extension("new"), specification.to_string()).unwrap();
    fs::rename(path.with_extension("new"), &path).unwrap();
    stack.write(
        "compose.yaml",
        &format!(
            "services:\n  app:\n    image: busybox\n    command: cat /dev/shm/mark\n    network_mode: none\n    \
             devices: ['{vendor}/thing=0']\n"
        ),
    );
    let output = stack.run(&["up", "--no-log-prefix"]).ok();
    assert!(output.stdout.contains("inside"), "{output:?}");
    let want = "createRuntime\ncreateContainer\npoststart\npoststop\n";
    wait::until(wait::PATIENCE, "the last hook", || {
        let said = fs::read_to_string(&log).unwrap();
        if said == want { Ok(()) } else { Err(said) }
    });
    drop(cleanup);
    stack.finish();
}

/// Removes a file at the end, however that comes.
struct RemoveFile(PathBuf);

impl Drop for RemoveFile {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

#[test]
fn what_cannot_be_kept_is_named_and_logged() {
    let bundles = Bundles::new("oci-refused");
    let cases: [(&str, Change); 5] = [
        ("process.apparmorProfile", |config| config["process"]["apparmorProfile"] = json!("strict")),
        ("linux.intelRdt", |config| config["linux"]["intelRdt"] = json!({"closID": "x"})),
        ("linux.seccomp", |config| config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
        ("mounts[1].options", |config| config["mounts"][1]["options"] = json!(["remount"])),
        ("linux.sysctl", |config| config["linux"]["sysctl"] = json!({"vm.swappiness": "1"})),
    ];
    for (number, (property, change)) in cases.into_iter().enumerate() {
        let name = format!("case-{number}");
        bundles.make(&name, "true", change);
        let log = format!("log-{number}");
        bundles
            .oci(&["--debug", "--log", &log, "--log-format", "json", "create", "-b", &name, "one"])
            .fails()
            .complains(property);
        let line: Value = serde_json::from_str(&fs::read_to_string(bundles.path(&log)).unwrap()).unwrap();
        assert_eq!(line["level"], "error");
        assert!(line["msg"].as_str().unwrap().starts_with(property), "{line}");
    }
    bundles.make("plain", "true", |_| {});
    bundles.oci(&["--systemd-cgroup", "create", "-b", "plain", "one"]).fails().complains("--systemd-cgroup");
    bundles.oci(&["create", "-b", "plain", "a/b"]).fails().complains("invalid container ID format");
    bundles.oci(&["create", "-b", "plain", "--console-socket", "s", "one"]).fails().complains("--console-socket");
    bundles.oci(&["create", "-b", "plain", "--preserve-fds", "200", "one"]).fails().complains("--preserve-fds");
    bundles.oci(&["create", "-b", "missing", "one"]).fails().complains("missing");
    bundles.finish();
}

#[test]
fn a_user_namespace_has_its_own_ids() {
    let bundles = Bundles::new("oci-userns");
    let script = "id -u; cat /proc/self/uid_map | tr -s ' '; stat -c %u /bin; echo x > /dev/null; ls /dev/zero; \
        mount -t tmpfs none /tmp && echo mounted; cat /data/word";
    fs::create_dir(bundles.path("data")).unwrap();
    fs::write(bundles.path("data/word"), "word\n").unwrap();
    let data = bundles.path("data");
    bundles.make("mapped", script, |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        config["linux"]["uidMappings"] = ids.clone();
        config["linux"]["gidMappings"] = ids;
        let all = json!(["CAP_SYS_ADMIN", "CAP_CHOWN"]);
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            config["process"]["capabilities"][set] = all.clone();
        }
        let bind = json!({"destination": "/data", "type": "bind", "source": data, "options": ["bind"]});
        config["mounts"].as_array_mut().unwrap().push(bind);
        config["root"]["readonly"] = json!(false);
    });
    // Its root makes what is missing to mount on, so the files are its own.
    let owned = Command::new("chown").args(["-R", "100000:100000"]).arg(bundles.path("app/rootfs")).status();
    assert!(owned.unwrap().success());
    let output = bundles.oci(&["run", "-b", "mapped", "one"]).ok();
    let want = "0\n 0 100000 65536\n0\n/dev/zero\nmounted\nword\n";
    assert_eq!(output.stdout, want, "{output:?}");
    bundles.finish();
}

#[test]
fn what_a_killed_runtime_leaves_can_be_deleted() {
    let bundles = Bundles::new("oci-killed");
    let mark = bundles.path("mark");
    bundles.make("slow", "true", |config| {
        config["hooks"]["createRuntime"] = json!([hook(&format!("echo $$ >{}; exec sleep 1000", mark.display()))]);
    });
    let running = bundles.stack.spawn(&["oci", "create", "-b", "slow", "one"]);
    let hook = wait::until(wait::PATIENCE, "the hook", || {
        let text = fs::read_to_string(&mark).unwrap_or_default();
        text.trim().parse().map_err(|_| "no mark")
    });
    assert_eq!(bundles.state("one")["status"], "creating");
    running.signal(Signal::SIGKILL);
    running.wait();
    // What a hook does on the host is its own business: as with runc, nobody ends it with the runtime.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(hook), Signal::SIGKILL).unwrap();
    bundles.wait_for("one", "stopped");
    bundles.oci(&["delete", "--force", "one"]).ok();
    bundles.finish();
}

#[test]
fn a_terminal_goes_to_the_console_socket() {
    let bundles = Bundles::new("oci-console");
    bundles.make("terminal", "tty; stty size; read line; echo got $line", |config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({"height": 33, "width": 44});
    });
    bundles.oci(&["create", "-b", "terminal", "one"]).fails().complains("--console-socket");
    let socket = bundles.path("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    assert_eq!(
        bundles.start(&["create", "-b", "terminal", "--console-socket", "socket", "one"]),
        0,
        "{}",
        bundles.said()
    );
    let (connection, _) = listener.accept().unwrap();
    let mut buffer = [0; 64];
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
    let message = nix::sys::socket::recvmsg::<()>(
        connection.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        nix::sys::socket::MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .unwrap();
    let descriptor = message.cmsgs().unwrap().find_map(|control| match control {
        nix::sys::socket::ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    // Opened anew by its name in /proc: an own descriptor, without a promise about the one that came.
    let path = format!("/proc/self/fd/{}", descriptor.expect("a descriptor came"));
    let shown = fs::read_link(&path).unwrap();
    assert!(shown.to_string_lossy().contains("ptmx"), "{}", shown.display());
    bundles.oci(&["start", "one"]).ok();
    nix::unistd::close(descriptor.unwrap()).unwrap();
    bundles.wait_for("one", "stopped");
    bundles.oci(&["delete", "one"]).ok();
    bundles.finish();
}

#[test]
fn a_container_in_the_foreground_has_the_callers_terminal() {
    let bundles = Bundles::new("oci-foreground");
    bundles.make("shell", "exec sh", |config| config["process"]["terminal"] = json!(true));
    bundles.make("sleeper", "exec sleep 1000", |_| {});
    let start = |args: &[&str]| Terminal::start(&bundles.stack.command(&[&["oci"], args].concat()), 33, 91);
    start(&["run", "--bundle", "shell", "one"]).talk_to_shell();
    assert_eq!(bundles.start(&["run", "--detach", "--bundle", "sleeper", "two"]), 0, "{}", bundles.said());
    start(&["exec", "--tty", "two", "sh"]).talk_to_shell();
    assert_eq!(bundles.state("two")["status"], "running");
    bundles.oci(&["delete", "--force", "two"]).ok();
    bundles.finish();
}

#[test]
fn a_32_bit_program_runs_with_the_default_filter() {
    // exit(42) by `int 0x80`, in one segment of a program for i386.
    let code: &[u8] = &[0xb8, 1, 0, 0, 0, 0xbb, 42, 0, 0, 0, 0xcd, 0x80];
    let mut elf: Vec<u8> = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0\x01\0\0\0".to_vec();
    let base: u32 = 0x0804_8000;
    for word in [base + 84, 52, 0, 0] {
        elf.extend(word.to_le_bytes());
    }
    for half in [52_u16, 32, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    let size = 84 + u32::try_from(code.len()).unwrap();
    for word in [1, 0, base, base, size, size, 5, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    let bundles = Bundles::new("oci-i386");
    let program = bundles.path("app/rootfs/bin/old");
    fs::write(&program, elf).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let exported: Value = serde_json::from_slice(&fs::read(bundles.path("app/config.json")).unwrap()).unwrap();
    bundles.make("old", "", |config| {
        config["process"]["args"] = json!(["/bin/old"]);
        config["linux"]["seccomp"] = exported["linux"]["seccomp"].clone();
    });
    assert!(exported["linux"]["seccomp"]["architectures"].as_array().is_some_and(|list| list.len() == 2));
    assert_eq!(bundles.oci(&["run", "-b", "old", "one"]).code, 42);
    bundles.finish();
}

#[test]
fn features_and_the_first_configuration_are_of_the_specification() {
    let bundles = Bundles::new("oci-features");
    let features: Value = serde_json::from_str(&bundles.oci(&["features"]).ok().stdout).unwrap();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert!(features["linux"]["namespaces"].as_array().unwrap().contains(&json!("user")));
    bundles.oci(&["spec"]).ok();
    bundles.oci(&["spec"]).fails().complains("config.json");
    // The other name of the program leads to the same place.
    let link = bundles.path("rcompose-oci");
    std::os::unix::fs::symlink(stack::binary(), &link).unwrap();
    let mut child = Command::new(&link).arg("features").stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), features);
    bundles.finish();
}
