//! What a container sees and may do, looked at from inside.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod lab;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use lab::Lab;
use rcompose_engine::container::config::{Device, LogConfig, Mount, MountSource, NetworkMode, Ulimit};

fn check(lab: &Lab, script: &str, want: &str) {
    let (code, output) = lab.run(&lab.shell(script));
    assert_eq!((code, output.trim_end()), (0, want), "{script}");
}

#[test]
fn defaults_are_those_of_docker() {
    let Some(lab) = Lab::new() else { return };
    check(
        &lab,
        "echo $$; grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|Seccomp:|NoNewPrivs' /proc/self/status | tr -d '\\t'",
        "1\nCapInh:0000000000000000\nCapPrm:00000000a80425fb\nCapEff:00000000a80425fb\nCapBnd:00000000a80425fb\n\
         CapAmb:0000000000000000\nNoNewPrivs:0\nSeccomp:2",
    );
    check(&lab, "pwd; umask; echo $PATH $FROM_IMAGE $HOME; cat /proc/self/oom_score_adj", "/\n0022\n/bin yes /root\n0");
    check(
        &lab,
        "ls /dev | tr '\\n' ' '",
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
    );
    check(
        &lab,
        "ls -ld /dev/shm /tmp | cut -c1-10; stat -c %a /dev/pts/ptmx; stat -f -c %b /dev/shm",
        "drwxrwxrwt\ndrwxr-xr-x\n666\n16384",
    );
    // Only what was asked for: 0, 1, 2, and the directory being listed.
    check(&lab, "ls /proc/self/fd | tr '\\n' ' '", "0 1 2 3");
    check(&lab, "cat /proc/1/cgroup | cut -d: -f3 | sort -u | head -1", "/");
}

#[test]
fn the_kernel_is_masked() {
    let Some(lab) = Lab::new() else { return };
    check(
        &lab,
        "exec 2>/dev/null; cat /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; for d in /proc/scsi /proc/acpi /sys/firmware; do ls $d; done; true",
        "",
    );
    for write in [
        "echo 1 > /proc/sys/kernel/domainname",
        "echo b > /proc/sysrq-trigger",
        "touch /sys/x",
        "mkdir /sys/fs/cgroup/memory/x",
        "mkdir /sys/fs/cgroup/x",
        "echo x > /proc/irq/default_smp_affinity",
        "mount -t tmpfs x /tmp",
        "umount /proc/kcore",
        "mknod /tmp/sda b 8 0 && cat /tmp/sda",
        "mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg",
        "unshare -m true",
        "unshare -U true",
        "chroot / mount -o remount,rw /sys",
        "dmesg",
    ] {
        let (code, output) = lab.run(&lab.shell(write));
        assert_ne!(code, 0, "{write}: {output}");
    }
}

#[test]
fn users_groups_and_limits_apply() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab
        .shell("exec 2>&1; id; grep CapEff /proc/self/status; ulimit -n; echo $HOME; echo hi > /dev/stdout; touch /x");
    config.user = Some("app".into());
    config.group_add = vec!["2000".into()];
    config.ulimits = vec![Ulimit { name: "nofile".into(), soft: 100, hard: 200 }];
    let (code, output) = lab.run(&config);
    let want = "uid=1000(app) gid=1001(app) groups=1001(app),1002(extra),2000\nCapEff:\t0000000000000000\n100\n\
                /home/app\nhi\ntouch: /x: Permission denied\n";
    assert_eq!((code, output.as_str()), (1, want));
}

