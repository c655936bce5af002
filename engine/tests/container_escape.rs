//! Attempts to get out of a container, or to harm the host from one. `docs/security.md` lists what each stands for.
//!
//! Races are run `RCOMPOSE_RACES` times each: a few in CI, a thousand in `.ci/nightly`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod lab;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use lab::{Lab, exec};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use rcompose_engine::container::config::{ContainerConfig, LogConfig, Mount, MountSource, NamespaceMode};
use rcompose_engine::shim::client::{Client, ClientError};
use rcompose_engine::shim::protocol::Exec;

/// How often a race is run.
fn races() -> usize {
    std::env::var("RCOMPOSE_RACES").ok().and_then(|count| count.parse().ok()).unwrap_or(30)
}

fn volume(name: &str, subpath: Option<&str>) -> MountSource {
    MountSource::Volume { name: name.into(), anonymous: false, no_copy: true, subpath: subpath.map(Into::into) }
}

fn tmpfs() -> MountSource {
    MountSource::Tmpfs { size: None, mode: None, options: Vec::new() }
}

fn at(target: impl Into<String>, source: MountSource) -> Mount {
    Mount { target: target.into(), read_only: false, source }
}

/// Makes the directory of a volume and returns it.
fn data(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.root.volume(name).join("_data");
    fs::create_dir_all(&path).unwrap();
    path
}

/// Makes an empty directory of the host that nothing may appear in.
fn canary(lab: &Lab) -> PathBuf {
    let path = lab.path().join("canary");
    fs::create_dir(&path).unwrap();
    path
}

fn assert_empty(directory: &Path) {
    let left: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "something got out: {left:?}");
}

/// Exchanges two files over and over while `work` is done, and returns how often.
fn while_exchanging(one: &Path, other: &Path, work: impl FnOnce()) -> u64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0;
            while !stop.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
                swaps += 1;
            }
            swaps
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let swaps = swapper.join().unwrap();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        swaps
    })
}

/// Starts a process in a container; returns its output, or why it did not run.
fn try_exec(container: &lab::Container, request: Exec) -> Result<String, ClientError> {
    use std::os::fd::AsFd;
    let mut client = Client::connect(&container.run).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let started = client.exec(request, &[null.as_fd(), writer.as_fd(), writer.as_fd()]);
    drop(writer);
    let (number, ..) = started?;
    let mut output = String::new();
    std::io::Read::read_to_string(&mut reader, &mut output).unwrap();
    client.wait(number).unwrap();
    Ok(output)
}

/// CVE-2024-21626: a descriptor of the host's that is still open names the program, the working directory, or a directory to
/// look for programs in.
#[test]
fn no_open_descriptor_leads_to_the_hosts_files() {
    let Some(lab) = Lab::new() else { return };
    // On the file system of the bundle, and on the one of the run directory.
    let shm = tempfile::Builder::new().prefix("rcompose-lab-").tempdir_in("/dev/shm").unwrap();
    let mut programs = Vec::new();
    for directory in [lab.path(), shm.path()] {
        fs::copy("/bin/busybox", directory.join("hostprogram")).unwrap();
        let path = directory.join("hostprogram");
        programs.push(path.strip_prefix("/dev/shm").map_or(path.clone(), Path::to_owned));
    }
    let up = "../".repeat(12);
    let paths = |fd: usize| -> Vec<String> {
        programs
            .iter()
            .map(|program| {
                let relative = program.strip_prefix("/").unwrap_or(program).display().to_string();
                format!("/proc/self/fd/{fd}/{up}{relative}")
            })
            .collect()
    };
    let container = lab.start(&lab.config(&["sleep", "1000"]));
    for fd in 0..40 {
        for path in paths(fd) {
            let directory = path.strip_suffix("/hostprogram").unwrap();
            let mut as_program = lab.config(&[&path, "true"]);
            as_program.environment = [("X".to_owned(), Some("y".to_owned()))].into();
            let mut on_path = lab.config(&["hostprogram", "true"]);
            on_path.environment = [("PATH".to_owned(), Some(directory.to_owned()))].into();
            let mut in_directory = lab.config(&["./hostprogram", "true"]);
            in_directory.working_dir = Some(directory.to_owned());
            // One start of each kind is enough to see whether the descriptor is there; the rest by exec, which is the same
            // code.
            if fd < 16 {
                for config in [as_program, on_path, in_directory] {
                    let failure = lab.try_start(&config).err();
                    assert!(failure.is_some(), "a program of the host ran: {:?}", config.command);
                }
            }
            let on_path = Exec { env: vec![format!("PATH={directory}")], ..exec(&["hostprogram", "true"]) };
            let in_directory = Exec { cwd: Some(directory.to_owned()), ..exec(&["./hostprogram", "true"]) };
            for request in [exec(&[&path, "true"]), on_path, in_directory] {
                let said = try_exec(&container, request);
                assert!(matches!(said, Err(ClientError::Failed(_))), "{path}: {said:?}");
            }
        }
    }
}

