//! `build --debug`: a shell in the state before the command that failed.

use std::sync::{Arc, OnceLock};

use clap::{Args as _, FromArgMatches as _};
use rcompose_engine::container::store;
use rcompose_engine::image::{Reference, Store};
use serde_json::json;

use super::GlobalArgs;
use super::context::Context;
use super::down::{self, DownArgs};
use super::error::Error;
use super::run::{self, RunArgs};
use crate::ui::Ui;
use crate::ui::progress::Form;

/// The service that the shell is run for.
const SERVICE: &str = "shell";

/// Where a build that fails says what there was before.
pub type Halted = Arc<OnceLock<Reference>>;

/// Runs a build and, if one of its commands failed, a shell in the state before it. The failure is returned in any case.
pub fn with_shell<T>(
    context: &Context,
    wanted: bool,
    build: impl FnOnce(Option<&Halted>) -> Result<T, Error>,
) -> Result<T, Error> {
    let halted = Halted::default();
    let mut built = build(wanted.then_some(&halted));
    if let (Err(Error::Failed(messages)), Some(image)) = (&mut built, halted.get()) {
        // They say how to get where one is.
        for message in messages.iter_mut() {
            message.hint = None;
        }
        if let Err(Error::Failed(further)) = shell(context, image) {
            messages.extend(further);
        }
    }
    built
}

fn shell(context: &Context, image: &Reference) -> Result<(), Error> {
    context.ui.say("This is the state before the command that failed, without its mounts. Leave it with \"exit\".");
    let folder = tempfile::Builder::new().prefix("rcompose-debug-").tempdir()?;
    let file = folder.path().join("compose.yaml");
    let project = json!({"services": {SERVICE: {
        "image": image.to_string(), "pull_policy": "never",
    }}});
    std::fs::write(&file, project.to_string())?;
    let global = GlobalArgs {
        file: vec![file.display().to_string()],
        project_name: Some(format!("build-debug-{}", std::process::id())),
        project_directory: None,
        env_file: Vec::new(),
        profile: Vec::new(),
        instance: None,
        ..context.global.clone()
    };
    let words =
        RunArgs::augment_args(clap::Command::new("run")).try_get_matches_from(["run", "--rm", "--quiet", SERVICE]);
    let arguments = RunArgs::from_arg_matches(&words.expect("these are arguments of run"));
    let quiet = Ui { form: Form::Quiet, ..context.ui };
    let inside = Context::new(global, quiet);
    let ended = run::run(&inside, &arguments.expect("these are arguments of run"));
    let words = DownArgs::augment_args(clap::Command::new("down")).try_get_matches_from(["down"]);
    let arguments = DownArgs::from_arg_matches(&words.expect("these are arguments of down"));
    down::run(&inside, &arguments.expect("these are arguments of down"))?;
    let root = context.root()?;
    let images = Store::open(root.data())?;
    images.remove(image)?;
    images.gc(|| store::layers(&root).map_err(Error::from))?;
    match ended {
        // How the shell ended says nothing.
        Err(Error::Exit(_)) | Ok(()) => Ok(()),
        Err(error) => Err(error),
    }
}
