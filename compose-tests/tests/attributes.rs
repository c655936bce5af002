//! Attributes that not every kernel can honour: each is kept, seen from inside the container, or named in a warning.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use compose_tests::{stack::Stack, wait};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::stat::{Mode, SFlag, makedev, mknod},
};

/// An attribute, what is there where the kernel keeps it (one of these words in one of these files of the container's
/// cgroup), and what is said where it does not, in Docker's words.
struct Limit {
    attribute: &'static str,
    files: &'static str,
    words: &'static [&'static str],
    says: &'static str,
}

const LIMITS: [Limit; 10] = [
    Limit {
        attribute: "mem_swappiness: 7",
        files: "memory/memory.swappiness",
        words: &["7"],
        says: "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness \
               discarded.",
    },
    Limit {
        attribute: "mem_limit: 64m\n    oom_kill_disable: true",
        files: "memory/memory.oom_control",
        words: &["oom_kill_disable 1"],
        says: "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
    },
    Limit {
        attribute: "mem_limit: 64m\n    memswap_limit: 96m",
        files: "memory/memory.memsw.limit_in_bytes memory.swap.max",
        words: &["100663296", "33554432"],
        says: "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without \
               swap.",
    },
    Limit {
        attribute: "cpuset: '0'",
        files: "cpuset/cpuset.cpus cpuset.cpus",
        words: &["0"],
        says: "Your kernel does not support cpuset or the cgroup is not mounted. CPUset discarded.",
    },
    Limit {
        attribute: "blkio_config: {weight: 300}",
        files: "blkio/blkio.weight blkio/blkio.bfq.weight io.weight io.bfq.weight",
        words: &["300", "default 2930", "default 300"],
        says: "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
    },
    Limit {
        attribute: "blkio_config: {weight_device: [{path: ./disk, weight: 200}]}",
        files: "blkio/blkio.weight_device blkio/blkio.bfq.weight_device io.weight io.bfq.weight",
        words: &["DEVICE 200", "DEVICE 1920"],
        says: "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
    },
    Limit {
        attribute: "blkio_config: {device_read_bps: [{path: ./disk, rate: 1m}]}",
        files: "blkio/blkio.throttle.read_bps_device io.max",
        words: &["DEVICE 1048576", "DEVICE rbps=1048576 wbps=max riops=max wiops=max"],
        says: "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit \
               discarded.",
    },
    Limit {
        attribute: "blkio_config: {device_write_bps: [{path: ./disk, rate: 1m}]}",
        files: "blkio/blkio.throttle.write_bps_device io.max",
        words: &["DEVICE 1048576", "DEVICE rbps=max wbps=1048576 riops=max wiops=max"],
        says: "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write \
               limit discarded.",
    },
    Limit {
        attribute: "blkio_config: {device_read_iops: [{path: ./disk, rate: 70}]}",
        files: "blkio/blkio.throttle.read_iops_device io.max",
        words: &["DEVICE 70", "DEVICE rbps=max wbps=max riops=70 wiops=max"],
        says: "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit \
               discarded.",
    },
    Limit {
        attribute: "blkio_config: {device_write_iops: [{path: ./disk, rate: 70}]}",
        files: "blkio/blkio.throttle.write_iops_device io.max",
        words: &["DEVICE 70", "DEVICE rbps=max wbps=max riops=max wiops=70"],
        says: "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit \
               discarded.",
    },
];

/// Makes the node of a disk of this host, which `/dev` need not have, in the project. Returns its number.
fn make_disk(stack: &Stack) -> Option<String> {
    let disks = fs::read_dir("/sys/block").ok()?.flatten();
    let number = disks.filter_map(|disk| fs::read_to_string(disk.path().join("dev")).ok()).min()?;
    let number = number.trim();
    let (major, minor) = number.split_once(':')?;
    let device = makedev(major.parse().ok()?, minor.parse().ok()?);
    let node = stack.project_folder().join("disk");
    mknod(&node, SFlag::S_IFBLK, Mode::S_IRUSR, device).expect("root makes device nodes");
    Some(number.to_owned())
}

