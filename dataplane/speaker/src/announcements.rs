//! The addresses that this node announces, and what people are told of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use lb_l2::MacAddr;
use lb_l2::ownership::{AcquireReason, ReleaseReason};
use lb_runtime::ObjectKey;

use crate::decide::{Announcement, Decision};
use crate::k8s::events::{EventReason, ServiceEvent};
use crate::k8s::l2_status::DesiredStatus;
use crate::reasons::WithdrawReason;
use crate::small_map::SmallMap;
use crate::speaker::Speaker;
use crate::verification::{AddressHealth, ConflictingHost, Verification};

/// How long a lost ServiceL2Status is left alone, for its new owner to overwrite it.
const LINGER: Duration = Duration::from_secs(2);

/// An address that we announce.
#[derive(Debug)]
pub(crate) struct ActiveAnnouncement {
    announcement: Announcement,
    /// InterfaceSelection that it is announced on.
    on: Box<[Arc<str>]>,
    /// Services that know that we announce.
    told: SmallMap<ObjectKey, ()>,
    /// Whether another node that asked for it was answered, which one, and since when that is so.
    check: Option<(Arc<str>, bool, Instant)>,
}

impl Speaker {
    /// What the ServiceL2Status of a Service has to say of us; none when it is not ours to write. `now` and `time` are the
    /// same moment.
    #[must_use]
    pub fn record_of(&self, service: &ObjectKey, now: Instant, time: Timestamp) -> Option<DesiredStatus> {
        let address = self.index.services.get(service)?.first()?;
        let held = self.held.get(&address)?;
        let announced = held.announcement.services.contains_key(service) && !held.on.is_empty();
        let since = |at: Instant| {
            let seconds = now.saturating_duration_since(at).as_secs();
            time.as_second() - i64::try_from(seconds).unwrap_or_default()
        };
        announced.then(|| DesiredStatus {
            address,
            interfaces: held.announcement.interfaces.names(),
            health: AddressHealth {
                verification: held.check.as_ref().map(|(by, answered, at)| Verification {
                    by: by.clone(),
                    answered: *answered,
                    since: since(*at),
                }),
                conflict: self.strangers.get(&address).map(|(mac, at)| ConflictingHost {
                    mac: *mac,
                    since: since(*at),
                }),
            },
        })
    }

    /// The address came to us.
    pub(crate) fn announce(&mut self, now: Instant, address: IpAddr, cause: AcquireReason) {
        // What it is about may have changed since the candidates were found; then it is settled once more, and held or let
        // go as it is then.
        let Decision::Candidates {
            mine: Ok(announcement),
            ..
        } = self.decision(address)
        else {
            return;
        };
        self.metrics.gained(&cause, now);
        let node = &self.config.node;
        match &cause {
            AcquireReason::Failover { from, last_heard } => {
                let silent = now.saturating_duration_since(*last_heard);
                tracing::info!(ip = %address, node, %from, ?silent, "taken over");
            }
            AcquireReason::HandOver { from } => {
                tracing::info!(ip = %address, node, %from, "handed over to this node")
            }
            AcquireReason::Initial | AcquireReason::Restored => {}
        }
        self.hold(now, address, announcement, Some(cause));
    }

    /// Announces an address, or changes how.
    pub(crate) fn hold(
        &mut self,
        now: Instant,
        address: IpAddr,
        announcement: Announcement,
        cause: Option<AcquireReason>,
    ) {
        self.looks.insert(address);
        let interfaces = announcement.interfaces.clone();
        let (before, rewire) = match self.held.get_mut(&address) {
            Some(held) if held.announcement == announcement => return,
            Some(held) => {
                let rewire = held.announcement.interfaces != interfaces;
                (
                    std::mem::replace(&mut held.announcement, announcement).services,
                    rewire,
                )
            }
            None => {
                // Ours before this process began: no change of owner, so no event.
                let told = match cause {
                    Some(AcquireReason::Restored) => announcement
                        .services
                        .keys()
                        .map(|key| (key.clone(), ()))
                        .collect(),
                    _ => SmallMap::default(),
                };
                let held = ActiveAnnouncement {
                    announcement,
                    on: Box::default(),
                    told,
                    check: None,
                };
                self.held.insert(address, held);
                (SmallMap::default(), true)
            }
        };
        if rewire {
            self.announcer.announce(now, address, interfaces);
        }
        let Some(held) = self.held.get(&address) else {
            return;
        };
        let after = &held.announcement.services;
        for service in before.keys().filter(|service| !after.contains_key(*service)) {
            self.metrics.withdrawn(service, address);
            self.records.enter(service.clone(), now + LINGER);
        }
        for service in after.keys() {
            self.metrics.announced(service, address);
            self.records.enter(service.clone(), now);
        }
    }

