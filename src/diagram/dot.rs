//! The language of Graphviz.

use std::fmt::Write as _;

use super::{Diagram, Kind, State};

/// Writes a diagram in the DOT language.
pub fn dot(diagram: &Diagram) -> String {
    let mut text = format!(
        "digraph {} {{\n  rankdir=TB;\n  node [fontname=\"sans-serif\" style=filled fillcolor=white];\n",
        quoted(&diagram.title)
    );
    for (index, node) in diagram.nodes.iter().enumerate() {
        let shape = match node.kind {
            Kind::Ports => "cds",
            Kind::Service => "box",
            Kind::Network => "ellipse",
            Kind::Volume => "cylinder",
        };
        let colour = match node.state {
            State::Unknown => "",
            State::Up => " fillcolor=palegreen",
            State::Partly => " fillcolor=khaki",
            State::Down => " fillcolor=lightpink",
        };
        // Writing to a `String` does not fail.
        let _ = writeln!(text, "  n{index} [shape={shape}{colour} label={}];", quoted(&node.lines.join("\n")));
    }
    for edge in &diagram.edges {
        let mut attributes = Vec::new();
        if !edge.directed {
            attributes.push("dir=none style=dashed".to_owned());
        }
        if !edge.label.is_empty() {
            attributes.push(format!("label={}", quoted(&edge.label)));
        }
        let attributes = if attributes.is_empty() { String::new() } else { format!(" [{}]", attributes.join(" ")) };
        let _ = writeln!(text, "  n{} -> n{}{attributes};", edge.from, edge.to);
    }
    text + "}\n"
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