#[test]
fn privileges_are_added_and_taken() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab.shell("grep -E 'CapEff|NoNew|Seccomp:' /proc/self/status | tr -d '\\t'");
    config.cap_drop = vec!["ALL".into()];
    config.cap_add = vec!["NET_BIND_SERVICE".into()];
    config.security_opt = vec!["no-new-privileges:true".into(), "seccomp=unconfined".into()];
    assert_eq!(lab.run(&config).1, "CapEff:0000000000000400\nNoNewPrivs:1\nSeccomp:0\n");

    let mut config = lab.shell("mount -t tmpfs x /tmp && touch /tmp/x && mkdir /sys/fs/cgroup/pids/x; rmdir /sys/fs/cgroup/pids/x; ls /dev/loop-control /dev/kmsg");
    config.privileged = true;
    let (_, output) = lab.run(&config);
    assert!(output.contains("/dev/kmsg"), "{output}");
    assert!(!output.contains("mount:"), "{output}");
}

#[test]
fn a_read_only_root_is_read_only() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab.shell("exec 2>&1; touch /x; touch /run/made/x /dev/shm/x && echo ok; stat -c %a /run/made");
    config.read_only = true;
    let source = MountSource::Tmpfs { size: Some(1 << 20), mode: Some(0o1700), options: Vec::new() };
    config.mounts = vec![Mount { target: "/run/made".into(), read_only: false, source }];
    let (_, output) = lab.run(&config);
    assert_eq!(output, "touch: /x: Read-only file system\nok\n1700\n");
}

#[test]
fn volumes_are_filled_once_and_binds_are_seen() {
    let Some(lab) = Lab::new() else { return };
    let volume = lab.root.volume("vol").join("_data");
    fs::create_dir_all(&volume).unwrap();
    let host = lab.path().join("made/for/the/bind");
    let mount = |target: &str, read_only, source| Mount { target: target.into(), read_only, source };
    let named = MountSource::Volume { name: "vol".into(), anonymous: false, no_copy: false, subpath: None };
    let part =
        MountSource::Volume { name: "vol".into(), anonymous: false, no_copy: false, subpath: Some("sub".into()) };
    let bind = MountSource::Bind { source: host.clone(), create_host_path: true, propagation: None, recursive: true };
    let mut config = lab.shell("cat /data/sub/file /part/file; echo new > /data/new; echo b > /b/x; touch /ro/x");
    config.mounts =
        vec![mount("/b", false, bind.clone()), mount("/ro", true, bind), mount("/data", false, named.clone())];
    let (_, output) = lab.run(&config);
    assert_eq!(
        output,
        "from the image\ncat: can't open '/part/file': No such file or directory\ntouch: /ro/x: Read-only file system\n"
    );
    assert_eq!(fs::read_to_string(host.join("x")).unwrap(), "b\n");
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "new\n");
    fs::remove_file(volume.join("new")).unwrap();
    config = lab.shell("cat /part/file; ls /data");
    config.mounts = vec![mount("/data", false, named), mount("/part", false, part)];
    assert_eq!(lab.run(&config).1, "from the image\nsub\n");
}

#[test]
fn links_of_an_image_lead_nowhere_outside() {
    let Some(lab) = Lab::new() else { return };
    let canary = lab.path().join("canary");
    fs::create_dir(&canary).unwrap();
    let layer = lab.layer();
    // A mount target, the working directory, and a volume's subpath that try to leave.
    symlink(&canary, layer.join("escape")).unwrap();
    symlink("../../../../../../..", layer.join("up")).unwrap();
    let volume = lab.root.volume("vol").join("_data");
    fs::create_dir_all(&volume).unwrap();
    symlink("/etc", volume.join("link")).unwrap();
    let tmpfs = || MountSource::Tmpfs { size: None, mode: None, options: Vec::new() };
    let mut config = lab.shell("touch /escape/x /up/y; pwd; ls /up | grep -c proc");
    config.mounts = vec![
        Mount { target: "/escape/deep".into(), read_only: false, source: tmpfs() },
        Mount { target: "/up/upper".into(), read_only: false, source: tmpfs() },
    ];
    config.working_dir = Some("/escape/work".into());
    let (code, output) = lab.run(&config);
    assert_eq!(code, 0, "{output}");
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);

    let link =
        MountSource::Volume { name: "vol".into(), anonymous: false, no_copy: true, subpath: Some("link".into()) };
    let mut config = lab.shell("true");
    config.mounts = vec![Mount { target: "/x".into(), read_only: false, source: link }];
    let failure = lab.try_start(&config).err().unwrap();
    assert!(failure.step.contains("link"), "{failure}");
    lab.bundle(&config);

    for directory in ["/proc/self/fd/3", "/proc/self/fd/9", "/proc/1/root"] {
        let mut config = lab.shell("ls");
        config.working_dir = Some(directory.into());
        let failure = lab.try_start(&config).err().unwrap();
        assert!(failure.step.contains(directory), "{failure}");
    }
    let mut config = lab.shell("true");
    config.mounts = vec![Mount { target: "/proc/self/attr".into(), read_only: false, source: tmpfs() }];
    let failure = lab.try_start(&config).err().unwrap();
    assert!(failure.step.contains("inside /proc is not allowed"), "{failure}");
}

