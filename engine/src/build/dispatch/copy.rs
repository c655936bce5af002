//! `COPY` and `ADD`.

use super::remote::{self, GitUrl};
use super::stages::Step;
use super::state::{Builder, Current, State};
use crate::build::check::Rule;
use crate::build::dockerfile::instruction::{Source, Transfer, Word};
use crate::build::dockerfile::shell::Lexer;
use crate::build::dockerfile::{Fault, go};
use crate::build::graph::{Copy, CopySource, Git, Http, Inline, Operation, VertexId};
use crate::image::Digest;

/// A transfer whose variables are expanded.
struct Expanded {
    owner: Option<String>,
    mode: Option<String>,
    checksum: Option<Word>,
    exclude: Vec<String>,
    paths: Vec<Word>,
    inline: Vec<(String, String)>,
    destination: String,
}

impl Builder<'_> {
    pub(crate) fn copy(
        &mut self,
        current: &mut Current,
        step: &Step,
        typed: &Transfer,
        is_add: bool,
    ) -> Result<(), Fault> {
        let expanded = self.expand_transfer(&current.state, step, typed)?;
        let from = match step.from.first().copied().flatten() {
            Some(stage) => Some(self.file_system(stage).ok_or_else(|| {
                let typed = typed.from.as_ref().map(|word| word.text.as_str()).unwrap_or_default();
                let (from, to) = (go::quote(typed), go::quote(&self.stages.label(current.stage)));
                Fault::new(format!("cannot copy from stage {from}, it needs to be defined before current stage {to}"))
            })?),
            None => None,
        };
        let name = self.name(current, step, self.lexer, &step.instruction.code);
        let mut created_by = if is_add { "ADD" } else { "COPY" }.to_owned();
        if typed.parents {
            created_by.push_str(" --parents");
        }
        for (flag, value) in [("chown", &expanded.owner), ("chmod", &expanded.mode)] {
            if let Some(value) = value {
                created_by.extend([" --", flag, "=", value]);
            }
        }
        let mut sources = Vec::new();
        for path in &expanded.paths {
            created_by.extend([" ", &path.text]);
            let source = self.source(path, from, step, typed, &expanded, is_add, &name);
            sources.push(source.map_err(|fault| fault.at(path.span))?);
        }
        for (file, contents) in expanded.inline {
            created_by.extend([" <<", &file]);
            self.spend(contents.len())?;
            let operation =
                Operation::Inline(Inline { name: file.clone(), contents: contents.into_bytes(), mode: 0o644 });
            let from = self.share(operation, "[internal] preparing inline document".to_owned(), None);
            sources.push(CopySource { from, path: go::join_path("/", &file), literal: true, unpack: false });
        }
        created_by.extend([" ", &expanded.destination, " # buildkit"]);
        let operation = Operation::Copy(Copy {
            on: current.state.at,
            sources,
            destination: destination(&expanded.destination, &current.state),
            owner: expanded.owner,
            mode: expanded.mode,
            link: typed.link,
            parents: typed.parents,
            exclude: expanded.exclude,
        });
        self.spend(created_by.len())?;
        let layer = self.push(current, step, name, operation)?;
        self.commit(&mut current.state, created_by, Some(layer))
    }

    fn expand_transfer(&mut self, state: &State, step: &Step, typed: &Transfer) -> Result<Expanded, Fault> {
        let owner = self.expand_some(state, step, typed.chown.as_ref())?;
        let mode = self.expand_some(state, step, typed.chmod.as_ref())?;
        if let (Some(mode), Some(word)) = (&mode, &typed.chmod) {
            check_mode(mode).map_err(|message| Fault::new(message).at(word.span))?;
        }
        let mut expanded = Expanded {
            owner,
            mode,
            checksum: None,
            exclude: Vec::new(),
            paths: Vec::new(),
            inline: Vec::new(),
            destination: String::new(),
        };
        if let (Some(text), Some(word)) = (self.expand_some(state, step, typed.checksum.as_ref())?, &typed.checksum) {
            expanded.checksum = Some(Word { text, span: word.span });
        }
        for word in &typed.exclude {
            let pattern = self.expand(state, step, word)?;
            expanded.exclude.push(pattern);
        }
        for source in &typed.sources {
            match source {
                Source::Path(word) => {
                    let text = self.expand(state, step, word)?;
                    expanded.paths.push(Word { text, span: word.span });
                }
                Source::Inline(heredoc) => {
                    let mut contents = heredoc.stripped();
                    if heredoc.expand {
                        let lexer = Lexer { ignore_quotes: true, ..Lexer::new('\\') };
                        let word = Word { text: contents, span: step.instruction.span };
                        contents = self.expand_with(lexer, state, step, &word)?.text;
                    }
                    expanded.inline.push((heredoc.name.clone(), contents));
                }
            }
        }
        expanded.destination = self.expand(state, step, &typed.destination)?;
        if let Some(word) = &expanded.checksum {
            check_checksum(&expanded).map_err(|message| Fault::new(message).at(word.span))?;
        }
        Ok(expanded)
    }

    #[expect(clippy::too_many_arguments, reason = "all that the instruction says can matter for a source")]
    fn source(
        &mut self,
        path: &Word,
        from: Option<VertexId>,
        step: &Step,
        typed: &Transfer,
        expanded: &Expanded,
        is_add: bool,
        name: &str,
    ) -> Result<CopySource, Fault> {
        let checksum = expanded.checksum.as_ref().map(|word| word.text.clone());
        if let Some(url) = remote::git(&path.text) {
            let url = url?;
            if !is_add {
                return Err(Fault::new("source can't be a git ref for COPY"));
            }
            let git = with_flags(url, typed.keep_git_dir, checksum)?;
            let from = self.share(Operation::Git(git), name.to_owned(), None);
            return Ok(CopySource { from, path: "/".to_owned(), literal: true, unpack: false });
        }
        if remote::is_web(&path.text) {
            if !is_add {
                return Err(Fault::new("source can't be a URL for COPY"));
            }
            let checksum = checksum.as_deref().map(read_digest).transpose().map_err(Fault::new)?;
            let file = remote::file_name(&path.text);
            let http = Http { url: path.text.clone(), checksum, name: file.clone() };
            let from = self.share(Operation::Http(http), name.to_owned(), None);
            let unpack = typed.unpack.unwrap_or(false);
            return Ok(CopySource { from, path: go::join_path("/", &file), literal: true, unpack });
        }
        let from = from.unwrap_or_else(|| {
            self.check_ignored(path, step, is_add);
            self.main_context()
        });
        let path = match path.text.split_once("/./").filter(|_| typed.parents) {
            Some((parent, rest)) => {
                let parent = go::join_path("/", parent);
                format!("{}/.{}", parent.trim_end_matches('/'), go::join_path("/", rest))
            }
            None => go::join_path("/", &path.text),
        };
        Ok(CopySource { from, path, literal: false, unpack: typed.unpack.unwrap_or(is_add) })
    }

    /// Remarks on a source that the `.dockerignore` leaves out. With exceptions in it, that cannot be told.
    fn check_ignored(&mut self, path: &Word, step: &Step, is_add: bool) {
        if self.ignore.is_empty() || self.ignore.has_exceptions() {
            return;
        }
        let path = go::clean_path(&path.text);
        let is_root = path == "." || path == "/";
        let is_ignored = if is_root { self.ignore.ignore_everything() } else { self.ignore.matches(&path) };
        if is_ignored {
            let verb = if is_add { "Add" } else { "Copy" };
            let quoted = go::quote(&path);
            let message = format!("Attempting to {verb} file {quoted} that is excluded by .dockerignore");
            self.report(Rule::CopyIgnoredFile, &step.instruction, message);
        }
    }
}