/// What no test before had: the owner and mode of the host's `/dev/null` could be changed through what is masked with it,
/// and through standard input.
#[test]
fn no_container_gets_the_hosts_null_device() {
    let Some(lab) = Lab::new() else { return };
    let host = fs::metadata("/dev/null").unwrap();
    assert!(host.file_type().is_char_device());
    let own = format!("{}:{}", host.dev(), host.ino());
    // Every file that is a device, from everywhere one could come from.
    let script = "for f in /proc/self/fd/* /proc/1/fd/* /proc/interrupts /proc/keys /proc/kcore /proc/timer_list /proc/sched_debug; do
        test -c $f && stat -L -c '%t:%T %d:%i' $f; done; echo done";
    data(&lab, "empty");
    let default = lab.shell(script);
    let without_log = ContainerConfig { log: LogConfig::None, ..lab.shell("sleep 1000") };
    let volume_at_dev = ContainerConfig { mounts: vec![at("/dev", volume("empty", None))], ..lab.shell(script) };
    let check = |what: &str, output: &str| {
        assert!(output.contains("done"), "{what}: {output}");
        let devices: Vec<_> = output.lines().filter_map(|line| line.split_once(' ')).collect();
        assert!(devices.iter().any(|(number, _)| *number == "1:3"), "{what}: {output}");
        for (number, file) in devices {
            assert!(number != "1:3" || file != own, "{what}: {output}");
        }
    };
    for config in [&default, &volume_at_dev] {
        check("a container", &lab.run(config).1);
    }
    let container = lab.start(&without_log);
    check("a process", &container.exec(exec(&["sh", "-c", script])).1);
    // A process gets a null device even where the container has put something else in its place.
    let trap = "rm /dev/null; mkfifo /dev/null; ln -s /dev/zero /dev/link";
    container.exec(exec(&["sh", "-c", trap]));
    check("a process after that", &container.exec(exec(&["sh", "-c", script])).1);
    let after = fs::metadata("/dev/null").unwrap();
    assert_eq!((host.mode(), host.uid(), host.gid()), (after.mode(), after.uid(), after.gid()));
}

/// PID 1 of `init: true` is a process of the engine's, and whoever may trace it reads its environment.
#[test]
fn the_engines_environment_and_command_line_are_gone() {
    let Some(lab) = Lab::new() else { return };
    assert!(std::env::vars().any(|(name, _)| name == "CARGO_MANIFEST_DIR" || name == "PATH"));
    let mut config =
        lab.shell("tr '\\0' '\\n' < /proc/1/environ; tr '\\0' ' ' < /proc/1/cmdline; ls /proc/1/fd; echo done");
    config.init = true;
    config.cap_add = vec!["SYS_PTRACE".into()];
    let (_, output) = lab.run(&config);
    let output = output.replace('\n', " ");
    let said = output.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(said, "rcompose-init 0 1 2 done");
}

