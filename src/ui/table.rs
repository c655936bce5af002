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

/// Headings of columns that a narrow terminal has no room for, the least needed first.
const EXPENDABLE: [&str; 12] = [
    "COMMAND",
    "CREATED",
    "CONTAINER ID",
    "PLATFORM",
    "PIDS",
    "BLOCK I/O",
    "IMAGE ID",
    "IMAGE",
    "MEM %",
    "SCOPE",
    "NET I/O",
    "SERVICE",
];

/// To how many characters a cell is cut before columns are left out, and in the end.
const COMFORTABLE: usize = 24;
const LEAST: usize = 6;

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

/// Likewise, made to fit a terminal where standard output is one, unless `whole`: long cells are cut, and if that is not enough,
/// columns are left out.
pub fn fitted(layout: Layout, header: &[&str], rows: &[Vec<String>], whole: bool) -> String {
    match console::Term::stdout().size_checked() {
        Some((_, columns)) if !whole => fit(layout, header, rows, usize::from(columns)),
        _ => render(layout, header, rows),
    }
}

fn fit(layout: Layout, header: &[&str], rows: &[Vec<String>], room: usize) -> String {
    let whole = render(layout, header, rows);
    if whole.lines().all(|line| line.chars().count() <= room) {
        return whole;
    }
    // Where room is scarce, columns are no wider than they must be.
    let layout = Layout { minimum: 0, ..layout };
    let mut kept = (0..header.len()).collect::<Vec<_>>();
    let mut expendable = EXPENDABLE.iter();
    let mut least = COMFORTABLE;
    loop {
        let widest = |column: &usize| {
            let cells = rows.iter().filter_map(|row| row.get(*column)).map(|cell| cell.chars().count());
            cells.chain([header[*column].chars().count()]).max().unwrap_or(0)
        };
        let mut widths = kept.iter().map(widest).collect::<Vec<_>>();
        let fits = shrink(&mut widths, room.saturating_sub(layout.padding * (kept.len() - 1)), least);
        if fits || least == LEAST {
            let cells = |row: &[String]| {
                let cells = kept.iter().map(|column| row.get(*column).map_or("", String::as_str));
                cells.zip(&widths).map(|(cell, width)| cut(cell, *width)).collect::<Vec<_>>()
            };
            let header = cells(&header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
            let rows = rows.iter().map(|row| cells(row)).collect::<Vec<_>>();
            return render(layout, &header.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
        }
        let others = kept.len();
        while kept.len() == others {
            let Some(heading) = expendable.next() else {
                least = LEAST;
                break;
            };
            kept.retain(|column| header[*column] != *heading);
        }
    }
}

/// Makes the widest columns narrower, but not below `least`, until all have room; returns whether they have.
fn shrink(widths: &mut [usize], room: usize, least: usize) -> bool {
    while widths.iter().sum::<usize>() > room {
        match widths.iter_mut().max() {
            Some(widest) if *widest > least => *widest -= 1,
            _ => return false,
        }
    }
    true
}

/// Cuts a text to this many characters: a path at its beginning, and anything else at its end.
pub(super) fn cut(text: &str, width: usize) -> String {
    let length = text.chars().count();
    match width.checked_sub(1) {
        _ if length <= width => text.to_owned(),
        None => String::new(),
        Some(kept) if text.starts_with('/') => ['…'].into_iter().chain(text.chars().skip(length - kept)).collect(),
        Some(kept) => text.chars().take(kept).chain(['…']).collect(),
    }
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
    fn a_narrow_terminal_gets_what_is_needed_most() {
        let header = ["NAME", "COMMAND", "STATUS", "PORTS"];
        let ports = "127.0.0.1:8080->80/tcp, 127.0.0.1:8443->443/tcp".to_owned();
        let rows = [vec!["shop-web-1".into(), "\"nginx -g 'daemon of…\"".into(), "Up 2 hours".into(), ports]];
        let shown = |room| fit(DOCKER, &header, &rows, room);
        assert_eq!(shown(200), render(DOCKER, &header, &rows));
        for room in [24, 30, 40, 60, 80, 100] {
            let text = shown(room);
            assert!(text.lines().all(|line| line.chars().count() <= room), "{room}: {text}");
            assert!(text.lines().nth(1).is_some_and(|row| row.starts_with("shop-")), "{text}");
            assert_eq!(text.contains("COMMAND"), room >= 80, "{room}: {text}");
        }
        assert_eq!(
            shown(60),
            "NAME         STATUS       PORTS\nshop-web-1   Up 2 hours   127.0.0.1:8080->80/tcp, 127.0.0.1…\n"
        );
    }

    #[test]
    fn of_a_path_the_end_is_kept() {
        assert_eq!(cut("/srv/shop/compose.yaml", 15), "…p/compose.yaml");
        assert_eq!(cut("running(2)", 8), "running…");
        assert_eq!(cut("short", 5), "short");
    }

    #[test]
    fn the_wide_layout_has_columns_of_twenty() {
        assert_eq!(render(COMPOSE, &["NAME", "STATUS"], &[]), "NAME                STATUS\n");
    }
}
