//! Metrics of the API client, under MetalLB's names.

use prometheus::{IntCounter, IntGauge, Registry};

/// The four `metallb_k8s_client_*` metrics, with the meaning that MetalLB's alerts rely on.
#[derive(Clone, Debug)]
pub struct ClientMetrics {
    /// `metallb_k8s_client_updates_total`: objects handled.
    pub updates: IntCounter,
    /// `metallb_k8s_client_update_errors_total`: objects whose handling failed.
    pub update_errors: IntCounter,
    /// `metallb_k8s_client_config_loaded_bool`: 1 once pools and advertisements have been read.
    pub config_loaded: IntGauge,
    /// `metallb_k8s_client_config_stale_bool`: 1 while part of the configuration is invalid and not in force.
    pub config_stale: IntGauge,
}

impl ClientMetrics {
    /// Makes and registers the metrics.
    ///
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            updates: IntCounter::new(
                "metallb_k8s_client_updates_total",
                "Number of k8s object updates that have been processed.",
            )?,
            update_errors: IntCounter::new(
                "metallb_k8s_client_update_errors_total",
                "Number of k8s object updates that failed for some reason.",
            )?,
            config_loaded: IntGauge::new(
                "metallb_k8s_client_config_loaded_bool",
                "1 if the configuration was successfully loaded at least once.",
            )?,
            config_stale: IntGauge::new(
                "metallb_k8s_client_config_stale_bool",
                "1 if part of the configuration is invalid and therefore not in force.",
            )?,
        };
        registry.register(Box::new(metrics.updates.clone()))?;
        registry.register(Box::new(metrics.update_errors.clone()))?;
        registry.register(Box::new(metrics.config_loaded.clone()))?;
        registry.register(Box::new(metrics.config_stale.clone()))?;
        Ok(metrics)
    }
}
