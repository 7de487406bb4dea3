//! The operator: installs, upgrades and repairs the load balancer that a LoadBalancerStack describes.
//!
//! Data flow: [`watch`] → [`index`] → [`desired`] (spec to objects) → [`upgrade`] (which of them now) → [`drift`]
//! (differences) → [`apply`], and [`observe`] → [`status`]. [`reconcile`] runs it. Only `watch`, `apply`,
//! `preflight::collect`, `adoption::observe` and `reconcile` perform I/O.

pub mod adoption;
pub mod apply;
pub mod args;
pub mod deletion;
pub mod desired;
pub mod drift;
pub mod field_owner;
pub mod index;
pub mod keys;
pub mod metrics;
pub mod object_id;
pub mod observe;
pub mod other_operator;
pub mod ownership;
pub mod preflight;
pub mod reasons;
pub mod reconcile;
pub mod request;
pub mod status;
pub mod upgrade;
pub mod watch;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use lb_crds::names;
use lb_runtime::events::Events;
use lb_runtime::leader::{LeaderConfig, lead};
use lb_runtime::lease::LeaseTiming;
use lb_runtime::sleep_until;
use lb_runtime::watch::Change;
use lb_runtime::{Context, ReadinessGate};

use crate::apply::executor::Executor;
use crate::args::OperatorConfig;
use crate::metrics::Metrics;
use crate::object_id::Kind;
use crate::preflight::ClusterFacts;
use crate::preflight::collect::collect_facts;
use crate::reconcile::Operator;
use crate::watch::{Event, events, objects};

/// How long events may take to be written during a shutdown.
const EVENT_FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs the operator until shutdown.
///
/// # Errors
/// If metrics cannot be registered; everything else is retried.
pub async fn run(context: Context, config: OperatorConfig) -> anyhow::Result<()> {
    let metrics = Metrics::new(&context.registry).context("register metrics")?;
    let mut gates = StartupGates::new(&context);
    let leadership = lead(
        context.client.clone(),
        LeaderConfig {
            namespace: config.operator_namespace.clone(),
            name: config.lease_name.clone(),
            identity: context.pod_name.clone(),
            timing: LeaseTiming::default(),
        },
        context.shutdown.clone(),
    );
    let mut leads = leadership.leads.clone();
    let recorder = Events::new(
        context.client.clone(),
        names::REPORTER_OPERATOR,
        &context.pod_name,
    );
    let is_leader = leadership.leads.clone();
    let executor = Executor::new(
        context.client.clone(),
        move || *is_leader.borrow(),
        metrics.clone(),
        recorder.clone(),
    );
    let mut operator = Operator::new(config, executor, metrics);
    let mut changes = events(&context.client);
    let mut monitors: Option<BoxStream<'static, Event>> = None;
    let mut facts_query: Option<BoxFuture<'static, ClusterFacts>> = None;
    let mut observations = NamespaceWatch::default();
    let mut blockers = NamespaceWatch::default();
    let mut refusals = NamespaceWatch::default();
    let mut speaker_reports = NamespaceWatch::default();
    let mut next_reconcile: Option<tokio::time::Instant> = None;
    loop {
        // The standby observes as well, because it may have to continue the upgrade.
        observations.set(operator.observed_namespace(), |namespace| {
            watch::observations(&context.client, namespace)
        });
        blockers.set(operator.deletion_namespace(), |namespace| {
            watch::deletion_blockers(&context.client, namespace)
        });
        refusals.set(operator.stack_namespace(), |namespace| {
            watch::refusals(&context.client, namespace)
        });
        speaker_reports.set(operator.speaker_report_namespace(), |namespace| {
            watch::speaker_reports(&context.client, namespace)
        });
        tokio::select! {
            Some(event) = changes.next() => {
                dispatch(event, &mut operator, &mut gates, &mut monitors, &context);
            }
            Some(event) = next(&mut monitors) => operator.handle(event),
            facts = query_result(&mut facts_query) => {
                facts_query = None;
                operator.store_facts(facts);
            }
            Some(event) = next(&mut observations.stream) => operator.handle(event),
            Some(event) = next(&mut blockers.stream) => operator.handle(event),
            Some(event) = next(&mut refusals.stream) => operator.handle(event),
            Some(event) = next(&mut speaker_reports.stream) => operator.handle(event),
            Ok(()) = leads.changed() => {}
            () = sleep_until(next_reconcile) => next_reconcile = None,
            () = context.health.turn() => continue,
            () = context.shutdown.requested() => break,
        }
        // Events that arrived in the meantime belong to the same reconciliation.
        while let Some(Some(event)) = changes.next().now_or_never() {
            dispatch(event, &mut operator, &mut gates, &mut monitors, &context);
        }
        for watch in [
            &mut observations,
            &mut blockers,
            &mut refusals,
            &mut speaker_reports,
        ] {
            while let Some(Some(event)) = next(&mut watch.stream).now_or_never() {
                operator.handle(event);
            }
        }
        if !gates.all_open() || !*leads.borrow_and_update() {
            operator.stand_by();
            continue;
        }
        let requeue_after = operator.reconcile().await;
        next_reconcile = requeue_after.map(|delay| tokio::time::Instant::now() + delay);
        if let Some(request) = operator.take_facts_request() {
            facts_query = Some(collect_facts(context.client.clone(), request).boxed());
        }
    }
    leadership.released().await;
    recorder.flush(EVENT_FLUSH_TIMEOUT).await;
    Ok(())
}

