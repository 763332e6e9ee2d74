//! Tables in columns, as `Output` prints them.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row};

/// A column with its head.
#[derive(Clone, Copy)]
pub enum TableColumn {
    /// A column that is never cut.
    Text(&'static str),
    /// A column that is never cut, aligned to the right.
    Number(&'static str),
    /// A column that is cut if the terminal is too narrow.
    Elastic(&'static str),
}

/// A table: rows with one cell per column.
pub struct Table {
    columns: Vec<TableColumn>,
    rows: Vec<Vec<String>>,
}

impl TableColumn {
    const fn head(self) -> &'static str {
        match self {
            Self::Text(head) | Self::Number(head) | Self::Elastic(head) => head,
        }
    }
}

impl Table {
    pub fn new(columns: &[TableColumn]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // One line per row: a line break in a cell would look like another row.
        self.rows.push(cells.into_iter().map(|cell| cell.replace(['\n', '\r', '\t'], " ")).collect());
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn clear(&mut self) {
        self.rows.clear();
    }

    /// Returns the head and the rows as lines, cut to the width of a terminal if there is one.
    pub fn lines(&self, width: Option<u16>) -> Vec<String> {
        let mut table = comfy_table::Table::new();
        table.load_style(NOTHING);
        table.set_header(one_line(self.columns.iter().map(|column| column.head().to_owned()).collect()));
        for row in &self.rows {
            table.add_row(one_line(row.clone()));
        }
        match width {
            Some(width) => table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        let last = self.columns.len().saturating_sub(1);
        for (index, (column, kind)) in table.column_iter_mut().zip(&self.columns).enumerate() {
            column.set_padding((0, if index == last { 0 } else { 2 }));
            match kind {
                TableColumn::Text(_) => {
                    column.set_constraint(ColumnConstraint::ContentWidth);
                }
                TableColumn::Number(_) => {
                    column.set_constraint(ColumnConstraint::ContentWidth).set_cell_alignment(CellAlignment::Right);
                }
                TableColumn::Elastic(_) => {}
            }
        }
        table.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

fn one_line(cells: Vec<String>) -> Row {
    let mut row = Row::from(cells);
    row.max_height(1);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [TableColumn; 3] =
        [TableColumn::Text("name"), TableColumn::Number("lag"), TableColumn::Elastic("state")];

    fn table(state: &str) -> Table {
        let mut table = Table::new(&COLUMNS);
        table.row(["accounts".to_owned(), "1,024".to_owned(), state.to_owned()]);
        table.row(["audit".to_owned(), "7".to_owned(), "ok".to_owned()]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_numbers_stand_to_the_right() {
        let lines = table("ok").lines(None);
        assert_eq!(lines, ["name        lag  state", "accounts  1,024  ok", "audit         7  ok"]);
    }

    #[test]
    fn a_row_is_one_line_in_every_terminal_and_cut_in_its_elastic_column() {
        let stopped = "stopped at 4,711: the event cannot be read\nbecause its seal does not open";
        let whole = table(stopped).lines(None)[1].chars().count();
        for width in 30..=200 {
            let lines = table(stopped).lines(Some(width));
            assert_eq!(lines.len(), 3, "{width}: {lines:#?}");
            assert!(lines.iter().all(|line| line.chars().count() <= usize::from(width)), "{width}: {lines:#?}");
            assert!(lines[1].starts_with("accounts  1,024  s"), "{width}: {lines:#?}");
            assert_eq!(lines[1].ends_with('…'), usize::from(width) < whole, "{width}: {lines:#?}");
        }
        assert!(table(stopped).lines(None)[1].ends_with("because its seal does not open"));
    }
}
