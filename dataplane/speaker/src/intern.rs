//! String interning: ten thousand Services refer to the names of a few nodes, pools and interfaces.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Keeps one copy of each string for as long as somebody else holds it.
#[derive(Debug, Default)]
pub struct Interner {
    names: BTreeSet<Arc<str>>,
    /// Length of `names` after the last removal of unused ones.
    retained: usize,
}

impl Interner {
    /// The one copy of this string.
    pub fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return known.clone();
        }
        // Nodes come and go. The cost of a removal is spread over as many new strings.
        if self.names.len() > 2 * self.retained {
            self.names.retain(|name| Arc::strong_count(name) > 1);
            self.retained = self.names.len();
        }
        let name: Arc<str> = text.into();
        self.names.insert(name.clone());
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
        for number in 0..1000 {
            interner.intern(&format!("n{number}"));
            assert!(interner.names.len() <= 3, "{}", interner.names.len());
        }
    }
}
