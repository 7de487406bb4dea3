//! The addresses that this node announces, with their Services, interfaces and verification.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use lb_runtime::ObjectKey;

use crate::decide::Announcement;
use crate::small_map::SmallMap;

/// An address that this node announces.
#[derive(Debug)]
pub(crate) struct ActiveAnnouncement {
    pub(crate) announcement: Arc<Announcement>,
    /// Interfaces that it is announced on now.
    pub(crate) interfaces: Box<[Arc<str>]>,
    /// Services that have the event of this announcement.
    reported: SmallMap<ObjectKey, ()>,
    pub(crate) verification: Option<VerificationResult>,
}

/// A verification by another node.
#[derive(Debug)]
pub(crate) struct VerificationResult {
    pub(crate) by: Arc<str>,
    pub(crate) answered: bool,
    /// Since when the result is the same.
    pub(crate) since: Instant,
}

/// The difference that [`Announcements::set`] made.
#[derive(Debug)]
pub(crate) struct AnnouncementChange {
    /// Services that are new, or whose interfaces changed.
    pub(crate) new_services: Vec<ObjectKey>,
    /// Services that no longer have the address, or cannot be announced any longer.
    pub(crate) removed_services: Vec<ObjectKey>,
    /// Whether the selection of interfaces changed.
    pub(crate) selection_changed: bool,
}

/// The difference that [`Announcements::set_interfaces`] made.
#[derive(Debug)]
pub(crate) struct InterfaceChange {
    pub(crate) changed: bool,
    /// Whether the first interface came or the last one went.
    pub(crate) availability_changed: bool,
    /// Services without an event of this announcement so far.
    pub(crate) new_services: Vec<ObjectKey>,
}

/// All addresses that this node announces.
#[derive(Debug, Default)]
pub(crate) struct Announcements {
    active: BTreeMap<IpAddr, ActiveAnnouncement>,
    /// Addresses whose interfaces may have changed.
    interfaces_dirty: BTreeSet<IpAddr>,
}

impl Announcements {
    pub(crate) fn get(&self, address: IpAddr) -> Option<&ActiveAnnouncement> {
        self.active.get(&address)
    }

    pub(crate) fn len(&self) -> usize {
        self.active.len()
    }

    /// The Services that the address is announced for.
    pub(crate) fn services(&self, address: IpAddr) -> impl Iterator<Item = &ObjectKey> {
        let active = self.active.get(&address).into_iter();
        active.flat_map(|active| active.announcement.services.keys())
    }

    /// Announces the address, or changes its announcement. `None` if nothing changed. A `restored` address was announced
    /// before this process started: no change of owner, so no event.
    pub(crate) fn set(
        &mut self,
        address: IpAddr,
        announcement: Arc<Announcement>,
        restored: bool,
    ) -> Option<AnnouncementChange> {
        self.interfaces_dirty.insert(address);
        let Some(active) = self.active.get_mut(&address) else {
            let services = announcement.services.keys().filter(|_| restored);
            let new_services = announcement.services.keys().cloned().collect();
            let active = ActiveAnnouncement {
                reported: services.map(|key| (key.clone(), ())).collect(),
                announcement,
                interfaces: Box::default(),
                verification: None,
            };
            self.active.insert(address, active);
            return Some(AnnouncementChange {
                new_services,
                removed_services: Vec::new(),
                selection_changed: true,
            });
        };
        if active.announcement == announcement {
            return None;
        }
        let before = std::mem::replace(&mut active.announcement, announcement);
        let after = &active.announcement;
        let selection_changed = before.interfaces != after.interfaces;
        // The ServiceL2Status of each Service names the interfaces.
        let new = after
            .services
            .keys()
            .filter(|service| selection_changed || !before.services.contains_key(*service));
        let removed = before
            .services
            .keys()
            .filter(|service| !after.services.contains_key(*service));
        Some(AnnouncementChange {
            new_services: new.cloned().collect(),
            removed_services: removed.cloned().collect(),
            selection_changed,
        })
    }

    /// Withdraws the address.
    pub(crate) fn remove(&mut self, address: IpAddr) -> Option<ActiveAnnouncement> {
        self.interfaces_dirty.remove(&address);
        self.active.remove(&address)
    }

    pub(crate) fn mark_all_interfaces_dirty(&mut self) {
        self.interfaces_dirty.extend(self.active.keys());
    }

    pub(crate) fn take_interfaces_dirty(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.interfaces_dirty)
    }

    /// Sets the interfaces that the address is announced on now.
    pub(crate) fn set_interfaces(
        &mut self,
        address: IpAddr,
        interfaces: Box<[Arc<str>]>,
    ) -> Option<InterfaceChange> {
        let active = self.active.get_mut(&address)?;
        let before = std::mem::replace(&mut active.interfaces, interfaces);
        let available = !active.interfaces.is_empty();
        let reported = std::mem::take(&mut active.reported);
        let services = active.announcement.services.keys();
        active.reported = services
            .filter(|service| available || reported.contains_key(*service))
            .map(|service| (service.clone(), ()))
            .collect();
        let new = active
            .reported
            .keys()
            .filter(|service| !reported.contains_key(*service));
        Some(InterfaceChange {
            changed: before != active.interfaces,
            availability_changed: before.is_empty() == available,
            new_services: new.cloned().collect(),
        })
    }

    /// Records a verification. Returns whether the result differs from the last one.
    pub(crate) fn set_verification(
        &mut self,
        now: Instant,
        address: IpAddr,
        by: &Arc<str>,
        answered: bool,
    ) -> bool {
        let Some(active) = self.active.get_mut(&address) else {
            return false;
        };
        let last = active.verification.as_ref();
        if last.is_some_and(|last| last.answered == answered) {
            return false;
        }
        active.verification = Some(VerificationResult {
            by: by.clone(),
            answered,
            since: now,
        });
        true
    }
}
