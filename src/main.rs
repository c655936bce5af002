//! Chooses the front door; nothing else.

fn main() -> std::process::ExitCode {
    rcompose::cli::main()
}
