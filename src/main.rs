//! Chooses the front door; nothing else.
//!
//! That comes before any thread or runtime exists: a supervisor forks its launcher first.

mod whoami;

use std::path::Path;
use std::process::ExitCode;

use rcompose_engine::supervisor;

fn main() -> ExitCode {
    let arguments = std::env::args_os().collect::<Vec<_>>();
    let name = arguments.first().and_then(|name| Path::new(name).file_name());
    let texts =
        |from| arguments.iter().skip(from).map(|argument| argument.to_string_lossy().into_owned()).collect::<Vec<_>>();
    // The built-in image has this program as `/whoami`.
    if name.is_some_and(|name| name == "whoami") {
        return exit(whoami::run(&texts(1)));
    }
    if arguments.get(1).is_some_and(|argument| argument == supervisor::spawn::FRONT_DOOR) {
        return exit(supervisor::run(&texts(2)));
    }
    rcompose::cli::main()
}

fn exit(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
