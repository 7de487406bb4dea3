//! The loop: feeds changes to the index, lets the leader decide, sends writes, tells people. A standby only tells.

use std::future::pending;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Service};
use lb_crds::names::{CONTROLLER_LEASE, REPORTER_CONTROLLER};
use lb_crds::{ConfigurationState, IPAddressPool, L2Advertisement, ServiceL2Status};
use lb_runtime::events::Events;
use lb_runtime::leader::{LeaderConfig, Leadership, lead};
use lb_runtime::lease::LeaseTiming;
use lb_runtime::metrics::ClientMetrics;
use lb_runtime::watch::Change;
use lb_runtime::{Context, ReadinessGate, Shutdown};

use crate::args::Config;
use crate::decide::Leading;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::standby::Standby;
use crate::watch;
use crate::write::{Outcome, Write, Writer};

/// How long writes under way may take to end once the program has been asked to stop.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a new leader waits for its watch to bring what the last one has written, before it lists anew.
const CATCH_UP: Duration = Duration::from_millis(500);

/// Runs the controller until it is asked to stop.
///
/// # Errors
/// When metrics cannot be registered; everything else is retried.
pub async fn run(context: Context, config: Config) -> anyhow::Result<()> {
    let mut controller = Controller::new(&context, config).context("register metrics")?;
    // The Lease is given back only after the last write has ended, so it has a shutdown of its own.
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
    // Nothing new is begun, and what is under way ends before the Lease is given back, so that nothing of ours lands after
    // another has taken over. If it does not end, the Lease runs out by itself.
    if controller.drain().await {
        if let Some(newest) = controller.newest() {
            leadership.set_handoff(newest.to_string());
        }
        release.request();
        leadership.released().await;
    }
    Ok(())
}

/// Something to take in.
enum Input {
    Leads(bool),
    Service(Box<Change<Service>>),
    Namespace(Change<Namespace>),
    Pool(Change<IPAddressPool>),
    Advertisement(Change<L2Advertisement>),
    State(Change<ConfigurationState>),
    GratuitousSchedule(Change<ServiceL2Status>),
    Written(Box<(Write, Outcome)>),
    /// A pause is over.
    Time,
    Stop,
}

struct Controller {
    index: Index,
    leading: Option<Leading>,
    standby: Standby,
    leads: bool,
    listed: Listed,
    services: BoxStream<'static, Change<Service>>,
    namespaces: BoxStream<'static, Change<Namespace>>,
    pools: BoxStream<'static, Change<IPAddressPool>>,
    advertisements: BoxStream<'static, Change<L2Advertisement>>,
    states: BoxStream<'static, Change<ConfigurationState>>,
    announcers: BoxStream<'static, Change<ServiceL2Status>>,
    writes: FuturesUnordered<BoxFuture<'static, (Write, Outcome)>>,
    writer: Writer,
    events: Events,
    metrics: Metrics,
    client_metrics: ClientMetrics,
}

/// What has been listed completely. Nothing is decided before all of it has.
struct Listed {
    services: bool,
    /// What the watch of Services has to bring before it is as good as a listing, and by when.
    awaits: Option<(u64, Instant)>,
    namespaces: bool,
    pools: bool,
    advertisements: bool,
    services_gate: ReadinessGate,
    namespaces_gate: ReadinessGate,
    pools_gate: ReadinessGate,
    advertisements_gate: ReadinessGate,
}

impl Listed {
    fn all(&self) -> bool {
        self.services && self.awaits.is_none() && self.namespaces && self.pools && self.advertisements
    }
}