    /// The address is ours no more.
    pub(crate) fn withdraw(&mut self, now: Instant, address: IpAddr, why: ReleaseReason) {
        let ended = match self.decision(address) {
            Decision::Unused => WithdrawReason::Released,
            Decision::Nobody { reason, .. } => WithdrawReason::Nobody(reason),
            Decision::Candidates { mine, .. } => WithdrawReason::LetGo(why, mine.err()),
        };
        let Some(held) = self.held.remove(&address) else {
            return;
        };
        self.announcer.withdraw(address);
        self.looks.remove(&address);
        let (node, reason) = (&self.config.node, ended.describe(address));
        for service in held.announcement.services.keys() {
            tracing::info!(%service, ip = %address, node, reason, "withdrawn");
            self.metrics.withdrawn(service, address);
            self.records.enter(service.clone(), now + LINGER);
        }
    }

    /// Compares the interfaces of announced addresses with what has been told of them.
    pub(crate) fn look(&mut self, now: Instant) {
        for address in std::mem::take(&mut self.looks) {
            let on = self.announcer.interfaces_of(address);
            let Some(held) = self.held.get_mut(&address) else {
                continue;
            };
            let changed = held.on != on;
            if held.on.is_empty() != on.is_empty() {
                let at = if on.is_empty() { now + LINGER } else { now };
                for service in held.announcement.services.keys() {
                    self.records.enter(service.clone(), at);
                }
            }
            held.on = on;
            let before = std::mem::take(&mut held.told);
            let services = held.announcement.services.keys();
            held.told = services
                .filter(|service| !held.on.is_empty() || before.contains_key(*service))
                .map(|service| (service.clone(), ()))
                .collect();
            if held.on.is_empty() {
                continue;
            }
            let (node, pool) = (&self.config.node, &held.announcement.pool);
            for (service, uid) in held.announcement.services.iter() {
                let new = !before.contains_key(service);
                if new || changed {
                    let interfaces = held.on.join(",");
                    tracing::info!(%service, ip = %address, node, interfaces, %pool, "announcing");
                }
                if new {
                    self.news.push(ServiceEvent {
                        service: service.clone(),
                        uid: uid.clone(),
                        address,
                        matter: EventReason::Announcing,
                    });
                }
            }
        }
    }

    /// Tells why nobody announces an address.
    pub(crate) fn tell(&mut self, address: IpAddr) {
        let matter = match self.unannounced.get(&address) {
            Some(reason) => EventReason::NotAnnounced(reason.describe(address)),
            // No node has an interface for it, as far as we can see, who would be first.
            None if self.coordinator.owner(address).is_none() => EventReason::NoInterface,
            None => return,
        };
        self.publish(address, &matter);
    }

    /// A stranger answers for an address of ours, or for one that we would take.
    pub(crate) fn conflict(&mut self, now: Instant, address: IpAddr, mac: MacAddr) {
        self.metrics.conflict(address);
        self.strangers.entry(address).or_insert((mac, now)).0 = mac;
        self.enter_records(now, address);
        self.publish(address, &EventReason::Conflict(mac));
    }

    /// The stranger is gone.
    pub(crate) fn conflict_over(&mut self, now: Instant, address: IpAddr) {
        self.metrics.conflict_over(address);
        self.strangers.remove(&address);
        self.enter_records(now, address);
        tracing::info!(ip = %address, "the stranger that answered for the address was not seen any more");
    }

    /// Another speaker has asked the wire for an address of ours.
    pub(crate) fn verified(&mut self, now: Instant, address: IpAddr, by: Arc<str>, answered: bool) {
        self.metrics.verified(answered);
        if let Some(held) = self.held.get_mut(&address)
            && held
                .check
                .as_ref()
                .is_none_or(|(_, before, _)| *before != answered)
        {
            held.check = Some((by.clone(), answered, now));
            self.enter_records(now, address);
        }
        if answered {
            tracing::debug!(ip = %address, %by, "seen by another node");
        } else {
            tracing::warn!(ip = %address, %by, "another node asked for the address and was not answered");
            // Whatever it was that was lost, the announcement may have been lost with it.
            self.announcer.again(now, address);
        }
    }

    /// The statuses of the Services that have an address of ours may have something else to say.
    fn enter_records(&mut self, now: Instant, address: IpAddr) {
        let held = self.held.get(&address);
        for service in held.iter().flat_map(|held| held.announcement.services.keys()) {
            self.records.enter(service.clone(), now);
        }
    }

    fn publish(&mut self, address: IpAddr, matter: &EventReason) {
        for (service, object) in self.index.having(address) {
            tracing::warn!(%service, ip = %address, node = self.config.node, "{}", matter.describe(address, &self.config.node));
            self.news.push(ServiceEvent {
                service: service.clone(),
                uid: object.uid.clone(),
                address,
                matter: matter.clone(),
            });
        }
    }
}
