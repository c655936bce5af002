//! A drawing that browsers show.

use layout::backends::svg::SVGWriter;
use layout::core::base::Orientation;
use layout::core::color::Color;
use layout::core::geometry::{Point, get_size_for_str};
use layout::core::style::{LineStyleKind, StyleAttr};
use layout::std_shapes::shapes::{Arrow, Element, LineEndKind, ShapeKind};
use layout::topo::layout::VisualGraph;

use super::{Diagram, Kind, Node, State};

/// The size of letters, in pixels.
const LETTERS: usize = 14;

/// Draws a diagram as SVG.
pub fn svg(diagram: &Diagram) -> String {
    let mut graph = VisualGraph::new(Orientation::TopToBottom);
    let handles = diagram.nodes.iter().map(|node| graph.add_node(element(node))).collect::<Vec<_>>();
    for edge in &diagram.edges {
        let (end, style) = if edge.directed {
            (LineEndKind::Arrow, LineStyleKind::Normal)
        } else {
            (LineEndKind::None, LineStyleKind::Dashed)
        };
        let look = StyleAttr::new(Color::fast("dimgray"), 1, None, 0, LETTERS - 2);
        let arrow = Arrow::new(LineEndKind::None, end, style, &edge.label, &look, &None, &None);
        graph.add_edge(arrow, handles[edge.from], handles[edge.to]);
    }
    let mut writer = SVGWriter::new();
    graph.do_it(false, false, false, &mut writer);
    writer.finalize()
}

fn element(node: &Node) -> Element {
    let text = node.lines.join("\n");
    let fill = match (node.kind, node.state) {
        (_, State::Up) => "palegreen",
        (_, State::Partly) => "khaki",
        (_, State::Down) => "lightpink",
        (Kind::Ports, _) => "lavender",
        (Kind::Service, _) => "white",
        (Kind::Network, _) => "aliceblue",
        (Kind::Volume, _) => "cornsilk",
    };
    let rounded = match node.kind {
        Kind::Network => 15,
        Kind::Volume => 8,
        Kind::Ports | Kind::Service => 0,
    };
    let look = StyleAttr::new(Color::fast("black"), 1, Some(Color::fast(fill)), rounded, LETTERS);
    let size = get_size_for_str(&text, LETTERS);
    // Letters are about half as wide as they are high.
    let size = Point::new(size.x * 0.6 + 20.0, size.y + 20.0);
    Element::create(ShapeKind::new_box(&text), look, Orientation::TopToBottom, size)
}