impl Controller {
    fn new(context: &Context, config: Config) -> Result<Self, prometheus::Error> {
        let Context {
            client, namespace, ..
        } = context;
        Ok(Self {
            index: Index::new(config.class),
            leading: None,
            standby: Standby::default(),
            leads: false,
            listed: Listed {
                services: false,
                awaits: None,
                namespaces: false,
                pools: false,
                advertisements: false,
                services_gate: context.health.gate("services"),
                namespaces_gate: context.health.gate("namespaces"),
                pools_gate: context.health.gate("pools"),
                advertisements_gate: context.health.gate("advertisements"),
            },
            services: watch::services(client),
            namespaces: watch::namespaces(client),
            pools: watch::pools(client, namespace),
            advertisements: watch::advertisements(client, namespace),
            states: watch::states(client, namespace),
            announcers: watch::announcers(client, namespace),
            writes: FuturesUnordered::new(),
            writer: Writer::new(client.clone(), namespace),
            events: Events::new(client.clone(), REPORTER_CONTROLLER, &context.pod_name),
            metrics: Metrics::new(&context.registry)?,
            client_metrics: ClientMetrics::new(&context.registry)?,
        })
    }

    async fn run(&mut self, context: &Context, leadership: &Leadership) {
        let mut leads = leadership.leads.clone();
        loop {
            let timeout = match &self.leading {
                Some(leading) => leading.next_timeout(Instant::now()),
                None => self.standby.poll_timeout().filter(|_| self.listed.all()),
            };
            let patience = self.listed.awaits.map(|(_, until)| until);
            let timeout = timeout.into_iter().chain(patience).min();
            let input = tokio::select! {
                // Leadership and stopping first: what is decided below must not be decided by one who may not.
                biased;
                () = context.shutdown.requested() => Input::Stop,
                Ok(()) = leads.changed() => Input::Leads(*leads.borrow_and_update()),
                input = self.next() => input,
                () = sleep_until(timeout) => Input::Time,
            };
            if self.take(context, leadership, input).is_break() {
                return;
            }
            // What else has arrived belongs to the same decision: so the oldest Service is served first, and a pool
            // that moves from one object to another clears nothing in between.
            for _ in 0..1024 {
                match self.next().now_or_never() {
                    Some(input) => {
                        let _ = self.take(context, leadership, input);
                    }
                    None => break,
                }
            }
            self.catch_up(context);
            if *leads.borrow() == self.leads {
                self.act(&context.namespace);
            }
        }
    }

    async fn next(&mut self) -> Input {
        tokio::select! {
            Some(change) = self.services.next() => Input::Service(Box::new(change)),
            Some(change) = self.namespaces.next() => Input::Namespace(change),
            Some(change) = self.pools.next() => Input::Pool(change),
            Some(change) = self.advertisements.next() => Input::Advertisement(change),
            Some(change) = self.states.next() => Input::State(change),
            Some(change) = self.announcers.next() => Input::GratuitousSchedule(change),
            Some(written) = self.writes.next() => Input::Written(Box::new(written)),
            else => pending().await,
        }
    }

