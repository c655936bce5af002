//! Columns of text as Go's `text/tabwriter` aligns them, which is what Docker's tables come from.

/// How wide columns are.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The least width of a column, blanks included.
    pub minimum: usize,
    /// Blanks after the widest cell.
    pub padding: usize,
}

/// The layout of `ps` (that of the Docker command's own tables).
pub const DOCKER: Layout = Layout { minimum: 10, padding: 3 };

/// The layout of `images` and `ls`.
pub const COMPOSE: Layout = Layout { minimum: 20, padding: 3 };

/// The layout of `top`.
pub const TOP: Layout = Layout { minimum: 4, padding: 2 };

/// Returns the rows as lines, each ended by a newline. The last column of a row is not padded.
pub fn render(layout: Layout, header: &[&str], rows: &[Vec<String>]) -> String {
    let header = header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let rows = || std::iter::once(&header).chain(rows);
    let mut widths = vec![0; header.len().saturating_sub(1)];
    for row in rows() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = layout.minimum.max(*width).max(cell.chars().count() + layout.padding);
        }
    }
    let mut text = String::new();
    for row in rows() {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            let width = widths.get(column).copied().unwrap_or(0);
            text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_three_blanks() {
        let rows = [vec!["shop-web-1".into(), "nginx".into(), String::new()]];
        assert_eq!(
            render(DOCKER, &["NAME", "IMAGE", "PORTS"], &rows),
            "NAME         IMAGE     PORTS\nshop-web-1   nginx     \n"
        );
    }

    #[test]
    fn a_character_counts_once_however_many_bytes_it_has() {
        let rows = [vec!["\"docker-entrypoint.s…\"".into(), "x".into()]];
        assert_eq!(
            render(DOCKER, &["COMMAND", "S"], &rows),
            "COMMAND                  S\n\"docker-entrypoint.s…\"   x\n"
        );
    }

    #[test]
    fn the_wide_layout_has_columns_of_twenty() {
        assert_eq!(render(COMPOSE, &["NAME", "STATUS"], &[]), "NAME                STATUS\n");
    }
}
