//! `cp` from and into a container that exchanges a directory for a link out of it all the time (CVE-2018-15664, CVE-2019-14271).

use std::fs;

use compose_tests::stack::Stack;

/// How often each direction is tried: `RCOMPOSE_RACES`, as for the other races (`docs/security.md`).
fn times() -> u32 {
    std::env::var("RCOMPOSE_RACES").ok().and_then(|count| count.parse().ok()).unwrap_or(500)
}

#[test]
fn a_container_that_changes_its_directories_gets_nothing_of_the_host() {
    let stack = Stack::new("race");
    let victim = stack.root().with_file_name("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("passwd"), "secret of the host\n").unwrap();
    // What the link leads to is there for the host only.
    stack.write(
        "compose.yaml",
        &format!(
            "services:
  racer:
    image: busybox
    stop_grace_period: 0s
    command:
      - sh
      - -c
      - |
        mkdir -p /race/dir; echo inside > /race/dir/passwd; ln -s {0} /race/link; ln -s ../../../../../..{0} /race/up
        mv /race/dir /race/x
        while :; do
          mv /race/x /race/dir; mv /race/link /race/x
          mv /race/x /race/link; mv /race/up /race/x
          mv /race/x /race/up; mv /race/dir /race/x
        done
",
            victim.display()
        ),
    );
    stack.write("evil", "evil\n");
    stack.run(&["up", "-d"]).ok();
    let (mut read, mut written) = (0, 0);
    let out = stack.project_folder().join("out");
    for _ in 0..times() {
        if stack.run(&["cp", "racer:/race/x/passwd", "out"]).code == 0 {
            let content = fs::read_to_string(&out).unwrap();
            assert!(content == "inside\n" || content == "evil\n", "{content}");
            fs::remove_file(&out).unwrap();
            read += 1;
        }
        // The directory itself: whatever comes of it, it is not the host's.
        if stack.run(&["cp", "-L", "racer:/race/x", "out"]).code == 0 {
            let content = fs::read_to_string(out.join("passwd")).unwrap_or_default();
            assert!(!content.contains("secret"), "{content}");
            if out.is_dir() { fs::remove_dir_all(&out).unwrap() } else { fs::remove_file(&out).unwrap() }
        }
        written += u32::from(stack.run(&["cp", "evil", "racer:/race/x/passwd"]).code == 0);
    }
    let there: Vec<_> = fs::read_dir(&victim).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(there, ["passwd"]);
    assert_eq!(fs::read_to_string(victim.join("passwd")).unwrap(), "secret of the host\n");
    assert!(read > 0 && written > 0, "the race was never run: {read} {written}");
    fs::remove_dir_all(victim).unwrap();
    stack.finish();
}