#[test]
fn devices_are_made_and_guarded() {
    let Some(lab) = Lab::new() else { return };
    if fs::metadata("/dev/net/tun").is_err() {
        println!("skipped: the host has no /dev/net/tun");
        return;
    }
    let mut config = lab.shell("stat -c %t,%T /dev/net/tun; : <> /dev/net/tun2 && echo open");
    let device = |source: &str, target: &str| Device {
        source: PathBuf::from(source),
        target: PathBuf::from(target),
        permissions: "rwm".into(),
    };
    config.devices = vec![device("/dev/net/tun", "/dev/net/tun"), device("/dev/net/tun", "/dev/net/tun2")];
    assert_eq!(lab.run(&config).1, "a,c8\nopen\n");
    let (code, _) = lab.run(&lab.shell("mknod /tmp/tun c 10 200 && : <> /tmp/tun"));
    assert_ne!(code, 0);
}

#[test]
fn limits_are_enforced() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab.shell("dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; echo after");
    config.resources.memory = Some(16 << 20);
    config.resources.memory_swap = Some(16 << 20);
    config.resources.pids = Some(5);
    config.resources.nano_cpus = Some(500_000_000);
    let mut container = lab.start(&config);
    let read = |controller: &str, file: &str| {
        fs::read_to_string(container.shim.cgroup.directory(controller).unwrap().join(file)).unwrap()
    };
    if container.shim.cgroup.version == rcompose_engine::container::cgroup::Version::V1 {
        assert_eq!(read("memory", "memory.limit_in_bytes").trim(), "16777216");
        assert_eq!(read("cpu", "cpu.cfs_quota_us").trim(), "50000");
        assert_eq!(read("pids", "pids.max").trim(), "5");
    } else {
        for (file, limit) in
            [("memory.max", "16777216"), ("memory.swap.max", "0"), ("cpu.max", "50000 100000"), ("pids.max", "5")]
        {
            assert_eq!(read("", file).trim(), limit, "{file}");
        }
    }
    let exit = container.wait();
    assert!(exit.oom_killed, "{exit:?} {}", container.output());
    drop(container);
    let mut config = lab.shell("grep Cpus_allowed_list /proc/self/status | cut -f2");
    config.resources.cpuset_cpus = Some("0".into());
    assert_eq!(lab.run(&config).1, "0\n");
    let mut config = lab.shell("for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait");
    config.resources.pids = Some(5);
    let (_, output) = lab.run(&config);
    assert!(output.contains("can't fork"), "{output}");
}

#[test]
fn sysctls_reach_their_namespace_only() {
    let Some(lab) = Lab::new() else { return };
    let before = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let mut config = lab.shell("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni");
    config.network = NetworkMode::None;
    config.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "77".into());
    config.sysctls.insert("kernel.shmmni".into(), "99".into());
    assert_eq!(lab.run(&config).1, "77\n99\n");
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap(), before);
}

