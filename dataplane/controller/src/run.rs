//! The main loop: feeds changes to the index, lets the leader decide, sends its writes and publishes its events. A
//! standby only logs.

use std::future::pending;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use lb_crds::names::{CONTROLLER_LEASE, REPORTER_CONTROLLER};
use lb_crds::{ConfigurationState, IPAddressPool, L2Advertisement, ServiceL2Status};
use lb_runtime::events::Events;
use lb_runtime::leader::{LeaderConfig, Leadership, lead};
use lb_runtime::lease::LeaseTiming;
use lb_runtime::metrics::{ClientMetrics, register_leader};
use lb_runtime::sleep::sleep_until;
use lb_runtime::watch::{Change, Refresh};
use lb_runtime::{Context, Shutdown};
use prometheus::IntGauge;

use crate::args::Config;
use crate::decide::LeaderState;
use crate::index::Index;
use crate::listed::ListProgress;
use crate::metrics::Metrics;
use crate::standby::Standby;
use crate::watch;
use crate::write::{ObjectWrite, ObjectWriter, WriteOutcome};

/// How long writes in flight may take to end during a shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a new leader waits until its watch has delivered the last writes of its predecessor, before it lists again.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a leader waits for the list of nodes.
const NODES_TIMEOUT: Duration = Duration::from_secs(5);
/// How long events may take to be written during a shutdown. With the other limits less than the grace period of a pod.
const EVENT_FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the controller until shutdown.
///
/// # Errors
/// If metrics cannot be registered; everything else is retried.
pub async fn run(context: Context, config: Config) -> anyhow::Result<()> {
    let mut controller = Controller::new(&context, config).context("register metrics")?;
    // The Lease is released only after the last write has ended, so it has a shutdown of its own.
    let release = Shutdown::default();
    let leadership = lead(
        context.client.clone(),
        LeaderConfig {
            namespace: context.namespace.clone(),
            name: CONTROLLER_LEASE.to_owned(),
            identity: context.pod_name.clone(),
            timing: LeaseTiming::default(),
        },
        release.clone(),
    );
    controller.run(&context, &leadership).await;
    // No new write starts, and those in flight end before the Lease is released, so that none takes effect after
    // another replica has taken over. If they do not end, the Lease expires.
    let drained = controller.drain().await;
    controller.publish_events(&context.namespace);
    if drained {
        if let Some(newest) = controller.newest_version() {
            leadership.set_handoff(newest.to_string());
        }
        release.request();
        leadership.released().await;
    }
    controller.events.flush(EVENT_FLUSH_TIMEOUT).await;
    Ok(())
}

/// An input of the main loop.
enum Input {
    Leads(bool),
    Service(Box<Change<Service>>),
    Namespace(Change<Namespace>),
    Node(Box<Change<Node>>),
    Pool(Change<IPAddressPool>),
    Advertisement(Change<L2Advertisement>),
    State(Change<ConfigurationState>),
    L2Status(Change<ServiceL2Status>),
    Speaker(Box<Change<Pod>>),
    Written(Box<(ObjectWrite, WriteOutcome)>),
    /// A timeout has expired.
    Time,
    Stop,
}

struct Controller {
    index: Index,
    leader: Option<LeaderState>,
    standby: Standby,
    leads: bool,
    listed: ListProgress,
    refresh_services: Refresh,
    /// Of namespaces, pools and advertisements.
    refresh_config: Refresh,
    services: BoxStream<'static, Change<Service>>,
    namespaces: BoxStream<'static, Change<Namespace>>,
    nodes: BoxStream<'static, Change<Node>>,
    pools: BoxStream<'static, Change<IPAddressPool>>,
    advertisements: BoxStream<'static, Change<L2Advertisement>>,
    states: BoxStream<'static, Change<ConfigurationState>>,
    l2_statuses: BoxStream<'static, Change<ServiceL2Status>>,
    speakers: BoxStream<'static, Change<Pod>>,
    writes: FuturesUnordered<BoxFuture<'static, (ObjectWrite, WriteOutcome)>>,
    writer: ObjectWriter,
    events: Events,
    metrics: Metrics,
    client_metrics: ClientMetrics,
    leader_metric: IntGauge,
}

impl Controller {
    fn new(context: &Context, config: Config) -> Result<Self, prometheus::Error> {
        let Context {
            client, namespace, ..
        } = context;
        let (refresh_services, refresh_config) = (Refresh::default(), Refresh::default());
        Ok(Self {
            index: Index::new(config.class),
            leader: None,
            standby: Standby::default(),
            leads: false,
            listed: ListProgress::new(&context.health),
            services: watch::services(client, &refresh_services),
            namespaces: watch::namespaces(client, &refresh_config),
            nodes: watch::nodes(client),
            pools: watch::pools(client, namespace, &refresh_config),
            advertisements: watch::advertisements(client, namespace, &refresh_config),
            refresh_services,
            refresh_config,
            states: watch::states(client, namespace),
            l2_statuses: watch::l2_statuses(client, namespace),
            speakers: watch::speakers(client, namespace),
            writes: FuturesUnordered::new(),
            writer: ObjectWriter::new(client.clone(), namespace),
            events: Events::new(client.clone(), REPORTER_CONTROLLER, &context.pod_name),
            metrics: Metrics::new(&context.registry)?,
            client_metrics: ClientMetrics::new(&context.registry)?,
            leader_metric: register_leader(&context.registry)?,
        })
    }

