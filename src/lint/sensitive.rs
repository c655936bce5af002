//! Texts that are secrets by the look of them, in files that are about to be given away.

/// What a text is by the look of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looks {
    AwsKey,
    GithubToken,
    JsonWebToken,
    PrivateKey,
    Url,
}

impl Looks {
    /// Returns what people call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AwsKey => "AWS Client ID",
            Self::GithubToken => "Github authentication",
            Self::JsonWebToken => "JSON Web Token",
            Self::PrivateKey => "Private Key",
            Self::Url => "URL with password",
        }
    }
}

/// How such a key of Amazon's begins.
const AWS: [&str; 8] = ["AKIA", "AGPA", "AIDA", "AROA", "AIPA", "ANPA", "ANVA", "ASIA"];
/// How tokens of GitHub begin.
const GITHUB: [&str; 5] = ["ghp_", "gho_", "ghu_", "ghs_", "ghr_"];

/// Returns what looks like a secret, with the number of its line.
pub fn look(text: &str) -> Vec<(usize, Looks, &str)> {
    let between = |sign: char| sign.is_whitespace() || matches!(sign, '"' | '\'' | ',' | '`' | '[' | ']' | '{' | '}');
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.contains("-----BEGIN ") && line.contains("PRIVATE KEY-----") {
            found.push((number + 1, Looks::PrivateKey, line.trim()));
        }
        for word in line.split(between) {
            // A value behind a name: `KEY=value`.
            let word = word.split_once('=').map_or(word, |(_, value)| value);
            found.extend(of_word(word).map(|looks| (number + 1, looks, word)));
        }
    }
    found
}

fn of_word(word: &str) -> Option<Looks> {
    let all = |text: &str, fits: fn(char) -> bool| text.chars().all(fits);
    let behind = |beginnings: &[&str]| beginnings.iter().find_map(|beginning| word.strip_prefix(beginning));
    if behind(&AWS).is_some_and(|rest| rest.len() == 16 && all(rest, |c| c.is_ascii_uppercase() || c.is_ascii_digit()))
    {
        return Some(Looks::AwsKey);
    }
    if behind(&GITHUB).is_some_and(|rest| rest.len() >= 36 && all(rest, |c| c.is_ascii_alphanumeric() || c == '_')) {
        return Some(Looks::GithubToken);
    }
    let encoded = |part: &str| part.len() >= 8 && all(part, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if let [header, claims, signature] = word.split('.').collect::<Vec<_>>()[..]
        // The beginning of an object in JSON.
        && [header, claims].iter().all(|part| part.starts_with("eyJ"))
        && [header, claims, signature].into_iter().all(encoded)
    {
        return Some(Looks::JsonWebToken);
    }
    has_password(word).then_some(Looks::Url)
}

/// Returns whether a text is a URL with a password that is not that of a variable.
fn has_password(word: &str) -> bool {
    let Some((scheme, rest)) = word.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let password = user.and_then(|user| user.split_once(':')).map_or("", |(_, password)| password);
    !scheme.is_empty() && !password.is_empty() && !password.contains('$')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_looks() {
        // Put together, so that nobody takes them for real ones.
        let github = format!("ghp_{}", "a1".repeat(18));
        let token = format!("eyJ{}.eyJ{}.{}", "a".repeat(9), "b".repeat(9), "c-_".repeat(9));
        let text = format!(
            "a: AKIA{}\nb: '{github}'\nTOKEN={token}\nurls: [\"amqp://u:p@h/x\", 'http://h/', http://u:${{P}}@h]\n\
             -----BEGIN RSA PRIVATE KEY-----\nabc\nimage: a.b.c\n",
            "X".repeat(16)
        );
        let found = look(&text).into_iter().map(|(line, looks, _)| (line, looks)).collect::<Vec<_>>();
        let wanted = [
            (1, Looks::AwsKey),
            (2, Looks::GithubToken),
            (3, Looks::JsonWebToken),
            (4, Looks::Url),
            (5, Looks::PrivateKey),
        ];
        assert_eq!(found, wanted);
        assert_eq!(look(&text)[1].2, github);
    }
}
