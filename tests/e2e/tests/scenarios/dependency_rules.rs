//! Dependency rules between crates, checked against the dependencies that cargo resolves.

use std::process::Command;

/// The direct and indirect dependencies of a crate on this platform.
fn dependencies(of: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            of,
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .expect("run cargo tree");
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("cargo tree prints UTF-8");
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn assert_without(of: &str, unwanted: &[&str]) {
    let dependencies = dependencies(of);
    assert!(
        dependencies.iter().any(|name| name == of),
        "cargo tree did not list {of} itself"
    );
    for name in unwanted {
        assert!(
            !dependencies.iter().any(|dependency| dependency == name),
            "{of} must not depend on {name}"
        );
    }
}

#[test]
fn pure_crates_use_no_runtime_client_or_system_call() {
    for of in ["lb-ipam", "lb-l2", "lb-bgp", "lb-bfd"] {
        assert_without(
            of,
            &[
                "tokio",
                "kube",
                "kube-client",
                "socket2",
                "futures",
                "rand",
                "lb-crds",
                "lb-runtime",
                "lb-net",
            ],
        );
    }
}

#[test]
fn api_types_use_no_runtime_and_no_client() {
    assert_without("lb-crds", &["tokio", "kube-client", "hyper", "lb-runtime"]);
}

#[test]
fn bundle_is_built_without_a_cluster() {
    assert_without(
        "lb-olm",
        &["tokio", "kube-client", "hyper", "lb-runtime", "lb-operator"],
    );
}

#[test]
fn programs_do_not_use_each_others_crates() {
    assert_without(
        "lb-controller",
        &["lb-net", "lb-l2", "lb-bgp", "lb-bfd", "lb-speaker"],
    );
    assert_without("lb-speaker", &["lb-ipam", "lb-controller"]);
    assert_without(
        "lb-operator",
        &[
            "lb-net",
            "lb-l2",
            "lb-bgp",
            "lb-ipam",
            "lb-controller",
            "lb-speaker",
        ],
    );
    assert_without("lb-net", &["kube", "lb-crds", "lb-runtime"]);
}

#[test]
fn test_crates_build_alone() {
    assert_without("lb-lab", &["tokio", "kube", "lb-crds", "lb-tools", "lb-e2e"]);
    assert_without("lb-tools", &["tokio", "kube", "lb-crds", "lb-lab", "lb-e2e"]);
    assert_without(
        "lb-e2e",
        &["lb-bench", "lb-operator", "lb-controller", "lb-speaker"],
    );
}

#[test]
fn only_named_modules_may_contain_unsafe_code() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let workspace = std::fs::read_to_string(root.join("Cargo.toml")).expect("read the workspace manifest");
    assert!(workspace.contains("unsafe_code = \"forbid\""));
    for member in [
        "cli",
        "crds",
        "dataplane/bfd",
        "dataplane/bgp",
        "dataplane/controller",
        "dataplane/fuzz",
        "dataplane/ipam",
        "dataplane/l2",
        "dataplane/speaker",
        "olm",
        "operator",
        "tests/bench",
        "tests/e2e",
        "tests/lab",
        "tests/tools",
        "tests/tools/test-releases",
    ] {
        let manifest =
            std::fs::read_to_string(root.join(member).join("Cargo.toml")).expect("read a manifest");
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{member} must inherit the workspace's lints"
        );
    }
    for (member, modules) in [
        ("dataplane/net", &["src/packet_socket.rs", "src/tcp.rs"][..]),
        ("runtime", &["src/malloc.rs"]),
    ] {
        let directory = root.join(member);
        let manifest = std::fs::read_to_string(directory.join("Cargo.toml")).expect("read a manifest");
        assert!(
            manifest.contains("unsafe_code = \"deny\""),
            "{member} must deny unsafe code"
        );
        for file in rust_files(&directory) {
            let text = std::fs::read_to_string(&file).expect("read a source file");
            assert!(
                modules.iter().any(|module| file.ends_with(module)) || !text.contains("unsafe_code"),
                "{} must not allow unsafe code",
                file.display()
            );
        }
    }
}

/// The operator and the speakers share this time without a common crate.
#[test]
fn upgrade_waits_longer_than_a_verification_takes() {
    let written = std::time::Duration::from_secs(1);
    let of = |seconds: i64| std::time::Duration::from_secs(seconds.unsigned_abs());
    let waits = of(lb_operator::upgrade::pod_selection::VERIFICATION_SECONDS);
    let counts = lb_l2::ownership::MAX_VERIFICATION_DELAY
        + written
        + of(lb_operator::upgrade::observer::SETTLE_SECONDS);
    assert!(waits >= counts, "{waits:?} {counts:?}");
}

/// All Rust files below a directory.
fn rust_files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("list a directory");
    let paths = entries.map(|entry| entry.expect("read a directory entry").path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => rust_files(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}
