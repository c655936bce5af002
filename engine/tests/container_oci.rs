//! The configuration that is written is one that other OCI runtimes run as well.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod lab;

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use lab::Lab;

#[test]
fn another_runtime_runs_the_same_bundle() {
    let Some(lab) = Lab::new() else { return };
    if Command::new("runc").arg("--version").output().is_err() {
        println!("skipped: needs runc");
        return;
    }
    let mut config = lab.shell("id -u; hostname; grep CapBnd /proc/self/status; cat /etc/hosts; pwd; ls /dev/pts");
    config.user = Some("app".into());
    config.hostname = Some("other".into());
    config.working_dir = Some("/tmp".into());
    config.resources.memory = Some(64 << 20);
    let (_, ours) = lab.run(&config);
    let bundle = lab.root.container(&config.id);
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    let copied = Command::new("cp").arg("-a").arg(lab.layer().join(".")).arg(bundle.join("rootfs")).status().unwrap();
    assert!(copied.success());
    let groups = groups().into_iter().map(|group| group.join("rcompose")).collect::<Vec<_>>();
    for group in &groups {
        // Other tests take the one above away when it is empty, for which runc is not prepared.
        while fs::create_dir_all(group.join(&lab.project)).is_err_and(|error| error.kind() == ErrorKind::NotFound) {}
    }
    let state = lab.path().join("runc");
    let output = Command::new("runc")
        .arg("--root")
        .arg(&state)
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg("x")
        .output()
        .unwrap();
    for group in &groups {
        fs::remove_dir(group.join(&lab.project).join(config.id.as_str())).ok();
        fs::remove_dir(group.join(&lab.project)).ok();
        fs::remove_dir(group).ok();
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), ours, "{errors}");
}

/// Returns the top of every hierarchy of control groups.
fn groups() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root];
    }
    fs::read_dir(&root).unwrap().map(|hierarchy| hierarchy.unwrap().path()).collect()
}
