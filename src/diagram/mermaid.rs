//! The language of Mermaid, which forges and wikis draw.

use std::fmt::Write as _;

use super::{Diagram, Kind, State};

/// Writes a diagram as a Mermaid flowchart.
pub fn mermaid(diagram: &Diagram) -> String {
    let mut text = String::from("flowchart TB\n");
    for (index, node) in diagram.nodes.iter().enumerate() {
        let (open, close) = match node.kind {
            Kind::Ports => (">", "]"),
            Kind::Service => ("[", "]"),
            Kind::Network => ("([", "])"),
            Kind::Volume => ("[(", ")]"),
        };
        let lines = node.lines.iter().map(|line| escaped(line)).collect::<Vec<_>>().join("<br>");
        // Writing to a `String` does not fail.
        let _ = writeln!(text, "  n{index}{open}\"{lines}\"{close}");
        let colour = match node.state {
            State::Unknown => continue,
            State::Up => "#98fb98",
            State::Partly => "#f0e68c",
            State::Down => "#ffb6c1",
        };
        let _ = writeln!(text, "  style n{index} fill:{colour},color:#000");
    }
    for edge in &diagram.edges {
        let line = if edge.directed { "-->" } else { "-.-" };
        let label = if edge.label.is_empty() { String::new() } else { format!("|\"{}\"|", escaped(&edge.label)) };
        let _ = writeln!(text, "  n{} {line}{label} n{}", edge.from, edge.to);
    }
    text
}

/// Replaces what has a meaning in labels by Mermaid's names for it.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '"' => "#quot;".to_owned(),
            '<' => "#lt;".to_owned(),
            '>' => "#gt;".to_owned(),
            '&' => "#amp;".to_owned(),
            '#' => "#35;".to_owned(),
            '\n' => " ".to_owned(),
            other => other.to_string(),
        })
        .collect()
}
