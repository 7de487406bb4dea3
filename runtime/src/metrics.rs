//! Metrics that all programs have, and those of the API client, with MetalLB's names.

use prometheus::process_collector::ProcessCollector;
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

/// Registers `lb_build_info` and the usual `process_*` metrics: memory, processor time, descriptors, start time.
///
/// # Errors
/// If one is already registered.
pub(crate) fn register_program(registry: &Registry, version: &str) -> Result<(), prometheus::Error> {
    let build_info = IntGaugeVec::new(
        Opts::new(
            "lb_build_info",
            "Always 1; the labels are the program and its version",
        ),
        &["program", "version"],
    )?;
    let path = std::env::args_os().next().unwrap_or_default();
    let program = std::path::Path::new(&path).file_name().unwrap_or_default();
    build_info
        .with_label_values(&[program.to_string_lossy().as_ref(), version])
        .set(1);
    registry.register(Box::new(build_info))?;
    registry.register(Box::new(ProcessCollector::for_self()))
}

/// Registers `lb_leader`: 1 in the replica that leads.
///
/// # Errors
/// If it is already registered.
pub fn register_leader(registry: &Registry) -> Result<IntGauge, prometheus::Error> {
    let leader = IntGauge::new("lb_leader", "1 in the replica that leads, 0 in the others")?;
    registry.register(Box::new(leader.clone()))?;
    Ok(leader)
}

/// The four `metallb_k8s_client_*` metrics that MetalLB's alerts use.
#[derive(Clone, Debug)]
pub struct ClientMetrics {
    /// `metallb_k8s_client_updates_total`: processed object updates.
    pub updates: IntCounter,
    /// `metallb_k8s_client_update_errors_total`: object updates that failed.
    pub update_errors: IntCounter,
    /// `metallb_k8s_client_config_loaded_bool`: 1 after pools and advertisements were listed once.
    pub config_loaded: IntGauge,
    /// `metallb_k8s_client_config_stale_bool`: 1 while part of the configuration is invalid and ignored.
    pub config_stale: IntGauge,
}

impl ClientMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// If a metric of the same name is already registered.
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
