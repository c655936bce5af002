//! Draws the loader's diagnostics: the message, the line with the place marked, what to do.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::compose::diagnostic::{Diagnostic, Severity};

/// How many bytes of a line are looked at before and behind a place: more than any terminal shows of it.
const AROUND: usize = 2_000;
/// How many bytes apart places may be to be shown together, and how many of one place are.
const TOGETHER: usize = 64 * 1024;

/// Draws one diagnostic, with colours or without; ends without a newline.
pub fn render(diagnostic: &Diagnostic, colours: bool) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let message = printable(&match &diagnostic.path {
        Some(path) if !diagnostic.message.contains(path.as_str()) => {
            format!("{path}: {}", diagnostic.message)
        }
        _ => diagnostic.message.clone(),
    });
    let notes: Vec<String> = diagnostic.chain.iter().map(|link| printable(link)).collect();
    let advice: Vec<String> = diagnostic.help.iter().map(|help| printable(help)).collect();
    let paths: Vec<String> = diagnostic.labels.iter().map(|label| label.file.path.display().to_string()).collect();
    let mut group: Group<'_> =
        level.primary_title(&message).elements(Vec::<Snippet<'_, annotate_snippets::Annotation<'_>>>::new());
    // One snippet for each file, in the order in which the files appear; the first label is the fault itself.
    let mut done = vec![false; diagnostic.labels.len()];
    for first in 0..diagnostic.labels.len() {
        if done[first] {
            continue;
        }
        // Only the lines that are shown are handed on, and of long ones the part around the place: files may be large.
        let file = &diagnostic.labels[first].file;
        let at = diagnostic.labels[first].range.start;
        let here: Vec<usize> = (first..diagnostic.labels.len())
            .filter(|index| !done[*index] && std::sync::Arc::ptr_eq(&diagnostic.labels[*index].file, file))
            .filter(|index| diagnostic.labels[*index].range.start.abs_diff(at) <= TOGETHER)
            .collect();
        let range = |index: usize| {
            let range = &diagnostic.labels[index].range;
            range.start..range.end.min(file.text.ceil_char_boundary(range.start + TOGETHER))
        };
        let start = here.iter().map(|index| range(*index).start).min().unwrap_or(0);
        let end = here.iter().map(|index| range(*index).end).max().unwrap_or(0);
        let (first_line, _) = file.position(start);
        let line_start = file.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let start = line_start.max(file.text.floor_char_boundary(start.saturating_sub(AROUND)));
        let rest = &file.text[end..file.text.ceil_char_boundary(end + AROUND)];
        let end = end + rest.find('\n').unwrap_or(rest.len());
        let mut snippet = Snippet::source(&file.text[start..end]).line_start(first_line);
        if start == line_start {
            snippet = snippet.path(&paths[first]);
        } else {
            // The column in the part of the line that is handed on is not that in the file.
            let (line, column) = file.position(at);
            group = group.element(Origin::path(&paths[first]).line(line).char_column(column));
        }
        for index in here {
            done[index] = true;
            let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let range = range(index);
            let label = &diagnostic.labels[index].text;
            snippet = snippet.annotation(kind.span(range.start - start..range.end - start).label(label));
        }
        group = group.element(snippet);
    }
    for link in &notes {
        group = group.element(Level::NOTE.message(link));
    }
    for help in &advice {
        group = group.element(Level::HELP.message(help));
    }
    let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
    renderer.render(&[group])
}

/// The text without what a terminal would obey: names and values of images, registries and containers may be in it.
pub fn tame(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// The same, and not longer than anyone reads.
fn printable(text: &str) -> String {
    const LONGEST: usize = 2_000;
    let mut shown = tame(text);
    if shown.len() > LONGEST {
        shown.truncate(shown.floor_char_boundary(LONGEST));
        shown.push('…');
    }
    shown
}

/// One diagnostic as a JSON object on one line, for editors and CI. Lines and columns count from 1, columns in characters; spans
/// are bytes of the file's text from 0; the first place is where the fault is.
pub fn json(diagnostic: &Diagnostic) -> String {
    let place = |label: &crate::compose::Label| {
        let (line, column) = label.file.position(label.range.start);
        let (end_line, end_column) = label.file.position(label.range.end);
        serde_json::json!({
            "file": label.file.path, "line": line, "column": column, "end_line": end_line, "end_column": end_column,
            "span": [label.range.start, label.range.end], "text": label.text,
        })
    };
    serde_json::json!({
        "severity": match diagnostic.severity { Severity::Error => "error", Severity::Warning => "warning" },
        "code": diagnostic.code,
        "message": diagnostic.message,
        "path": diagnostic.path,
        "places": diagnostic.labels.iter().map(place).collect::<Vec<_>>(),
        "chain": diagnostic.chain,
        "help": diagnostic.help,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::compose::Label;
    use crate::compose::source::{Origin as Read, SourceFile};

    fn at(file: &Arc<SourceFile>, range: std::ops::Range<usize>, text: &str) -> Label {
        Label { file: Arc::clone(file), range, text: text.to_owned() }
    }

    #[test]
    fn of_long_lines_the_part_around_the_place_is_shown() {
        let text = format!("a: 1\nb: {}?{}\nc: 3\n", "ä".repeat(500_000), "z".repeat(500_000));
        let place = text.find('?').unwrap();
        let file = Arc::new(SourceFile { path: "compose.yaml".into(), text, origin: Read::Given });
        let mut diagnostic = Diagnostic::error("x", "no question marks");
        diagnostic.labels =
            vec![at(&file, place..place + 1, "here"), at(&file, 0..1, "first"), at(&file, 5..6, "second")];
        let shown = render(&diagnostic, false);
        assert!(shown.len() < 4_000, "{} bytes", shown.len());
        for part in ["--> compose.yaml:2:500004", "ä?z", "^ here", "compose.yaml:1:1", "- first", "second"] {
            assert!(shown.contains(part), "{part:?} in {shown}");
        }
    }
}
