//! What a Dockerfile says: stages and their instructions, as they were typed. Variables are still in them.

use super::heredoc::Heredoc;
pub(crate) use super::words::Pair;
pub use super::words::Word;
use crate::build::graph::{RunNetwork, Span};

/// A Dockerfile.
#[derive(Debug)]
pub struct Dockerfile {
    /// What escapes: a backslash or a backtick.
    pub(crate) escape: char,
    /// `# syntax=`: the frontend it asks for. None is ever fetched or run.
    pub syntax: Option<Word>,
    /// `# check=`.
    pub check: Option<Word>,
    /// The arguments before the first stage.
    pub(crate) arguments: Vec<(Instruction, Vec<Argument>)>,
    /// The stages.
    pub stages: Vec<Stage>,
    /// The instructions with an empty line between a line and what continues it.
    pub(crate) empty_continuations: Vec<Span>,
}

/// A stage: `FROM` and what follows it.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The instruction that begins it.
    pub(crate) from: Instruction,
    /// What it is built on.
    pub base: Word,
    /// Its name, in lower case.
    pub name: Option<String>,
    /// The word between base and name and the name, as they were typed.
    pub(crate) typed_name: Option<(String, String)>,
    /// `--platform`.
    pub platform: Option<Word>,
    /// What its comment says of it: `# <name> <description>`.
    pub description: Option<String>,
    /// Its instructions.
    pub(crate) instructions: Vec<(Instruction, Command)>,
}

impl Stage {
    /// Returns where its `FROM` stands.
    pub fn span(&self) -> Span {
        self.from.span
    }
}

/// What all instructions have.
#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    /// The keyword, as it was typed.
    pub(crate) keyword: String,
    /// The line without what continues it and without comments and heredocs.
    pub(crate) code: String,
    /// The comment lines right before it.
    pub(crate) comments: Vec<String>,
    /// Where it stands.
    pub(crate) span: Span,
}

/// What an instruction says.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Add(Transfer),
    Arg(Vec<Argument>),
    Cmd(CommandLine),
    Copy(Transfer),
    Entrypoint(CommandLine),
    Env(Vec<Pair>),
    Expose(Vec<Word>),
    Healthcheck(crate::image::Healthcheck),
    Label(Vec<Pair>),
    Maintainer(String),
    /// An instruction for images that are built on this one.
    Onbuild(String),
    Run(RunCommand),
    Shell(Vec<String>),
    Stopsignal(Word),
    User(Word),
    Volume(Vec<Word>),
    Workdir(Word),
}

/// An argument of the build.
#[derive(Debug, Clone)]
pub(crate) struct Argument {
    pub(crate) name: String,
    /// What it is by default.
    pub(crate) default: Option<Word>,
    pub(crate) span: Span,
    /// What its comment says of it: `# <name> <description>`.
    pub(crate) description: Option<String>,
}

/// A command, as a list of arguments or as a line for the shell.
#[derive(Debug, Clone)]
pub(crate) struct CommandLine {
    /// The arguments; one, the line, for the shell.
    pub(crate) arguments: Vec<String>,
    /// It is for the shell.
    pub(crate) shell: bool,
}

/// `RUN`.
#[derive(Debug, Clone)]
pub(crate) struct RunCommand {
    pub(crate) line: CommandLine,
    pub(crate) heredocs: Vec<Heredoc>,
    /// `--mount`, to be read when its variables are known.
    pub(crate) mounts: Vec<Word>,
    pub(crate) network: RunNetwork,
    pub(crate) insecure: bool,
    pub(crate) devices: Vec<String>,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    pub(crate) sources: Vec<Source>,
    pub(crate) destination: Word,
    /// `--from`, of `COPY`.
    pub(crate) from: Option<Word>,
    pub(crate) chown: Option<Word>,
    pub(crate) chmod: Option<Word>,
    pub(crate) link: bool,
    pub(crate) parents: bool,
    pub(crate) exclude: Vec<Word>,
    /// `--checksum`, of `ADD`.
    pub(crate) checksum: Option<Word>,
    /// `--keep-git-dir`, of `ADD`.
    pub(crate) keep_git_dir: Option<bool>,
    /// `--unpack`, of `ADD`.
    pub(crate) unpack: Option<bool>,
}

/// What is copied.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A path, or of `ADD` a URL.
    Path(Word),
    /// A file whose contents stand in the Dockerfile.
    Inline(Heredoc),
}
