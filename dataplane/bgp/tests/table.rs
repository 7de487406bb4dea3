//! The table of prefixes, compared with a naive one.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use lb_bgp::table::{AdvertisementId, Table, Version};
use lb_bgp::wire::Family;
use proptest::prelude::*;

type Routes = BTreeSet<(IpNet, AdvertisementId)>;
type Model = BTreeMap<u8, Routes>;

#[derive(Clone, Debug)]
enum Step {
    Set(u8, Routes),
    AdvertisementChanged(AdvertisementId),
    /// A session sends everything that changed.
    Send(usize),
    Forget,
}

fn prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (0..6_u8).prop_map(|last| format!("192.0.2.{last}/32").parse().unwrap()),
        Just("192.0.2.0/29".parse().unwrap()),
        (0..3_u8).prop_map(|last| format!("2001:db8::{last}/128").parse().unwrap()),
    ]
}

fn advertisement() -> impl Strategy<Value = AdvertisementId> {
    (0..4_u32).prop_map(AdvertisementId)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5_u8, proptest::collection::btree_set((prefix(), advertisement()), 0..5))
            .prop_map(|(service, routes)| Step::Set(service, routes)),
        1 => advertisement().prop_map(Step::AdvertisementChanged),
        2 => (0..2_usize).prop_map(Step::Send),
        1 => Just(Step::Forget),
    ]
}

/// The advertisements of each prefix, computed from scratch.
fn by_prefix(model: &Model) -> BTreeMap<IpNet, BTreeSet<AdvertisementId>> {
    let mut prefixes: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (prefix, advertisement) in model.values().flatten() {
        prefixes.entry(*prefix).or_default().insert(*advertisement);
    }
    prefixes
}

/// A session: the version that it has sent, and what its router has learned.
#[derive(Default)]
struct Session {
    sent: Version,
    learned: BTreeMap<IpNet, BTreeSet<AdvertisementId>>,
}

impl Session {
    fn send(&mut self, table: &Table<u8>) {
        for change in table.changes_since(self.sent) {
            if change.advertisements.is_empty() {
                self.learned.remove(&change.prefix);
            } else {
                self.learned
                    .insert(change.prefix, (**change.advertisements).clone());
            }
        }
        self.sent = table.version();
    }
}

proptest! {
    #[test]
    fn every_session_learns_the_naive_result(steps in proptest::collection::vec(step(), 0..60)) {
        let mut table = Table::default();
        let mut model = Model::new();
        let mut sessions = [Session::default(), Session::default()];
        for step in steps {
            match step {
                Step::Set(service, routes) => {
                    let before = by_prefix(&model);
                    model.insert(service, routes.clone());
                    let changed = table.set_service(service, routes);
                    prop_assert_eq!(changed, by_prefix(&model) != before);
                }
                Step::AdvertisementChanged(id) => {
                    let sent = table.version();
                    table.advertisement_changed(id);
                    let again: BTreeSet<_> = table.changes_since(sent).map(|change| change.prefix).collect();
                    let expected = by_prefix(&model).into_iter().filter(|(_, set)| set.contains(&id));
                    prop_assert_eq!(again, expected.map(|(prefix, _)| prefix).collect());
                }
                Step::Send(session) => sessions[session].send(&table),
                Step::Forget => {
                    let sent = sessions.iter().map(|session| session.sent).min().unwrap();
                    table.forget_withdrawals(sent);
                }
            }
        }
        for session in &mut sessions {
            session.send(&table);
            prop_assert_eq!(&session.learned, &by_prefix(&model));
        }
        for family in Family::ALL {
            let expected = by_prefix(&model).into_keys().filter(|prefix| Family::of(prefix.addr()) == family);
            prop_assert_eq!(table.count_prefixes(family, |_| true), expected.count());
        }
        // Once everybody has sent everything, no withdrawal is left; a new session sends what is announced.
        table.forget_withdrawals(table.version());
        prop_assert_eq!(table.changes_since(Version::default()).count(), by_prefix(&model).len());
    }
}

/// A shared address and an aggregate keep their prefix when one of two Services goes, without a message.
#[test]
fn prefix_stays_until_its_last_service_goes() {
    let mut table = Table::default();
    let routes = || BTreeSet::from([("192.0.2.0/24".parse().unwrap(), AdvertisementId(1))]);
    assert!(table.set_service("a", routes()));
    assert!(!table.set_service("b", routes()));
    assert!(!table.set_service("a", BTreeSet::new()));
    assert!(table.set_service("b", BTreeSet::new()));
    assert_eq!(table.changes_since(Version(1)).count(), 1);
}
