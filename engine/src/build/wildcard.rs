//! Patterns of `COPY` and `ADD`, with the rules of Go's `filepath.Match`, for one component of a path.

/// Returns whether a name matches a pattern. The error: the pattern is none.
pub(crate) fn matches(pattern: &str, name: &str) -> Result<bool, ()> {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // Where the last `*` stands, and how much of the name it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    let (mut at, mut position) = (0, 0);
    loop {
        if at < pattern.len() && pattern[at] == '*' {
            star = Some((at + 1, position));
            at += 1;
            continue;
        }
        if position == name.len() {
            if at == pattern.len() {
                return Ok(true);
            }
            // What is left of the pattern has to be one all the same.
            return check(&pattern[at..]).map(|()| false);
        }
        let step = if at < pattern.len() { one(&pattern[at..], name[position])? } else { None };
        if let Some(length) = step {
            at += length;
            position += 1;
        } else if let Some((after, taken)) = star {
            star = Some((after, taken + 1));
            (at, position) = (after, taken + 1);
        } else {
            return check(pattern.get(at..).unwrap_or_default()).map(|()| false);
        }
    }
}

/// Matches one character against the start of a pattern. Returns the length of what matched it.
fn one(pattern: &[char], character: char) -> Result<Option<usize>, ()> {
    match pattern[0] {
        '?' => Ok(Some(1)),
        '\\' => Ok(pattern.get(1).ok_or(()).map(|escaped| (*escaped == character).then_some(2))?),
        '[' => {
            let (matched, length) = class(pattern, character)?;
            Ok(matched.then_some(length))
        }
        literal => Ok((literal == character).then_some(1)),
    }
}

/// Matches `[a-z]` or `[^a-z]`. Returns its length, too.
fn class(pattern: &[char], character: char) -> Result<(bool, usize), ()> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&'^');
    at += usize::from(negated);
    let mut matched = false;
    let first = at;
    loop {
        if pattern.get(at) == Some(&']') && at > first {
            return Ok((matched != negated, at + 1));
        }
        let low = escaped(pattern, &mut at)?;
        let mut high = low;
        if pattern.get(at) == Some(&'-') {
            at += 1;
            high = escaped(pattern, &mut at)?;
        }
        matched |= (low..=high).contains(&character);
    }
}

fn escaped(pattern: &[char], at: &mut usize) -> Result<char, ()> {
    let mut character = *pattern.get(*at).ok_or(())?;
    if matches!(character, '-' | ']') {
        return Err(());
    }
    if character == '\\' {
        *at += 1;
        character = *pattern.get(*at).ok_or(())?;
    }
    *at += 1;
    Ok(character)
}

/// Makes sure that the rest of a pattern is one.
fn check(mut pattern: &[char]) -> Result<(), ()> {
    while let Some(first) = pattern.first() {
        let length = match first {
            '\\' => 2,
            '[' => class(pattern, '\0')?.1,
            _ => 1,
        };
        pattern = pattern.get(length..).ok_or(())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn it_matches_as_go_does() {
        for (pattern, name, expected) in [
            ("abc", "abc", Ok(true)),
            ("*", "abc", Ok(true)),
            ("*c", "abc", Ok(true)),
            ("a*", "a", Ok(true)),
            ("a*b*c*d*e*", "axbxcxdxe", Ok(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Ok(false)),
            ("ab[c]", "abc", Ok(true)),
            ("ab[b-d]", "abc", Ok(true)),
            ("ab[^c]", "abc", Ok(false)),
            ("ab[^e-g]", "abc", Ok(true)),
            ("a\\*b", "a*b", Ok(true)),
            ("a\\*b", "ab", Ok(false)),
            ("a?b", "a☺b", Ok(true)),
            ("[a-ζ]*", "α", Ok(true)),
            ("[\\]a]", "]", Ok(true)),
            ("[]a]", "]", Err(())),
            ("[-]", "-", Err(())),
            ("[x-]", "x", Err(())),
            ("[", "a", Err(())),
            ("[^bc", "a", Err(())),
            ("a[", "ab", Err(())),
            ("*x", "xxx", Ok(true)),
            ("", "", Ok(true)),
            ("", "a", Ok(false)),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
