//! Colours of the terminal, and who may have them.

use std::io::IsTerminal;

/// What `--ansi` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Ansi {
    Never,
    Always,
    #[default]
    Auto,
}

impl Ansi {
    /// Returns whether `stream` gets colours: never against the user's word, and by itself only a terminal.
    pub fn on(self, stream: &impl IsTerminal) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Auto => {
                let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
                !refused && !dumb && stream.is_terminal()
            }
        }
    }
}

/// A colour as the parameter of an SGR sequence (ECMA-48, 8.3.117).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour(&'static str);

pub const RED: Colour = Colour("31");
pub const GREEN: Colour = Colour("32");
pub const YELLOW: Colour = Colour("33");
pub const BLUE: Colour = Colour("34");
pub const BOLD: Colour = Colour("1");
pub const BRIGHT_GREEN: Colour = Colour("92");

/// What the prefixes of log lines go through, in Docker Compose's order.
const PREFIXES: [Colour; 10] = [
    Colour("36"),
    YELLOW,
    GREEN,
    Colour("35"),
    BLUE,
    Colour("36;1"),
    Colour("33;1"),
    Colour("32;1"),
    Colour("35;1"),
    Colour("34;1"),
];

impl Colour {
    /// Returns the colour of the prefix of the `n`th source of log lines.
    pub fn of_prefix(n: usize) -> Self {
        PREFIXES[n % PREFIXES.len()]
    }

    pub fn paint(self, text: &str) -> String {
        format!("\x1b[{}m{text}\x1b[0m", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_go_round_the_ten_colours() {
        assert_eq!(Colour::of_prefix(0).paint("web-1"), "\x1b[36mweb-1\x1b[0m");
        assert_eq!(Colour::of_prefix(10), Colour::of_prefix(0));
        assert_ne!(Colour::of_prefix(5), Colour::of_prefix(0));
    }

    #[test]
    fn the_users_word_counts() {
        let file = tempfile::tempfile().unwrap();
        assert!(Ansi::Always.on(&file));
        assert!(!Ansi::Auto.on(&file));
    }
}