    fn take(
        &mut self,
        context: &Context,
        leadership: &Leadership,
        input: Input,
    ) -> std::ops::ControlFlow<()> {
        // A standby says nothing of who announces an address.
        if !self.leads && !matches!(input, Input::GratuitousSchedule(_)) {
            self.standby.changed(Instant::now());
        }
        match input {
            Input::Stop => return std::ops::ControlFlow::Break(()),
            Input::Time => {}
            Input::Leads(leads) => self.take_leadership(context, leads, &leadership.predecessor_handoff()),
            Input::Service(change) => {
                self.client_metrics.updates.inc();
                let listed = matches!(*change, Change::Synced);
                let changed = self.index.service(*change);
                if let Some(leading) = &mut self.leading {
                    leading.services_changed(changed);
                }
                if listed {
                    self.listed.services = true;
                    self.listed.services_gate.open();
                }
            }
            Input::Namespace(change) => {
                if matches!(change, Change::Synced) {
                    self.listed.namespaces = true;
                    self.listed.namespaces_gate.open();
                }
                if self.index.namespace(change)
                    && let Some(leading) = &mut self.leading
                {
                    leading.pools_changed();
                }
            }
            Input::Pool(change) => {
                self.client_metrics.updates.inc();
                if matches!(change, Change::Synced) {
                    self.listed.pools = true;
                    self.listed.pools_gate.open();
                    self.client_metrics.config_loaded.set(1);
                }
                if self.index.pool(change)
                    && let Some(leading) = &mut self.leading
                {
                    leading.pools_changed();
                }
            }
            Input::Advertisement(change) => {
                self.client_metrics.updates.inc();
                if matches!(change, Change::Synced) {
                    self.listed.advertisements = true;
                    self.listed.advertisements_gate.open();
                }
                self.index.advertisement(change);
            }
            // Nothing waits for it: it is told, not asked.
            Input::State(change) => self.index.state.take(change),
            // Nor for this: addresses are given whether somebody announces them or not.
            Input::GratuitousSchedule(change) => {
                let touched = self.index.announcers.take(change);
                if let Some(leading) = &mut self.leading {
                    leading.announcers_changed(touched);
                }
            }
            Input::Written(written) => {
                let (write, outcome) = *written;
                if matches!(outcome, Outcome::Failed { .. }) {
                    self.client_metrics.update_errors.inc();
                }
                if let Some(leading) = &mut self.leading {
                    leading.written(&mut self.index, write, outcome, Instant::now());
                }
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    fn take_leadership(&mut self, context: &Context, leads: bool, inherited: &str) {
        if self.leads == leads {
            return;
        }
        self.leads = leads;
        self.leading = None;
        self.listed.awaits = None;
        self.standby = Standby::default();
        self.metrics.hide();
        // Writes of a lost leadership are dropped at once.
        self.writes.clear();
        if leads {
            // What the watch has delivered may lag behind what the last leader wrote. Where that one has left word of how far
            // it had come, it is enough to come as far.
            match inherited.parse() {
                Ok(newest) => self.listed.awaits = Some((newest, Instant::now() + CATCH_UP)),
                Err(_) => self.list_services(context),
            }
        }
    }

    /// A listing that is begun now lags behind nothing.
    fn list_services(&mut self, context: &Context) {
        self.listed.services = false;
        self.services = watch::services(&context.client);
    }

    /// Sees whether the watch has brought what it is to bring.
    fn catch_up(&mut self, context: &Context) {
        let Some((newest, until)) = self.listed.awaits else {
            return;
        };
        if self.index.has_heard_of(newest) {
            self.listed.awaits = None;
        } else if until <= Instant::now() {
            // A listing under way may end with it.
            if self.listed.services {
                self.listed.awaits = None;
                self.list_services(context);
            } else {
                self.listed.awaits = Some((newest, Instant::now() + CATCH_UP));
            }
        }
    }

    /// Lets writes under way end. Returns whether they did.
    async fn drain(&mut self) -> bool {
        let ended = tokio::time::timeout(DRAIN, self.writes.by_ref().collect::<Vec<_>>()).await;
        let Ok(written) = ended else {
            tracing::warn!("writes have not ended: the lease runs out by itself");
            return false;
        };
        for (write, outcome) in written {
            if let Some(leading) = &mut self.leading {
                leading.written(&mut self.index, write, outcome, Instant::now());
            }
        }
        true
    }

    /// How far this leader knows what Services show; nothing where it is not certain, or does not lead.
    fn newest(&self) -> Option<u64> {
        let leading = self.leading.as_ref()?;
        leading.is_certain().then(|| self.index.newest())
    }

    /// Decides, if this process leads and has seen everything, and sends what comes of it.
    fn act(&mut self, namespace: &str) {
        if self.leading.is_none() && !self.listed.all() {
            return;
        }
        if !self.leads {
            for report in self.standby.look(&self.index, Instant::now(), Timestamp::now()) {
                report.log();
            }
            return;
        }
        let leading = self.leading.get_or_insert_with(|| Leading::new(&self.index));
        let (now, time) = (Instant::now(), Timestamp::now());
        leading.decide(&self.index, now, time);
        while let Some(write) = leading.next_write(&self.index, now, time) {
            self.writes.push(self.writer.clone().send(write).boxed());
        }
        for report in leading.take_reports() {
            report.log();
            if report.is_known() {
                continue;
            }
            let event = report.event();
            self.events.publish(
                report.regarding(namespace),
                event.kind,
                &event.reason,
                event.action,
                event.note,
            );
        }
        self.metrics.show(leading.allocator());
        let invalid = leading.allocator().pools().any(|(_, pool)| pool.is_err());
        self.client_metrics.config_stale.set(invalid.into());
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => pending().await,
    }
}
