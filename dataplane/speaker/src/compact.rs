//! What an index of ten thousand Services is kept in, so that each takes no more than it has to say: a `BTreeMap` has
//! room for eleven entries and is to hold one most of the time, and the names of a few nodes are said ten thousand times.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::Arc;

use lb_crds::selector::Labeled;

use crate::objects::Labels;

/// A map that has one entry nearly always: a sorted list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Few<K, V>(Box<[(K, V)]>);

impl<K: Ord, V> Few<K, V> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let position = self.0.binary_search_by(|(own, _)| own.borrow().cmp(key)).ok()?;
        self.0.get(position).map(|(_, value)| value)
    }

    /// Whether there is such a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Keys and values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Few<K, V> {
    /// Of several entries with the same key the first counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|(later, _), (first, _)| later == first);
        Self(entries.into_boxed_slice())
    }
}

/// Texts that many objects have in common, such as the names of nodes and pools: each is kept once.
#[derive(Debug, Default)]
pub struct Names(BTreeSet<Arc<str>>);

impl Names {
    /// The one copy of this text.
    pub fn one(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        // Nodes come and go; those that nobody names any more are forgotten whenever another one comes.
        self.0.retain(|name| Arc::strong_count(name) > 1);
        let name: Arc<str> = text.into();
        self.0.insert(name.clone());
        name
    }

    /// Puts the one copy of this text in the place of another.
    pub fn share(&mut self, text: &mut Arc<str>) {
        *text = self.one(text);
    }
}

/// The labels of a Service in one piece: `app=web,tier=front`, where no key and no value has either of the signs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LabelText(Box<str>);

impl From<Labels> for LabelText {
    fn from(labels: Labels) -> Self {
        let pairs: Vec<_> = labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        Self(pairs.join(",").into())
    }
}

impl Labeled for LabelText {
    fn label(&self, key: &str) -> Option<&str> {
        let mut pairs = self.0.split(',');
        pairs.find_map(|pair| {
            pair.split_once('=')
                .filter(|(own, _)| *own == key)
                .map(|(_, value)| value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_entries_with_one_key_the_first_counts() {
        let few: Few<_, _> = [("b", 1), ("a", 2), ("b", 3)].into_iter().collect();
        assert_eq!(few.iter().collect::<Vec<_>>(), [(&"a", &2), (&"b", &1)]);
        assert_eq!(
            (few.get("b"), few.contains_key("c"), few.len()),
            (Some(&1), false, 2)
        );
    }

    #[test]
    fn a_name_is_kept_once_and_no_longer_than_it_is_used() {
        let mut names = Names::default();
        let (one, other) = (names.one("n1"), names.one("n1"));
        assert!(Arc::ptr_eq(&one, &other));
        drop((one, other));
        let _another = names.one("n2");
        assert_eq!(names.0.len(), 1);
    }

    #[test]
    fn a_label_is_found_by_its_whole_key() {
        let labels = [
            ("app", "web"),
            ("app.kubernetes.io/name", "x"),
            ("empty", ""),
            ("p", "app"),
        ];
        let labels: Labels = labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let text = LabelText::from(labels.clone());
        for (key, value) in &labels {
            assert_eq!(text.label(key), Some(value.as_str()));
        }
        assert_eq!(
            (text.label("ap"), text.label("web"), text.label("")),
            (None, None, None)
        );
        assert_eq!(LabelText::default().label("app"), None);
    }
}
