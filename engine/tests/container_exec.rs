//! Further processes in a running container.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod lab;

use std::os::fd::AsFd;

use lab::{Lab, exec};
use rcompose_engine::container::config::ContainerConfig;
use rcompose_engine::host::Cgroups;
use rcompose_engine::shim::client::{Client, ClientError};
use rcompose_engine::shim::protocol::{Exec, ToShim};

#[test]
fn a_process_runs_inside_and_its_exit_is_told() {
    let Some(lab) = Lab::new() else { return };
    let mut config = lab.shell("echo up; sleep 100");
    config.hostname = Some("inside".into());
    config.environment.insert("FROM_CONFIG".into(), Some("1".into()));
    let container = lab.start(&config);
    container.wait_output("up");
    let script = "hostname; echo $FROM_CONFIG $FROM_EXEC; pwd; id -u; grep -E 'CapEff|Seccomp:' /proc/self/status | tr -d '\\t'; exit 9";
    let mut request = exec(&["sh", "-c", script]);
    request.env = vec!["FROM_EXEC=2".into()];
    let (code, output) = container.exec(request);
    assert_eq!((code, output.as_str()), (9, "inside\n1 2\n/\n0\nCapEff:00000000a80425fb\nSeccomp:2\n"));
    let request = Exec {
        user: Some("app".into()),
        cwd: Some("/tmp".into()),
        ..exec(&[
            "sh",
            "-c",
            "id; echo $HOME; pwd; ls /proc/self/fd | tr '\\n' ' '; cut -d: -f3 /proc/self/cgroup | sort -u | tr '\\n' ' '; exit 0",
        ])
    };
    let (code, output) = container.exec(request);
    let want = "uid=1000(app) gid=1001(app) groups=1001(app),1002(extra)\n/home/app\n/tmp\n0 1 2 3 / ";
    assert_eq!(code, 0);
    assert!(output.starts_with(want), "{output}");
    let (_, output) =
        container.exec(Exec { privileged: true, ..exec(&["sh", "-c", "mount -t tmpfs x /tmp && echo mounted"]) });
    assert_eq!(output, "mounted\n");
    // A home that was set is not the engine's to change.
    let mut config = lab.shell("echo up; sleep 100");
    config.environment.insert("HOME".into(), Some("/set".into()));
    let container = lab.start(&config);
    let (_, output) = container.exec(Exec { user: Some("app".into()), ..exec(&["sh", "-c", "echo $HOME"]) });
    assert_eq!(output, "/set\n");
}

#[test]
fn failures_have_dockers_words() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.start(&lab.shell("sleep 100"));
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut client = Client::connect(&container.run).unwrap();
    for (args, cwd, code, words) in [
        (&["nonsense"][..], None, 127, "exec: \"nonsense\": executable file not found in $PATH"),
        (&["/none/at/all"], None, 127, "exec: \"/none/at/all\": stat /none/at/all: no such file or directory"),
        (&["/noexec"], None, 126, "exec: \"/noexec\": permission denied"),
        (&["/etc"], None, 126, "exec: \"/etc\": is a directory"),
        (&["true"], Some("/missing"), 125, "change to directory /missing"),
    ] {
        let request = Exec { cwd: cwd.map(str::to_owned), ..exec(args) };
        match client.exec(request, &[null.as_fd(); 3]) {
            Err(ClientError::Failed(failure)) => assert_eq!((failure.code, failure.step.as_str()), (code, words)),
            other => panic!("{args:?}: {other:?}"),
        }
    }
    let request = Exec { user: Some("nobody".into()), ..exec(&["true"]) };
    let error = client.exec(request, &[null.as_fd(); 3]).unwrap_err();
    assert_eq!(error.to_string(), "unable to find user nobody: no matching entries in passwd file");
    let (exec, ..) = client.exec(exec(&["true"]), &[null.as_fd(); 3]).unwrap();
    assert_eq!(client.wait(exec).unwrap(), 0);
}

#[test]
fn a_process_can_have_a_terminal_and_be_killed() {
    let Some(lab) = Lab::new() else { return };
    let container = lab.start(&lab.shell("sleep 100"));
    let mut client = Client::connect(&container.run).unwrap();
    let request = Exec {
        tty: true,
        size: Some((33, 99)),
        ..exec(&["sh", "-c", "tty; stty size; echo $TERM; read x; echo \"<$x>\"; sleep 100"])
    };
    let (exec, _, master) = client.exec(request, &[]).unwrap();
    let master = master.unwrap();
    let (mut text, mut typed) = (String::new(), false);
    while !text.contains("<word>") {
        // Not before: the terminal echoes it in between whatever is written.
        if !typed && text.contains("xterm") {
            nix::unistd::write(&master, b"word\n").unwrap();
            typed = true;
        }
        lab::wait_readable(master.as_fd(), lab::DEADLINE);
        let mut buffer = [0; 256];
        let count = nix::unistd::read(&master, &mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    assert!(text.contains("/dev/pts/0\r\n33 99\r\nxterm\r\n"), "{text}");
    client.send(&ToShim::KillExec { exec }, &[]).unwrap();
    assert_eq!(client.wait(exec).unwrap(), 137);
}

#[test]
fn a_process_dies_with_its_container() {
    let Some(lab) = Lab::new() else { return };
    let mut container = lab.start(&lab.shell("sleep 100"));
    let mut client = Client::connect(&container.run).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let (exec, ..) = client.exec(exec(&["sleep", "100"]), &[null.as_fd(); 3]).unwrap();
    container.kill(libc::SIGKILL);
    assert_eq!(client.wait(exec).unwrap(), 137);
    assert_eq!(container.wait().code, 137);
}

#[test]
fn a_process_goes_where_an_init_that_manages_cgroups_has_gone() {
    let Some(lab) = Lab::new() else { return };
    // There are no internal processes on version 1.
    let Cgroups::V2(_) = &lab.host.cgroups else { return };
    let groups = "/sys/fs/cgroup";
    let script = format!(
        "mkdir {groups}/init && echo 1 > {groups}/init/cgroup.procs && echo +pids > {groups}/cgroup.subtree_control && \
         echo moved; sleep 100"
    );
    let container = lab.start(&ContainerConfig { privileged: true, ..lab.shell(&script) });
    container.wait_output("moved");
    let (code, output) = container.exec(exec(&["cat", "/proc/self/cgroup"]));
    assert_eq!((code, output.as_str()), (0, "0::/init\n"));
}
