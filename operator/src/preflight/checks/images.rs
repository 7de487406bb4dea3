//! Check `Images`: whether the images have valid names. Whether nodes can pull them is found out later: an upgrade
//! pulls a new image on every node before it restarts a pod, and a first installation interrupts nothing.

use lb_runtime::text::{LIST_LIMIT, list_first};

use crate::preflight::{Fact, Finding, NodeFacts};

/// The architecture of this operator, which its release shares with the other images.
fn own_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(in crate::preflight) fn images(images: [&str; 2], nodes: &Fact<Vec<NodeFacts>>) -> Finding {
    for image in images {
        if let Some(fault) = fault(image) {
            return Finding::failed(format!(
                "invalid image name {image:?}: {fault}; correct spec.images or the arguments of the operator"
            ));
        }
    }
    let own = own_architecture();
    let nodes = nodes.iter().flatten().filter(|node| node.is_selected);
    let others: Vec<_> = nodes
        .filter(|node| !node.architecture.is_empty() && node.architecture != own)
        .map(|node| format!("{} ({})", node.name, node.architecture))
        .collect();
    if !others.is_empty() {
        return Finding::warning(format!(
            "nodes of another architecture than the operator's ({own}) need images for both: {}; otherwise exclude them with \
             spec.speaker.nodeSelector",
            list_first(&others, LIST_LIMIT)
        ));
    }
    Finding::passed(format!(
        "the image names {} and {} are valid; they are not pulled yet",
        images[0], images[1]
    ))
}

/// Why a reference is invalid, by the grammar of the distribution project: `[host[:port]/]path[:tag][@digest]`.
fn fault(reference: &str) -> Option<String> {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    if let Some(digest) = digest
        && !is_digest(digest)
    {
        return Some("the digest after @ must be sha256: and 64 hexadecimal digits".to_owned());
    }
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let (path, tag) = match name.get(last..).and_then(|part| part.find(':')) {
        Some(colon) => (name.get(..last + colon)?, name.get(last + colon + 1..)),
        None => (name, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Some(format!("{tag:?} is not a tag"));
    }
    if digest.is_none() && tag.is_none() {
        return Some("neither a tag nor a digest".to_owned());
    }
    let mut parts = path.split('/').peekable();
    // A first part with a dot or a port is a host.
    let is_host = |part: &&str| part.contains(['.', ':']) || *part == "localhost";
    if path.contains('/')
        && let Some(host) = parts.next_if(is_host)
        && !is_host_name(host)
    {
        return Some(format!("{host:?} is not a host with an optional port"));
    }
    parts.find(|part| !is_path_part(part)).map(|part| {
        format!(
            "{part:?} is not a valid part of a name; use lower-case letters, digits, dots, dashes and underscores"
        )
    })
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hash| {
        hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    text.len() <= 128
        && bytes.next().is_some_and(is_word)
        && bytes.all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_host_name(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_path_part(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.bytes().next().is_some_and(is_word)
        && text.bytes().last().is_some_and(is_word)
        && text
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_another_architecture_are_a_warning() {
        let mk = |name: &str, architecture: &str| NodeFacts {
            name: name.to_owned(),
            is_selected: true,
            architecture: architecture.to_owned(),
            ..NodeFacts::default()
        };
        let images = |nodes| super::images(["r.io/c:1", "r.io/s:1"], &Ok(nodes));
        assert!(matches!(
            images(vec![mk("n1", own_architecture())]),
            Finding::Passed(_)
        ));
        let Finding::Warning(message) = images(vec![mk("n1", own_architecture()), mk("n4", "riscv64")])
        else {
            panic!("a warning");
        };
        assert!(message.contains("n4 (riscv64)"), "{message}");
    }

    #[test]
    fn invalid_image_names_fail_with_the_reason() {
        let digest = format!("r.io/a/speaker@sha256:{}", "0".repeat(64));
        let both = format!("r.io/a/speaker:1@sha256:{}", "f".repeat(64));
        for good in [
            "lb-operator.io/speaker:0.1.0",
            "speaker:0.1.0",
            "team/speaker:v1",
            "localhost:5000/a/b__c/speaker:latest",
            &digest,
            &both,
        ] {
            assert_eq!(fault(good), None, "{good}");
        }
        for (bad, says) in [
            ("speaker", "neither a tag nor a digest"),
            ("r.io/Speaker:1", "\"Speaker\""),
            ("r.io/a//speaker:1", "\"\""),
            ("r.io/speaker:", "not a tag"),
            ("r.io/speaker:1:2", "not a tag"),
            ("r.io:port/speaker:1", "not a host"),
            ("r.io/speaker@sha256:abc", "64 hexadecimal digits"),
            ("https://r.io/speaker:1", "not a host"),
            ("", "neither"),
        ] {
            let found = fault(bad).unwrap_or_default();
            assert!(found.contains(says), "{bad}: {found:?}");
        }
    }
}
