//! Containers that share namespaces, and the other version of cgroups.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod lab;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use lab::{Lab, exec};
use rcompose_engine::container::config::NamespaceMode;
use rcompose_engine::container::signal;
use rcompose_engine::host::Cgroups;

#[test]
fn namespaces_of_another_container_are_joined() {
    let Some(mut lab) = Lab::new() else { return };
    let mut config = lab.shell("echo shared > /dev/shm/file; echo up; sleep 1000");
    config.hostname = Some("first".into());
    let first = lab.start(&config);
    first.wait_output("up");
    lab.pids.insert(config.id.clone(), first.pid);
    let mut second = lab
        .shell("cat /dev/shm/file; hostname; ps -o args | grep -c '[s]leep 1000'; echo $$; readlink /proc/self/ns/ipc");
    second.pid = NamespaceMode::Container(config.id.clone());
    second.ipc = NamespaceMode::Container(config.id.clone());
    second.uts = NamespaceMode::Container(config.id.clone());
    let (code, output) = lab.run(&second);
    assert_eq!(code, 0, "{output}");
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..3], ["shared", "first", "1"]);
    assert_ne!(lines[3], "1");
    let ipc = fs::read_link(format!("/proc/{}/ns/ipc", first.pid)).unwrap();
    assert_eq!(lines[4], ipc.to_str().unwrap());
    // The first one is none the worse for it.
    assert_eq!(first.exec(exec(&["hostname"])).1, "first\n");
}

#[test]
fn the_hosts_namespaces_can_be_shared() {
    let Some(lab) = Lab::new() else { return };
    let mut config =
        lab.shell("for n in pid ipc uts net cgroup; do readlink /proc/self/ns/$n; done; sleep 1000 & sleep 0.1");
    config.pid = NamespaceMode::Host;
    config.ipc = NamespaceMode::Host;
    config.uts = NamespaceMode::Host;
    config.cgroup = NamespaceMode::Host;
    let mut container = lab.start(&config);
    assert_eq!(container.wait().code, 0);
    let own: String = ["pid", "ipc", "uts", "net", "cgroup"]
        .map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_str().unwrap().to_owned() + "\n")
        .concat();
    assert_eq!(container.output(), own);
    // Without a PID namespace nobody but the shim ends what PID 1 leaves behind: dropping the container asserts that its
    // cgroups could be removed.
}

#[test]
fn a_unified_hierarchy_works_too() {
    let unified = PathBuf::from("/sys/fs/cgroup/unified");
    let Some(mut lab) = Lab::new() else { return };
    if matches!(lab.host.cgroups, Cgroups::V1(_)) {
        if !unified.join("cgroup.procs").exists() {
            println!("skipped: no hierarchy of version 2 is mounted");
            return;
        }
        lab.host.cgroups = Cgroups::V2(unified.clone());
    }
    let script = "cat /proc/self/cgroup | grep ^0; ls /sys/fs/cgroup/cgroup.procs; \
                  mknod /tmp/sda b 8 0; cat /tmp/sda; head -c1 /dev/zero | wc -c; echo ready; sleep 1000";
    let config = lab.shell(&format!("exec 2>&1; {script}"));
    let container = lab.start(&config);
    let output = container.wait_output("ready");
    let want = "0::/\n/sys/fs/cgroup/cgroup.procs\ncat: can't open '/tmp/sda': Operation not permitted\n1\nready\n";
    assert_eq!(output, want);
    let procs = container.shim.cgroup.directory("").unwrap().join("cgroup.procs");
    assert!(fs::read_to_string(&procs).unwrap().contains(&container.pid.to_string()));
    assert_eq!(container.exec(exec(&["sh", "-c", "grep ^0 /proc/self/cgroup"])), (0, "0::/\n".into()));
    container.shim.cgroup.freeze(true).unwrap();
    container.shim.cgroup.freeze(false).unwrap();
}