    async fn run(&mut self, context: &Context, leadership: &Leadership) {
        let mut leads = leadership.leads.clone();
        loop {
            let timeout = match &self.leader {
                Some(leader) => leader.next_timeout(Instant::now()),
                None => self
                    .standby
                    .poll_timeout()
                    .filter(|_| self.listed.is_complete(Instant::now())),
            };
            let lists = self.listed.next_timeout().filter(|_| self.leader.is_none());
            let speakers = self.index.announcements.poll_timeout();
            let timeout = timeout.into_iter().chain(lists).chain(speakers).min();
            let input = tokio::select! {
                // Leadership and shutdown first, so that a replica that may not lead does not decide.
                biased;
                () = context.shutdown.requested() => Input::Stop,
                Ok(()) = leads.changed() => Input::Leads(*leads.borrow_and_update()),
                input = self.next() => input,
                () = sleep_until(timeout) => Input::Time,
                () = context.health.turn() => Input::Time,
            };
            if self.handle(leadership, input).is_break() {
                return;
            }
            // Further inputs that have arrived belong to the same decision: the oldest Service is served first, and
            // moving a range from one pool object to another clears no address.
            for _ in 0..1024 {
                match self.next().now_or_never() {
                    Some(input) => {
                        let _ = self.handle(leadership, input);
                    }
                    None => break,
                }
            }
            self.catch_up();
            if *leads.borrow() == self.leads {
                self.act(&context.namespace);
            }
        }
    }

    async fn next(&mut self) -> Input {
        tokio::select! {
            Some(change) = self.services.next() => Input::Service(Box::new(change)),
            Some(change) = self.namespaces.next() => Input::Namespace(change),
            Some(change) = self.nodes.next() => Input::Node(Box::new(change)),
            Some(change) = self.pools.next() => Input::Pool(change),
            Some(change) = self.advertisements.next() => Input::Advertisement(change),
            Some(change) = self.states.next() => Input::State(change),
            Some(change) = self.l2_statuses.next() => Input::L2Status(change),
            Some(change) = self.speakers.next() => Input::Speaker(Box::new(change)),
            Some(written) = self.writes.next() => Input::Written(Box::new(written)),
            else => pending().await,
        }
    }

