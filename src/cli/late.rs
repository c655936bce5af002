//! Arguments of a command that can be described when the command is chosen: a program that describes those of all its
//! commands before it looks at the first one takes longer for that than for most of what it is asked.

use std::cell::Cell;
use std::ops::Deref;

use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

thread_local! {
    /// Whether arguments are described when they are needed.
    static WAITING: Cell<bool> = const { Cell::new(false) };
}

/// Returns the command line that `describe` describes, where the arguments of a command are unknown until it is chosen.
pub(super) fn wait(describe: impl FnOnce() -> Command) -> Command {
    let before = WAITING.replace(true);
    let command = describe();
    WAITING.set(before);
    command
}

/// The arguments of a command.
#[derive(Debug)]
pub(super) struct Late<T>(Box<T>);

impl<T> Deref for Late<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: FromArgMatches> FromArgMatches for Late<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches(matches).map(Box::new).map(Self)
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, Error> {
        T::from_arg_matches_mut(matches).map(Box::new).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches(matches)
    }

    fn update_from_arg_matches_mut(&mut self, matches: &mut ArgMatches) -> Result<(), Error> {
        self.0.update_from_arg_matches_mut(matches)
    }
}

impl<T: Args> Args for Late<T> {
    fn augment_args(command: Command) -> Command {
        if WAITING.get() { command.defer(T::augment_args) } else { T::augment_args(command) }
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}
