//! The rendered objects of a stack. A change of the snapshots is a change in every cluster: review it carefully.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that finds something missing is to fail there"
)]

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use lb_crds::LoadBalancerStack;
use lb_operator::args::OperatorConfig;
use lb_operator::desired::render::{DesiredObject, render, version_label};
use lb_operator::desired::validation::stack_config;
use lb_operator::object_id::Kind;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const GUIDE_BUDGET: &str = "
minAvailable: 1
selector:
  matchLabels:
    component: speaker
";

const GUIDE_MONITOR: &str = "
selector:
  matchLabels:
    app: metallb
endpoints:
- port: monitoring
";

const GUIDE_POLICY: &str = "
podSelector:
  matchLabels:
    app: metallb
    component: controller
policyTypes:
- Ingress
ingress:
- from:
  - namespaceSelector: {}
  ports:
  - protocol: TCP
    port: 7472  # Metrics only
";

fn mk_config() -> OperatorConfig {
    OperatorConfig {
        version: "0.1.0".to_owned(),
        controller_image: "lb-operator.io/controller:0.1.0".to_owned(),
        speaker_image: "lb-operator.io/speaker:0.1.0".to_owned(),
        namespace: "metallb-system".to_owned(),
        operator_namespace: "default".to_owned(),
        lease_name: "lb-operator".to_owned(),
        manage_crds: true,
    }
}

fn mk_stack(spec: Value) -> LoadBalancerStack {
    serde_json::from_value(json!({
        "apiVersion": "lb-operator.io/v1alpha1",
        "kind": "LoadBalancerStack",
        "metadata": {"name": "default", "uid": "5c0de000-0000-4000-8000-000000000000"},
        "spec": spec,
    }))
    .unwrap()
}

fn objects(spec: Value) -> Vec<DesiredObject> {
    render(&stack_config(&mk_stack(spec), &mk_config(), true).unwrap()).unwrap()
}

fn get<T: DeserializeOwned>(objects: &[DesiredObject], kind: Kind, name: &str) -> T {
    let wanted = objects
        .iter()
        .find(|wanted| wanted.id.kind == kind && wanted.id.key.name() == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"));
    serde_json::from_value(wanted.body.clone()).unwrap()
}

/// All objects except the CRDs, which are tested separately, without the digests, which change with any field.
fn golden(objects: &[DesiredObject]) -> String {
    let mut text = String::new();
    for wanted in objects {
        if wanted.id.kind == Kind::CustomResourceDefinition {
            continue;
        }
        let mut body = wanted.body.clone();
        body["metadata"].as_object_mut().unwrap().remove("annotations");
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(&body).unwrap());
    }
    text
}

fn pod_templates(objects: &[DesiredObject]) -> [PodTemplateSpec; 2] {
    let controller: Deployment = get(objects, Kind::Deployment, "controller");
    let speaker: DaemonSet = get(objects, Kind::DaemonSet, "speaker");
    [controller.spec.unwrap().template, speaker.spec.unwrap().template]
}

#[test]
fn empty_spec_renders_production_install() {
    insta::assert_snapshot!("empty_spec", golden(&objects(json!({}))));
}

#[test]
fn every_field_reaches_the_objects() {
    let workload = json!({
        "resources": {"requests": {"cpu": "50m"}, "limits": {"memory": "128Mi"}},
        "priorityClassName": "mine",
        "nodeSelector": {"example.com/edge": "true"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}],
        }}},
        "podAnnotations": {"example.com/a": "b"},
    });
    let mut controller = workload.clone();
    controller["replicas"] = json!(3);
    let mut speaker = workload;
    speaker["ignoreExcludeLabel"] = json!(true);
    speaker["excludedInterfaces"] = json!(["^veth.{1,8}$", "^lo$"]);
    speaker["metricsPort"] = json!(7474);
    speaker["heartbeat"] = json!({"failureTimeoutMilliseconds": 500, "port": 7000});
    speaker["partitionPolicy"] = json!("Majority");
    speaker["failback"] = json!("Immediate");
    speaker["conflictPolicy"] = json!("Defend");
    speaker["announceIntervalSeconds"] = json!(0);
    speaker["restartGraceSeconds"] = json!(30);
    speaker["bgp"] = json!({"bfdRestartBudgetSeconds": 20});
    let spec = json!({
        "version": "0.1.0",
        "namespace": "lb",
        "loadBalancerClass": "example.com/lan",
        "logLevel": "debug",
        "images": {
            "registry": "mirror.example.com:5000/lb",
            "pullPolicy": "Always",
            "pullSecrets": ["regcred"],
            "speaker": {"digest": format!("sha256:{}", "a".repeat(64))},
        },
        "controller": controller,
        "speaker": speaker,
        "monitoring": {"serviceMonitor": {"mode": "Enabled"}},
        "networkPolicy": {"mode": "Enabled"},
        "podDisruptionBudget": {"mode": "Enabled"},
    });
    insta::assert_snapshot!("full_spec", golden(&objects(spec)));
}

