//! One line of a log file: `{"log":"text\n","stream":"stdout","time":"2026-11-21T09:30:00.123456789Z"}`, byte for byte as
//! Docker writes it.

use std::collections::BTreeMap;

use super::Stream;

/// Whether a byte stands for itself in a JSON string as Docker writes it (Go's encoder also escapes what HTML minds).
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20_u8;
    while byte < 0x80 {
        plain[byte as usize] = !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&');
        byte += 1;
    }
    plain
};

/// What follows the text in every entry of the same stream and time.
#[derive(Debug)]
pub struct Tail(String);

impl Tail {
    /// Makes the end of entries of this stream, written at `time`, with what [`attributes`] made.
    pub fn new(stream: Stream, attributes: &str, time: jiff::Timestamp) -> Self {
        Self(format!("\",\"stream\":\"{}\",{attributes}\"time\":\"{time}\"}}\n", stream.as_str()))
    }
}

/// Returns what every entry of a container with these attributes has of them.
pub fn attributes(attributes: &BTreeMap<String, String>) -> String {
    if attributes.is_empty() {
        return String::new();
    }
    let mut text = Vec::new();
    for (name, value) in attributes {
        text.extend_from_slice(if text.is_empty() { b"\"attrs\":{\"" } else { b",\"" });
        escape(&mut text, name.as_bytes());
        text.extend_from_slice(b"\":\"");
        escape(&mut text, value.as_bytes());
        text.push(b'"');
    }
    String::from_utf8_lossy(&text).into_owned() + "},"
}

/// Appends one entry. `text` includes the line feed unless the line is a part of a longer one.
pub fn append(out: &mut Vec<u8>, text: &[u8], tail: &Tail) {
    out.extend_from_slice(b"{\"log\":\"");
    let (line, feed) = match text {
        [line @ .., b'\n'] => (line, true),
        _ => (text, false),
    };
    if line.iter().all(|byte| PLAIN[usize::from(*byte)]) {
        out.extend_from_slice(line);
    } else {
        escape(out, line);
    }
    if feed {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(tail.0.as_bytes());
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    out.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes());
                }
                _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &[u8]) -> String {
        let mut out = Vec::new();
        let time = "2026-11-21T09:30:00.5Z".parse().unwrap();
        append(&mut out, text, &Tail::new(Stream::Stderr, "", time));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn entries_look_as_docker_writes_them() {
        let tail = r#"","stream":"stderr","time":"2026-11-21T09:30:00.5Z"}"#;
        assert_eq!(entry(b"plain\n"), format!("{{\"log\":\"plain\\n{tail}\n"));
        assert_eq!(entry(b"part"), format!("{{\"log\":\"part{tail}\n"));
        let odd = "\"\\\t\u{1b}[0m<a>&\u{e9}\u{2028}\r\n";
        let want = r#""log":"\"\\\u0009\u001b[0m\u003ca\u003e\u0026é\u2028\r\n"#;
        assert!(entry(odd.as_bytes()).contains(want), "{}", entry(odd.as_bytes()));
        let attributes = attributes(&BTreeMap::from([("a\"b".into(), "<c>".into()), ("d".into(), "e".into())]));
        assert_eq!(attributes, r#""attrs":{"a\"b":"\u003cc\u003e","d":"e"},"#);
        assert!(entry(b"\xff\xfe").contains(r#""log":"\ufffd\ufffd""#));
    }
}