#[test]
fn an_init_reaps_and_forwards() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab.shell("trap 'echo got; exit 3' TERM; echo $$; (sleep 0.01 &); sleep 0.1; ls -d /proc/[0-9]* | wc -l; echo ready; while :; do sleep 0.05; done");
    config.init = true;
    config.user = Some("app".into());
    let mut container = lab.start(&config);
    let output = container.wait_output("ready");
    let pid: u32 = output.lines().next().unwrap().parse().unwrap();
    assert!(pid > 1, "{output}");
    container.kill(libc::SIGTERM);
    assert_eq!(container.wait().code, 3);
    assert!(container.output().contains("got"));
}

#[test]
fn a_terminal_is_a_terminal() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab.shell("tty; test -t 0 && test -t 1 && test -t 2 && echo all; ls -l /dev/console | cut -c1; read line; echo \"<$line>\"; echo $TERM");
    config.tty = true;
    config.user = Some("app".into());
    let mut container = lab.start(&config);
    // What is typed is echoed at once, whatever else is on its way.
    container.wait_output("all\r\nc");
    nix::unistd::write(&container.fds[2], b"typed\n").unwrap();
    assert_eq!(container.wait().code, 0);
    let output = container.output().replace("\r\n", "\n");
    assert_eq!(output, "/dev/pts/0\nall\nc\ntyped\n<typed>\nxterm\n");
}

#[test]
fn standard_input_can_be_open() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab.shell("read line; echo \"<$line>\"");
    config.stdin_open = true;
    let mut container = lab.start(&config);
    fs::write(container.run.join(rcompose_engine::shim::STDIN), "words\n").unwrap();
    container.wait();
    assert_eq!(container.output(), "<words>\n");
    let mode = fs::metadata(container.run.join("stdout")).unwrap();
    assert_eq!((mode.permissions().mode() & 0o777, mode.uid()), (0o600, 0));
}

/// A volume in which a directory on the way to another mount's target is exchanged for a link, over and over, while
/// containers start (CVE-2021-30465).
#[test]
fn a_volume_that_changes_under_way_leads_nowhere_outside() {
    let Some(lab) = Lab::new() else { return };
    let canary = lab.path().join("canary");
    fs::create_dir(&canary).unwrap();
    let volume = lab.root.volume("vol").join("_data");
    fs::create_dir_all(volume.join("way")).unwrap();
    symlink(&canary, volume.join("other")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let (way, other) = (volume.join("way"), volume.join("other"));
            let (cwd, exchange) = (nix::fcntl::AT_FDCWD, nix::fcntl::RenameFlags::RENAME_EXCHANGE);
            let mut swaps = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                nix::fcntl::renameat2(cwd, &way, cwd, &other, exchange).unwrap();
                swaps += 1;
            }
            swaps
        });
        for number in 0..40 {
            let mut config = lab.shell("true");
            let named = MountSource::Volume { name: "vol".into(), anonymous: false, no_copy: true, subpath: None };
            let tmpfs = MountSource::Tmpfs { size: None, mode: None, options: Vec::new() };
            config.mounts = vec![
                Mount { target: "/vol".into(), read_only: false, source: named },
                Mount { target: format!("/vol/way/target{number}"), read_only: false, source: tmpfs },
            ];
            // It may fail, where the path did not hold still; what counts is where it did not get to.
            if let Ok(mut container) = lab.try_start(&config) {
                container.wait();
            }
        }
        stop.store(true, Ordering::Relaxed);
        let swaps = swapper.join().unwrap();
        assert!(swaps > 100, "only {swaps} exchanges");
    });
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);
}

#[test]
fn without_a_log_output_goes_nowhere() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab.shell("echo lost; test -p /proc/$$/fd/1");
    config.log = LogConfig::None;
    assert_eq!(lab.run(&config), (0, String::new()));
}