/// Whether BFQ is the scheduler of a device, as in the virtual machine.
fn is_weighed(device: &str) -> bool {
    fs::read_to_string(format!("/sys/dev/block/{device}/queue/scheduler")).is_ok_and(|text| text.contains("[bfq]"))
}

#[test]
fn a_limit_is_kept_or_named() {
    let stack = Stack::new("limits");
    let device = make_disk(&stack);
    for limit in &LIMITS {
        let Limit { attribute, files, words, says } = limit;
        if device.is_none() && attribute.contains("./disk") {
            continue;
        }
        let attribute = attribute.replace("./disk", &stack.project_folder().join("disk").display().to_string());
        stack.write(
            "compose.yaml",
            &format!("services:\n  web:\n    image: busybox\n    command: sleep 1000\n    {attribute}\n"),
        );
        let up = stack.run(&["up", "-d"]).ok();
        let script = format!("cd /sys/fs/cgroup; cat {files} 2>/dev/null; ls {files} 2>/dev/null; true");
        let inside = stack.run(&["exec", "-T", "web", "sh", "-c", &script]).ok().stdout;
        let device = device.as_deref().unwrap_or_default();
        let is_kept = words.iter().any(|word| inside.lines().any(|line| line == word.replace("DEVICE", device)));
        assert_ne!(is_kept, up.stderr.contains(says), "{attribute}: {inside}\n{up:?}");
        // Only of weights the kernel has the file without keeping them, for devices that it does not weigh.
        let is_there = files.split(' ').any(|file| inside.lines().any(|line| line == file));
        if is_there && (!attribute.contains("weight_device") || is_weighed(device)) {
            assert!(is_kept, "{attribute}: {inside}\n{up:?}");
        }
        assert_eq!(up.stderr.contains("Your kernel"), up.stderr.contains(says), "{attribute}: {up:?}");
        // What was given up stays so when it is started again, and `run` says it as well.
        stack.run(&["restart", "-t", "0"]).ok();
        let run = stack.run(&["run", "--rm", "-T", "web", "true"]).ok();
        assert_eq!(run.stderr.contains(says), !is_kept, "{attribute}: {run:?}");
    }
    stack.finish();
}

#[test]
fn a_device_is_used_as_far_as_its_permissions_go() {
    let stack = Stack::new("devices");
    let node = stack.project_folder().join("node");
    // Whether there is a driver does not matter: who may not use a device hears of that first.
    mknod(&node, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(10, 229)).expect("root makes device nodes");
    let service = |name: &str, permissions: &str| {
        let device = format!("{{source: {}, target: /dev/own, permissions: {permissions}}}", node.display());
        format!("  {name}: {{image: busybox, command: sleep 1000, devices: [{device}]}}\n")
    };
    stack.write("compose.yaml", &format!("services:\n{}{}", service("reads", "r"), service("writes", "w")));
    stack.run(&["up", "-d"]).ok();
    for (service, direction, is_refused) in
        [("reads", "<", false), ("reads", ">", true), ("writes", "<", true), ("writes", ">", false)]
    {
        let script = format!("true {direction}/dev/own");
        let output = stack.run(&["exec", "-T", service, "sh", "-c", &script]);
        assert_eq!(output.stderr.contains("not permitted"), is_refused, "{service} {direction}: {output:?}");
    }
    stack.finish();
}

/// Where the kernel lists handlers for programs of other machines (kernel documentation, `admin-guide/binfmt-misc`).
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";

/// The beginning of a program for s390x: ELF, 64 bits, the highest byte first, executable, machine 22.
const FOREIGN: [u8; 20] = [0x7f, b'E', b'L', b'F', 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 22];

/// A handler for programs of another machine; it is gone when this is dropped.
struct Handler(String);

