//! The checks that need to know nothing but the text.

use super::{Checker, Rule};
use crate::build::dockerfile::instruction::{Argument, Command, Instruction};
use crate::build::dockerfile::{Dockerfile, Stage, go};

/// Makes the checks of a Dockerfile that depend on no option of the build.
pub(crate) fn check_stages(dockerfile: &Dockerfile, checker: &mut Checker) {
    for span in &dockerfile.empty_continuations {
        checker.report(Rule::NoEmptyContinuation, *span, &[], "Empty continuation line".to_owned());
    }
    for (instruction, arguments) in &dockerfile.arguments {
        check_arguments(instruction, arguments, checker);
    }
    let mut names: Vec<&str> = Vec::new();
    for stage in &dockerfile.stages {
        check_from(stage, &mut names, checker);
        for (instruction, command) in &stage.instructions {
            match command {
                Command::Maintainer(_) => {
                    let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
                    checker.report(Rule::MaintainerDeprecated, instruction.span, &instruction.comments, message);
                }
                Command::Arg(arguments) => check_arguments(instruction, arguments, checker),
                _ => {}
            }
        }
    }
    check_casing(dockerfile, checker);
}

fn check_from<'d>(stage: &'d Stage, names: &mut Vec<&'d str>, checker: &mut Checker) {
    let (span, comments) = (stage.from.span, &stage.from.comments);
    if let Some((keyword, name)) = &stage.typed_name {
        if name.to_lowercase() != *name {
            let message = format!("Stage name '{name}' should be lowercase");
            checker.report(Rule::StageNameCasing, span, comments, message);
        }
        let from = &stage.from.keyword;
        let wanted = if from.to_lowercase() == *from { keyword.to_lowercase() } else { keyword.to_uppercase() };
        if wanted != *keyword {
            let message = format!("'{keyword}' and '{from}' keywords' casing do not match");
            checker.report(Rule::FromAsCasing, span, comments, message);
        }
    }
    let Some(name) = stage.name.as_deref() else { return };
    check_description("FROM", &[name], &stage.from, checker);
    let quoted = go::quote(name);
    if matches!(name, "context" | "scratch") {
        let message = format!("Stage name should not use the same name as reserved stage {quoted}");
        checker.report(Rule::ReservedStageName, span, comments, message);
    }
    if names.contains(&name) {
        let message = format!("Duplicate stage name {quoted}, stage names should be unique");
        checker.report(Rule::DuplicateStageName, span, comments, message);
    }
    names.push(name);
}

fn check_arguments(instruction: &Instruction, arguments: &[Argument], checker: &mut Checker) {
    let names: Vec<&str> = arguments.iter().map(|argument| argument.name.as_str()).collect();
    check_description("ARG", &names, instruction, checker);
}

fn check_description(kind: &str, names: &[&str], instruction: &Instruction, checker: &mut Checker) {
    let Some(first) = instruction.comments.last().and_then(|comment| comment.split(' ').next()) else { return };
    if names.contains(&first) {
        return;
    }
    let example = if let [name] = names { name } else { "<arg_key>" };
    let message = format!("Comment for {kind} should follow the format: `# {example} <description>`");
    checker.report(Rule::InvalidDefinitionDescription, instruction.span, &[], message);
}

/// All keywords are written as most of them are.
fn check_casing(dockerfile: &Dockerfile, checker: &mut Checker) {
    let mut instructions: Vec<&Instruction> = Vec::new();
    for stage in &dockerfile.stages {
        instructions.push(&stage.from);
        instructions.extend(stage.instructions.iter().map(|(instruction, _)| instruction));
    }
    let is_lower = |keyword: &str| keyword.to_lowercase() == keyword;
    let is_upper = |keyword: &str| keyword.to_uppercase() == keyword;
    let lower = instructions.iter().filter(|instruction| is_lower(&instruction.keyword)).count();
    let upper = instructions.iter().filter(|instruction| is_upper(&instruction.keyword)).count();
    let (is_right, wanted): (&dyn Fn(&str) -> bool, _) =
        if lower > upper { (&is_lower, "lowercase") } else { (&is_upper, "uppercase") };
    for instruction in instructions.iter().filter(|instruction| !is_right(&instruction.keyword)) {
        let keyword = &instruction.keyword;
        let message = format!("Command '{keyword}' should match the case of the command majority ({wanted})");
        checker.report(Rule::ConsistentInstructionCasing, instruction.span, &instruction.comments, message);
    }
}
