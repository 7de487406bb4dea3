//! `watch`: prints what changes. The first lists are only remembered.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::stream::{BoxStream, StreamExt, select_all};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use lb_crds::condition::find_condition;
use lb_crds::names::{ADDRESS_ASSIGNED, SPEAKER_STATE_PREFIX};
use lb_crds::{ConfigurationState, LoadBalancerStack, ServiceL2Status};
use lb_runtime::ObjectKey;
use serde::de::DeserializeOwned;

use crate::report::{note, write};
use crate::snapshot::{addresses, is_load_balancer};

/// An object reduced to what is printed, and the lines about a change.
pub(crate) trait Watched: Sized {
    /// The object in the API.
    type Object;
    /// `None` if it is of no interest.
    fn read(object: &Self::Object) -> Option<Self>;
    /// The change.
    fn changes(key: &ObjectKey, before: Option<&Self>, after: Option<&Self>) -> Vec<String>;
}

/// The known objects of a kind.
pub(crate) struct Known<W> {
    objects: BTreeMap<ObjectKey, W>,
    /// The objects of a list that is not complete.
    listing: BTreeMap<ObjectKey, W>,
    /// Whether the first list is complete.
    listed: bool,
}

impl<W> Default for Known<W> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listing: BTreeMap::new(),
            listed: false,
        }
    }
}

impl<W: Watched> Known<W>
where
    W::Object: Resource,
{
    /// Applies an event and returns the lines to print.
    pub(crate) fn apply(&mut self, event: Event<W::Object>) -> Vec<String> {
        match event {
            Event::Init => {
                self.listing.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(read) = W::read(&object) {
                    self.listing.insert(ObjectKey::of(&object), read);
                }
                Vec::new()
            }
            Event::InitDone => {
                let after = std::mem::take(&mut self.listing);
                let before = std::mem::replace(&mut self.objects, after);
                if !std::mem::replace(&mut self.listed, true) {
                    return Vec::new();
                }
                let gone = before.iter().filter(|(key, _)| !self.objects.contains_key(*key));
                let mut lines: Vec<_> = gone
                    .flat_map(|(key, one)| W::changes(key, Some(one), None))
                    .collect();
                let now = self.objects.iter();
                lines.extend(now.flat_map(|(key, one)| W::changes(key, before.get(key), Some(one))));
                lines
            }
            Event::Apply(object) => {
                let key = ObjectKey::of(&object);
                let after = W::read(&object);
                let lines = W::changes(&key, self.objects.get(&key), after.as_ref());
                match after {
                    Some(after) => self.objects.insert(key, after),
                    None => self.objects.remove(&key),
                };
                lines
            }
            Event::Delete(object) => {
                let key = ObjectKey::of(&object);
                let before = self.objects.remove(&key);
                W::changes(&key, before.as_ref(), None)
            }
        }
    }
}

/// A Service: its addresses, and why it lacks one.
pub(crate) struct ServiceState {
    addresses: Vec<String>,
    problem: Option<String>,
}

impl Watched for ServiceState {
    type Object = Service;

    fn read(object: &Service) -> Option<Self> {
        if !is_load_balancer(object) {
            return None;
        }
        let conditions = object
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_deref());
        let condition = find_condition(conditions.unwrap_or_default(), ADDRESS_ASSIGNED);
        Some(Self {
            addresses: addresses(object).iter().map(ToString::to_string).collect(),
            problem: condition
                .filter(|condition| condition.status == "False")
                .map(|condition| condition.message.clone()),
        })
    }

    fn changes(key: &ObjectKey, before: Option<&Self>, after: Option<&Self>) -> Vec<String> {
        let of = |state: Option<&Self>| state.map(|state| state.addresses.clone()).unwrap_or_default();
        let (old, new) = (of(before), of(after));
        let mut lines = Vec::new();
        for address in old.iter().filter(|address| !new.contains(address)) {
            lines.push(format!("released   {address}  {key}"));
        }
        for address in new.iter().filter(|address| !old.contains(address)) {
            lines.push(format!("assigned   {address}  {key}"));
        }
        let problem = |state: Option<&Self>| state.and_then(|state| state.problem.clone());
        if let Some(now) = problem(after).filter(|now| problem(before).as_ref() != Some(now)) {
            lines.push(format!("rejected   {key}: {now}"));
        }
        lines
    }
}

/// The announcement of a Service.
pub(crate) struct Announcement {
    service: String,
    address: String,
    node: String,
    verified: Option<bool>,
    conflict: Option<String>,
    problem: Option<String>,
}

impl Watched for Announcement {
    type Object = ServiceL2Status;

    fn read(object: &ServiceL2Status) -> Option<Self> {
        let status = object.status.clone()?;
        let condition = |type_: &str| find_condition(&status.conditions, type_);
        Some(Self {
            service: format!("{}/{}", status.service_namespace, status.service_name),
            verified: condition(lb_crds::names::VERIFIED).map(|one| one.status == "True"),
            problem: condition(lb_crds::names::NOT_ANNOUNCED)
                .filter(|one| one.status == "False")
                .map(|one| one.message.clone()),
            conflict: status.conflicting_mac.clone(),
            address: status.address.clone(),
            node: status.node.clone(),
        })
    }

