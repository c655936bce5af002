//! `image ls`: the images of this host.

use std::collections::BTreeMap;

use clap::Args;
use rcompose_engine::image::{Image, Reference};
use serde_json::{Value, json};

use super::local::{Local, created, repo_digest, users};
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::cli::filter::Filters;
use crate::ui::format::{Column, Listing};
use crate::ui::{human, lines};

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image ls --filter dangling=true -q")]
pub struct LsArgs {
    /// Show all images (there are no intermediate ones)
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided: before, dangling, label, reference, since, until
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Format output: table, json, a Go template, or table and a template
    #[arg(long, default_value = "table")]
    format: String,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// Only images of this repository, or of this repository and tag
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// The fields of a row.
pub const COLUMNS: [Column; 11] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("Containers", "CONTAINERS"),
];

pub fn run(context: &Context, args: &LsArgs) -> Result<(), Error> {
    let filters =
        Filters::parse(&args.filter, &["before", "dangling", "label", "label!", "reference", "since", "until"])?;
    let now = jiff::Timestamp::now();
    let local = Local::open(context)?;
    let mut images = local.images.iter().collect::<Vec<_>>();
    select(&local, &mut images, &filters, now)?;
    if let Some(name) = &args.name {
        images.retain(|image| is_called(image, name));
    }
    // The newest first, as Docker has it, and then by name.
    images.sort_by_cached_key(|image| (std::cmp::Reverse(created(image)), image.reference.familiar()));
    let containers = local.containers()?;
    let rows = images.iter().map(|image| {
        let count = users(&containers, &image.id).len();
        row(image, now, args.no_trunc, ["N/A".to_owned(), "N/A".to_owned()], &count.to_string())
    });
    let rows = rows.collect::<Vec<_>>();
    let text = if args.quiet {
        let mut ids = rows.iter().filter_map(|row| row["ID"].as_str()).collect::<Vec<_>>();
        ids.dedup();
        lines(ids)
    } else {
        let default: &[&str] = if args.digests {
            &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"]
        } else {
            &["Repository", "Tag", "ID", "CreatedSince", "Size"]
        };
        Listing { columns: &COLUMNS, default, rows: &rows, whole: args.no_trunc }.render(&args.format)?
    };
    Ok(context.ui.out(&text)?)
}

/// Returns a row for templates and tables; what is shared and what is not is told from outside.
pub fn row(image: &Image, now: jiff::Timestamp, whole: bool, [shared, unique]: [String; 2], containers: &str) -> Value {
    let none = || "<none>".to_owned();
    let reference = &image.reference;
    let tag = reference.tag().filter(|_| !image.dangling).map_or_else(none, str::to_owned);
    let digest = repo_digest(image).map_or_else(none, |_| image.source_digest.to_string());
    let created = created(image);
    json!({
        "Repository": reference.familiar_name(),
        "Tag": tag,
        "Digest": digest,
        "ID": if whole { image.id.to_string() } else { image.short_id() },
        "CreatedSince": created.map_or_else(|| "N/A".to_owned(), |then| format!("{} ago", human::since(then, now))),
        "CreatedAt": created.map_or_else(|| "N/A".to_owned(), |then| then.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()),
        "Size": human::size(image.size),
        "VirtualSize": human::size(image.size),
        "SharedSize": shared,
        "UniqueSize": unique,
        "Containers": containers,
    })
}

/// Keeps the images that fit the filters.
pub fn select(
    local: &Local,
    images: &mut Vec<&Image>,
    filters: &Filters<'_>,
    now: jiff::Timestamp,
) -> Result<(), Error> {
    if let Some(dangling) = filters.flag("dangling")? {
        images.retain(|image| image.dangling == dangling);
    }
    if let Some(until) = filters.until(now)? {
        images.retain(|image| created(image).is_none_or(|created| created < until));
    }
    for (key, newer) in [("since", true), ("before", false)] {
        for name in filters.all(key) {
            let bound = created(&local.find(name)?);
            images.retain(|image| if newer { created(image) > bound } else { created(image) < bound });
        }
    }
    images.retain(|image| filters.labels(&labels(image)));
    if filters.has("reference") {
        images.retain(|image| filters.all("reference").any(|pattern| matches(image, pattern)));
    }
    Ok(())
}

/// Returns an image's labels.
pub fn labels(image: &Image) -> BTreeMap<String, String> {
    let labels = image.config.config().as_ref().and_then(|config| config.labels().clone());
    labels.unwrap_or_default().into_iter().collect()
}

/// Tells whether an image is of a repository, or has a name.
fn is_called(image: &Image, name: &str) -> bool {
    if name.contains(['*', '?', '[']) {
        return matches(image, name);
    }
    let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    name.parse::<Reference>().is_ok_and(|wanted| {
        wanted.name() == image.reference.name()
            && (!has_tag
                || (wanted.tag() == image.reference.tag() && !image.dangling)
                || wanted.digest() == Some(image.source_digest))
    })
}

/// Tells whether a name, with or without the tag, fits a pattern in which `*` and `?` stop at slashes.
fn matches(image: &Image, pattern: &str) -> bool {
    let names = [
        image.reference.familiar(),
        image.reference.familiar_name(),
        image.reference.to_string(),
        image.reference.name(),
    ];
    !image.dangling && names.iter().any(|name| glob(pattern.as_bytes(), name.as_bytes()))
}

/// `path.Match` of Go, without its character classes' escapes.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text)
                || text.split_first().is_some_and(|(first, others)| *first != b'/' && glob(pattern, others))
        }
        (Some((b'?', rest)), Some((first, others))) => *first != b'/' && glob(rest, others),
        (Some((b'[', rest)), Some((first, others))) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (class, rest) = (&rest[..end], &rest[end + 1..]);
            let (negated, class) = class.strip_prefix(b"^").map_or((false, class), |class| (true, class));
            let mut found = false;
            let mut at = 0;
            while at < class.len() {
                let is_range = class.get(at + 1) == Some(&b'-') && at + 2 < class.len();
                let last = if is_range { class[at + 2] } else { class[at] };
                found |= (class[at]..=last).contains(first);
                at += if is_range { 3 } else { 1 };
            }
            found != negated && glob(rest, others)
        }
        (Some((wanted, rest)), Some((first, others))) => wanted == first && glob(rest, others),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stop_at_slashes() {
        for (pattern, text, fits) in [
            ("busy*", "busybox", true),
            ("busy*", "busybox/x", false),
            ("*/busybox:*", "user/busybox:1", true),
            ("busybo?:[0-9]", "busybox:7", true),
            ("busybox:[^0-9]", "busybox:7", false),
            ("[", "x", false),
            ("", "", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }
}
