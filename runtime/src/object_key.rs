//! How objects are named inside a program: namespace and name.

use std::fmt;
use std::sync::Arc;

use kube::Resource;

/// Stands between namespace and name. No name has it, and it sorts before all that names are made of: so keys sort by
/// namespace, and then by name.
const SEPARATOR: char = '\0';

/// The namespace and name of an object; the namespace is empty for a cluster-scoped one.
///
/// The same object is named in many places of an index. Clones share the text, so that ten thousand objects do not take
/// it ten thousand times more often than needed.
#[derive(Clone, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key(Arc<str>);

impl Key {
    /// A key from its parts.
    #[must_use]
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self(format!("{}{SEPARATOR}{}", namespace.as_ref(), name.as_ref()).into())
    }

    /// The key of an object.
    #[must_use]
    pub fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        Self::new(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }

    /// Namespace, empty for a cluster-scoped object.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// Name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once(SEPARATOR).unwrap_or(("", &self.0))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            ("", name) => f.write_str(name),
            (namespace, name) => write!(f, "{namespace}/{name}"),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_namespace_and_then_by_name() {
        let parts = [
            ("", "b"),
            ("a", "c"),
            ("a", "c-d"),
            ("a", "c.d"),
            ("a-b", "a"),
            ("a.b", "a"),
            ("b", ""),
        ];
        let keys = parts.map(|(namespace, name)| Key::new(namespace, name));
        assert!(keys.is_sorted(), "{keys:?}");
        assert_eq!(
            keys.map(|key| key.to_string()),
            ["b", "a/c", "a/c-d", "a/c.d", "a-b/a", "a.b/a", "b/"]
        );
    }

    #[test]
    fn a_key_gives_back_its_parts() {
        for (namespace, name) in [("default", "web"), ("", "n1"), ("", "")] {
            let key = Key::new(namespace, name);
            assert_eq!((key.namespace(), key.name()), (namespace, name));
        }
    }
}