#[test]
fn a_container_is_paused_and_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.start(&lab.shell("while :; do echo tick; sleep 0.01; done"));
    container.wait_output("tick");
    container.shim.cgroup.freeze(true).unwrap();
    let state = fs::read_to_string(format!("/proc/{}/status", container.pid)).unwrap();
    println!("{}", state.lines().find(|line| line.starts_with("State")).unwrap());
    let settle = |container: &lab::Container| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        container.output().len()
    };
    let before = settle(&container);
    assert_eq!(settle(&container), before);
    container.shim.cgroup.freeze(false).unwrap();
    let end = std::time::Instant::now() + lab::DEADLINE;
    while settle(&container) == before {
        assert!(std::time::Instant::now() < end, "it did not go on");
    }
}

#[test]
fn what_pid_1_cannot_receive_is_known() {
    let Some(lab) = Lab::new() else { return };
    let pid = |container: &lab::Container| nix::unistd::Pid::from_raw(container.pid);
    let deaf = lab.start(&lab.shell("echo up; exec sleep 1000"));
    deaf.wait_output("up");
    let hears = lab.start(&lab.shell("trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done"));
    hears.wait_output("up");
    let mut config = lab.shell("echo up; exec sleep 1000");
    config.init = true;
    let mut with_init = lab.start(&config);
    with_init.wait_output("up");
    assert!(!signal::can_receive(pid(&deaf), libc::SIGTERM));
    assert!(signal::can_receive(pid(&deaf), libc::SIGKILL));
    assert!(signal::can_receive(pid(&hears), libc::SIGTERM));
    assert!(signal::can_receive(pid(&with_init), libc::SIGTERM));
    with_init.kill(libc::SIGTERM);
    assert_eq!(with_init.wait().code, 143);
}

/// Executes this test binary from a sealed view of itself, as a supervisor is executed.
#[test]
fn a_sealed_program_runs_and_knows_it() {
    const INSIDE: &str = "RCOMPOSE_TEST_SEALED";
    if std::env::var_os(INSIDE).is_some() {
        assert!(rcompose_engine::shim::sealed::is_sealed());
        assert!(fs::File::options().write(true).open("/proc/self/exe").is_err());
        println!("sealed indeed");
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    assert!(!rcompose_engine::shim::sealed::is_sealed());
    let begin = std::time::Instant::now();
    let sealed = rcompose_engine::shim::sealed::sealed_exe().unwrap();
    println!("sealed in {:?}", begin.elapsed());
    let path = rcompose_engine::container::beneath::proc_path(&sealed);
    // Not closed on exec, so that the child finds it by its path.
    nix::fcntl::fcntl(&sealed, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let output = std::process::Command::new(path)
        .args(["--exact", "a_sealed_program_runs_and_knows_it", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("sealed indeed"));
}

#[test]
fn the_engines_program_cannot_be_reached() {
    let Some(lab) = Lab::new() else { return };
    // An image whose program is whatever executes it (CVE-2019-5736).
    fs::write(lab.layer().join("evil"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(lab.layer().join("evil"), fs::Permissions::from_mode(0o755)).unwrap();
    let exe = std::env::current_exe().unwrap();
    let before = fs::metadata(&exe).unwrap().modified().unwrap();
    let mut config = lab.config(&["/evil"]);
    config.init = false;
    if let Ok(mut container) = lab.try_start(&config) {
        container.wait();
    }
    // With an init of ours, its program is not even to be opened: nothing may look into it.
    let mut config = lab.shell(
        "echo up; cat /proc/1/exe > /tmp/copy; echo > /proc/1/exe; readlink /proc/1/exe || echo Permission denied; cat /proc/1/environ; sleep 0.1",
    );
    config.init = true;
    let (_, output) = lab.run(&config);
    assert!(output.matches("Permission denied").count() >= 4, "{output}");
    assert_eq!(fs::metadata(&exe).unwrap().modified().unwrap(), before);
}
