//! `doctor`: what this host has and lacks.

use clap::Args;

use super::context::Context;
use super::error::Error;
use crate::doctor::{self, Finding, Verdict};
use crate::project::pull;
use crate::ui::colour::{BOLD, GREEN, RED, YELLOW};
use crate::ui::lines;

#[derive(Debug, Args)]
#[command(after_help = "Exits with 1 if something is missing without which nothing runs.")]
pub struct DoctorArgs {
    /// Print an object for each finding, one a line
    #[arg(long)]
    json: bool,
}

pub fn run(context: &Context, args: &DoctorArgs) -> Result<(), Error> {
    let mut findings = doctor::examine(&context.root()?);
    let registry = context.block_on(async {
        let client = pull::pull_options(&pull::Sources::of_host())?.client;
        Ok::<_, Error>(doctor::registry(&client).await)
    })?;
    findings.push(registry);
    if args.json {
        let objects = findings.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
        context.ui.out(&lines(objects))?;
    } else {
        let colours = context.ui.colours_out();
        context.ui.out(&lines(findings.iter().map(|finding| line(finding, colours))))?;
    }
    if findings.iter().any(|finding| finding.verdict == Verdict::Bad) { Err(Error::Exit(1)) } else { Ok(()) }
}

/// Writes a finding, with the cure below it.
fn line(finding: &Finding, colours: bool) -> String {
    let (word, colour) = match finding.verdict {
        Verdict::Good => ("ok", GREEN),
        Verdict::Doubtful => ("doubtful", YELLOW),
        Verdict::Bad => ("bad", RED),
    };
    let word = format!("{word:<8}");
    let word = if colours { colour.paint(&word) } else { word };
    let subject = if colours { BOLD.paint(&finding.subject) } else { finding.subject.clone() };
    let cure = finding.cure.as_ref().map_or_else(String::new, |cure| format!("\n           = help: {cure}"));
    format!("{word} {subject}: {}{cure}", finding.says)
}
