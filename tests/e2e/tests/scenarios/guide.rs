//! The guide, run as its readers run it: the commands verbatim and in order, on a real cluster, with a check of every
//! promise.

use lb_e2e::harness::{Harness, LONG_TIMEOUT, SHORT_TIMEOUT, eventually};

#[test]
fn guide_works_as_written() -> anyhow::Result<()> {
    let mut harness = Harness::start_lab("guide", 3)?;

    // Step 1
    harness.run_section("1.1")?;
    harness.run_section("1.2")?;
    let pods = harness.run_section("1.3")?.concat();
    assert_eq!(
        pods.matches("speaker-").count(),
        3,
        "one speaker per node:\n{pods}"
    );
    assert_eq!(pods.matches("controller-").count(), 2, "two controllers:\n{pods}");
    assert_eq!(
        pods.matches("1/1     Running   0").count(),
        5,
        "all of them ready, none restarted:\n{pods}"
    );
    let workloads = harness.run_section("1.4")?.concat();
    assert!(workloads.contains("2/2"), "{workloads}");

    // Step 2
    harness.run_section("2.1")?;
    let pools = harness.run_section("2.2")?.concat();
    assert_columns(&pools, &["NAME", "AUTO ASSIGN", "AVOID BUGGY IPS", "ADDRESSES"]);
    assert!(
        pools.contains(r#"default-pool   true          false             ["192.168.50.50-192.168.50.250"]"#),
        "{pools}"
    );
    assert!(
        harness
            .run_section("2.3")?
            .concat()
            .contains("192.168.50.50-192.168.50.250")
    );

    // Step 3
    harness.run_section("3.1")?;
    let advertisements = harness.run_section("3.2")?.concat();
    assert_columns(
        &advertisements,
        &["NAME", "IPADDRESSPOOLS", "IPADDRESSPOOL SELECTORS", "INTERFACES"],
    );
    assert!(
        advertisements.contains(r#"default-l2   ["default-pool"]"#),
        "{advertisements}"
    );
    assert!(harness.run_section("3.3")?.concat().contains("default-pool"));

    // Step 4
    harness.run_section("4.1")?;
    harness.run_section("4.2")?;
    harness.admin("kubectl rollout status deployment/nginx-test --timeout=120s")?;
    assert_eq!(
        harness.wait_for_address("nginx-test-lb")?,
        "192.168.50.50",
        "the first address of the pool"
    );
    assert!(harness.run_section("4.3")?.concat().contains("192.168.50.50"));
    assert!(harness.run_section("4.4")?.concat().contains("192.168.50.50"));

    let owner = harness.wait_for_owner("192.168.50.50", SHORT_TIMEOUT)?;
    let speaker = harness.speaker_on(&owner)?;
    harness.set_placeholder("speaker-xxxxx", &speaker);
    harness.set_placeholder("talos-control-01", &owner);
    let log = harness.run_section("4.5")?.concat();
    assert!(
        log.contains("192.168.50.50") && log.contains("announcing"),
        "the owner's log names Service and address:\n{log}"
    );
    let status = harness
        .admin("kubectl get servicel2statuses -n metallb-system -o jsonpath='{.items[*].status.node}'")?;
    assert_eq!(status, owner, "ServiceL2Status names the owner");
    let events = harness.events("Service", "nginx-test-lb")?;
    assert!(
        events.contains(r#"Normal IPAllocated Assigned IP ["192.168.50.50"]"#),
        "{events}"
    );
    assert!(
        events.contains(&format!(
            r#"Normal nodeAssigned announcing from node "{owner}" with protocol "layer2""#
        )),
        "{events}"
    );

    let page = harness.run_section("4.6")?.concat();
    assert!(
        page.contains("<h1>MetalLB Test</h1>") && page.contains("Pod IP: 10.244."),
        "{page}"
    );
    both_backends_answer(&harness)?;

    // 4.8: the node is cordoned and hands the address over, its speaker is deleted, the Service stays reachable.
    let page = &harness.run_section("4.8")?[3];
    assert!(page.contains("MetalLB Test"), "{page}");
    let next = harness.wait_for_owner("192.168.50.50", SHORT_TIMEOUT)?;
    assert_ne!(next, owner, "a cordoned node hands its addresses over");
    harness.wait_for_event(
        "Service",
        "nginx-test-lb",
        &format!("announcing from node \"{next}\""),
    )?;
    let events = || {
        let events = harness.events("Service", "nginx-test-lb")?;
        anyhow::Ok(events.matches("nodeAssigned").count())
    };
    let before = events()?;
    harness.admin(&format!(
        "kubectl delete pod -n metallb-system -l component=speaker --field-selector spec.nodeName={next}"
    ))?;
    harness.admin(&format!(
        "kubectl wait pod --for=condition=Ready -n metallb-system -l component=speaker --field-selector spec.nodeName={next} --timeout=60s"
    ))?;
    assert_eq!(
        harness.wait_for_owner("192.168.50.50", SHORT_TIMEOUT)?,
        next,
        "a restarted speaker keeps its addresses"
    );
    assert_eq!(events()?, before, "no event while the owner stays the same");

    // Troubleshooting commands print what the guide shows.
    let log = harness.run_section("T1")?;
    assert!(
        log[0].contains("nginx-test-lb"),
        "the controller's log names the Service:\n{}",
        log[0]
    );
    assert!(harness.run_section("T5")?.concat().contains("nginx-test-lb"));
    harness.run_section("T2")?;
    let security = harness.run_section("T3")?.concat();
    assert!(security.contains("NET_RAW"), "{security}");

    // Restart of controller and speakers: addresses and owner are unchanged.
    harness.run_section("T4")?;
    for workload in ["deployment/controller", "daemonset/speaker"] {
        harness.admin(&format!(
            "kubectl rollout status -n metallb-system {workload} --timeout=120s"
        ))?;
        let restarted = format!(
            "kubectl get -n metallb-system {workload} -o jsonpath='{{.spec.template.metadata.annotations.kubectl\\.kubernetes\\.io/restartedAt}}'"
        );
        assert!(
            !harness.admin(&restarted)?.is_empty(),
            "the operator undid the restart of {workload}"
        );
    }
    assert_eq!(harness.current_address("nginx-test-lb")?, "192.168.50.50");
    assert_eq!(harness.wait_for_owner("192.168.50.50", SHORT_TIMEOUT)?, next);
    both_backends_answer(&harness)?;

    // P1: an overlapping pool is reported and affects no other; then two pools and a manual one.
    harness.run_section("P1")?;
    let message = eventually("a condition on the overlapping pool", SHORT_TIMEOUT, || {
        let message = condition(&harness, "ipaddresspool", "web-services")?;
        Ok(message.starts_with("False").then_some(message))
    })?;
    assert!(
        message.contains("default-pool"),
        "it names the pool it overlaps: {message}"
    );
    assert_eq!(harness.current_address("nginx-test-lb")?, "192.168.50.50");
    harness.admin("kubectl delete ipaddresspool default-pool -n metallb-system")?;
    // The same address is in web-services now: the Service keeps it, and an advertisement announces it again.
    harness.admin("kubectl patch l2advertisement default-l2 -n metallb-system --type=merge -p '{\"spec\":{\"ipAddressPools\":[]}}'")?;
    assert_eq!(harness.wait_for_owner("192.168.50.50", SHORT_TIMEOUT)?, owner);
    assert_eq!(
        harness.wait_for_address("my-db-service")?,
        "192.168.50.101",
        "the pool asked for by annotation"
    );

    // P2: a specific address.
    harness.run_section("P2")?;
    assert_eq!(harness.wait_for_address("my-web-service")?, "192.168.50.100");
    let page = eventually("an answer on the address asked for", SHORT_TIMEOUT, || {
        Ok(harness.client("curl -s -m 2 http://192.168.50.100").ok())
    })?;
    assert!(page.contains("MetalLB Test"));

    // P3: UDP, several ports.
    harness.admin("kubectl create deployment game-server --image=lab.local/agnhost:1 -- /agnhost netexec --http-port=8080 --udp-port=7777")?;
    harness.admin("kubectl rollout status deployment/game-server --timeout=120s")?;
    harness.run_section("P3")?;
    let game = harness.wait_for_address("game-server")?;
    eventually("an answer by UDP", SHORT_TIMEOUT, || {
        let answer = harness.client(&format!(
            "exec 3<>/dev/udp/{game}/7777; echo hostname >&3; timeout 1 head -c 5 <&3"
        ));
        Ok(answer.ok().filter(|answer| answer.contains("game")))
    })?;

    // P4, P6: YAML of MetalLB's guide, applied over objects of the operator.
    harness.run_section("P4")?;
    harness.run_section("P6")?;
    harness.admin("kubectl wait loadbalancerstack default --for=condition=Ready --timeout=60s")?;
    let pods = harness.run_section("1.3")?.concat();
    assert_eq!(pods.matches("controller-").count(), 2, "{pods}");
    let list = harness.run_section("P7")?.concat();
    assert!(list.contains("nginx-test-lb\t192.168.50.50"), "{list}");
    assert!(
        harness
            .run_section("P8")?
            .concat()
            .contains("localhost/lb-operator/")
    );

    // P9, P10: the objects shown there; an ingress controller's Service gets the address reserved for it.
    harness.admin("kubectl create namespace ingress-nginx")?;
    for manifest in lb_e2e::guide::section("P9").manifests {
        harness.apply(&manifest)?;
    }
    eventually("the reserved address", SHORT_TIMEOUT, || {
        let address = harness.admin(
            "kubectl get service ingress-nginx-controller -n ingress-nginx -o jsonpath='{.status.loadBalancer.ingress[*].ip}'",
        )?;
        Ok((address == "192.168.50.80").then_some(()))
    })?;
    let uses = lb_e2e::guide::section("P10").manifests;
    assert_eq!(uses.len(), 3);
    for manifest in uses {
        harness.admin(&format!(
            "kubectl apply --dry-run=server -f - <<'EOF'\n{manifest}\nEOF"
        ))?;
    }

    // P11: two Services, one address.
    for manifest in lb_e2e::guide::section("P11").manifests {
        harness.apply(&manifest)?;
    }
    assert_eq!(
        harness.wait_for_address("dns-udp")?,
        harness.wait_for_address("dns-tcp")?
    );

    // P13, P14: waiting for an address, and a pool with more features.
    let said = harness.run_section("P13")?;
    assert!(said[0].contains("condition met"), "{said:?}");
    assert_eq!(said[1], "192.168.50.50 from pool web-services");
    assert!(said[2].contains("condition met"), "{said:?}");
    assert!(said[3].contains("announces 192.168.50.50"), "{said:?}");
    assert!(said[4].contains("Valid"), "{said:?}");
    for manifest in lb_e2e::guide::section("P14").manifests {
        harness.apply(&manifest)?;
    }
    harness.apply_service("careful", "web", "metallb.io/address-pool: careful", "")?;
    assert_eq!(harness.wait_for_address("careful")?, "192.168.52.0");

    // 4.9: cleaning up releases the address, and no node answers for it.
    harness.run_section("4.9")?;
    eventually("silence on the released address", LONG_TIMEOUT, || {
        Ok(harness.owners("192.168.50.50")?.is_empty().then_some(()))
    })?;
    Ok(())
}

fn both_backends_answer(harness: &Harness) -> anyhow::Result<()> {
    eventually("answers from both pods", SHORT_TIMEOUT, || {
        let output = harness.run_section("4.7")?.concat();
        let names: std::collections::BTreeSet<_> =
            output.lines().filter(|line| line.contains("Hostname")).collect();
        Ok((names.len() == 2).then_some(()))
    })
}

fn condition(harness: &Harness, kind: &str, name: &str) -> anyhow::Result<String> {
    harness.admin(&format!(
        "kubectl get {kind} {name} -n metallb-system -o jsonpath='{{range .status.conditions[?(@.type==\"Valid\")]}}{{.status}} {{.reason}} {{.message}}{{end}}'"
    ))
}

fn assert_columns(output: &str, columns: &[&str]) {
    let header = output.lines().next().unwrap_or_default();
    let found: Vec<_> = header
        .split("   ")
        .map(str::trim)
        .filter(|column| !column.is_empty())
        .collect();
    assert_eq!(found, columns);
}