impl Handler {
    /// The interpreter is opened now (`F`), so that it need not be in the container.
    fn register(name: &str, interpreter: &Path) -> Handler {
        let bytes = FOREIGN.map(|byte| format!("\\x{byte:02x}")).concat();
        let line = format!(":{name}:M::{bytes}::{}:F", interpreter.display());
        fs::write(format!("{HANDLERS}/register"), line).expect("the kernel takes a handler");
        Handler(format!("{HANDLERS}/{name}"))
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        drop(fs::write(&self.0, "-1"));
    }
}

#[test]
fn programs_of_another_machine_need_a_handler() {
    let stack = Stack::new("platform");
    // A view of this thread's own, whatever the host has mounted.
    unshare(CloneFlags::CLONE_NEWNS).expect("root makes mount namespaces");
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts can be made private");
    let has_handlers = mount(Some("binfmt_misc"), HANDLERS, Some("binfmt_misc"), MsFlags::empty(), none).is_ok();
    let known = |entry: fs::DirEntry| fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("00020016"));
    let is_known = fs::read_dir(HANDLERS).into_iter().flatten().flatten().any(known);

    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    let mut program = FOREIGN.to_vec();
    program.resize(200, 0);
    header.set_mode(0o755);
    header.set_size(200);
    archive.append_data(&mut header, "bin/program", &program[..]).expect("memory takes it");
    let archive = archive.into_inner().expect("memory takes it");
    fs::write(stack.project_folder().join("foreign.tar"), archive).expect("the project's folder can be written");
    let change = "ENTRYPOINT [\"/bin/program\"]";
    stack.run(&["image", "import", "--platform", "linux/s390x", "-c", change, "foreign.tar", "local/foreign"]).ok();
    stack.write(
        "compose.yaml",
        "services:
  own: {image: busybox}
  foreign: {image: local/foreign, pull_policy: never, platform: linux/s390x, command: [from inside]}
",
    );
    if !is_known {
        let output = stack.run(&["run", "--rm", "-T", "foreign"]).fails();
        output.complains(
            "linux/s390x, whose programs this machine cannot execute: no handler of binfmt_misc is registered",
        );
    }
    if !has_handlers {
        eprintln!("skipped: this kernel has no binfmt_misc");
        stack.finish();
        return;
    }
    // A program that says what it is to interpret, as one that is called `echo` does.
    stack.run(&["create", "own"]).ok();
    stack.run(&["cp", "own:/bin/busybox", "echo"]).ok();
    let interpreter = stack.project_folder().join("echo");
    fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o755)).expect("it is there");
    let handler = Handler::register(&stack.project, &interpreter);
    let output = stack.run(&["run", "--rm", "-T", "foreign"]).ok();
    assert_eq!(output.text(), "/bin/program from inside", "{output:?}");
    drop(handler);
    stack.finish();
}

/// A profile of AppArmor that is loaded; it is unloaded when this is dropped.
struct Profile(String);

impl Profile {
    /// Loads one that denies nothing but to write to a file. `None` where this host cannot.
    fn load(name: &str) -> Option<Profile> {
        let profile = Profile(format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{
              network, capability, file, signal, ptrace, mount, umount,
              deny /tmp/denied w,
            }}"
        ));
        profile.parse("--replace").then_some(profile)
    }

    fn parse(&self, operation: &str) -> bool {
        let mut command = Command::new("apparmor_parser");
        command.args([operation, "--skip-cache"]).stdin(Stdio::piped());
        let Ok(mut parser) = command.spawn() else { return false };
        let mut input = parser.stdin.take().expect("it was asked for");
        input.write_all(self.0.as_bytes()).expect("it reads its input");
        drop(input);
        parser.wait().expect("it ends").success()
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parse("--remove");
    }
}

