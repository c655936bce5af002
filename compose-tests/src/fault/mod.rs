//! Fault injection: the n-th system call of the engine fails, as a kernel may make it fail.
//!
//! A command is run with the engine's processes under `ptrace(2)`: those that it starts, and, where they run already, the
//! project's supervisor, launcher and shims. First every system call that can fail is recorded; then the same is done
//! again and again, and each time one of them is not made but fails ([`tracer`]). Which ones can fail, and how, says
//! [`calls`]. Threads take turns as they like, so a place is not counted over all of them, but by who makes the call and
//! which call it is ([`Place`]).

pub mod calls;
pub mod message;
pub mod tracer;
pub mod wanted;

use std::fmt;

use nix::errno::Errno;

/// What a process of the engine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The command that was typed.
    Command,
    Supervisor,
    Launcher,
    Shim,
    /// A process on its way into a container, until it executes the container's program.
    Init,
}

/// One system call of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub role: Role,
    pub call: &'static str,
    /// How many calls of this name by this role come before it.
    pub number: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}:{}", self.role, self.call, self.number)
    }
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let bad = || format!("{text} is no place such as Shim:openat:3");
        let mut parts = text.split(':');
        let role = match parts.next().ok_or_else(bad)? {
            "Command" => Role::Command,
            "Supervisor" => Role::Supervisor,
            "Launcher" => Role::Launcher,
            "Shim" => Role::Shim,
            "Init" => Role::Init,
            _ => return Err(bad()),
        };
        let name = parts.next().ok_or_else(bad)?;
        let call = calls::CALLS.iter().map(|call| call.name).find(|known| *known == name).ok_or_else(bad)?;
        let number = parts.next().and_then(|number| number.parse().ok()).ok_or_else(bad)?;
        Ok(Place { role, call, number })
    }
}

/// A call that was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    pub place: Place,
    /// What it was about: a path, or where a descriptor leads to.
    pub about: String,
    /// How it could have failed.
    pub errors: Vec<Errno>,
}

/// A fault to bring about.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub place: Place,
    pub error: Errno,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.place, self.error)
    }
}

/// What came of a traced command.
#[derive(Debug)]
pub struct Traced {
    pub output: crate::output::Output,
    /// All calls that could fail; nothing with a fault.
    pub seen: Vec<Seen>,
    /// The call that was made to fail, if it came to that.
    pub failed: Option<Seen>,
    /// Whether the command had to be killed.
    pub hung: bool,
    /// What traced processes said of panics.
    pub panics: Vec<String>,
}