#[test]
fn default_placement_is_not_rendered() {
    for (placement, told) in [("HashOrder", None), ("Balanced", Some("balanced"))] {
        let objects = objects(json!({"speaker": {"placement": placement}}));
        let [_, speaker] = pod_templates(&objects);
        let container = speaker.spec.unwrap().containers.remove(0);
        let env = container.env.unwrap_or_default();
        let placement = env.into_iter().find(|variable| variable.name == "LB_PLACEMENT");
        assert_eq!(placement.and_then(|variable| variable.value).as_deref(), told);
    }
}

#[test]
fn selectors_never_change() {
    let expected = json!({"matchLabels": {"app": "metallb", "component": "controller"}});
    for spec in [
        json!({}),
        json!({"controller": {"podAnnotations": {"a": "b"}}, "logLevel": "debug"}),
    ] {
        let objects = objects(spec);
        let controller: Value = get(&objects, Kind::Deployment, "controller");
        assert_eq!(controller["spec"]["selector"], expected);
        let speaker: Value = get(&objects, Kind::DaemonSet, "speaker");
        assert_eq!(
            speaker["spec"]["selector"],
            json!({"matchLabels": {"app": "metallb", "component": "speaker"}})
        );
    }
}

#[test]
fn all_but_user_data_is_owned_by_stack() {
    for wanted in objects(json!({})) {
        let owner = &wanted.body["metadata"]["ownerReferences"][0]["name"];
        let keeps = matches!(wanted.id.kind, Kind::Namespace | Kind::CustomResourceDefinition);
        assert_eq!(owner.is_null(), keeps, "{}", wanted.id);
    }
}

#[test]
fn metallb_crds_are_rendered() {
    let objects = objects(json!({}));
    for name in [
        "ipaddresspools",
        "l2advertisements",
        "servicel2statuses",
        "bgppeers",
    ] {
        let _: Value = get(
            &objects,
            Kind::CustomResourceDefinition,
            &format!("{name}.metallb.io"),
        );
    }
}

#[test]
fn unmanaged_crds_are_not_rendered() {
    let config = OperatorConfig {
        manage_crds: false,
        ..mk_config()
    };
    let objects = render(&stack_config(&mk_stack(json!({})), &config, true).unwrap()).unwrap();
    assert!(
        objects
            .iter()
            .all(|object| object.id.kind != Kind::CustomResourceDefinition)
    );
    assert!(!objects.is_empty());
}

#[test]
fn speaker_has_only_net_raw() {
    let [_, speaker] = pod_templates(&objects(json!({})));
    let spec = speaker.spec.unwrap();
    let security = spec.containers[0].security_context.clone().unwrap();
    let capabilities = security.capabilities.unwrap();
    assert_eq!(capabilities.add.unwrap(), ["NET_RAW"]);
    assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
    assert_eq!(security.read_only_root_filesystem, Some(true));
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.privileged, None);
    assert_eq!(spec.host_network, Some(true));
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    assert!(
        volumes.len() == 1 && volumes[0].secret.is_some(),
        "the keys of the heartbeats are mounted, and nothing of the host"
    );
}

#[test]
fn controller_meets_restricted_profile() {
    let [controller, _] = pod_templates(&objects(json!({})));
    let spec = controller.spec.unwrap();
    let pod = spec.security_context.unwrap();
    assert_eq!((pod.run_as_non_root, pod.run_as_user), (Some(true), Some(65532)));
    let security = spec.containers[0].security_context.clone().unwrap();
    assert_eq!(security.capabilities.unwrap().add, None);
    assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
    assert_eq!(spec.host_network, None);
}

