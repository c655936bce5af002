//! `image import`: an image of the files in an archive.

use std::fs::File;
use std::io;
use std::sync::Arc;

use clap::Args;
use rcompose_engine::image::{Healthcheck, Import, ImportedConfig, Platform, Reference, Store, import_url};

use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::compose::units::parse_duration;
use crate::project::pull::Sources;
use crate::ui::progress::{Event, Progress, State};

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image import -c 'CMD [\"/bin/sh\"]' rootfs.tar.gz base:1")]
pub struct ImportArgs {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Set the platform of the image, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = super::platform)]
    platform: Option<Platform>,
    /// An archive, compressed or not; - is standard input
    #[arg(value_name = "FILE|URL|-")]
    source: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

pub fn run(context: &Context, args: &ImportArgs) -> Result<(), Error> {
    let name = args.name.as_deref().map(super::reference).transpose()?;
    let mut config = ImportedConfig::default();
    for change in &args.change {
        apply(&mut config, change)
            .map_err(|error| Error::new(format!("cannot apply the change {change:?}: {error}")))?;
    }
    let comment =
        if args.message.is_empty() { format!("Imported from {}", shown(&args.source)) } else { args.message.clone() };
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    let store = Arc::new(Store::open(context.root()?.data())?);
    let import = Import { name, platform, comment, config };
    let name = match args.source.as_str() {
        "-" => store.import(io::stdin(), &import)?,
        url if url.contains("://") => download(context, &store, url, import)?,
        path => {
            let file = File::open(path).map_err(|error| Error::new(format!("cannot open {path}: {error}")))?;
            store.import(file, &import)?
        }
    };
    if let Err(error) = context.block_on(super::load::unpack(&store, std::slice::from_ref(&name), &Progress::quiet())) {
        // What is no archive of files is no image either.
        store.remove(&name)?;
        return Err(error);
    }
    let image = store.get(&name)?.ok_or_else(|| Error::new(format!("{} was removed meanwhile", name.familiar())))?;
    Ok(context.ui.out(&format!("{}\n", image.id))?)
}

/// Returns a source without the query of a URL, which may hold a key.
fn shown(source: &str) -> &str {
    if source.contains("://") { source.split('?').next().unwrap_or_default() } else { source }
}

fn download(context: &Context, store: &Arc<Store>, url: &str, import: Import) -> Result<Reference, Error> {
    let client = Sources::of_host().client()?;
    let progress = context.ui.progress("Importing");
    let id = shown(url);
    let event = Event::new(id, State::Working, "Downloading");
    progress.event(&event);
    let received = |done, total| progress.event(&Event { amount: Some((done, total)), ..event });
    let imported = context.block_on(async { Ok(import_url(store, &client, url, import, &received).await?) });
    match &imported {
        Ok(_) => progress.done(id, "Downloaded"),
        Err(_) => progress.error(id, "Error"),
    }
    progress.finish();
    imported
}

