//! `image build --call`: what a Dockerfile offers, without building anything.

use std::fmt::Write as _;
use std::sync::Arc;

use rcompose_engine::build::dispatch::{Outline, OutlineMount, Target, targets};
use rcompose_engine::build::dockerfile::Dockerfile;
use rcompose_engine::build::graph::Span;
use serde_json::{Value, json};

use crate::cli::build::{check, failed};
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::signals;
use crate::project::build::Workshop;
use crate::project::build::recipe::Recipe;
use crate::project::pull::{Sources, pull_options};
use crate::ui::table::{Layout, render};

/// The layouts of BuildKit's tables.
const TARGETS: Layout = Layout { minimum: 0, padding: 1 };
const OUTLINE: Layout = Layout { minimum: 0, padding: 3 };

/// What is asked of a Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub method: Method,
    /// The answer is JSON.
    pub json: bool,
}

/// Which question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Build,
    Check,
    Outline,
    Targets,
}

impl Call {
    /// Reads `--call`: `METHOD[,format=text|json]`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (method, rest) = text.split_once(',').unwrap_or((text, ""));
        let method = match method {
            "build" => Method::Build,
            "check" | "lint" => Method::Check,
            "outline" => Method::Outline,
            "targets" => Method::Targets,
            other => return Err(format!("unknown method {other:?}: build, check, outline and targets are known")),
        };
        let json = match rest {
            "" | "format=text" => false,
            "format=json" if method != Method::Check => true,
            other => return Err(format!("{other:?} is not supported for {text:?}")),
        };
        Ok(Self { method, json })
    }
}

/// Answers a question about a Dockerfile.
pub fn answer(context: &Context, recipe: Recipe, call: Call) -> Result<(), Error> {
    let root = context.root()?;
    context.block_on(async {
        if call.method == Method::Check {
            return check(context, &root, vec![vec![recipe]]).await;
        }
        let options = pull_options(&Sources::of_host())?;
        let workshop = Workshop::open(&root, options, Arc::new(|_| ()), signals::interrupt()?)
            .map_err(|error| failed(context.ui, "", &error))?;
        let platform = recipe.platforms().map_err(|error| Error::new(error.to_string()))?.swap_remove(0);
        let planned = workshop.plan(&recipe, &platform).await;
        let (plan, (_, text)) = planned.map_err(|error| failed(context.ui, "", &error))?;
        workshop.close().await?;
        let dockerfile = Dockerfile::parse(text.as_bytes()).map_err(|fault| Error::new(fault.to_string()))?;
        let stages = targets(&dockerfile);
        let answer = match (call.method, call.json) {
            (Method::Targets, false) => targets_table(&stages),
            (Method::Targets, true) => pretty(&json!({"targets": stages.iter().map(target_json).collect::<Vec<_>>()})),
            (_, false) => outline_table(&plan.outline, &stages),
            (_, true) => pretty(&outline_json(&plan.outline, &stages)),
        };
        Ok(context.ui.out(&answer)?)
    })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn targets_table(stages: &[Target]) -> String {
    let row = |stage: &Target| {
        let name = match (&stage.name, stage.is_default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            (None, false) => return None,
        };
        Some(vec![name, stage.description.clone().unwrap_or_default()])
    };
    render(TARGETS, &["TARGET", "DESCRIPTION"], &stages.iter().filter_map(row).collect::<Vec<_>>())
}

fn target_json(stage: &Target) -> Value {
    let mut target = json!({});
    if let Some(name) = &stage.name {
        target["name"] = name.as_str().into();
    }
    if stage.is_default {
        target["default"] = true.into();
    }
    if let Some(description) = &stage.description {
        target["description"] = description.as_str().into();
    }
    target["base"] = stage.base.as_str().into();
    if let Some(platform) = &stage.platform {
        target["platform"] = platform.as_str().into();
    }
    target["location"] = location(stage.span);
    target
}

/// Returns what the comment of the outline's target says of it.
fn description<'a>(outline: &Outline, stages: &'a [Target]) -> Option<&'a str> {
    let is_it = |stage: &&Target| match &outline.name {
        Some(name) => stage.name.as_ref() == Some(name),
        None => stage.is_default,
    };
    stages.iter().find(is_it)?.description.as_deref()
}

fn outline_table(outline: &Outline, stages: &[Target]) -> String {
    let mut text = String::new();
    for (title, value) in [("TARGET:", outline.name.as_deref()), ("DESCRIPTION:", description(outline, stages))] {
        if let Some(value) = value {
            let _ = writeln!(text, "{title:<12} {value}");
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    if !outline.arguments.is_empty() {
        let rows: Vec<Vec<String>> = outline
            .arguments
            .iter()
            .map(|argument| {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                vec![argument.name.clone(), text(&argument.value), text(&argument.description)]
            })
            .collect();
        text.push_str(&render(OUTLINE, &["BUILD ARG", "VALUE", "DESCRIPTION"], &rows));
        text.push('\n');
    }
    for (title, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !mounts.is_empty() {
            let row = |mount: &OutlineMount| {
                vec![mount.id.clone(), if mount.required { "true".to_owned() } else { String::new() }]
            };
            text.push_str(&render(OUTLINE, &[title, "REQUIRED"], &mounts.iter().map(row).collect::<Vec<_>>()));
            text.push('\n');
        }
    }
    text
}

fn outline_json(outline: &Outline, stages: &[Target]) -> Value {
    let mut answer = json!({});
    if let Some(name) = &outline.name {
        answer["name"] = name.as_str().into();
    }
    if let Some(description) = description(outline, stages) {
        answer["description"] = description.into();
    }
    let arguments: Vec<Value> = outline
        .arguments
        .iter()
        .map(|argument| {
            let mut said = json!({"name": argument.name});
            for (key, text) in [("description", &argument.description), ("value", &argument.value)] {
                if let Some(text) = text {
                    said[key] = text.as_str().into();
                }
            }
            said["location"] = location(argument.span);
            said
        })
        .collect();
    let mounts = |mounts: &[OutlineMount]| -> Vec<Value> {
        let said = |mount: &OutlineMount| {
            let mut said = json!({"name": mount.id});
            if mount.required {
                said["required"] = true.into();
            }
            said["location"] = location(mount.span);
            said
        };
        mounts.iter().map(said).collect()
    };
    for (key, list) in [("args", arguments), ("secrets", mounts(&outline.secrets)), ("ssh", mounts(&outline.ssh))] {
        if !list.is_empty() {
            answer[key] = list.into();
        }
    }
    answer
}

fn location(span: Span) -> Value {
    json!({"ranges": [{"start": {"line": span.start.line}, "end": {"line": span.end.line}}]})
}
