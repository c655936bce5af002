//! `image inspect`: everything that is known about images, as Docker's documents have it.

use clap::Args;
use rcompose_engine::image::{Image, Platform};
use serde_json::{Map, Value, json};

use super::local::Local;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::template::Template;
use crate::ui::format;

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image inspect --format '{{index .RepoDigests 0}}' redis:7")]
pub struct InspectArgs {
    /// Format output: json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Inspect a specific platform of the image, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = super::platform)]
    platform: Option<Platform>,
    /// Names or ids of images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub fn run(context: &Context, args: &InspectArgs) -> Result<(), Error> {
    let template = match args.format.as_deref() {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let local = Local::open(context)?;
    let (mut documents, mut failures) = (Vec::new(), Vec::new());
    for name in &args.images {
        match local.find_for(name, args.platform.as_ref()).and_then(|image| document(&local, &image)) {
            Ok(document) => documents.push(document),
            Err(Error::Failed(messages)) => failures.extend(messages),
            Err(error) => return Err(error),
        }
    }
    // What was found is shown even where something else was not.
    context.ui.out(&format::documents(&documents, template.as_ref(), args.format.is_some())?)?;
    if failures.is_empty() { Ok(()) } else { Err(Error::Failed(failures)) }
}

/// Returns Docker's document about an image.
fn document(local: &Local, image: &Image) -> Result<Value, Error> {
    let raw = local.store.raw_config(image)?;
    let text = |key: &str| raw.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut config = Map::new();
    // The fields that Docker always shows, and then whatever else the image says.
    for (key, default) in [
        ("Cmd", Value::Null),
        ("Entrypoint", Value::Null),
        ("Env", Value::Null),
        ("Labels", Value::Null),
        ("OnBuild", Value::Null),
        ("User", "".into()),
        ("Volumes", Value::Null),
        ("WorkingDir", "".into()),
    ] {
        config.insert(key.to_owned(), default);
    }
    if let Some(own) = raw.get("config").and_then(Value::as_object) {
        // The rest of a container's configuration is Docker's own affair.
        let idle = |key: &str, value: &Value| match value {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::String(text) => text.is_empty() && !config.contains_key(key),
            _ => false,
        };
        let own = own.iter().filter(|(key, value)| !idle(key, value)).collect::<Vec<_>>();
        config.extend(own.into_iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    let comment = match text("comment") {
        comment if comment.is_empty() => {
            let last = raw.get("history").and_then(Value::as_array).and_then(|history| history.last());
            last.and_then(|last| last.get("comment")).and_then(Value::as_str).unwrap_or_default().to_owned()
        }
        comment => comment,
    };
    let descriptor = local.store.descriptor(image)?;
    let layers = local.store.layer_paths(image);
    let paths = layers.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    let mut document = json!({
        "Id": image.id,
        "RepoTags": local.tags(&image.id),
        "RepoDigests": local.digests(&image.id),
        "Parent": "",
        "Comment": comment,
        "Created": image.created,
        "DockerVersion": text("docker_version"),
        "Author": text("author"),
        "Architecture": image.platform.architecture,
        "Variant": image.platform.variant,
        "Os": image.platform.os,
        "Size": image.size,
        "GraphDriver": {
            "Data": {"LowerDir": paths.get(1..).unwrap_or_default().join(":"), "UpperDir": paths.first()},
            "Name": "overlay2",
        },
        "RootFS": {"Type": "layers", "Layers": image.diff_ids},
        "Metadata": {"LastTagTime": image.tagged, "LastChecked": image.checked},
        "Descriptor": {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size},
        "Config": config,
    });
    if image.platform.variant.is_none()
        && let Some(document) = document.as_object_mut()
    {
        document.shift_remove("Variant");
    }
    Ok(document)
}
