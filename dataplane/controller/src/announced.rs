//! Who announces the Services' addresses, as their speakers say in ServiceL2Statuses, and what a Service's condition says
//! of that. So that `kubectl wait --for=condition=lb-operator.io/Announced service/web` does what its user expects.
//!
//! Speakers write what they do into objects of their own, and may not write Services: each of them could then change
//! every Service of the cluster. The controller may, and repeats it there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_crds::condition::find_condition;
use lb_crds::names::{ADDRESS_CONFLICT, NO_REPLY, VERIFIED};
use lb_crds::{ServiceL2Status, ServiceL2StatusStatus};
use lb_ipam::Addresses;
use lb_runtime::ObjectKey;
use lb_runtime::watch::Change;

use crate::condition::Says;

/// What the ServiceL2Statuses say: 250 bytes or so for each Service.
#[derive(Debug, Default)]
pub struct Announcers {
    /// Whether all there are have been listed: before that nothing is known of a Service without one.
    listed: bool,
    /// By the name of the object.
    records: BTreeMap<Arc<str>, Record>,
    /// The names, by Service: MetalLB leaves more than one behind.
    names: BTreeSet<(ObjectKey, Arc<str>)>,
    /// Each place once, however many addresses are announced from there.
    places: BTreeSet<Arc<str>>,
}

/// What one ServiceL2Status says.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Record {
    service: ObjectKey,
    /// The address that it is about; none if MetalLB has written it.
    address: Option<IpAddr>,
    /// The node, and the interfaces after a slash.
    place: Arc<str>,
    trouble: Option<Box<Trouble>>,
}

/// What is wrong with an address that a node announces.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Trouble {
    reason: &'static str,
    message: String,
}

/// Which Services a change concerns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Touched {
    /// These.
    These(Vec<ObjectKey>),
    /// All: everything has been listed.
    All,
}

impl Announcers {
    /// Takes in a change of ServiceL2Statuses. Returns the Services whose condition may have something else to say.
    pub fn take(&mut self, change: Change<ServiceL2Status>) -> Touched {
        match change {
            Change::Apply(object) => {
                let name = object.metadata.name.unwrap_or_default();
                let record = object.status.and_then(|status| self.read(status));
                self.replace(&name, record)
            }
            Change::Delete(key) => self.replace(key.name(), None),
            // What was known of it holds.
            Change::Invalid { key, error } => {
                tracing::warn!(servicel2status = %key, error, "cannot be read: left as it is");
                Touched::These(Vec::new())
            }
            Change::Listing => Touched::These(Vec::new()),
            Change::Synced => {
                self.listed = true;
                Touched::All
            }
        }
    }

    /// What the condition of a Service with these addresses is to say, or that it is to go; none to leave it alone.
    /// `shown` is whether there is one.
    #[must_use]
    pub fn says(&self, service: &ObjectKey, addresses: &Addresses, shown: bool) -> Option<Option<Says>> {
        let Some(first) = addresses.iter().next() else {
            // What it has not nobody announces: its other condition says why it has none.
            return Some(None);
        };
        if !self.listed {
            return None;
        }
        let Some(record) = self.record(service) else {
            // A new Service has had no owner yet: that is no news.
            return shown.then(|| Some(nobody(service, first)));
        };
        let address = record.address.unwrap_or(first);
        // About one that it had before: the owner of the new one will say so, or this one will withdraw.
        if !addresses.iter().any(|has| has == address) {
            return None;
        }
        let says = match &record.trouble {
            Some(trouble) => Says::new(false, trouble.reason, trouble.message.clone()),
            None => Says::new(true, "Announced", record.describe(address, addresses)),
        };
        Some(Some(says))
    }

    /// What counts of what is said of a Service: that which says what it is about, as MetalLB's speakers do not.
    fn record(&self, service: &ObjectKey) -> Option<&Record> {
        let from = (service.clone(), Arc::default());
        let names = self.names.range(from..).take_while(|(other, _)| other == service);
        let records = names.filter_map(|(_, name)| self.records.get(name));
        records.min_by_key(|record| record.address.is_none())
    }

    /// Reads a status; none as long as it names nobody.
    fn read(&mut self, status: ServiceL2StatusStatus) -> Option<Record> {
        if status.node.is_empty() {
            return None;
        }
        let interfaces: Vec<_> = status
            .interfaces
            .iter()
            .map(|interface| &*interface.name)
            .collect();
        let place = format!("{}/{}", status.node, interfaces.join(","));
        let trouble = [
            (ADDRESS_CONFLICT, "True", ADDRESS_CONFLICT),
            (VERIFIED, "False", NO_REPLY),
        ];
        let trouble = trouble.into_iter().find_map(|(type_, bad, reason)| {
            let condition = find_condition(&status.conditions, type_)?;
            let message = condition.message.clone();
            (condition.status == bad).then(|| Box::new(Trouble { reason, message }))
        });
        Some(Record {
            service: ObjectKey::new(status.service_namespace, status.service_name),
            address: status.address.parse().ok(),
            place: self.place(place),
            trouble,
        })
    }

    fn place(&mut self, place: String) -> Arc<str> {
        if let Some(known) = self.places.get(&*place) {
            return known.clone();
        }
        // Nodes come and go; those that nobody names any more are forgotten whenever another one comes.
        self.places.retain(|place| Arc::strong_count(place) > 1);
        let place: Arc<str> = place.into();
        self.places.insert(place.clone());
        place
    }

    fn replace(&mut self, name: &str, record: Option<Record>) -> Touched {
        let before = self.records.get_key_value(name);
        if before.map(|(_, before)| before) == record.as_ref() {
            return Touched::These(Vec::new());
        }
        let mut touched = Vec::new();
        if let Some((name, before)) = before {
            let (name, service) = (name.clone(), before.service.clone());
            touched.push(service.clone());
            self.names.remove(&(service, name.clone()));
            self.records.remove(&name);
        }
        if let Some(record) = record {
            let name: Arc<str> = name.into();
            if !touched.contains(&record.service) {
                touched.push(record.service.clone());
            }
            self.names.insert((record.service.clone(), name.clone()));
            self.records.insert(name, record);
        }
        Touched::These(touched)
    }
}

impl Record {
    fn describe(&self, address: IpAddr, addresses: &Addresses) -> String {
        let (node, interfaces) = self.place.split_once('/').unwrap_or((&self.place, ""));
        let on = if interfaces.is_empty() { "" } else { " on " };
        let interfaces = interfaces.replace(',', ", ");
        let others = addresses.iter().filter(|other| *other != address);
        let others: String = others
            .map(|other| format!("; {other} has an owner of its own, which the events of the Service name"))
            .collect();
        format!("node {node} announces {address}{on}{interfaces}{others}")
    }
}

fn nobody(service: &ObjectKey, address: IpAddr) -> Says {
    let (namespace, name) = (service.namespace(), service.name());
    let message = format!(
        "no node announces {address} any more: for the reason see the events of the Service, kubectl describe service \
         {name} -n {namespace}"
    );
    Says::new(false, "NotAnnounced", message)
}
