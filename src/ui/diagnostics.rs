//! Draws the loader's diagnostics: the message, the line with the place marked, what to do.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::compose::diagnostic::{Diagnostic, Severity};

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
        // Only the lines that are shown are handed on: files may be large.
        let file = &diagnostic.labels[first].file;
        let here: Vec<usize> = (first..diagnostic.labels.len())
            .filter(|index| !done[*index] && std::sync::Arc::ptr_eq(&diagnostic.labels[*index].file, file))
            .collect();
        let ranges = || here.iter().map(|index| &diagnostic.labels[*index].range);
        let start = ranges().map(|range| range.start).min().unwrap_or(0);
        let end = ranges().map(|range| range.end).max().unwrap_or(0);
        let start = file.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let end = file.text[end..].find('\n').map_or(file.text.len(), |newline| end + newline);
        let mut snippet =
            Snippet::source(&file.text[start..end]).line_start(file.position(start).0).path(&paths[first]);
        for index in here {
            done[index] = true;
            let label = &diagnostic.labels[index];
            let kind = if index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            snippet =
                snippet.annotation(kind.span(label.range.start - start..label.range.end - start).label(&label.text));
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