    fn handle(&mut self, leadership: &Leadership, input: Input) -> std::ops::ControlFlow<()> {
        // A standby does not log announcements.
        let is_silent = matches!(
            input,
            Input::L2Status(_) | Input::Speaker(_) | Input::Node(_) | Input::Time
        );
        if !self.leads && !is_silent {
            self.standby.changed(Instant::now());
        }
        match input {
            Input::Stop => return std::ops::ControlFlow::Break(()),
            Input::Time => {
                let affected = self.index.announcements.handle_timeout(Instant::now());
                if let Some(leader) = &mut self.leader {
                    leader.announcements_changed(affected);
                }
            }
            Input::Leads(leads) => self.handle_leadership(leads, &leadership.predecessor_handoff()),
            Input::Service(change) => {
                self.client_metrics.updates.inc();
                self.listed.services.update(&change);
                let changed = self.index.update_service(*change);
                if let Some(leader) = &mut self.leader {
                    leader.services_changed(changed);
                }
            }
            Input::Namespace(change) => {
                self.listed.namespaces.update(&change);
                if self.index.update_namespace(change)
                    && let Some(leader) = &mut self.leader
                {
                    leader.pools_changed();
                }
            }
            Input::Node(change) => {
                self.listed.nodes.update(&change);
                if self.index.update_node(*change)
                    && let Some(leader) = &mut self.leader
                {
                    leader.nodes_changed();
                }
            }
            Input::Pool(change) => {
                self.client_metrics.updates.inc();
                if self.listed.pools.update(&change) {
                    self.client_metrics.config_loaded.set(1);
                }
                if self.index.update_pool(change)
                    && let Some(leader) = &mut self.leader
                {
                    leader.pools_changed();
                }
            }
            Input::Advertisement(change) => {
                self.client_metrics.updates.inc();
                self.listed.advertisements.update(&change);
                self.index.update_advertisement(change);
            }
            // No decision depends on it.
            Input::State(change) => self.index.configuration_state.update(change),
            // Nor on this: addresses are assigned whether they are announced or not.
            Input::L2Status(change) => {
                let affected = self.index.announcements.update(change);
                if let Some(leader) = &mut self.leader {
                    leader.announcements_changed(affected);
                }
            }
            Input::Speaker(change) => {
                let affected = self.index.announcements.update_speakers(Instant::now(), *change);
                if let Some(leader) = &mut self.leader {
                    leader.announcements_changed(affected);
                }
            }
            Input::Written(written) => {
                let (write, outcome) = *written;
                if matches!(outcome, WriteOutcome::Failed { .. }) {
                    self.client_metrics.update_errors.inc();
                }
                if let Some(leader) = &mut self.leader {
                    leader.handle_outcome(&mut self.index, write, outcome, Instant::now());
                }
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    fn handle_leadership(&mut self, leads: bool, handoff: &str) {
        if self.leads == leads {
            return;
        }
        self.leads = leads;
        self.leader_metric.set(leads.into());
        self.leader = None;
        self.listed.awaited = None;
        self.listed.nodes_until = Some(Instant::now() + NODES_TIMEOUT);
        self.standby = Standby::default();
        self.metrics.clear();
        // Only a leader knows.
        self.client_metrics.config_stale.set(0);
        // Writes of a lost leadership are dropped at once.
        self.writes.clear();
        if leads {
            // The watches of a standby may lag, or be dead. An unknown namespace or an old pool would cost addresses.
            self.listed.namespaces.expire();
            self.listed.pools.expire();
            self.listed.advertisements.expire();
            self.refresh_config.now();
            // The same for Services; but if the predecessor recorded its newest version, it is enough to reach it.
            match handoff.parse() {
                Ok(newest) => self.listed.awaited = Some((newest, Instant::now() + CATCH_UP_TIMEOUT)),
                Err(_) => self.list_services(),
            }
        }
    }

    /// A list that starts now lags behind nothing.
    fn list_services(&mut self) {
        self.listed.services.expire();
        self.refresh_services.now();
    }

    /// Checks whether the watch has reached the awaited version.
    fn catch_up(&mut self) {
        let Some((newest, until)) = self.listed.awaited else {
            return;
        };
        if self.index.has_reached(newest) {
            self.listed.awaited = None;
        } else if until <= Instant::now() {
            // A list in progress may reach it.
            if self.listed.services.is_complete() {
                self.listed.awaited = None;
                self.list_services();
            } else {
                self.listed.awaited = Some((newest, Instant::now() + CATCH_UP_TIMEOUT));
            }
        }
    }

    /// Waits for writes in flight. Returns whether they ended.
    async fn drain(&mut self) -> bool {
        let ended = tokio::time::timeout(DRAIN_TIMEOUT, self.writes.by_ref().collect::<Vec<_>>()).await;
        let Ok(written) = ended else {
            tracing::warn!("shutdown with writes in flight; not releasing the Lease");
            return false;
        };
        for (write, outcome) in written {
            if let Some(leader) = &mut self.leader {
                leader.handle_outcome(&mut self.index, write, outcome, Instant::now());
            }
        }
        true
    }

    /// The newest version of a Service that this leader knows; `None` if it does not lead, or the outcome of a write is
    /// unknown.
    fn newest_version(&self) -> Option<u64> {
        let leader = self.leader.as_ref()?;
        leader.has_certain_outcomes().then(|| self.index.newest_version())
    }

    /// Decides, if this replica leads and everything is listed, and sends the results.
    fn act(&mut self, namespace: &str) {
        if self.leader.is_none() && !self.listed.is_complete(Instant::now()) {
            return;
        }
        if !self.leads {
            for event in self
                .standby
                .poll_events(&self.index, Instant::now(), Timestamp::now())
            {
                event.log();
            }
            return;
        }
        let leader = self.leader.get_or_insert_with(|| LeaderState::new(&self.index));
        let (now, time) = (Instant::now(), Timestamp::now());
        leader.decide(&self.index, now, time);
        while let Some(write) = leader.next_write(&self.index, now, time) {
            self.writes.push(self.writer.clone().send(write).boxed());
        }
        self.metrics.update(leader.allocator(), leader.unassigned());
        let invalid = leader.allocator().pools().any(|(_, pool)| pool.is_err());
        self.client_metrics.config_stale.set(invalid.into());
        self.publish_events(namespace);
    }

    /// Logs and publishes the events of the last decisions and outcomes.
    fn publish_events(&mut self, namespace: &str) {
        for event in self.leader.iter_mut().flat_map(LeaderState::take_events) {
            event.log();
            if event.is_log_only() {
                continue;
            }
            let text = event.text();
            self.events.publish(
                event.regarding(namespace),
                None,
                text.kind,
                text.reason.as_str(),
                text.action,
                text.note,
            );
        }
    }
}
