//! `--chmod` of `COPY` and `ADD`: octal digits, or a symbolic mode as `chmod(1)` has it.

/// How the mode of a copied file is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModeChange {
    /// It becomes this.
    Absolute(u32),
    /// Clauses, one after another.
    Symbolic(Vec<Clause>),
}

/// `who op permissions`, such as `go-w`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clause {
    /// The bits of those who are meant: user, group, others, each with all that they can have.
    who: u32,
    operator: char,
    permissions: String,
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHERS: u32 = 0o1007;

impl ModeChange {
    /// Reads a mode. `None`: it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()) {
            return u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).map(Self::Absolute);
        }
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            let operators = |character: char| matches!(character, '+' | '-' | '=');
            let (whom, mut rest) = clause.split_at(clause.find(operators)?);
            let mut who = 0;
            for character in whom.chars() {
                who |= match character {
                    'u' => USER,
                    'g' => GROUP,
                    'o' => OTHERS,
                    'a' => USER | GROUP | OTHERS,
                    _ => return None,
                };
            }
            if who == 0 {
                who = USER | GROUP | OTHERS;
            }
            // Several operators may follow one another: `u+r-w`.
            while let Some(operator) = rest.chars().next() {
                let permissions = &rest[1..];
                let end = permissions.find(operators).unwrap_or(permissions.len());
                let (permissions, after) = permissions.split_at(end);
                let copies = matches!(permissions, "u" | "g" | "o");
                if !copies && !permissions.chars().all(|character| "rwxXst".contains(character)) {
                    return None;
                }
                clauses.push(Clause { who, operator, permissions: permissions.to_owned() });
                rest = after;
            }
        }
        Some(Self::Symbolic(clauses))
    }

    /// Returns what becomes of a mode.
    pub(crate) fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Self::Absolute(mode) => *mode,
            Self::Symbolic(clauses) => clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, directory)),
        }
    }
}

impl Clause {
    fn apply(&self, mode: u32, directory: bool) -> u32 {
        let bits = match self.permissions.as_str() {
            "u" => spread(mode >> 6),
            "g" => spread(mode >> 3),
            "o" => spread(mode),
            permissions => permissions.chars().fold(0, |bits, permission| {
                bits | match permission {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    'X' if directory || mode & 0o111 != 0 => 0o111,
                    's' => 0o6000,
                    't' => 0o1000,
                    _ => 0,
                }
            }),
        };
        let bits = bits & self.who;
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => (mode & !(self.who & 0o777)) | bits,
        }
    }
}

/// Gives the three lowest bits to everybody.
fn spread(bits: u32) -> u32 {
    (bits & 7) * 0o111
}

#[cfg(test)]
mod tests {
    use super::ModeChange;

    #[test]
    fn modes_are_what_chmod_makes_of_them() {
        for (text, mode, directory, expected) in [
            ("755", 0o644, false, 0o755),
            ("0644", 0o755, true, 0o644),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-w", 0o666, false, 0o644),
            ("g=u", 0o740, false, 0o770),
            ("u+s", 0o755, false, 0o4755),
            ("+t", 0o777, true, 0o1777),
            ("o=", 0o755, false, 0o750),
            ("u+r-w", 0o200, false, 0o400),
        ] {
            let change = ModeChange::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(change.apply(mode, directory), expected, "{text} of {mode:o}");
        }
        for text in ["", "8", "77777", "u", "q+x", "u+q", "x=u,"] {
            assert_eq!(ModeChange::parse(text), None, "{text}");
        }
    }
}