/// CVE-2016-9962: a process on its way into a container is looked into before it is the container's.
#[test]
fn processes_on_their_way_in_have_nothing_of_the_host() {
    let Some(lab) = Lab::new() else { return };
    // Busy, so that it sees many of them at every stage.
    let look = "while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) continue;; esac
        for f in $p/fd/* $p/cwd $p/exe; do readlink $f; done; tr '\\0' '\\n' < $p/environ; done; done 2>/dev/null >> /seen";
    for powers in [Vec::new(), vec!["SYS_PTRACE".to_owned()]] {
        let container = lab.start(&ContainerConfig { cap_add: powers.clone(), ..lab.shell(look) });
        for _ in 0..races() {
            container.exec(exec(&["true"]));
        }
        let seen = fs::read_to_string(lab.root.container(&container.id).join("upper/seen")).unwrap_or_default();
        let run = lab.root.run().display().to_string();
        let expected = |line: &str| {
            line.is_empty()
                || ["pipe:", "socket:", "anon_inode:", "/bin/busybox", "/dev/null", "/null", "/proc/"]
                    .iter()
                    .any(|start| line.starts_with(start))
                // Its own streams; and its root.
                || line.starts_with(&format!("{run}/containers/{}/std", container.id))
                || ["/", "/seen", "/dev/pts/ptmx"].contains(&line)
                || ["PATH=/bin", "FROM_IMAGE=yes", "HOME=/root", "HOSTNAME="].iter().any(|start| line.starts_with(start))
                // A shell's own.
                || ["PWD=", "SHLVL=", "OLDPWD=", "_="].iter().any(|start| line.starts_with(start))
        };
        // The file of the program itself is out of reach otherwise, so that its name is all there is to see.
        let own = std::env::current_exe().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let odd: BTreeSet<&str> = seen.lines().filter(|line| !expected(line) && !line.contains(&own)).collect();
        assert!(odd.is_empty(), "with {powers:?}: {odd:#?}");
    }
}

/// CVE-2019-5736, by exec and as a script's interpreter.
#[test]
fn the_engines_program_is_not_reached_by_exec() {
    let Some(lab) = Lab::new() else { return };
    fs::write(lab.layer().join("evil"), "#!/proc/self/exe\n").unwrap();
    nix::sys::stat::fchmodat(
        AT_FDCWD,
        &lab.layer().join("evil"),
        nix::sys::stat::Mode::from_bits_truncate(0o755),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
    .unwrap();
    let exe = std::env::current_exe().unwrap();
    let before = fs::read(&exe).unwrap();
    let container = lab.start(&lab.config(&["sleep", "1000"]));
    for program in ["/proc/self/exe", "/evil", "/proc/1/exe", "/proc/thread-self/exe"] {
        // It may even run: as a program of the container's.
        let said = try_exec(&container, exec(&[program, "--list"]));
        println!("{program}: {}", if said.is_ok() { "ran" } else { "did not run" });
    }
    assert!(before == fs::read(&exe).unwrap(), "the program was changed");
}

/// User databases that are none: they are read on every start and every `exec --user`.
#[test]
fn a_user_database_that_is_no_file_does_no_harm() {
    let Some(lab) = Lab::new() else { return };
    let secret = lab.path().join("secret");
    fs::write(&secret, "app:x:4242:4242::/from/the/host:/bin/sh\n").unwrap();
    let etc = lab.layer().join("etc");
    let place = |name: &str, make: &dyn Fn(&Path)| {
        fs::remove_file(etc.join(name)).ok();
        make(&etc.join(name));
    };
    let fifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let device = |path: &Path| {
        // Whoever opens it hears of nothing: a device that nobody drives.
        let kind = nix::sys::stat::SFlag::S_IFCHR;
        nix::sys::stat::mknod(path, kind, nix::sys::stat::Mode::S_IRWXU, nix::sys::stat::makedev(1, 5)).unwrap();
    };
    let link = |target: &Path| {
        let target = target.to_owned();
        move |path: &Path| symlink(&target, path).unwrap()
    };
    let huge = |path: &Path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap();
    let (to_secret, to_self, to_itself) =
        (link(&secret), link(Path::new("/proc/self/environ")), link(Path::new("passwd")));
    let directory = |path: &Path| fs::create_dir(path).unwrap();
    let kinds: [&dyn Fn(&Path); 6] = [&fifo, &device, &to_secret, &to_self, &to_itself, &huge];
    let resolve = |lab: &Lab, user: &str| {
        rcompose_engine::container::user::resolve_in_layers(&[lab.layer()], user, &["extra".to_owned()])
    };
    for make in kinds {
        place("passwd", make);
        assert!(resolve(&lab, "app").is_err());
        let container = lab.start(&ContainerConfig { user: Some("7".into()), ..lab.config(&["sleep", "1000"]) });
        let as_app = Exec { user: Some("app".into()), ..exec(&["true"]) };
        assert!(matches!(try_exec(&container, as_app), Err(ClientError::Failed(_))));
        assert_eq!(
            try_exec(&container, Exec { user: Some("8".into()), ..exec(&["grep", "Uid", "/proc/self/status"]) })
                .unwrap(),
            "Uid:\t8\t8\t8\t8\n"
        );
    }
    place("passwd", &|path| fs::write(path, "app:x:1000:1001::/home/app:/bin/sh\n").unwrap());
    // Ten million lines, which are not read to their end.
    place("group", &|path| fs::write(path, "x:x:1:app\n".repeat(10_000_000)).unwrap());
    assert!(resolve(&lab, "app").is_err(), "the group that is asked for is not in it");
    assert_eq!(rcompose_engine::container::user::resolve_in_layers(&[lab.layer()], "app", &[]).unwrap().uid, 1000);
    fs::remove_file(etc.join("group")).unwrap();
    directory(&etc.join("group"));
    assert!(resolve(&lab, "app").is_err());
    fs::remove_dir(etc.join("group")).unwrap();
}

/// Images whose `/dev`, `/proc`, `/sys` or files of `/etc` are links to places of the host.
#[test]
fn links_in_place_of_what_the_engine_mounts_lead_nowhere() {
    let Some(lab) = Lab::new() else { return };
    let canary = canary(&lab);
    fs::write(lab.path().join("file"), "of the host\n").unwrap();
    let layer = lab.layer();
    for (name, target) in [
        ("dev", canary.clone()),
        ("proc", canary.clone()),
        ("sys", PathBuf::from("/").join("../../../../..").join(&canary)),
        ("run", canary.join("below")),
    ] {
        fs::remove_dir(layer.join(name)).ok();
        symlink(target, layer.join(name)).unwrap();
    }
    for name in ["hosts", "hostname", "resolv.conf"] {
        symlink(lab.path().join("file"), layer.join("etc").join(name)).unwrap();
    }
    let mut config =
        lab.shell("echo x > /etc/hosts; echo x > /run/x; touch /dev/shm/x /dev/x; ls /proc/self >/dev/null && echo up");
    config.mounts = vec![at("/run/deep/er", tmpfs()), at("/dev/mine", tmpfs())];
    let (_, output) = lab.run(&config);
    assert!(output.contains("up"), "{output}");
    assert_empty(&canary);
    assert_eq!(fs::read_to_string(lab.path().join("file")).unwrap(), "of the host\n");
    // A container that makes such links itself, and is started again.
    let mut config = lab.shell("mv /etc /etc2; ln -s $CANARY /etc; rm -rf /bin2; ln -s $CANARY /data2");
    config.environment = [("CANARY".to_owned(), Some(canary.display().to_string()))].into();
    config.mounts = vec![at("/data2/x", tmpfs())];
    for _ in 0..3 {
        if let Ok(mut container) = lab.try_start(&config) {
            container.wait();
        }
        assert_empty(&canary);
    }
}

/// A volume over `/proc` would catch what the engine writes there (CVE-2019-19921, CVE-2025-52881), and so would a part of it.
#[test]
fn nothing_is_mounted_over_proc() {
    let Some(lab) = Lab::new() else { return };
    let fake = data(&lab, "fake");
    fs::create_dir_all(fake.join("self/attr")).unwrap();
    for target in
        ["/proc", "/proc/self", "/proc/sys", "/proc/sys/kernel", "/proc/1/attr", "/proc/self/fd", "/proc/../proc/"]
    {
        let config = ContainerConfig { mounts: vec![at(target, volume("fake", None))], ..lab.shell("true") };
        let failure = lab.try_start(&config).err().unwrap_or_else(|| panic!("{target} was mounted over"));
        assert!(failure.step.contains("/proc"), "{target}: {failure}");
        let config = ContainerConfig { mounts: vec![at(target, tmpfs())], ..lab.shell("true") };
        assert!(lab.try_start(&config).is_err(), "{target}");
    }
    // By a link of the image, and by one of a volume.
    symlink("/proc/self", lab.layer().join("way")).unwrap();
    symlink("/proc", fake.join("way")).unwrap();
    for mounts in
        [vec![at("/way/attr", tmpfs())], vec![at("/fake", volume("fake", None)), at("/fake/way/sys", tmpfs())]]
    {
        let config = ContainerConfig { mounts, ..lab.shell("true") };
        assert!(lab.try_start(&config).is_err());
    }
}

/// CVE-2025-31133 and CVE-2025-52565: what masks, and the console, come from `/dev`, which is a volume that somebody else
/// changes all the time.
#[test]
fn a_dev_that_changes_under_way_masks_nothing_with_files_of_the_host() {
    let Some(lab) = Lab::new() else { return };
    let canary = lab.path().join("canary");
    fs::write(&canary, "of the host\n").unwrap();
    let dev = data(&lab, "dev");
    for name in ["null", "console", "ptmx", "pts"] {
        symlink(&canary, dev.join(name)).unwrap();
    }
    symlink("/proc/sys/kernel/core_pattern", dev.join("other")).unwrap();
    let script = "for f in /proc/interrupts /proc/keys /proc/timer_list; do test -e $f && stat -L -c %t:%T $f; cat $f; done; echo evil > /proc/keys; echo done";
    let swaps = while_exchanging(&dev.join("null"), &dev.join("other"), || {
        for number in 0..races() {
            let mut config = lab.shell(script);
            config.mounts = vec![at("/dev", volume("dev", None))];
            config.tty = number % 4 == 3;
            // With a terminal it may fail: `/dev/pts` leads elsewhere.
            match lab.try_start(&config) {
                Ok(mut container) => {
                    container.wait();
                    let output = container.output();
                    assert!(output.contains("done") && !output.contains("of the host"), "{output}");
                    assert!(output.lines().all(|line| ["1:3", "done"].contains(&line.trim())), "{output}");
                }
                Err(failure) => assert!(config.tty, "{failure}"),
            }
        }
    });
    assert!(swaps > 100, "only {swaps} exchanges");
    assert_eq!(fs::read_to_string(&canary).unwrap(), "of the host\n");
}

/// CVE-2021-30465 and the thirteen like it: the way to a mount's target, its source's subpath, the working directory and a
/// device change while containers start.
#[test]
fn paths_that_change_under_way_lead_nowhere_outside() {
    let Some(lab) = Lab::new() else { return };
    let canary = canary(&lab);
    let shared = data(&lab, "shared");
    fs::create_dir(shared.join("way")).unwrap();
    symlink(&canary, shared.join("other")).unwrap();
    let mut started = 0;
    let swaps = while_exchanging(&shared.join("way"), &shared.join("other"), || {
        for number in 0..races() {
            let mut config = lab.shell("touch /part/file 2>/dev/null; touch file 2>/dev/null; true");
            config.mounts = vec![
                at("/vol", volume("shared", None)),
                at(format!("/vol/way/tmpfs{number}"), tmpfs()),
                at(format!("/vol/way/../way/bind{number}"), volume("shared", None)),
            ];
            if number % 2 == 0 {
                config.mounts.push(at("/part", volume("shared", Some("way"))));
            }
            config.working_dir = Some(format!("/vol/way/cwd{number}"));
            config.init = number % 3 == 0;
            // It may fail, where the path did not hold still; what counts is where it did not get to.
            if let Ok(mut container) = lab.try_start(&config) {
                started += 1;
                container.wait();
            }
        }
    });
    assert!(swaps > 100, "only {swaps} exchanges");
    println!("{started} of {} started", races());
    assert_empty(&canary);
}

/// Two containers that start at the same moment share a volume that is filled from the image, and each has a mount inside it.
#[test]
fn containers_that_start_together_do_not_lead_each_other_outside() {
    let Some(lab) = Lab::new() else { return };
    let canary = canary(&lab);
    let rounds = races().div_ceil(5);
    for round in 0..rounds {
        let name = format!("both{round}");
        data(&lab, &name);
        let evil = ContainerConfig {
            mounts: vec![at("/data", volume(&name, None))],
            environment: [("CANARY".to_owned(), Some(canary.display().to_string()))].into(),
            ..lab.shell("i=0; while [ $i -lt 200 ]; do mv /data/sub /data/old; ln -s $CANARY /data/sub; rm -rf /data/sub; mkdir -p /data/sub; i=$((i+1)); done 2>/dev/null")
        };
        let victim = ContainerConfig {
            mounts: vec![at("/data", volume(&name, None)), at("/data/sub/mine", tmpfs())],
            ..lab.shell("true")
        };
        let mut attacker = lab.start(&evil);
        for _ in 0..5 {
            if let Ok(mut container) = lab.try_start(&victim) {
                container.wait();
            }
        }
        attacker.kill(libc::SIGKILL);
        attacker.wait();
    }
    assert_empty(&canary);
}

/// CVE-2022-0492, CVE-2022-0811 and other ways through the kernel's own helpers.
#[test]
fn the_kernels_helpers_are_out_of_reach() {
    let Some(lab) = Lab::new() else { return };
    for write in [
        "echo /x > /proc/sys/kernel/core_pattern",
        "echo /x > /proc/sys/kernel/modprobe",
        "echo /x > /proc/sys/kernel/hotplug",
        "echo /x > /sys/kernel/uevent_helper",
        "echo ':x:M::x::/x:' > /proc/sys/fs/binfmt_misc/register",
        "echo 0 > /proc/sys/kernel/randomize_va_space",
        "echo 1 > /proc/sys/vm/panic_on_oom",
        "for f in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/release_agent; do echo /x > $f && exit 0; done; false",
        "for f in /sys/fs/cgroup/*/notify_on_release; do echo 1 > $f && exit 0; done; false",
        "for f in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do echo 1 > $f && exit 0; done; false",
        "for f in /sys/fs/cgroup/*/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do echo -1 > $f && exit 0; done; false",
        "for d in /sys/fs/cgroup/* /sys/fs/cgroup; do mkdir $d/x && exit 0; done; false",
        "mount -t cgroup -o memory cgroup /tmp",
        "mount -t cgroup2 cgroup2 /tmp",
        "mount -o remount,rw /sys/fs/cgroup",
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys",
        "umount /proc/keys",
        "unshare -C true",
        "unshare -r mount -t tmpfs x /tmp",
        "nsenter -t 1 -m true",
        "dmesg",
        "mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem",
        "mknod /tmp/kmsg c 1 11 && echo x > /tmp/kmsg",
        "insmod /x.ko",
        "hostname other",
        "chroot /proc/1/root/.. ls /proc/1/root/../../rcompose",
        "swapoff -a && false",
        "losetup /dev/loop0 /bin/busybox",
    ] {
        let (code, output) = lab.run(&lab.shell(write));
        assert_ne!(code, 0, "{write}: {output}");
    }
}

