//! Scrape targets for Prometheus: a headless Service for each component, and a ServiceMonitor for both if its CRD
//! exists. The ServiceMonitor is the one of the guide.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::{Component, Objects, PORT, PORT_NAME, RenderError, named};
use crate::desired::config::StackConfig;
use crate::object_id::{Kind, ObjectId};

pub(super) fn render(config: &StackConfig, objects: &mut Objects) -> Result<(), RenderError> {
    for component in [Component::Controller, Component::Speaker] {
        objects.add(
            Kind::Service,
            Some(component),
            &service(&config.namespace, component),
        )?;
    }
    if let Some(monitor) = &config.service_monitor {
        let id = ObjectId::new(Kind::ServiceMonitor, &config.namespace, "metallb");
        let mut endpoint = json!({ "port": PORT_NAME });
        if let Some(interval) = &monitor.interval {
            endpoint["interval"] = json!(interval);
        }
        let monitor = json!({
            "metadata": { "namespace": config.namespace, "name": "metallb", "labels": monitor.labels },
            "spec": {
                "selector": { "matchLabels": { "app": "metallb" } },
                "endpoints": [endpoint],
            },
        });
        objects.add_json(id, None, monitor);
    }
    Ok(())
}

fn service(namespace: &str, component: Component) -> Service {
    Service {
        metadata: named(namespace, format!("metallb-{}-monitoring", component.name())),
        spec: Some(ServiceSpec {
            // Prometheus scrapes each pod separately.
            cluster_ip: Some("None".to_owned()),
            // Pods that are not ready are the most interesting ones.
            publish_not_ready_addresses: Some(true),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_owned()),
                port: PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(PORT_NAME.to_owned())),
                ..ServicePort::default()
            }]),
            selector: Some(component.selector_labels()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