    fn changes(_: &ObjectKey, before: Option<&Self>, after: Option<&Self>) -> Vec<String> {
        let Some(one) = after.or(before) else {
            return Vec::new();
        };
        let subject = format!("{}  {}", one.address, one.service);
        let node = |state: Option<&Self>| state.map_or("", |state| state.node.as_str()).to_owned();
        let mut lines = Vec::new();
        match (node(before).as_str(), node(after).as_str()) {
            (old, new) if old == new => {}
            ("", new) => lines.push(format!("announced  {subject}  by {new}")),
            (old, "") => lines.push(format!("withdrawn  {subject}  by {old}")),
            (old, new) => lines.push(format!("moved      {subject}  from {old} to {new}")),
        }
        let conflict = |state: Option<&Self>| state.and_then(|state| state.conflict.clone());
        match (conflict(before), conflict(after)) {
            (old, new) if old == new => {}
            (_, Some(mac)) => lines.push(format!("conflict   {subject}  {mac} answers, too")),
            (_, None) => lines.push(format!("conflict   {subject}  is over")),
        }
        let verified = |state: Option<&Self>| state.and_then(|state| state.verified);
        match (verified(before), verified(after)) {
            (old, new) if old == new => {}
            (_, Some(false)) => lines.push(format!("no reply   {subject}  from {}", one.node)),
            (Some(false), Some(true)) => lines.push(format!("reply      {subject}  from {} again", one.node)),
            _ => {}
        }
        let problem = |state: Option<&Self>| state.and_then(|state| state.problem.clone());
        if let Some(now) = problem(after).filter(|now| problem(before).as_ref() != Some(now)) {
            lines.push(format!("not announced  {subject}: {now}"));
        }
        lines
    }
}

/// The phase of the stack and the step of its upgrade.
pub(crate) struct StackState {
    phase: String,
    step: Option<String>,
}

impl Watched for StackState {
    type Object = LoadBalancerStack;

    fn read(object: &LoadBalancerStack) -> Option<Self> {
        let status = object.status.as_ref()?;
        Some(Self {
            phase: status.phase.map_or("unknown", |phase| phase.as_str()).to_owned(),
            step: status
                .upgrade
                .as_ref()
                .map(|one| format!("{} to {}: {}", one.from.version, one.to.version, one.step)),
        })
    }

    fn changes(_: &ObjectKey, before: Option<&Self>, after: Option<&Self>) -> Vec<String> {
        let phase = |state: Option<&Self>| state.map(|state| state.phase.clone());
        let step = |state: Option<&Self>| state.and_then(|state| state.step.clone());
        let mut lines = Vec::new();
        if phase(before) != phase(after) {
            lines.push(format!(
                "stack      {}",
                phase(after).unwrap_or_else(|| "deleted".to_owned())
            ));
        }
        if let Some(now) = step(after).filter(|now| step(before).as_ref() != Some(now)) {
            lines.push(format!("upgrade    {now}"));
        }
        lines
    }
}

/// The peers that a speaker does not hear.
pub(crate) struct Unheard(Vec<String>);

impl Watched for Unheard {
    type Object = ConfigurationState;

    fn read(object: &ConfigurationState) -> Option<Self> {
        Some(Self(object.status.as_ref()?.unheard_peers.clone()))
    }

    fn changes(key: &ObjectKey, before: Option<&Self>, after: Option<&Self>) -> Vec<String> {
        let Some(node) = key.name().strip_prefix(SPEAKER_STATE_PREFIX) else {
            return Vec::new();
        };
        let of = |state: Option<&Self>| state.map(|state| state.0.clone()).unwrap_or_default();
        let (old, new) = (of(before), of(after));
        match (old == new, new.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => vec![format!("heartbeats {node} hears every node again")],
            (false, false) => vec![format!("heartbeats {node} does not hear {}", new.join(", "))],
        }
    }
}

fn stream<W>(api: Api<DeserializeGuard<W::Object>>) -> BoxStream<'static, Vec<String>>
where
    W: Watched + Send + 'static,
    W::Object: Clone + Debug + DeserializeOwned + Resource + Send + 'static,
{
    // Retries with a pause, without end.
    let events = watcher::DefaultBackoff::default();
    let events = kube::runtime::WatchStreamExt::backoff(watcher(api, watcher::Config::default()), events);
    let lines = events.scan(Known::<W>::default(), |known, event| {
        let lines = match event {
            Ok(event) => decoded(event).map_or_else(Vec::new, |event| known.apply(event)),
            Err(error) => {
                note(&format!("the connection was lost, trying again: {error}"));
                Vec::new()
            }
        };
        std::future::ready(Some(lines))
    });
    lines.boxed()
}

/// The event, if its object can be decoded.
fn decoded<K>(event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
    Some(match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(object.0.ok()?),
        Event::Apply(object) => Event::Apply(object.0.ok()?),
        Event::Delete(object) => Event::Delete(object.0.ok()?),
    })
}

/// Prints changes until it is interrupted.
pub(crate) async fn watch(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let mut lines = select_all([
        stream::<ServiceState>(Api::all(client.clone())),
        stream::<Announcement>(Api::namespaced(client.clone(), namespace)),
        stream::<StackState>(Api::all(client.clone())),
        stream::<Unheard>(Api::namespaced(client.clone(), namespace)),
    ]);
    note("Watching; end with Ctrl-C.");
    while let Some(lines) = lines.next().await {
        let now = Timestamp::from_second(Timestamp::now().as_second())?;
        for line in lines {
            write(&format!("{now}  {line}\n"))?;
        }
    }
    Ok(())
}