#[test]
fn objects_match_the_guide() {
    let objects = objects(json!({}));
    let guide: Value = serde_yaml::from_str(GUIDE_BUDGET).unwrap();
    let ours: Value = get(&objects, Kind::PodDisruptionBudget, "metallb-speaker");
    for field in ["minAvailable", "selector"] {
        assert_eq!(ours["spec"][field], guide[field]);
    }
    let guide: Value = serde_yaml::from_str(GUIDE_POLICY).unwrap();
    let ours: Value = get(&objects, Kind::NetworkPolicy, "metallb-controller");
    assert_eq!(ours["spec"], guide);
    let guide: Value = serde_yaml::from_str(GUIDE_MONITOR).unwrap();
    let ours: Value = get(&objects, Kind::ServiceMonitor, "metallb");
    assert_eq!(ours["spec"], guide);
}

#[test]
fn service_monitor_selects_both_services() {
    let objects = objects(json!({}));
    for component in ["controller", "speaker"] {
        let name = format!("metallb-{component}-monitoring");
        let service: Value = get(&objects, Kind::Service, &name);
        assert_eq!(service["metadata"]["labels"]["app"], "metallb");
        assert_eq!(service["spec"]["ports"][0]["name"], "monitoring");
        assert_eq!(service["spec"]["ports"][0]["port"], 7472);
    }
}

#[test]
fn controller_has_two_replicas_by_default() {
    let controller: Deployment = get(&objects(json!({})), Kind::Deployment, "controller");
    assert_eq!(controller.spec.unwrap().replicas, Some(2));
}

#[test]
fn restart_annotation_is_not_owned() {
    for template in pod_templates(&objects(json!({}))) {
        let annotations = template.metadata.unwrap().annotations.unwrap();
        assert!(!annotations.contains_key("kubectl.kubernetes.io/restartedAt"));
    }
}

#[test]
fn single_replica_has_no_budget() {
    let objects = objects(json!({"controller": {"replicas": 1}}));
    let budgets = objects
        .iter()
        .filter(|wanted| wanted.id.kind == Kind::PodDisruptionBudget)
        .map(|wanted| wanted.id.key.name());
    assert_eq!(budgets.collect::<Vec<_>>(), ["metallb-speaker"]);
    let budget: PodDisruptionBudget = get(&objects, Kind::PodDisruptionBudget, "metallb-speaker");
    assert_eq!(budget.spec.unwrap().max_unavailable, None);
}

#[test]
fn disabled_objects_are_not_rendered() {
    let objects = objects(json!({
        "monitoring": {"serviceMonitor": {"mode": "Disabled"}},
        "networkPolicy": {"mode": "Disabled"},
        "podDisruptionBudget": {"mode": "Disabled"},
    }));
    for kind in [
        Kind::ServiceMonitor,
        Kind::NetworkPolicy,
        Kind::PodDisruptionBudget,
    ] {
        assert!(objects.iter().all(|wanted| wanted.id.kind != kind), "{kind}");
    }
}

#[test]
fn optional_objects_take_settings_and_keep_labels() {
    let monitoring =
        json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]);
    let objects = objects(json!({
        "monitoring": {"serviceMonitor": {
            "labels": {"release": "prometheus", "app.kubernetes.io/managed-by": "somebody"},
            "interval": "15s",
        }},
        "networkPolicy": {"metricsFrom": monitoring},
        "controller": {"replicas": 4},
        "podDisruptionBudget": {"controllerMinAvailable": 3, "speakerMinAvailable": 2},
    }));
    for (name, kept) in [("metallb-controller", 3), ("metallb-speaker", 2)] {
        let budget: Value = get(&objects, Kind::PodDisruptionBudget, name);
        assert_eq!(budget["spec"]["minAvailable"], kept);
    }
    let monitor: Value = get(&objects, Kind::ServiceMonitor, "metallb");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(
        monitor["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "lb-operator"
    );
    assert_eq!(monitor["spec"]["endpoints"][0]["interval"], "15s");
    let policy: Value = get(&objects, Kind::NetworkPolicy, "metallb-controller");
    assert_eq!(policy["spec"]["ingress"][0]["from"], monitoring);
}

