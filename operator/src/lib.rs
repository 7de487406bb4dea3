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
use futures::stream::{BoxStream, select_all};
use futures::{FutureExt, StreamExt};
use lb_crds::names;
use lb_runtime::events::Events;
use lb_runtime::leader::{LeaderConfig, lead};
use lb_runtime::lease::LeaseTiming;
use lb_runtime::metrics::register_leader;
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
    let leader_metric = register_leader(&context.registry).context("register metrics")?;
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
    let mut watches: [NamespaceWatch; 4] = Default::default();
    let mut next_reconcile: Option<tokio::time::Instant> = None;
    loop {
        // The standby observes as well, because it may have to continue the upgrade.
        let wanted: [(Option<String>, StartWatch); 4] = [
            (operator.observed_namespace(), watch::observations),
            (operator.deletion_namespace(), watch::deletion_blockers),
            (operator.stack_namespace(), watch::refusals),
            (operator.speaker_report_namespace(), watch::speaker_reports),
        ];
        for (watch, (namespace, start)) in watches.iter_mut().zip(wanted) {
            watch.set(&context.client, namespace, start);
        }
        tokio::select! {
            Some(event) = changes.next() => {
                dispatch(event, &mut operator, &mut gates, &mut monitors, &context);
            }
            Some(event) = next(&mut monitors) => operator.handle(event),
            facts = query_result(&mut facts_query) => {
                facts_query = None;
                operator.store_facts(facts);
            }
            Some(event) = next_of(&mut watches) => operator.handle(event),
            Ok(()) = leads.changed() => {}
            () = sleep_until(next_reconcile) => next_reconcile = None,
            () = context.health.turn() => continue,
            () = context.shutdown.requested() => break,
        }
        // Events that arrived in the meantime belong to the same reconciliation.
        while let Some(Some(event)) = changes.next().now_or_never() {
            dispatch(event, &mut operator, &mut gates, &mut monitors, &context);
        }
        while let Some(Some(event)) = next_of(&mut watches).now_or_never() {
            operator.handle(event);
        }
        leader_metric.set((*leads.borrow()).into());
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

type StartWatch = fn(&kube::Client, &str) -> BoxStream<'static, Event>;

impl NamespaceWatch {
    /// Starts the watch of this namespace, or stops it, unless that is its state.
    fn set(&mut self, client: &kube::Client, namespace: Option<String>, start: StartWatch) {
        if self.namespace != namespace {
            self.stream = namespace.as_deref().map(|namespace| start(client, namespace));
            self.namespace = namespace;
        }
    }
}

async fn next_of(watches: &mut [NamespaceWatch]) -> Option<Event> {
    let mut streams = select_all(watches.iter_mut().filter_map(|watch| watch.stream.as_mut()));
    match streams.next().await {
        Some(event) => Some(event),
        None => std::future::pending().await,
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
    /// Stack, pods and nodes.
    lists: [(ReadinessGate, bool); 3],
    objects: (ReadinessGate, BTreeSet<Kind>),
}

impl StartupGates {
    fn new(context: &Context) -> Self {
        let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::ServiceMonitor);
        Self {
            lists: ["stack", "pods", "nodes"].map(|name| (context.health.gate(name), false)),
            objects: (context.health.gate("objects"), kinds.collect()),
        }
    }

    fn update(&mut self, event: &Event) {
        let listed = match event {
            Event::Stack(change) if matches!(**change, Change::Synced) => 0,
            Event::Pod(change) if matches!(**change, Change::Synced) => 1,
            Event::Node(change) if matches!(**change, Change::Synced) => 2,
            Event::Listed(kind, _) => {
                self.objects.1.remove(kind);
                if self.objects.1.is_empty() {
                    self.objects.0.open();
                }
                return;
            }
            _ => return,
        };
        let (gate, is_listed) = &mut self.lists[listed];
        gate.open();
        *is_listed = true;
    }

    fn all_open(&self) -> bool {
        self.lists.iter().all(|(_, is_listed)| *is_listed) && self.objects.1.is_empty()
    }
}
