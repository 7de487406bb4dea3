//! Labels of Kubernetes objects.

use std::collections::BTreeMap;

use lb_crds::selector::Labeled;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Labels in one allocation, because there are ten thousand Services: `app=web,tier=front`. Neither keys nor values
/// contain the separators.
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
    fn labels_are_found_by_their_whole_key() {
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