#[test]
fn service_monitor_needs_its_crd() {
    let empty = stack_config(&mk_stack(json!({})), &mk_config(), false).unwrap();
    assert_eq!(empty.service_monitor, None);
    let _: NetworkPolicy = get(
        &render(&empty).unwrap(),
        Kind::NetworkPolicy,
        "metallb-controller",
    );
}

#[test]
fn invalid_field_is_named_with_remedy() {
    let cases = [
        (
            json!({"podDisruptionBudget": {"controllerMinAvailable": 2}}),
            "spec.podDisruptionBudget.controllerMinAvailable: 2 of 2 controllers permits no eviction",
        ),
        (
            json!({"version": "9.9.9"}),
            "spec.version: operator version 0.1.0 cannot install the newer version 9.9.9: upgrade",
        ),
        (
            json!({"speaker": {"excludedInterfaces": ["ok", "("]}}),
            "spec.speaker.excludedInterfaces[1]: \"(\" is not a regular expression",
        ),
    ];
    for (spec, message) in cases {
        let error = stack_config(&mk_stack(spec), &mk_config(), true)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn operator_installs_own_and_previous_minor_version() {
    let config = OperatorConfig {
        version: "0.3.1".to_owned(),
        speaker_image: "lb-operator.io/speaker:0.3.1".to_owned(),
        ..mk_config()
    };
    let image = |version: &str| {
        let config = stack_config(&mk_stack(json!({"version": version})), &config, true);
        config
            .map(|config| config.speaker.image)
            .map_err(|error| error.to_string())
    };
    for version in ["0.2.0", "0.2.9", "0.3.0", "0.3.1"] {
        assert_eq!(
            image(version).unwrap(),
            format!("lb-operator.io/speaker:{version}")
        );
    }
    assert!(image("0.3.2").unwrap_err().contains("upgrade the operator first"));
    let old = image("0.1.9").unwrap_err();
    assert!(
        old.starts_with("spec.version: operator version 0.3.1 installs 0.2 and 0.3 but not 0.1.9: "),
        "{old}"
    );
}

/// O-13: the digest would stay when the operator, and with it the version, becomes another.
#[test]
fn digest_needs_the_version_that_it_contains() {
    let digest = format!("sha256:{}", "b".repeat(64));
    let images = json!({"speaker": {"digest": digest}});
    let of = |spec| stack_config(&mk_stack(spec), &mk_config(), true);
    let error = of(json!({"images": images})).unwrap_err().to_string();
    assert!(
        error.starts_with("spec.images.speaker.digest: a digest contains one version"),
        "{error}"
    );
    of(json!({"version": "0.1.0", "images": images})).unwrap();
}

/// O-27: build metadata is no valid value of a label.
#[test]
fn version_label_is_valid() {
    assert_eq!(version_label("0.1.0+build.7"), "0.1.0_build.7");
    assert_eq!(version_label(&format!("0.1.0-{}", "a".repeat(80))).len(), 63);
}

#[test]
fn image_version_is_not_derived_from_digest() {
    let pinned = |name: &str| format!("lb-operator.io/{name}@sha256:{}", "a".repeat(64));
    let config = OperatorConfig {
        controller_image: pinned("controller"),
        speaker_image: pinned("speaker"),
        ..mk_config()
    };
    let digest = format!("sha256:{}", "b".repeat(64));
    let of = |spec| stack_config(&mk_stack(spec), &config, true);
    let error = of(json!({"version": "0.0.9"})).unwrap_err().to_string();
    assert!(error.contains("set spec.images.controller.digest"), "{error}");
    let images = json!({"controller": {"digest": digest}, "speaker": {"digest": digest}});
    let given = of(json!({"version": "0.0.9", "images": images})).unwrap();
    assert_eq!(given.speaker.image, format!("lb-operator.io/speaker@{digest}"));
    assert_eq!(
        of(json!({"version": "0.1.0"})).unwrap().speaker.image,
        config.speaker_image
    );
}

#[test]
fn empty_excluded_interfaces_exclude_nothing() {
    let args = |spec| {
        let [_, speaker] = pod_templates(&objects(spec));
        speaker.spec.unwrap().containers[0].args.clone()
    };
    assert_eq!(args(json!({})), None);
    let none = args(json!({"speaker": {"excludedInterfaces": []}}));
    assert_eq!(none.unwrap(), ["--exclude-interfaces="]);
}
