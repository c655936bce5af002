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
    /// Variables in the defaults of variables, too many levels deep.
    #[error("variables are nested more than {DEEPEST} levels deep")]
    TooDeep,
    /// The text would become too long.
    #[error("the variables' values make more than {} MiB of text", LONGEST >> 20)]
    TooLong,
}

/// How deep variables may be nested in each other's defaults; each level costs stack.
const DEEPEST: usize = 100;
/// How much of what is no form is shown.
const LONGEST_FORM: usize = 100;
/// How long a text may become, in bytes: `B=${A}${A}`, `C=${B}${B}` and so on grow without end.
const LONGEST: usize = 16 << 20;

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

/// The last closing brace of the line that was asked for last, so that no line is searched twice.
#[derive(Default)]
struct Line {
    end: usize,
    last_brace: Option<usize>,
}

impl Line {
    /// The offset of the last closing brace on the line at an offset, if there is one from there on. The offsets of one text must
    /// not go down.
    fn last_brace(&mut self, text: &str, at: usize) -> Option<usize> {
        if self.end <= at {
            self.end = text[at..].find('\n').map_or(text.len(), |end| at + end);
            self.last_brace = text[at..self.end].rfind('}').map(|brace| at + brace);
        }
        self.last_brace.filter(|brace| *brace >= at)
    }
}

/// Reads the form at an offset of a text, where there is a `$`.
fn form<'t>(template: &'t str, at: usize, line: &mut Line) -> Form<'t> {
    let text = &template[at..];
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
    let start = 2 + length + operator_length;
    let Some(last) = line.last_brace(template, at).map(|last| last - at).filter(|last| *last >= start) else {
        return Form::Invalid;
    };
    let end = closing_brace(&text[..=last]).unwrap_or(last);
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
    nested(template, lookup, unset, 0)
}

fn nested<'e>(
    template: &str,
    lookup: &dyn Fn(&str) -> Option<&'e str>,
    unset: &mut dyn FnMut(&str),
    depth: usize,
) -> Result<String, Fault> {
    if depth > DEEPEST {
        return Err(Fault::TooDeep);
    }
    let mut result = String::with_capacity(template.len());
    let mut rest = template;
    let mut line = Line::default();
    let mut fault = None;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at..];
        if result.len() > LONGEST {
            return Err(Fault::TooLong);
        }
        let length = match form(template, template.len() - rest.len(), &mut line) {
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
                match operation(name, operator, text, lookup, unset, depth) {
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
                    Some(Fault::Invalid { form: rest[..end].chars().take(LONGEST_FORM).collect() })
                });
                2
            }
        };
        rest = &rest[length..];
    }
    result.push_str(rest);
    if result.len() > LONGEST {
        return Err(Fault::TooLong);
    }
    fault.map_or(Ok(result), Err)
}

fn operation<'e>(
    name: &str,
    operator: &str,
    text: &str,
    lookup: &dyn Fn(&str) -> Option<&'e str>,
    unset: &mut dyn FnMut(&str),
    depth: usize,
) -> Result<String, Fault> {
    let text = nested(text, lookup, unset, depth + 1)?;
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
    nested_variables(template, found, 0);
}

fn nested_variables(template: &str, found: &mut Vec<Variable>, depth: usize) {
    let mut rest = template;
    let mut line = Line::default();
    while let Some(at) = rest.find('$') {
        rest = &rest[at..];
        let length = match form(template, template.len() - rest.len(), &mut line) {
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
                if nested && depth < DEEPEST {
                    nested_variables(text, found, depth + 1);
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

    #[test]
    fn hostile_texts_end_in_a_fault() {
        let nested = |depth: usize| format!("{}x{}", "${NONE:-".repeat(depth), "}".repeat(depth));
        check(&nested(DEEPEST), "x");
        assert_eq!(substitute(&nested(100_000), &lookup, &mut |_| {}), Err(Fault::TooDeep));
        let long = "y".repeat(LONGEST / 4);
        let lookup = |_: &str| Some(long.as_str());
        assert_eq!(substitute(&"$A".repeat(1_000), &lookup, &mut |_| {}), Err(Fault::TooLong));
        // Ends at all, which it does only in linear time.
        let open = format!("}}{}", "${NONE:-".repeat(200_000));
        assert!(matches!(substitute(&open, &lookup, &mut |_| {}), Err(Fault::Invalid { .. })));
        variables(&open, &mut Vec::new());
    }

    proptest::proptest! {
        #[test]
        fn text_without_a_dollar_stays(text in "[^$]{0,40}") {
            proptest::prop_assert_eq!(substitute(&text, &lookup, &mut |_| {}), Ok(text));
        }

        #[test]
        fn a_default_is_used_where_there_is_no_value(
            name in "[A-Z_][A-Z0-9_]{0,8}",
            value in proptest::option::of("[a-z]{0,4}"),
            default in "[a-z :/.-]{0,8}",
        ) {
            let lookup = |asked: &str| (asked == name).then_some(value.as_deref()).flatten();
            let result = |form: &str| substitute(&form.replace('N', &name).replace('D', &default), &lookup, &mut |_| {});
            let present = value.clone();
            let full = present.clone().filter(|value| !value.is_empty());
            // The names have capital letters only, so the letters of the forms are not those of the values.
            proptest::prop_assume!(!name.contains(['N', 'D']));
            proptest::prop_assert_eq!(result("$N|${N}"), Ok(format!("{0}|{0}", present.clone().unwrap_or_default())));
            proptest::prop_assert_eq!(result("${N-D}"), Ok(present.clone().unwrap_or_else(|| default.clone())));
            proptest::prop_assert_eq!(result("${N:-D}"), Ok(full.clone().unwrap_or_else(|| default.clone())));
            proptest::prop_assert_eq!(result("${N+D}"), Ok(present.as_ref().map_or_else(String::new, |_| default.clone())));
            proptest::prop_assert_eq!(result("${N:+D}"), Ok(full.as_ref().map_or_else(String::new, |_| default.clone())));
            proptest::prop_assert_eq!(result("${N?D}").ok(), present);
            proptest::prop_assert_eq!(result("${N:?D}").ok(), full);
        }

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
