//! What this program is called. In Docker Compose's place it says nothing of itself: what it names are Docker's commands.

/// The name that this program was called by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Name {
    #[default]
    Own,
    /// The program `docker-compose`.
    DockerCompose,
    /// The plugin of Docker's command.
    DockerPlugin,
}

impl Name {
    /// Returns what is typed to call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Own => OWN,
            Self::DockerCompose => "docker-compose",
            Self::DockerPlugin => "docker compose",
        }
    }

    /// Returns the name of the file that is executed.
    pub fn program(self) -> &'static str {
        match self {
            Self::Own => OWN,
            Self::DockerCompose | Self::DockerPlugin => "docker-compose",
        }
    }

    /// Returns whether this is Docker's name.
    pub fn is_dockers(self) -> bool {
        self != Self::Own
    }

    /// Returns a text in which every command of ours is called by this name. A path or a host's name that ours is a part of
    /// is no command.
    pub fn in_text(self, text: &str) -> String {
        if !self.is_dockers() || !text.contains(OWN) {
            return text.to_owned();
        }
        let is_part = |sign: char| sign.is_alphanumeric() || matches!(sign, '/' | '-' | '_' | '.' | '@');
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(OWN) {
            let (before, found) = rest.split_at(at);
            let after = &found[OWN.len()..];
            let begins =
                before.chars().next_back().or_else(|| out.chars().next_back()).is_none_or(|sign| !is_part(sign));
            let ends = after.chars().next().is_none_or(|sign| !is_part(sign));
            out.push_str(before);
            out.push_str(if begins && ends { self.as_str() } else { OWN });
            rest = after;
        }
        out + rest
    }
}

const OWN: &str = "rcompose";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_get_dockers_name_and_nothing_else() {
        let said = |text| Name::DockerPlugin.in_text(text);
        assert_eq!(said("rcompose ls, or `rcompose -p a up`"), "docker compose ls, or `docker compose -p a up`");
        assert_eq!(said("it may require 'rcompose login'"), "it may require 'docker compose login'");
        for text in ["/var/lib/rcompose is full", "/rcompose ps", "rcompose.local/whoami", "no name", "x-rcompose is"] {
            assert_eq!(said(text), text);
        }
        assert_eq!(Name::Own.in_text("rcompose up"), "rcompose up");
        assert_eq!(Name::DockerCompose.in_text("rcompose"), "docker-compose");
    }
}
