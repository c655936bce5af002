//! `publish`: the project's files go to a registry, from where `-f oci://…` and `include` read them.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, ValueEnum};
use rcompose_engine::error::chain;
use rcompose_engine::image::Reference;

use super::context::Context;
use super::error::{Error, INTERRUPTED};
use super::push;
use super::signals;
use crate::compose::model::MountKind;
use crate::compose::shape::Out;
use crate::compose::{Loaded, Project, print};
use crate::lint::sensitive;
use crate::project::pull::Sources;
use crate::project::{images, pin, pull};
use crate::remote::Reader;
use crate::remote::publish::{self, Files, OciVersion, PublishError};
use crate::ui::progress::{Event, State};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  rcompose publish --with-env registry.internal:5000/shop:1
  rcompose -f oci://registry.internal:5000/shop:1 up -d")]
pub struct PublishArgs {
    /// Published compose application (includes referenced images)
    #[arg(long)]
    app: bool,
    /// OCI image/artifact specification version (automatically determined by default)
    #[arg(long, value_enum)]
    oci_version: Option<Version>,
    /// Pin image tags to digests
    #[arg(long)]
    resolve_image_digests: bool,
    /// Include environment variables in the published OCI artifact
    #[arg(long)]
    with_env: bool,
    /// Assume "yes" as answer to all prompts
    #[arg(short, long)]
    yes: bool,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Version {
    #[value(name = "1.0")]
    V1_0,
    #[value(name = "1.1")]
    V1_1,
}

impl From<Version> for OciVersion {
    fn from(version: Version) -> Self {
        match version {
            Version::V1_0 => Self::V1_0,
            Version::V1_1 => Self::V1_1,
        }
    }
}

pub fn run(context: &Context, args: &PublishArgs) -> Result<(), Error> {
    let reference: Reference = args.repository.parse().map_err(|error| Error::new(format!("{error}")))?;
    let loaded = context.load_all()?;
    let files = publish::files(&loaded, &Reader::of_host(), args.with_env);
    let mut files = files.map_err(|error| match error {
        PublishError::Fault(faults) => Error::Faults(faults),
        error => Error::new(chain(&error)),
    })?;
    if !may_publish(context, args, &loaded.project, &files)? {
        return Ok(());
    }
    let progress = context.ui.progress("Publishing");
    let pretend = context.global.dry_run;
    let shown = args.repository.as_str();
    let published = context.block_on(async {
        let sources = Sources::of_host();
        if !pretend {
            push::images(context, &loaded.project, &progress).await?;
        }
        if args.resolve_image_digests {
            files.all.push(publish::digests(digests(&loaded, &sources).await?));
        }
        progress.event(&Event { text: "publishing", ..Event::new(shown, State::Working, "") });
        if !pretend {
            let interrupt = signals::interrupt()?;
            tokio::select! {
                sent = send(args, &reference, &files, &loaded.project, &sources) => sent?,
                () = interrupt.cancelled() => return Err(Error::Exit(INTERRUPTED)),
            }
        }
        progress.event(&Event { text: "published", ..Event::new(shown, State::Done, "") });
        Ok(())
    });
    progress.finish();
    published
}

async fn send(
    args: &PublishArgs,
    reference: &Reference,
    files: &Files,
    project: &Project,
    sources: &Sources,
) -> Result<(), Error> {
    let options = pull::pull_options(sources)?;
    let (version, now) = (args.oci_version.map(OciVersion::from), jiff::Timestamp::now());
    let artifact = publish::push(reference, &files.all, version, now, &options).await?;
    if args.app {
        let used = project.services.values().filter_map(|service| Some((&service.name, service.image.as_ref()?)));
        let used =
            used.map(|(service, image)| images::reference(service, image)).collect::<Result<BTreeSet<_>, _>>()?;
        let folder = tempfile::tempdir()?;
        let used = used.into_iter().collect::<Vec<_>>();
        publish::push_images(reference, artifact, &used, folder.path(), &options).await?;
    }
    Ok(())
}

/// Refuses what would be of no use elsewhere, and asks whether what may be private is to be given away.
fn may_publish(context: &Context, args: &PublishArgs, project: &Project, files: &Files) -> Result<bool, Error> {
    let built = project.services.values().filter(|service| service.image.is_none() && service.build.is_some());
    let built = built.map(|service| format!("- {:?}", service.name)).collect::<Vec<_>>();
    if !built.is_empty() {
        return Err(Error::with_hint(
            format!(
                "your Compose stack cannot be published as it only contains a build section for service(s):\n{}",
                built.join("\n")
            ),
            "name the image that a build makes with `image`: it is pushed as well",
        ));
    }
    let asked = [bind_mounts(project), secrets(files)];
    for question in asked.into_iter().flatten() {
        if !args.yes && !context.ui.confirm(&question) {
            return Ok(false);
        }
    }
    match variables(project, files) {
        Variables { refused, .. } if !args.with_env && !refused.is_empty() => Err(Error::with_hint(
            refused.join("\n"),
            "allow the sending of environment variables by using the --with-env flag, or remove sensitive data from your Compose configuration",
        )),
        Variables { question: Some(question), .. } => Ok(args.yes || context.ui.confirm(&question)),
        Variables { question: None, .. } => Ok(true),
    }
}

fn bind_mounts(project: &Project) -> Option<String> {
    let mounts = project.services.values().flat_map(|service| {
        let binds = service.volumes.iter().filter(|mount| mount.kind == MountKind::Bind);
        binds.map(|mount| {
            let mode = if mount.read_only { "ro" } else { "rw" };
            format!("{}: {}:{}:{mode}\n", service.name, mount.source, mount.target)
        })
    });
    let mounts = mounts.collect::<String>();
    (!mounts.is_empty()).then(|| {
        format!(
            "you are about to publish bind mounts declaration within your OCI artifact.\n\
             only the bind mount declarations will be added to the OCI artifact (not content)\n\
             please double check that you are not mounting potential user's sensitive directories or data\n\
             {mounts}Are you ok to publish these bind mount declarations?"
        )
    })
}

fn secrets(files: &Files) -> Option<String> {
    let found = files.all.iter().flat_map(|file| {
        let text = String::from_utf8_lossy(&file.content).into_owned();
        let line = |(line, looks, text): (usize, sensitive::Looks, &str)| {
            format!("{}\n{}:{line}: {text}\n", looks.as_str(), file.path)
        };
        sensitive::look(&text).into_iter().map(line).collect::<Vec<_>>()
    });
    let found = found.collect::<String>();
    (!found.is_empty()).then(|| {
        format!(
            "you are about to publish sensitive data within your OCI artifact.\n\
             please double check that you are not leaking sensitive data\n\
             {found}Are you ok to publish these sensitive data?"
        )
    })
}

/// What of the environment is in the files.
struct Variables {
    /// Why it is not published without being asked for.
    refused: Vec<String>,
    /// What is asked where it is.
    question: Option<String>,
}

fn variables(project: &Project, files: &Files) -> Variables {
    let mut refused = files.env_files.iter().map(|path| format!("env_file {path} is declared.")).collect::<Vec<_>>();
    let mut all = BTreeMap::<&str, String>::new();
    for service in project.services.values().filter(|service| !service.environment.is_empty()) {
        refused.push(format!("service {:?} has environment variable(s) declared.", service.name));
        let lines = service.environment.iter().map(|(name, value)| match value {
            Some(value) => format!("{name}={value}\n"),
            None => format!("{name}\n"),
        });
        all.insert(&service.name, lines.collect());
    }
    for config in project.configs.values() {
        if let Some(variable) = &config.environment {
            refused.push(format!("config {:?} is declare as an environment variable.", config.name));
            all.insert(&config.name, format!("{}={variable}\n", config.name));
        }
    }
    let listed = all.iter().map(|(name, lines)| format!("Service/Config  {name}\n{lines}")).collect::<Vec<_>>();
    let question = (!listed.is_empty()).then(|| {
        let listed = listed.concat();
        format!(
            "you are about to publish environment variables within your OCI artifact.\n\
             please double check that you are not leaking sensitive data\n\
             {listed}Are you ok to publish these environment variables?"
        )
    });
    Variables { refused, question }
}

/// Returns a compose file that gives the services' images the digests that their registries have for them now.
async fn digests(loaded: &Loaded, sources: &Sources) -> Result<String, Error> {
    let services = &loaded.project.services;
    let wanted = services.values().filter_map(|service| service.image.clone()).collect::<BTreeSet<_>>();
    let pinned = pin::pin(wanted, sources).await.map_err(|failures| {
        Error::Failed(
            failures.iter().map(|failure| super::error::Message { text: chain(failure), hint: None }).collect(),
        )
    })?;
    let image = |image: &String| Out::Text(pinned.get(image).unwrap_or(image).clone());
    let entry = |service: &crate::compose::Service| {
        let image = service.image.as_ref().map(|own| ("image".to_owned(), image(own)));
        (service.name.clone(), Out::Map(image.into_iter().collect()))
    };
    let services = services.values().map(entry).collect();
    Ok(print::to_yaml(&Out::Map(vec![("services".to_owned(), Out::Map(services))])))
}
