//! Heredocs: `<<NAME`, `<<-NAME`, `<<"NAME"`, `3<<NAME`.

use super::shell::{Lexer, NoVariables};

/// A heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    /// The word that ends it, which is also what the file of it is called.
    pub(crate) name: String,
    /// Variables in it are expanded: nothing of the word is quoted.
    pub(crate) expand: bool,
    /// `<<-`: tabs at the beginning of its lines do not count.
    pub(crate) strip_tabs: bool,
    /// Its lines, as they stand in the file.
    pub(crate) contents: String,
}

impl Heredoc {
    /// Returns what is in it.
    pub(crate) fn stripped(&self) -> String {
        if !self.strip_tabs {
            return self.contents.clone();
        }
        self.contents.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// Returns whether an instruction is one of those that have heredocs: `RUN`, `COPY`, `ADD`, and these after `ONBUILD`.
pub(crate) fn are_possible(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace().filter(|word| !word.starts_with("--"));
    let mut instruction = words.next().unwrap_or_default();
    if instruction.eq_ignore_ascii_case("onbuild") {
        instruction = words.next().unwrap_or_default();
    }
    // What begins a JSON array and is one has its words quoted; what is none is for the shell.
    let is_json = words.next().is_some_and(|word| word.starts_with('['))
        && line.find('[').is_some_and(|at| serde_json::from_str::<Vec<serde_json::Value>>(&line[at..]).is_ok());
    !is_json && ["run", "copy", "add"].iter().any(|name| instruction.eq_ignore_ascii_case(name))
}

/// Returns the words of a line in which a heredoc could begin, quotes included.
pub(crate) fn words(line: &str) -> Vec<String> {
    let lexer = Lexer { keep_quotes: true, keep_escapes: true, keep_unset: true, ..Lexer::new('\\') };
    // A line that is no sequence of words is one for the shell.
    lexer.expand(line, &NoVariables).map_or_else(|_| Vec::new(), |expanded| expanded.words)
}

/// Reads a word as the beginning of a heredoc, if it is one.
pub(crate) fn parse(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|character: char| character.is_ascii_digit()).strip_prefix("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let lexer = Lexer { keep_unset: true, ..Lexer::new('\\') };
    let [name] = <[String; 1]>::try_from(lexer.expand(rest, &NoVariables).ok()?.words).ok()?;
    let quoted = Lexer { keep_quotes: true, keep_escapes: true, ..lexer };
    let expand = quoted.expand(rest, &NoVariables).ok()?.words == [name.as_str()];
    Some(Heredoc { name, expand, strip_tabs, contents: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_begin_a_heredoc() {
        let parsed = |word| parse(word).map(|heredoc| (heredoc.name, heredoc.expand, heredoc.strip_tabs));
        assert_eq!(parsed("<<EOF"), Some(("EOF".to_owned(), true, false)));
        assert_eq!(parsed("3<<-EOF"), Some(("EOF".to_owned(), true, true)));
        assert_eq!(parsed("<<'EOF'"), Some(("EOF".to_owned(), false, false)));
        assert_eq!(parsed("<<E\"O\"F"), Some(("EOF".to_owned(), false, false)));
        for word in ["<<<x", "<<", "<EOF", "x<<EOF", "<<\"a b", "<<a<<b"] {
            assert_eq!(parsed(word), None, "{word}");
        }
    }

    #[test]
    fn instructions_that_have_heredocs() {
        assert!(are_possible("RUN --mount=type=cache,target=/x <<EOF"));
        assert!(are_possible("onbuild copy <<EOF /x"));
        assert!(!are_possible("CMD <<EOF"));
        assert!(!are_possible("RUN [\"cat\", \"<<EOF\"]"));
        assert!(are_possible("RUN [ -f x ] <<EOF"));
    }

    #[test]
    fn tabs_are_stripped() {
        let heredoc = Heredoc { contents: "\t\ta\n\t b\nc\n".to_owned(), ..parse("<<-X").unwrap() };
        assert_eq!(heredoc.stripped(), "a\n b\nc\n");
    }
}
