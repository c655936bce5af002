//! Chooses the front door; nothing else.

use std::process::ExitCode;

use rcompose_engine::build::runner;
use rcompose_engine::supervisor;

/// What the built-in image calls this program, which it has as its own.
const WHOAMI: &str = "whoami";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let called = |wanted: &str| std::path::Path::new(&name).file_name().is_some_and(|name| name == wanted);
    let rest = || std::env::args().skip(1).collect::<Vec<_>>();
    if called(WHOAMI) {
        return code(rcompose::whoami::run(&rest()));
    }
    if called(rcompose::oci::NAME) {
        return rcompose::oci::main(arguments);
    }
    let first = arguments.next();
    if first.as_ref().is_some_and(|first| first == supervisor::spawn::FRONT_DOOR) {
        return code(supervisor::run(&rest()[1..]));
    }
    if first.as_ref().is_some_and(|first| first == runner::FRONT_DOOR) {
        return code(runner::run());
    }
    if first.is_some_and(|first| first == rcompose::oci::COMMAND) {
        return rcompose::oci::main(arguments);
    }
    std::panic::set_hook(Box::new({
        let default = std::panic::take_hook();
        move |info| {
            rcompose::ui::terminal::restore();
            if let Some(reason) = exhausted(info) {
                rcompose::cli::refuse(&format!("cannot go on: {reason}"));
                std::process::exit(1);
            }
            default(info);
        }
    }));
    rcompose::cli::main()
}

/// Says why the asynchronous runtime, or the standard library, gives up where the host has no more threads or descriptors for
/// it, which it does by panicking. Everything else that panics is a fault of ours.
fn exhausted(info: &std::panic::PanicHookInfo<'_>) -> Option<String> {
    let text = info.payload_as_str()?;
    let known = [
        "OS can't spawn worker thread",
        "failed to spawn thread",
        "failed to create UnixStream",
        "failed to clone UnixStream",
    ];
    known.iter().any(|begin| text.starts_with(begin)).then(|| text.to_owned())
}

fn code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
