//! `$VARIABLE`, `${VARIABLE:-default}` and the other forms.
//!
//! Values only, never keys; per file, before merging. Nested parts are evaluated even where they are not needed, as in
//! Docker Compose: `${A:-${B:?why}}` fails without `B` even if `A` is set. A `$` that starts no form stays as it is.

/// Why a text could not be interpolated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// `${VARIABLE:?reason}` and there is no value.
    #[error("required variable {variable} is missing a value{}{reason}", if reason.is_empty() { "" } else { ": " })]
    Required {
        /// The variable.
        variable: String,
        /// What the file says about it.
        reason: String,
    },
    /// `${` and then something that is none of the forms.
    #[error("invalid interpolation format: {form:?}")]
    Invalid {
        /// What stands there.
        form: String,
    },
}

/// What one `${…}` asks for, as `config --variables` lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Whether the form is `?` or `:?`.
    pub required: bool,
    /// The text behind `-` or `:-`.
    pub default: String,
    /// The text behind `+` or `:+`.
    pub alternate: String,
}

/// One `$…` at the start of a text.
enum Form<'t> {
    /// `$$`
    Escaped,
    /// `$NAME` or `${NAME}`, with its length.
    Name(&'t str, usize),
    /// `${NAME` operator text `}`; the operator with its colon.
    Operation { name: &'t str, operator: &'t str, text: &'t str, length: usize },
    /// Not a variable: a lone `$`.
    Literal,
    /// `${` and something else.
    Invalid,
}

fn name_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(b'_' | b'a'..=b'z' | b'A'..=b'Z') => {
            bytes.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count()
        }
        _ => 0,
    }
}

/// Reads the form at the start of a text that begins with `$`.
fn form(text: &str) -> Form<'_> {
    let rest = &text[1..];
    if rest.starts_with('$') {
        return Form::Escaped;
    }
    let length = name_length(rest);
    if length > 0 {
        return Form::Name(&rest[..length], 1 + length);
    }
    let Some(inner) = rest.strip_prefix('{') else { return Form::Literal };
    let length = name_length(inner);
    let (name, after) = inner.split_at(length);
    if name.is_empty() {
        return Form::Invalid;
    }
    if after.starts_with('}') {
        return Form::Name(name, 3 + length);
    }
    let operator_length = match after.as_bytes() {
        [b':', b'-' | b'+' | b'?', ..] => 2,
        [b'-' | b'+' | b'?', ..] => 1,
        _ => return Form::Invalid,
    };
    // The form ends on its own line; where braces do not match, at the last one of the line.
    let line = text.split('\n').next().unwrap_or(text);
    let Some(last) = line.rfind('}').filter(|last| *last >= 2 + length + operator_length) else { return Form::Invalid };
    let end = closing_brace(&text[..=last]).unwrap_or(last);
    let start = 2 + length + operator_length;
    Form::Operation {
        name,
        operator: &after[..operator_length],
        text: text.get(start..end).unwrap_or(""),
        length: end + 1,
    }
}

/// The brace that closes the first one. A brace right behind an opening one does not count, as in Docker Compose.
fn closing_brace(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0_i32, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            b'{' => {
                depth += 1;
                at += 1;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Replaces all variables of a text. `unset` hears of each variable that has no value and no default.
///
/// # Errors
/// The first fault of the text.
pub fn substitute<'e>(
    template: &str,
    lookup: &dyn Fn(&str) -> Option<&'e str>,
    unset: &mut dyn FnMut(&str),
) -> Result<String, Fault> {
    let mut result = String::with_capacity(template.len());
    let mut rest = template;
    let mut fault = None;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = match form(rest) {
            Form::Escaped => {
                result.push('$');
                2
            }
            Form::Literal => {
                result.push('$');
                1
            }
            Form::Name(name, length) => {
                match lookup(name) {
                    Some(value) => result.push_str(value),
                    None => unset(name),
                }
                length
            }
            Form::Operation { name, operator, text, length } => {
                match operation(name, operator, text, lookup, unset) {
                    Ok(value) => result.push_str(&value),
                    Err(error) => fault = fault.or(Some(error)),
                }
                length
            }
            Form::Invalid => {
                fault = fault.or_else(|| {
                    let end = rest
                        .find(['}', '\n'])
                        .map_or(rest.len(), |end| end + usize::from(rest.as_bytes()[end] == b'}'));
                    Some(Fault::Invalid { form: rest[..end].to_owned() })
                });
                2
            }
        };
        rest = &rest[length..];
    }
    result.push_str(rest);
    fault.map_or(Ok(result), Err)
}