/// A neighbour in the same PID namespace stops, kills and looks into whatever it sees while a container is made.
#[test]
fn a_neighbour_in_the_pid_namespace_can_only_spoil_its_own() {
    let Some(lab) = &mut Lab::new() else { return };
    let attack = "while :; do for p in /proc/[0-9]*; do n=${p#/proc/}; case $n in 1|$$) continue;; esac
        readlink $p/root/etc/rcompose-lab; cat $p/root/etc/shadow >> /seen; ls $p/fd/*/ >> /fds; kill -STOP $n; kill -KILL $n; done; done 2>/dev/null";
    let neighbour = lab.start(&lab.shell(attack));
    lab.pids.insert(neighbour.id.clone(), neighbour.pid);
    for _ in 0..races() {
        let mut config = lab.shell("true");
        config.pid = NamespaceMode::Container(neighbour.id.clone());
        // Whether it starts is the neighbour's to decide, who may kill it; that it ends, one way or the other, is not.
        match lab.try_start(&config) {
            Ok(mut container) => {
                container.wait();
            }
            Err(failure) => assert!(!failure.step.is_empty()),
        }
    }
    let upper = lab.root.container(&neighbour.id).join("upper");
    for name in ["seen", "fds"] {
        let seen = fs::read_to_string(upper.join(name)).unwrap_or_default();
        assert!(!seen.contains("root:") && !seen.contains("shim.sock"), "{name}: {seen}");
    }
}