/// Passes an event to the operator; starts and stops the watch of ServiceMonitors.
fn dispatch(
    event: Event,
    operator: &mut Operator,
    gates: &mut StartupGates,
    monitors: &mut Option<BoxStream<'static, Event>>,
    context: &Context,
) {
    gates.update(&event);
    match &event {
        Event::Monitors(true) if monitors.is_none() => {
            *monitors = Some(objects(&context.client, Kind::ServiceMonitor));
        }
        Event::Monitors(false) => *monitors = None,
        _ => {}
    }
    operator.handle(event);
}

/// A watch of a namespace that is needed at times.
#[derive(Default)]
struct NamespaceWatch {
    namespace: Option<String>,
    stream: Option<BoxStream<'static, Event>>,
}

impl NamespaceWatch {
    /// Starts the watch of this namespace, or stops it, unless that is its state.
    fn set(&mut self, namespace: Option<String>, start: impl FnOnce(&str) -> BoxStream<'static, Event>) {
        if self.namespace != namespace {
            self.stream = namespace.as_deref().map(start);
            self.namespace = namespace;
        }
    }
}

async fn next(stream: &mut Option<BoxStream<'static, Event>>) -> Option<Event> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

async fn query_result(query: &mut Option<BoxFuture<'static, ClusterFacts>>) -> ClusterFacts {
    match query {
        Some(query) => query.await,
        None => std::future::pending().await,
    }
}

/// Reconciliation starts after everything has been listed once.
struct StartupGates {
    stack: (ReadinessGate, bool),
    pods: (ReadinessGate, bool),
    nodes: (ReadinessGate, bool),
    objects: (ReadinessGate, BTreeSet<Kind>),
}

impl StartupGates {
    fn new(context: &Context) -> Self {
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::ServiceMonitor);
        Self {
            stack: (context.health.gate("stack"), false),
            pods: (context.health.gate("pods"), false),
            nodes: (context.health.gate("nodes"), false),
            objects: (context.health.gate("objects"), kinds.collect()),
        }
    }

    fn update(&mut self, event: &Event) {
        match event {
            Event::Stack(change) if matches!(**change, Change::Synced) => {
                self.stack.0.open();
                self.stack.1 = true;
            }
            Event::Pod(change) if matches!(**change, Change::Synced) => {
                self.pods.0.open();
                self.pods.1 = true;
            }
            Event::Node(change) if matches!(**change, Change::Synced) => {
                self.nodes.0.open();
                self.nodes.1 = true;
            }
            Event::Listed(kind, _) => {
                self.objects.1.remove(kind);
                if self.objects.1.is_empty() {
                    self.objects.0.open();
                }
            }
            _ => {}
        }
    }

    fn all_open(&self) -> bool {
        self.stack.1 && self.pods.1 && self.nodes.1 && self.objects.1.is_empty()
    }
}