/// Shown in the virtual machine (`compose-tests/vm`), whose kernel uses AppArmor. What is `docker-default` there is ours.
#[test]
fn programs_are_confined_by_a_profile() {
    let stack = Stack::new("apparmor");
    let is_used = fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"));
    let Some(_own) = is_used.then(|| Profile::load(&stack.project)).flatten() else {
        eprintln!("skipped: this kernel does not use AppArmor, or there is no apparmor_parser");
        stack.finish();
        return;
    };
    let service = |name: &str, more: &str| {
        let command = "cat /proc/self/attr/current; exec sleep 1000";
        format!("  {name}: {{image: busybox, command: [sh, -c, '{command}'], {more}}}\n")
    };
    let own = format!("apparmor={}", stack.project);
    let file = [
        ("own", format!("security_opt: ['{own}']")),
        ("both", format!("security_opt: ['{own}', no-new-privileges]")),
        ("default", "init: true, cap_add: [SYS_ADMIN]".to_owned()),
        ("free", "security_opt: ['apparmor:unconfined'], cap_add: [SYS_ADMIN]".to_owned()),
        ("privileged", "privileged: true".to_owned()),
    ];
    let services: String = file.iter().map(|(name, more)| service(name, more)).collect();
    stack.write("compose.yaml", &format!("services:\n{services}"));
    stack.run(&["up", "-d"]).ok();
    let confined = [
        ("own", format!("{} (enforce)", stack.project), stack.project.clone()),
        ("both", format!("{} (enforce)", stack.project), stack.project.clone()),
        ("default", "docker-default (enforce)".to_owned(), "docker-default".to_owned()),
        ("free", "unconfined".to_owned(), "unconfined".to_owned()),
        ("privileged", "unconfined".to_owned(), String::new()),
    ];
    for (service, by, name) in &confined {
        let first = wait::until(wait::PATIENCE, "the first words of the program", || {
            let said = stack.run(&["logs", "--no-log-prefix", service]).ok().stdout;
            if said.is_empty() { Err("nothing") } else { Ok(said) }
        });
        assert_eq!(first.trim_end(), by, "{service}");
        let further = stack.run(&["exec", "-T", service, "cat", "/proc/self/attr/current"]).ok();
        assert_eq!(further.text(), by, "{service}");
        let told = stack.run(&["inspect", "-f", "{{.AppArmorProfile}}", service]).ok();
        assert_eq!(told.text(), name, "{service}");
    }
    let privileged = stack.run(&["exec", "-T", "--privileged", "own", "cat", "/proc/self/attr/current"]).ok();
    assert_eq!(privileged.text(), "unconfined");
    for service in ["own", "both"] {
        stack.run(&["exec", "-T", service, "touch", "/tmp/denied"]).fails().complains("Permission denied");
        stack.run(&["exec", "-T", service, "touch", "/tmp/allowed"]).ok();
    }
    let status = stack.run(&["exec", "-T", "both", "grep", "NoNewPrivs", "/proc/self/status"]).ok();
    assert_eq!(status.text(), "NoNewPrivs:\t1");
    stack.run(&["exec", "-T", "free", "touch", "/tmp/denied"]).ok();
    // The default one lets programs end each other and be ended, and nobody mount, whatever the capabilities.
    let mount = ["sh", "-c", "mount -t tmpfs none /tmp || exit 1"];
    stack.run(&[&["exec", "-T", "default"][..], &mount].concat()).fails().complains("Permission denied");
    stack.run(&[&["exec", "-T", "free"][..], &mount].concat()).ok();
    stack.run(&["exec", "-T", "default", "sh", "-c", "sleep 1000 & kill $!"]).ok();
    stack.run(&["stop", "default"]).ok();
    assert_eq!(stack.container("default")["ExitCode"], 143);

    let missing = format!("apparmor={}-not", stack.project);
    stack.write("unknown.yaml", &format!("services:\n{}", service("unknown", &format!("security_opt: ['{missing}']"))));
    for command in [&["up", "-d"][..], &["run", "--rm", "-T", "unknown"]] {
        let output = stack.run(&[&["-f", "unknown.yaml"], command].concat()).fails();
        let output = output.complains(&format!("{missing}: no such profile is loaded"));
        assert_eq!(output.code, 1, "{output:?}");
    }
    let started = stack.run(&["-f", "unknown.yaml", "ps", "--format", "{{.Service}}", "unknown"]).ok();
    assert_eq!(started.text(), "");
    stack.finish();
}
