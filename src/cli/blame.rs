//! `blame`: what the last `up` took its time for.

use clap::Args;

use super::context::Context;
use super::error::Error;
use crate::project::timeline::Timeline;
use crate::ui;

#[derive(Debug, Args)]
pub struct BlameArgs {
    /// Print the whole timeline as JSON, with the numbers of the steps that made the critical path
    #[arg(long)]
    json: bool,
}

pub fn run(context: &Context, args: &BlameArgs) -> Result<(), Error> {
    let scope = context.scope()?;
    let Some(timeline) = Timeline::last(&context.root()?, &scope.name)? else {
        return Err(Error::with_hint(
            format!("nothing is known of an up of project {}", scope.name),
            "it is remembered as long as one of its containers runs",
        ));
    };
    let text = if args.json {
        let path = timeline.critical_path().iter().map(|timed| timed.step.id).collect::<Vec<_>>();
        let mut document = serde_json::to_value(&timeline)?;
        document["critical_path"] = path.into();
        serde_json::to_string_pretty(&document)? + "\n"
    } else {
        ui::timeline::render(&timeline)
    };
    Ok(context.ui.out(&text)?)
}