/// Carries out one of the Dockerfile's instructions that only change the configuration.
pub fn apply(config: &mut ImportedConfig, change: &str) -> Result<(), String> {
    let change = change.trim();
    let (instruction, rest) = change.split_once(char::is_whitespace).unwrap_or((change, ""));
    let rest = rest.trim();
    let words = || shlex::split(rest).ok_or_else(|| "a quote is not closed".to_owned());
    // A list in JSON is run as it is, anything else by a shell.
    let command = || match serde_json::from_str::<Vec<String>>(rest) {
        Ok(words) => words,
        Err(_) => vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.to_owned()],
    };
    let list = || serde_json::from_str::<Vec<String>>(rest).or_else(|_| words());
    let pairs = || -> Result<Vec<(String, String)>, String> {
        // `NAME value with blanks` is the old form.
        let first = rest.split_whitespace().next().unwrap_or_default();
        if !first.contains('=') {
            let (name, value) = rest.split_once(char::is_whitespace).ok_or("NAME=VALUE is expected")?;
            return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
        }
        let pair = |word: String| {
            let (name, value) = word.split_once('=').ok_or("NAME=VALUE is expected")?;
            Ok((name.to_owned(), value.to_owned()))
        };
        words()?.into_iter().map(pair).collect()
    };
    if rest.is_empty() {
        return Err("it says nothing".to_owned());
    }
    match instruction.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = Some(command()),
        "ENTRYPOINT" => config.entrypoint = Some(command()),
        "ENV" => {
            for (name, value) in pairs()? {
                let prefix = format!("{name}=");
                config.env.retain(|known| !known.starts_with(&prefix));
                config.env.push(prefix + &value);
            }
        }
        "LABEL" => config.labels.extend(pairs()?.into_iter().map(|(name, value)| (name, value.into()))),
        "EXPOSE" => {
            for port in words()? {
                let port = if port.contains('/') { port } else { format!("{port}/tcp") };
                config.exposed_ports.insert(port, serde_json::json!({}));
            }
        }
        "VOLUME" => config.volumes.extend(list()?.into_iter().map(|path| (path, serde_json::json!({})))),
        "USER" => rest.clone_into(&mut config.user),
        "WORKDIR" => {
            config.working_dir = match rest.strip_prefix('/') {
                Some(_) => rest.to_owned(),
                None => format!("{}/{rest}", config.working_dir.trim_end_matches('/')),
            };
        }
        "STOPSIGNAL" => rest.clone_into(&mut config.stop_signal),
        "ONBUILD" => config.docker.on_build.get_or_insert_default().push(rest.to_owned()),
        "HEALTHCHECK" => config.docker.healthcheck = Some(health(rest)?),
        _ => return Err(format!("{instruction} is not valid change command")),
    }
    Ok(())
}

/// Reads what follows `HEALTHCHECK`.
fn health(text: &str) -> Result<Healthcheck, String> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).ok_or("there is no command")?;
        let (name, value) = option.split_once('=').ok_or("an option is --NAME=VALUE")?;
        match name {
            "interval" => check.interval = parse_duration(value)?,
            "timeout" => check.timeout = parse_duration(value)?,
            "start-period" => check.start_period = parse_duration(value)?,
            "start-interval" => check.start_interval = parse_duration(value)?,
            "retries" => check.retries = value.parse().map_err(|_| format!("{value:?} is no number"))?,
            _ => return Err(format!("unknown option --{name}")),
        }
        rest = after.trim_start();
    }
    check.test = Some(match rest.split_once(char::is_whitespace) {
        None if rest.eq_ignore_ascii_case("NONE") => vec!["NONE".to_owned()],
        Some((word, command)) if word.eq_ignore_ascii_case("CMD") => match serde_json::from_str::<Vec<String>>(command)
        {
            Ok(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
            Err(_) => vec!["CMD-SHELL".to_owned(), command.trim().to_owned()],
        },
        _ => return Err("CMD or NONE is expected".to_owned()),
    });
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_those_of_a_dockerfile() {
        let mut config = ImportedConfig::default();
        for change in [
            "CMD [\"/bin/sh\", \"-c\", \"true\"]",
            "entrypoint echo hello",
            "ENV A=1 B='2 3'",
            "ENV A new value",
            "LABEL stage=test",
            "EXPOSE 80 53/udp",
            "VOLUME [\"/data\"]",
            "USER app",
            "WORKDIR /srv",
            "WORKDIR app",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN true",
            "HEALTHCHECK --interval=5s --retries=2 CMD curl -f http://localhost",
        ] {
            apply(&mut config, change).unwrap_or_else(|error| panic!("{change}: {error}"));
        }
        assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "true"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "echo hello"]);
        assert_eq!(config.env, ["B=2 3", "A=new value"]);
        assert_eq!(config.working_dir, "/srv/app");
        assert!(config.exposed_ports.contains_key("80/tcp") && config.exposed_ports.contains_key("53/udp"));
        let check = config.docker.healthcheck.unwrap();
        assert_eq!((check.interval, check.retries), (5_000_000_000, 2));
        assert_eq!(check.test.unwrap(), ["CMD-SHELL", "curl -f http://localhost"]);
        for change in ["RUN true", "CMD", "ENV A", "HEALTHCHECK --interval CMD x", "HEALTHCHECK maybe"] {
            assert!(apply(&mut ImportedConfig::default(), change).is_err(), "{change}");
        }
    }
}
