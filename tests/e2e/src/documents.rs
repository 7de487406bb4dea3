//! The documents as test input: links must resolve, and console samples must have the shape of real output.
//!
//! A sample is a fenced `console` block: lines that begin with `$ ` are commands, the lines below each are its output.

use std::path::Path;

use crate::harness::Harness;

/// Links of a Markdown page to files that do not exist, as `page: link`. Links to other hosts and anchors are not checked.
#[must_use]
pub fn broken_links(page: &Path, text: &str) -> Vec<String> {
    let directory = page.parent().unwrap_or(Path::new("."));
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|link| !link.is_empty() && !link.contains("://"))
        .filter(|link| !directory.join(link).exists())
        .map(|link| format!("{}: {link}", page.display()))
        .collect()
}

/// The documented output of a command.
#[must_use]
pub fn sample(text: &str, command: &str) -> Option<String> {
    let mut lines = text
        .split("```console\n")
        .skip(1)
        .filter_map(|block| block.split("\n```").next())
        .flat_map(str::lines)
        .skip_while(|line| line.strip_prefix("$ ") != Some(command));
    lines.next()?;
    let output: Vec<_> = lines.take_while(|line| !line.starts_with("$ ")).collect();
    Some(output.join("\n"))
}

/// Output without what differs between two clusters: runs of digits are equal, ages are equal, white space
/// only separates words.
#[must_use]
pub fn shape(output: &str) -> Vec<String> {
    let word = |word: &str| {
        let mut shape = String::new();
        for letter in word.chars() {
            match letter {
                '0'..='9' if shape.ends_with('0') => {}
                '0'..='9' => shape.push('0'),
                _ => shape.push(letter),
            }
        }
        let is_age = shape.starts_with('0') && shape.chars().all(|letter| "0dhms".contains(letter));
        if is_age && shape.len() > 1 {
            "AGE".to_owned()
        } else {
            shape
        }
    };
    output.split_whitespace().map(word).collect()
}

/// Runs a documented command, and compares its output with the sample of the page.
///
/// # Errors
/// When the page has no such sample, the command fails, or its output has another shape.
pub fn check_sample(harness: &Harness, page: &str, command: &str) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(page);
    let text = std::fs::read_to_string(&path)?;
    let documented =
        sample(&text, command).ok_or_else(|| anyhow::anyhow!("{page} has no sample of `{command}`"))?;
    let printed = harness.admin(command)?;
    anyhow::ensure!(
        shape(&documented) == shape(&printed),
        "{page} shows for `{command}`:\n{documented}\nbut it prints:\n{printed}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_every_document_resolve() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let pages = [root.clone(), root.join("docs")]
            .into_iter()
            .flat_map(|directory| std::fs::read_dir(directory).unwrap())
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "md"));
        let broken: Vec<_> = pages
            .flat_map(|page| broken_links(&page, &std::fs::read_to_string(&page).unwrap()))
            .collect();
        assert_eq!(broken, Vec::<String>::new());
    }

    /// Metrics in the sources: string literals that are nothing but a metric's name.
    fn metrics_in(text: &str) -> impl Iterator<Item = &str> {
        let is_name = |word: &&str| {
            ["lb_", "metallb_"].iter().any(|prefix| word.starts_with(prefix))
                && word
                    .chars()
                    .all(|letter| letter.is_ascii_lowercase() || "_0123456789".contains(letter))
        };
        text.split('"').skip(1).step_by(2).filter(is_name)
    }

    #[test]
    fn every_metric_is_documented() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let page = std::fs::read_to_string(root.join("docs/metrics.md")).unwrap();
        let mut found = 0;
        for file in [
            "dataplane/controller/src/metrics.rs",
            "dataplane/speaker/src/address_metrics.rs",
            "dataplane/speaker/src/bgp/metrics.rs",
            "dataplane/speaker/src/metrics.rs",
            "operator/src/metrics.rs",
            "runtime/src/metrics.rs",
        ] {
            let text = std::fs::read_to_string(root.join(file)).unwrap();
            for metric in metrics_in(&text) {
                assert!(
                    page.contains(&format!("`{metric}`")),
                    "docs/metrics.md lacks {metric} of {file}"
                );
                found += 1;
            }
        }
        assert!(found > 30, "{found}");
    }

    /// Every reason that operator, controller and allocator can write has a line.
    #[test]
    fn every_reason_is_documented() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
        let page = read("docs/events.md");
        let operator = read("operator/src/reasons.rs");
        let (_, list) = operator.split_once("reasons! {\n").unwrap();
        let (list, _) = list.split_once("\n}").unwrap();
        let mut reasons: Vec<_> = list
            .lines()
            .filter_map(|line| line.trim().strip_suffix(','))
            .filter(|line| !line.starts_with("///"))
            .map(str::to_owned)
            .collect();
        for file in [
            "dataplane/controller/src/reason.rs",
            "dataplane/ipam/src/pool_error.rs",
            "dataplane/ipam/src/rejection.rs",
        ] {
            let text = read(file);
            let found = text
                .split("=> \"")
                .skip(1)
                .filter_map(|rest| rest.split('"').next());
            reasons.extend(found.filter(|word| !word.contains('{')).map(str::to_owned));
        }
        let names = read("crds/src/names.rs");
        let (_, unannounced) = names.split_once("UNANNOUNCED_REASONS").unwrap();
        let (unannounced, _) = unannounced.split_once("];").unwrap();
        reasons.extend(unannounced.split('"').skip(1).step_by(2).map(str::to_owned));
        assert!(reasons.len() > 60, "{reasons:?}");
        for reason in reasons {
            assert!(
                page.contains(&format!("`{reason}`")),
                "docs/events.md lacks {reason}"
            );
        }
    }

    #[test]
    fn sample_is_compared_by_shape() {
        let page = "text\n```console\n$ kubectl get lbs\nNAME   AGE\nx      41d\n$ next\nmore\n```\n";
        let documented = sample(page, "kubectl get lbs").unwrap();
        assert_eq!(documented, "NAME   AGE\nx      41d");
        assert_eq!(shape(&documented), shape("NAME      AGE\nx     2m31s\n"));
        assert_ne!(shape(&documented), shape("NAME   STATUS   AGE\nx   Ready   2m"));
        assert_eq!(shape("2/2 0.1.0"), shape("3/3 0.12.1"));
        assert_eq!(sample(page, "kubectl"), None);
    }
}
