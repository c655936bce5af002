//! Flags of builds that Docker takes and that do nothing: most are from before BuildKit. Scripts have them still.

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// What a flag is followed by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    /// Perhaps `=true` or `=false`.
    Bool,
    /// A text.
    Text,
}

/// The flags, and whether somebody who gives one is to hear that it does nothing: what the others ask for is done in any case, or
/// cannot be told from not being done.
const FLAGS: [(&str, Value, bool); 14] = [
    ("compress", Value::Bool, false),
    ("force-rm", Value::Bool, false),
    ("no-rm", Value::Bool, false),
    ("parallel", Value::Bool, false),
    ("rm", Value::Bool, false),
    ("squash", Value::Bool, true),
    ("cpu-period", Value::Text, true),
    ("cpu-quota", Value::Text, true),
    ("cpu-shares", Value::Text, true),
    ("cpuset-cpus", Value::Text, true),
    ("cpuset-mems", Value::Text, true),
    ("isolation", Value::Text, true),
    ("memory-swap", Value::Text, true),
    ("security-opt", Value::Text, true),
];

/// Those that were given, and of which that is to be said.
#[derive(Debug)]
pub struct Ignored(Vec<&'static str>);

impl Ignored {
    /// Returns a remark on each of them.
    pub fn remarks(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|flag| format!("--{flag} has no effect, as with BuildKit"))
    }
}

impl Args for Ignored {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.map(|(name, value, _)| {
            let flag = Arg::new(name).long(name).hide(true);
            match value {
                Value::Bool => flag.num_args(0..=1).require_equals(true).default_missing_value("true"),
                Value::Text => flag.action(ArgAction::Append),
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Ignored {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        let said = FLAGS.iter().filter(|(name, _, is_said)| *is_said && is_given(name));
        Ok(Self(said.map(|(name, ..)| *name).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
