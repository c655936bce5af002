//! Splitting a command line into words.

/// Splits a line as Docker Compose does: quotes and backslashes count, and the words end at the first operator (`;`, `&`, `|`,
/// `<`, `>`), because no shell will run them.
///
/// # Errors
/// A quote that is not closed, a backslash at the end, or an open parenthesis.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let invalid = || Err(format!("invalid command line string: {line}"));
    let mut words = Vec::new();
    let mut word = String::new();
    let mut started = false;
    let (mut escaped, mut double, mut single, mut back, mut dollar) = (false, false, false, false, false);
    for c in line.chars() {
        if escaped {
            word.push(c);
            escaped = false;
            started = true;
            continue;
        }
        match c {
            '\\' if single => word.push(c),
            '\\' => escaped = true,
            ' ' | '\t' | '\r' | '\n' => {
                if single || double || back || dollar {
                    word.push(c);
                } else if started {
                    words.push(std::mem::take(&mut word));
                    started = false;
                }
            }
            '"' if !single && !dollar => {
                started |= double;
                double = !double;
            }
            '\'' if !double && !dollar => {
                started |= single;
                single = !single;
            }
            '(' if !single && !double && !back => {
                if dollar || !word.ends_with('$') {
                    return invalid();
                }
                dollar = true;
                word.push(c);
            }
            ';' | '&' | '|' | '<' | '>' if !(single || double || back || dollar) => {
                // A digit before `>` is a file descriptor, not a word.
                if c == '>' && word.starts_with(|c: char| c.is_ascii_digit()) {
                    started = false;
                }
                break;
            }
            _ => {
                if c == '`' && !single && !double && !dollar {
                    back = !back;
                }
                if c == ')' && !single && !double && !back {
                    dollar = !dollar;
                }
                word.push(c);
                started = true;
            }
        }
    }
    if started {
        words.push(word);
    }
    if escaped || single || double || back || dollar { invalid() } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn lines_are_split_into_words() {
        let check = |line: &str, expected: &[&str]| assert_eq!(split(line).expect(line), expected, "{line}");
        check("a  b\tc", &["a", "b", "c"]);
        check("a 'b c' \"d e\" f\\ g", &["a", "b c", "d e", "f g"]);
        check("a '' \"\"", &["a", "", ""]);
        check("a'b'c", &["abc"]);
        check("a && b | c", &["a"]);
        check("echo 2>x", &["echo"]);
        check("a '\\' b", &["a", "\\", "b"]);
        check("a $(b c) d", &["a", "$(b c)", "d"]);
        check("a `b c`", &["a", "`b c`"]);
        check("", &[]);
        for wrong in ["a 'b", "a \"b", "a \\", "a (b", "a `b"] {
            assert!(split(wrong).is_err(), "{wrong}");
        }
    }
}
