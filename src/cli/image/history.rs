//! `image history`: the steps that made an image.

use clap::Args;
use rcompose_engine::image::Platform;
use serde_json::{Value, json};

use super::local::Local;
use crate::cli::context::Context;
use crate::cli::error::Error;
use crate::ui::format::{Column, Listing};
use crate::ui::{human, lines};

#[derive(Debug, Args)]
#[command(after_help = "Example: rcompose image history --no-trunc redis:7")]
pub struct HistoryArgs {
    /// Format output: table, json, a Go template, or table and a template
    #[arg(long, default_value = "table")]
    format: String,
    /// Print sizes and dates in human readable format
    #[arg(short = 'H', long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_missing_value = "true")]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Show history for the given platform, such as linux/arm64
    #[arg(long, value_name = "PLATFORM", value_parser = super::platform)]
    platform: Option<Platform>,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    image: String,
}

const COLUMNS: [Column; 6] = [
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];
/// How much of a step is shown.
const STEP: usize = 45;

pub fn run(context: &Context, args: &HistoryArgs) -> Result<(), Error> {
    let local = Local::open(context)?;
    let image = local.find_for(&args.image, args.platform.as_ref())?;
    let raw = local.store.raw_config(&image)?;
    let steps = raw.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
    let now = jiff::Timestamp::now();
    let mut layers = local.store.layer_sizes(&image).into_iter();
    let mut rows = Vec::new();
    for step in &steps {
        let text = |key: &str| step.get(key).and_then(Value::as_str).unwrap_or_default();
        let empty = step.get("empty_layer").and_then(Value::as_bool).unwrap_or(false);
        let bytes = if empty { 0 } else { layers.next().map_or(0, |layer| layer.bytes) };
        let created = text("created").parse::<jiff::Timestamp>().ok();
        // What is many lines is one here.
        let mut by = text("created_by").replace('\t', " ");
        if !args.no_trunc && by.chars().count() > STEP {
            by = by.chars().take(STEP - 1).chain(['…']).collect();
        }
        let at = created.map_or_else(|| "N/A".to_owned(), |then| then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        rows.push(json!({
            "ID": "<missing>",
            "CreatedSince": if args.human {
                created.map_or_else(|| "N/A".to_owned(), |then| format!("{} ago", human::since(then, now)))
            } else {
                at.clone()
            },
            "CreatedAt": at,
            "CreatedBy": by,
            "Size": if args.human { human::size(bytes) } else { bytes.to_string() },
            "Comment": text("comment"),
        }));
    }
    // The newest first; it is the only one that has an id.
    rows.reverse();
    if let Some(newest) = rows.first_mut() {
        newest["ID"] = if args.no_trunc { image.id.to_string() } else { image.short_id() }.into();
    }
    let text = if args.quiet {
        lines(rows.iter().filter_map(|row| row["ID"].as_str()))
    } else {
        let default = ["ID", "CreatedSince", "CreatedBy", "Size", "Comment"];
        Listing { columns: &COLUMNS, default: &default, rows: &rows, whole: args.no_trunc }.render(&args.format)?
    };
    Ok(context.ui.out(&text)?)
}
