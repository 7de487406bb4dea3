//! Errors as text.

use std::error::Error;

/// The error and its sources in one line: `outer: inner: innermost`.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_is_named() {
        let error = anyhow::anyhow!("connection refused")
            .context("list nodes")
            .context("start");
        assert_eq!(chain(error.as_ref()), "start: list nodes: connection refused");
    }
}
