//! String interning: ten thousand Services refer to the names of a few nodes, pools and interfaces.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Keeps one copy of each string for as long as somebody else holds it.
#[derive(Debug, Default)]
pub struct Interner(BTreeSet<Arc<str>>);

impl Interner {
    /// The one copy of this string.
    pub fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        // Nodes come and go: each new string is an occasion to drop the unused ones.
        self.0.retain(|name| Arc::strong_count(name) > 1);
        let name: Arc<str> = text.into();
        self.0.insert(name.clone());
        name
    }

    /// Replaces a string by its one copy.
    pub fn share(&mut self, text: &mut Arc<str>) {
        *text = self.intern(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_kept_once_and_dropped_when_unused() {
        let mut interner = Interner::default();
        let (one, other) = (interner.intern("n1"), interner.intern("n1"));
        assert!(Arc::ptr_eq(&one, &other));
        drop((one, other));
        let _another = interner.intern("n2");
        assert_eq!(interner.0.len(), 1);
    }
}
