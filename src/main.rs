//! Chooses the front door; nothing else.

use std::process::ExitCode;

use rcompose_engine::supervisor;

/// What the built-in image calls this program, which it has as its own.
const WHOAMI: &str = "whoami";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let rest = || std::env::args().skip(1).collect::<Vec<_>>();
    if std::path::Path::new(&name).file_name().is_some_and(|name| name == WHOAMI) {
        return code(rcompose::whoami::run(&rest()));
    }
    if arguments.next().is_some_and(|first| first == supervisor::spawn::FRONT_DOOR) {
        return code(supervisor::run(&rest()[1..]));
    }
    rcompose::cli::main()
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
