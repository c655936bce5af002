//! Draws docs/session.svg: what a terminal shows while somebody works with `examples/guestbook`. The session is a real one,
//! with the binary beside this one and the images of the factory.

use std::{fs, process::Command};

use compose_tests::{
    census,
    stack::{Stack, repository},
    svg,
    terminal::Terminal,
};

const ROWS: u16 = 60;
const COLUMNS: u16 = 92;
/// What the shell says when it waits for the next command.
const PROMPT: &str = "\x1b[1;34m~/guestbook\x1b[0m $ ";

const SESSION: [&str; 7] = [
    "rcompose up -d",
    "curl -s localhost:8081/api/visits; echo",
    "sed -i 's/--save 60 1/--save 30 1/' compose.yaml",
    "rcompose plan",
    "rcompose up -d",
    "rcompose blame",
    "rcompose down -v",
];

fn main() {
    let mut stack = Stack::new("picture");
    stack.copy_example("guestbook");
    stack.be_installed();
    stack.set("COMPOSE_PROJECT_NAME", "guestbook");
    // As on most days: images and data are there already.
    stack.run(&["up", "-d", "--wait"]).ok();
    stack.run(&["down"]).ok();

    let usual = stack.command::<&str>(&[]);
    let mut shell = Command::new("bash");
    shell.args(["--norc", "--noprofile", "--noediting"]).current_dir(stack.project_folder());
    shell.envs(
        usual.get_envs().filter_map(|(name, value)| Some((name, value?))).filter(|(name, _)| *name != "NO_COLOR"),
    );
    let terminal = Terminal::start(shell.env("PS1", PROMPT), ROWS, COLUMNS);
    let prompts = |shown: &str| shown.matches(PROMPT).count();
    for (number, command) in SESSION.iter().enumerate() {
        terminal.wait_until("the prompt", |shown| prompts(shown) == number + 1);
        terminal.type_in(&format!("{command}\n"));
    }
    terminal.wait_until("the last prompt", |shown| prompts(shown) == SESSION.len() + 1);
    let containers = census::container_ids(&stack.root());
    terminal.type_in("exit 0\n");
    let (_, shown) = terminal.finish();

    let session = shown.rsplit_once(PROMPT).map_or(&*shown, |(session, _)| session);
    let mut parser = vt100::Parser::new(ROWS, COLUMNS, 0);
    parser.process(session.as_bytes());
    let picture = svg::draw(parser.screen(), "rcompose at work");
    fs::write(repository().join("docs/session.svg"), picture).expect("the picture can be written");
    stack.finish_without_down(&containers);
}
