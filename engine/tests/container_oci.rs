//! The configuration that is written is one that other OCI runtimes run as well.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "these are tests")]

mod lab;

use std::fs;
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
    let state = lab.path().join("runc");
    let output = Command::new("runc")
        .arg("--root")
        .arg(&state)
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg("x")
        .output()
        .unwrap();
    // It makes groups in every hierarchy, or in the only one, and leaves their parents.
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(&root).unwrap().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root]) {
        let parent = hierarchy.join("rcompose");
        fs::remove_dir(parent.join(&lab.project).join(config.id.as_str())).ok();
        fs::remove_dir(parent.join(&lab.project)).ok();
        fs::remove_dir(parent).ok();
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), ours, "{errors}");
}