fn with_flags(url: GitUrl, keep_git_dir: Option<bool>, checksum: Option<String>) -> Result<Git, Fault> {
    let mut git = url.git;
    if let (Some(flag), Some(query)) = (keep_git_dir, url.keep_git_dir)
        && flag != query
    {
        return Err(Fault::new("inconsistent keep-git-dir configuration"));
    }
    git.keep_git_dir = url.keep_git_dir.or(keep_git_dir).unwrap_or(false);
    if let (Some(flag), Some(query)) = (&checksum, &git.checksum)
        && flag != query
    {
        return Err(Fault::new(format!("checksum mismatch {} != {}", go::quote(flag), go::quote(query))));
    }
    git.checksum = git.checksum.or(checksum);
    Ok(git)
}

fn read_digest(text: &str) -> Result<Digest, &'static str> {
    text.parse().map_err(|_| match text.split_once(':') {
        Some((algorithm, _)) if algorithm != "sha256" => "unsupported digest algorithm",
        _ => "invalid checksum digest format",
    })
}

fn check_checksum(expanded: &Expanded) -> Result<(), &'static str> {
    match expanded.paths.as_slice() {
        [path] if expanded.inline.is_empty() => {
            let is_remote = remote::is_web(&path.text) || remote::git(&path.text).is_some();
            if is_remote { Ok(()) } else { Err("checksum requires HTTP(S) or Git sources") }
        }
        _ => Err("checksum can't be specified for multiple sources"),
    }
}

/// Returns where something is copied to, with a slash at the end where it says that it is a directory.
fn destination(typed: &str, state: &State) -> String {
    let path = if typed.starts_with('/') { go::clean_path(typed) } else { go::join_path(&state.directory, typed) };
    let is_directory = typed.is_empty() || typed == "." || typed.ends_with('/') || typed.ends_with("/.");
    if is_directory && path != "/" { format!("{path}/") } else { path }
}

/// Refuses what is neither octal digits nor a list of symbolic modes.
fn check_mode(mode: &str) -> Result<(), String> {
    let octal = || Err(format!("invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777"));
    if let Ok(number) = u32::from_str_radix(mode, 8) {
        return if number > 0o7777 { octal() } else { Ok(()) };
    }
    if mode.starts_with(|first: char| first.is_ascii_digit()) {
        return octal();
    }
    let is_clause = |clause: &str| {
        let operators = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        let mut actions = operators.split_inclusive(['+', '-', '=']);
        // What stands before the first operator is nothing, what stands between two is permissions.
        actions.next().is_some_and(|first| first.len() == 1 && "+-=".contains(first))
            && actions.all(|action| {
                let permissions = action.trim_end_matches(['+', '-', '=']);
                ["u", "g", "o"].contains(&permissions) || permissions.chars().all(|bit| "rwxXst".contains(bit))
            })
    };
    if mode.split(',').all(is_clause) { Ok(()) } else { Err(format!("invalid mode: {}", go::quote(mode))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_checked() {
        for mode in ["644", "0755", "7777", "u=rwX,go=rX", "+x", "a-w", "u+s,g=u", "go="] {
            assert_eq!(check_mode(mode), Ok(()), "{mode}");
        }
        for mode in ["17777", "8", "0o7", "x", "u", "u=z", "u=rw,", "=r=u+q"] {
            assert!(check_mode(mode).is_err(), "{mode}");
        }
    }
}
