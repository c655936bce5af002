//! Options of builds that are lists of `key=value` in one text, separated by commas (RFC 4180, as Docker reads them).

/// Returns the fields of such a text, each a key and its value; the value of one without `=` is empty. A field in double quotes
/// may have commas in it.
pub(super) fn fields(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut fields = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        let mut field = String::new();
        if letters.next_if_eq(&'"').is_some() {
            loop {
                match letters.next() {
                    // Two of them are one.
                    Some('"') if letters.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(letter) => field.push(letter),
                    None => return Err(format!("{text:?} has a quote without an end")),
                }
            }
        } else {
            while let Some(letter) = letters.next_if(|letter| *letter != ',') {
                field.push(letter);
            }
        }
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        fields.push((key.trim().to_lowercase(), value.to_owned()));
        match letters.next() {
            None => return Ok(fields),
            Some(',') => {}
            Some(letter) => return Err(format!("{text:?} has {letter:?} behind a quoted field")),
        }
    }
}

/// Reads a value that is true or false. One that is not there is true, as in `push`.
pub(super) fn flag(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "true" | "1" | "True" | "TRUE" | "t" | "T" => Ok(true),
        "false" | "0" | "False" | "FALSE" | "f" | "F" => Ok(false),
        other => Err(format!("non-boolean value {other:?} for {key}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_docker_reads_them() {
        let read = |text: &str| {
            fields(text).map(|fields| fields.iter().map(|(key, value)| format!("{key}:{value}")).collect::<Vec<_>>())
        };
        assert_eq!(read("type=image,push").unwrap(), ["type:image", "push:"]);
        assert_eq!(read("type=image,\"name=a,b\",dest=x=y").unwrap(), ["type:image", "name:a,b", "dest:x=y"]);
        assert_eq!(read("\"a=say \"\"hi\"\"\"").unwrap(), ["a:say \"hi\""]);
        assert!(read("\"a=b").is_err() && read("\"a\"b").is_err());
    }
}
