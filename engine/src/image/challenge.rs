//! `WWW-Authenticate` headers (RFC 9110, section 11.6.1), as far as registries use them.

/// One way in which a server wants to be convinced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// `basic` or `bearer`, in lower case.
    pub(crate) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads all challenges of all headers. What cannot be read ends its header.
pub(crate) fn parse_challenges<'a>(headers: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    for header in headers {
        parse_header(header, &mut challenges);
    }
    challenges
}

fn parse_header(header: &str, challenges: &mut Vec<Challenge>) {
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            return;
        }
        let (word, after) = rest.split_at(end);
        let trimmed = after.trim_start_matches([' ', '\t']);
        let Some(value) = trimmed.strip_prefix('=').filter(|_| !challenges.is_empty()) else {
            // A scheme, perhaps followed by parameters.
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            rest = after;
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            let Some(unquoted) = unquote(quoted) else {
                return;
            };
            unquoted
        } else {
            let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
            (value[..end].to_owned(), &value[end..])
        };
        if let Some(challenge) = challenges.last_mut() {
            challenge.parameters.push((word.to_ascii_lowercase(), value));
        }
        rest = after;
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// Reads up to the closing quote, and returns what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_are_read() {
        let header = r#"Bearer realm="https://a.test/token",service="s, \"x\"" , scope=pull, Basic realm="r""#;
        let challenges = parse_challenges([header].into_iter());
        assert_eq!(challenges.len(), 2);
        assert_eq!(challenges[0].scheme, "bearer");
        assert_eq!(challenges[0].parameter("realm"), Some("https://a.test/token"));
        assert_eq!(challenges[0].parameter("service"), Some("s, \"x\""));
        assert_eq!(challenges[0].parameter("scope"), Some("pull"));
        assert_eq!((challenges[1].scheme.as_str(), challenges[1].parameter("realm")), ("basic", Some("r")));
    }

    proptest! {
        #[test]
        fn any_header_ends_in_a_result(header in "\\PC{0,60}") {
            parse_challenges([header.as_str()].into_iter());
        }
    }
}
