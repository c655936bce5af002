//! What a Dockerfile offers: its targets, and what a build of one can be told (`--call=targets`, `--call=outline`).

use std::collections::BTreeSet;

use super::environment::Environment;
use crate::build::dockerfile::instruction::Argument;
use crate::build::dockerfile::shell::Variables;
use crate::build::dockerfile::{Dockerfile, Stage};
use crate::build::graph::Span;

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// What its comment says of it.
    pub description: Option<String>,
    /// It is built where no target is named.
    pub is_default: bool,
    /// What it is built on, as it was typed.
    pub base: String,
    /// `--platform`, as it was typed.
    pub platform: Option<String>,
    /// Where its `FROM` stands.
    pub span: Span,
}

/// Returns the stages of a Dockerfile.
pub fn targets(dockerfile: &Dockerfile) -> Vec<Target> {
    let last = dockerfile.stages.len().saturating_sub(1);
    let stages = dockerfile.stages.iter().enumerate();
    let target = |(at, stage): (usize, &Stage)| Target {
        name: stage.name.clone(),
        description: stage.description.clone(),
        is_default: at == last,
        base: stage.base.text.clone(),
        platform: stage.platform.as_ref().map(|word| word.text.clone()),
        span: stage.span(),
    };
    stages.map(target).collect()
}

/// What the build of a target can be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// The target, if it has a name.
    pub name: Option<String>,
    /// Its arguments.
    pub arguments: Vec<OutlineArgument>,
    /// Its secrets.
    pub secrets: Vec<OutlineMount>,
    /// Its SSH agents.
    pub ssh: Vec<OutlineMount>,
    /// Its caches.
    pub caches: Vec<OutlineMount>,
}

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineArgument {
    /// Its name.
    pub name: String,
    /// What its comment says of it.
    pub description: Option<String>,
    /// Its value in this build.
    pub value: Option<String>,
    /// Where it is declared.
    pub span: Span,
}

/// Something that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlineMount {
    /// Its name.
    pub id: String,
    /// The build fails without it.
    pub required: bool,
    /// Where it is mounted.
    pub span: Span,
}

impl Outline {
    /// Adds the arguments before the first stage.
    pub(crate) fn add_global(&mut self, dockerfile: &Dockerfile, global: &Environment) {
        for argument in dockerfile.arguments.iter().flat_map(|(_, arguments)| arguments) {
            self.add_argument(argument, global.get(&argument.name), false);
        }
    }

    /// Adds an argument. One that has its value of the arguments before the first stage is listed there.
    pub(crate) fn add_argument(&mut self, argument: &Argument, value: Option<&str>, is_inherited: bool) {
        if is_inherited {
            return;
        }
        self.arguments.push(OutlineArgument {
            name: argument.name.clone(),
            description: argument.description.clone(),
            value: value.map(str::to_owned),
            span: argument.span,
        });
    }

    /// Adds what is mounted.
    pub(crate) fn add_mount(&mut self, kind: &str, id: &str, required: bool, span: Span) {
        let list = match kind {
            "secret" => &mut self.secrets,
            "ssh" => &mut self.ssh,
            _ => &mut self.caches,
        };
        list.push(OutlineMount { id: id.to_owned(), required, span });
    }

    /// Leaves each thing in the list once, where it is declared last.
    pub(crate) fn finish(&mut self, name: Option<String>) {
        self.name = name;
        let mut seen = BTreeSet::new();
        self.arguments.reverse();
        self.arguments.retain(|argument| seen.insert(argument.name.clone()));
        self.arguments.sort_by_key(|argument| argument.span);
        for list in [&mut self.secrets, &mut self.ssh, &mut self.caches] {
            let mut seen = BTreeSet::new();
            list.retain(|mount| seen.insert(mount.id.clone()));
        }
    }
}
