//! A directory of the host, and a container that tries to have something of it read or written: all the time it exchanges
//! what a name in it stands for.

use std::fs;
use std::path::PathBuf;

use crate::stack::Stack;

/// What stands in the victim's only file, `passwd`.
const SECRET: &str = "secret of the host\n";

/// The directory.
#[derive(Debug)]
pub struct Victim(PathBuf);

impl Victim {
    /// Makes it, beside a stack's root, where only the host sees it.
    pub fn new(stack: &Stack) -> Self {
        let directory = stack.root().with_file_name("victim");
        fs::create_dir(&directory).expect("a stack has a temporary folder");
        fs::write(directory.join("passwd"), SECRET).expect("it was just made");
        Self(directory)
    }

    /// Returns a compose file with the service `racer`, in which `/race/x` is a directory with a file `passwd`, then a link to
    /// the victim, then one that first goes up. `attributes` are further ones of the service.
    pub fn project(&self, attributes: &str) -> String {
        format!(
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
{attributes}",
            self.0.display()
        )
    }

    /// Checks that nothing was written to it.
    pub fn is_unharmed(&self) {
        let there = fs::read_dir(&self.0).expect("it is still there");
        let there: Vec<_> = there.map(|entry| entry.expect("it is a directory of ours").file_name()).collect();
        assert_eq!(there, ["passwd"]);
        assert_eq!(fs::read_to_string(self.0.join("passwd")).expect("it is still there"), SECRET);
    }
}
