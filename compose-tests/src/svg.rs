//! Draws the screen of a terminal.

use std::fmt::Write as _;

use vt100::{Cell, Color, Screen};

/// The size of a letter, and what is around the text, in units of the picture.
const WIDTH: f32 = 8.4;
const HEIGHT: f32 = 18.0;
const MARGIN: f32 = 18.0;
const BAR: f32 = 30.0;

const BACKGROUND: &str = "#1d1f27";
const TEXT: &str = "#d7dae0";
/// The colours that programs name by a number, dark ones and bright ones.
const COLOURS: [&str; 16] = [
    "#3b4048", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d7dae0", "#6b7280", "#f08a92",
    "#b3dd95", "#f2d59a", "#82c4ff", "#dc9bef", "#7fd3dd", "#ffffff",
];

/// Returns a picture of what stands on the screen, without the empty lines at its end.
pub fn draw(screen: &Screen, title: &str) -> String {
    let (rows, columns) = screen.size();
    let is_empty = |row: &u16| screen.contents_between(*row, 0, *row, columns).trim().is_empty();
    let rows = (0..rows).rev().find(|row| !is_empty(row)).map_or(0, |last| last + 1);
    let (width, height) = (f32::from(columns) * WIDTH + 2.0 * MARGIN, f32::from(rows) * HEIGHT + 2.0 * MARGIN + BAR);
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" \
         font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, monospace\" font-size=\"14\">\n\
         <title>{}</title>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n",
        escaped(title)
    );
    for (colour, x) in [("#e06c75", 20), ("#e5c07b", 40), ("#98c379", 60)] {
        writeln!(picture, "<circle cx=\"{x}\" cy=\"20\" r=\"6\" fill=\"{colour}\"/>")
            .expect("a string takes everything");
    }
    for row in 0..rows {
        let y = BAR + MARGIN + (f32::from(row) + 0.75) * HEIGHT;
        for (start, run) in runs(screen, row, columns) {
            let x = MARGIN + f32::from(start) * WIDTH;
            writeln!(
                picture,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" xml:space=\"preserve\"{}>{}</text>",
                run.style,
                escaped(&run.text)
            )
            .expect("a string takes everything");
        }
    }
    picture.push_str("</svg>\n");
    picture
}

/// Letters of a line that look alike.
struct Run {
    style: String,
    text: String,
}

/// Returns what stands in a row, with the column that each run begins at; blanks are in none at its ends.
fn runs(screen: &Screen, row: u16, columns: u16) -> Vec<(u16, Run)> {
    let mut runs: Vec<(u16, Run)> = Vec::new();
    let mut open = false;
    for column in 0..columns {
        let Some(cell) = screen.cell(row, column).filter(|cell| cell.has_contents() && cell.contents() != " ") else {
            // One blank joins, more do not.
            open =
                open && screen.cell(row, column + 1).is_some_and(|next| next.has_contents() && next.contents() != " ");
            if let Some((_, run)) = runs.last_mut().filter(|_| open) {
                run.text.push(' ');
            }
            continue;
        };
        let style = style(cell);
        match runs.last_mut() {
            Some((_, run)) if open && run.style == style => run.text.push_str(cell.contents()),
            _ => runs.push((column, Run { style, text: cell.contents().to_owned() })),
        }
        open = true;
    }
    for (_, run) in &mut runs {
        run.text.truncate(run.text.trim_end().len());
    }
    runs
}

fn style(cell: &Cell) -> String {
    let colour = match cell.fgcolor() {
        Color::Default => TEXT.to_owned(),
        Color::Idx(index) => COLOURS.get(usize::from(index)).map_or(TEXT, |colour| colour).to_owned(),
        Color::Rgb(red, green, blue) => format!("#{red:02x}{green:02x}{blue:02x}"),
    };
    let weight = if cell.bold() { " font-weight=\"bold\"" } else { "" };
    let faint = if cell.dim() { " opacity=\"0.6\"" } else { "" };
    format!(" fill=\"{colour}\"{weight}{faint}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_drawn_as_it_looks() {
        let mut terminal = vt100::Parser::new(5, 20, 0);
        terminal.process(b"$ a  <b>\r\n\x1b[1;32mgreen\x1b[0m and not");
        let picture = draw(terminal.screen(), "a & b");
        for part in [
            "<title>a &amp; b</title>",
            ">$ a</text>",
            ">&lt;b&gt;</text>",
            "fill=\"#98c379\" font-weight=\"bold\">green</text>",
            ">and not</text>",
        ] {
            assert!(picture.contains(part), "{part} in {picture}");
        }
        assert_eq!(picture.matches("<text").count(), 4);
    }
}