fn operation<'e>(
    name: &str,
    operator: &str,
    text: &str,
    lookup: &dyn Fn(&str) -> Option<&'e str>,
    unset: &mut dyn FnMut(&str),
) -> Result<String, Fault> {
    let text = substitute(text, lookup, unset)?;
    let value = lookup(name);
    let (empty_counts_as_unset, operator) =
        operator.strip_prefix(':').map_or((false, operator), |operator| (true, operator));
    let present = value.is_some_and(|value| !(empty_counts_as_unset && value.is_empty()));
    match (operator, present) {
        ("-" | "?", true) | ("+", false) => Ok(value.unwrap_or("").to_owned()),
        ("?", false) => Err(Fault::Required { variable: name.to_owned(), reason: text }),
        _ => Ok(text),
    }
}

/// Adds the variables that a text asks for to a list, outer ones first.
pub fn variables(template: &str, found: &mut Vec<Variable>) {
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        rest = &rest[at..];
        let length = match form(rest) {
            Form::Escaped | Form::Invalid => 2,
            Form::Literal => 1,
            Form::Name(name, length) => {
                found.push(Variable { name: name.to_owned(), ..Variable::default() });
                length
            }
            Form::Operation { name, operator, text, length } => {
                let mut variable = Variable { name: name.to_owned(), ..Variable::default() };
                match operator.trim_start_matches(':') {
                    "-" => text.clone_into(&mut variable.default),
                    "+" => text.clone_into(&mut variable.alternate),
                    _ => variable.required = true,
                }
                let nested = !variable.required;
                found.push(variable);
                if nested {
                    variables(text, found);
                }
                length
            }
        };
        rest = &rest[length..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<&'static str> {
        match name {
            "SET" => Some("value"),
            "EMPTY" => Some(""),
            _ => None,
        }
    }

    fn check(template: &str, expected: &str) {
        assert_eq!(substitute(template, &lookup, &mut |_| {}).as_deref(), Ok(expected), "{template}");
    }

    #[test]
    fn every_form_has_its_value() {
        for (template, expected) in [
            ("$SET-${SET}", "value-value"),
            ("${NONE}|$NONE", "|"),
            ("${NONE:-d}${EMPTY:-d}${EMPTY-d}${SET:-d}", "ddvalue"),
            ("${SET:+r}${EMPTY:+r}${EMPTY+r}${NONE+r}", "rr"),
            ("${SET:?e}${EMPTY?e}", "value"),
            ("${NONE:-${EMPTY:-${SET}}}", "value"),
            ("${NONE:-a} b ${NONE:-c}", "a b c"),
            ("$$SET $${SET} $ $5 $(x)", "$SET ${SET} $ $5 $(x)"),
            ("${NONE:-{}}", "{}"),
            ("${NONE:-}", ""),
            ("${NONE-$$5}", "$5"),
            ("${NONE:-a:b?c-d}", "a:b?c-d"),
        ] {
            check(template, expected);
        }
    }

    #[test]
    fn wrong_forms_are_faults() {
        for template in ["${}", "${1A}", "${A.b}", "${A b}", "${A:x}", "${A", "${A:-x", "${ A}"] {
            assert!(matches!(substitute(template, &lookup, &mut |_| {}), Err(Fault::Invalid { .. })), "{template}");
        }
        assert_eq!(
            substitute("${SET:-${NONE:?because}}", &lookup, &mut |_| {}),
            Err(Fault::Required { variable: "NONE".into(), reason: "because".into() })
        );
    }

    #[test]
    fn unset_variables_are_named() {
        let mut unset = Vec::new();
        substitute("$A ${B} ${C:-x} ${D+y}", &lookup, &mut |name| unset.push(name.to_owned())).expect("no fault");
        assert_eq!(unset, ["A", "B"]);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(template in "[${}:A-C?+\\-a \n]{0,24}") {
            let _ = substitute(&template, &lookup, &mut |_| {});
            variables(&template, &mut Vec::new());
        }

        #[test]
        fn escaping_dollars_gives_the_text_back(text in "[${}:A-Z?+\\-a é]{0,24}") {
            proptest::prop_assert_eq!(substitute(&text.replace('$', "$$"), &lookup, &mut |_| {}), Ok(text));
        }
    }
}
