//! Text for conditions, events and logs: short lists and length limits.

use std::fmt::Display;

/// How many items of a list a message names, unless it has a reason for another number.
pub const LIST_LIMIT: usize = 5;

/// The first `limit` items and the number of the others: `a, b, c and 4 more`. For names.
#[must_use]
pub fn list_first<I>(items: I, limit: usize) -> String
where
    I: IntoIterator<Item: Display>,
{
    join_first(items, limit, ", ", " and ")
}

/// The first `limit` items and the number of the others: `a; b; c; and 4 more`. For items that are clauses themselves.
#[must_use]
pub fn list_first_clauses<I>(items: I, limit: usize) -> String
where
    I: IntoIterator<Item: Display>,
{
    join_first(items, limit, "; ", "; and ")
}

fn join_first<I>(items: I, limit: usize, separator: &str, last_separator: &str) -> String
where
    I: IntoIterator<Item: Display>,
{
    let mut items = items.into_iter();
    let first: Vec<_> = items.by_ref().take(limit).map(|item| item.to_string()).collect();
    let text = first.join(separator);
    match items.count() {
        0 => text,
        rest if text.is_empty() => format!("{rest} more"),
        rest => format!("{text}{last_separator}{rest} more"),
    }
}

/// Shortens a text to at most `limit` bytes, at a character boundary; an ellipsis marks the cut.
#[must_use]
pub fn truncate(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = text.floor_char_boundary(limit.saturating_sub('…'.len_utf8()));
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_within_the_limit_is_complete() {
        assert_eq!(list_first(["a", "b", "c"], 3), "a, b, c");
        assert_eq!(list_first_clauses(["a", "b", "c"], 3), "a; b; c");
        assert_eq!(list_first::<[&str; 0]>([], 3), "");
    }

    #[test]
    fn a_list_beyond_the_limit_counts_the_rest() {
        assert_eq!(list_first(1..=7, 3), "1, 2, 3 and 4 more");
        assert_eq!(list_first_clauses(1..=7, 3), "1; 2; 3; and 4 more");
        assert_eq!(list_first(["a", "b"], 0), "2 more");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character_boundary() {
        assert_eq!(truncate("short".to_owned(), 5), "short");
        assert_eq!(truncate("ééé".to_owned(), 6), "ééé");
        assert_eq!(truncate("éééé".to_owned(), 6), "é…");
    }
}
