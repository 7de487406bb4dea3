//! Namespace and name of an object.

use std::fmt;
use std::sync::Arc;

use kube::Resource;

/// Separates namespace and name. It sorts before every character of a name, so keys sort by namespace, then by name.
const SEPARATOR: char = '\0';

/// Namespace and name of an object; the namespace is empty for a cluster-scoped object. Clones share the text.
#[derive(Clone, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectKey(Arc<str>);

impl ObjectKey {
    /// Joins a namespace and a name.
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

    /// Name of the object.
    #[must_use]
    pub fn name(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0.split_once(SEPARATOR).unwrap_or(("", &self.0))
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            ("", name) => f.write_str(name),
            (namespace, name) => write!(f, "{namespace}/{name}"),
        }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_namespace_then_name() {
        let parts = [
            ("", "b"),
            ("a", "c"),
            ("a", "c-d"),
            ("a", "c.d"),
            ("a-b", "a"),
            ("a.b", "a"),
            ("b", ""),
        ];
        let keys = parts.map(|(namespace, name)| ObjectKey::new(namespace, name));
        assert!(keys.is_sorted(), "{keys:?}");
        assert_eq!(
            keys.map(|key| key.to_string()),
            ["b", "a/c", "a/c-d", "a/c.d", "a-b/a", "a.b/a", "b/"]
        );
    }

    #[test]
    fn key_returns_its_parts() {
        for (namespace, name) in [("default", "web"), ("", "n1"), ("", "")] {
            let key = ObjectKey::new(namespace, name);
            assert_eq!((key.namespace(), key.name()), (namespace, name));
        }
    }
}
