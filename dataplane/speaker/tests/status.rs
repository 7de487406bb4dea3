//! What is written about owners: only differences, and never over what another node says of itself.

mod support;

use std::net::IpAddr;

use lb_speaker::objects::Record;
use lb_speaker::status::{Action, Says, action, object_name};
use lb_speaker::verdict::{Check, Stranger, Verdict};
use support::{WEB, key, mk_record};

const ME: (&str, &str) = ("n1", "uid-n1");

fn web() -> IpAddr {
    IpAddr::from([192, 168, 50, 52])
}

fn says(interfaces: &[&str], verdict: Verdict) -> Says {
    Says {
        address: web(),
        interfaces: interfaces.iter().map(|name| (*name).into()).collect(),
        verdict,
    }
}

fn decide(wanted: Option<Says>, records: &[(&str, Record)]) -> Option<Action> {
    let records = records.iter().map(|(name, record)| (*name, record));
    action(ME, &key("web"), wanted, records)
}

fn next(wanted: Option<&[&str]>, records: &[(&str, Record)]) -> Option<Action> {
    decide(wanted.map(|names| says(names, Verdict::default())), records)
}

fn write(interfaces: &[&str], alone: bool) -> Option<Action> {
    let says = says(interfaces, Verdict::default());
    Some(Action::Write { says, alone })
}

/// Our status of `web`, with what was said of it before.
fn shown(verdict: &Verdict) -> [(String, Record); 1] {
    let mut record = mk_record("web", "n1", &[]);
    // Through the API and back.
    record.verdict = Verdict::read(&verdict.conditions(web()));
    [(object_name(&key("web")), record)]
}

fn after(shown: &[(String, Record)], verdict: Verdict) -> Option<Verdict> {
    let records: Vec<_> = shown
        .iter()
        .map(|(name, record)| (&**name, record.clone()))
        .collect();
    let action = decide(Some(says(&[], verdict)), &records);
    let alone = matches!(action, None | Some(Action::Write { alone: true, .. }));
    assert!(alone, "the status alone is to be written: {action:?}");
    match action {
        Some(Action::Write { says, .. }) => Some(says.verdict),
        Some(Action::Delete { .. }) | None => None,
    }
}

fn seen(by: &str, answered: bool, since: i64) -> Verdict {
    Verdict {
        check: Some(Check {
            by: by.into(),
            answered,
            since,
        }),
        stranger: None,
    }
}

fn conflict(mac: u8, since: i64) -> Verdict {
    Verdict {
        check: None,
        stranger: Some(Stranger {
            mac: lb_l2::MacAddr([2, 0, 0, 0, 0, mac]),
            since,
        }),
    }
}

fn delete(name: &str) -> Option<Action> {
    Some(Action::Delete {
        name: name.to_owned(),
        version: "7".into(),
    })
}

#[test]
fn the_owner_writes_what_is_not_there_or_says_something_else() {
    let name = object_name(&key("web"));
    assert_eq!(next(Some(&[]), &[]), write(&[], false));
    assert_eq!(
        next(Some(&[]), &[(&name, mk_record("web", "n2", &[]))]),
        write(&[], false)
    );
    assert_eq!(
        next(Some(&["eth0"]), &[(&name, mk_record("web", "n1", &[]))]),
        write(&["eth0"], true)
    );
    let mut other = mk_record("web", "n1", &[]);
    other.address = Some([192, 168, 50, 60].into());
    assert_eq!(next(Some(&[]), &[(&name, other)]), write(&[], true));
    let mut reborn = mk_record("web", "n1", &[]);
    reborn.owner = Some("uid-of-a-former-n1".into());
    assert_eq!(next(Some(&[]), &[(&name, reborn)]), write(&[], false));
}

#[test]
fn nothing_is_written_when_it_says_so_already() {
    let name = object_name(&key("web"));
    assert_eq!(next(Some(&[]), &[(&name, mk_record("web", "n1", &[]))]), None);
    assert_eq!(
        next(Some(&["eth0"]), &[(&name, mk_record("web", "n1", &["eth0"]))]),
        None
    );
    assert_eq!(next(None, &[]), None);
}

#[test]
fn a_status_that_names_us_and_should_not_is_deleted_in_the_version_seen() {
    let name = object_name(&key("web"));
    assert_eq!(next(None, &[(&name, mk_record("web", "n1", &[]))]), delete(&name));
    // Beside our own, as MetalLB left it.
    let ours = mk_record("web", "n1", &[]);
    assert_eq!(
        next(Some(&[]), &[("l2-x7k2p", ours.clone()), (&name, ours)]),
        delete("l2-x7k2p")
    );
}

#[test]
fn what_another_node_says_of_itself_is_left_alone() {
    let name = object_name(&key("web"));
    assert_eq!(next(None, &[(&name, mk_record("web", "n2", &[]))]), None);
    let ours = mk_record("web", "n1", &[]);
    assert_eq!(
        next(
            Some(&[]),
            &[(&name, ours), ("l2-x7k2p", mk_record("web", "n2", &[]))]
        ),
        None
    );
}

#[test]
fn every_service_has_one_name_for_its_status_that_is_a_valid_one() {
    let name = object_name(&key("web"));
    assert_eq!(name, object_name(&key("web")));
    assert_ne!(name, object_name(&lb_runtime::Key::new("other", "web")));
    // Fixed for ever: speakers of different versions must agree.
    assert_eq!(name, "l2-82b3ade9d00cd1642a4d");
}

#[test]
fn a_verdict_is_written_once_and_stands_until_there_is_another() {
    let first = after(&shown(&Verdict::default()), seen("n2", true, 100)).expect("it is new");
    assert_eq!(first, seen("n2", true, 100));
    let shown = shown(&first);
    assert_eq!(
        after(&shown, seen("n3", true, 200)),
        None,
        "another node sees the same"
    );
    assert_eq!(
        after(&shown, Verdict::default()),
        None,
        "a speaker that starts anew knows nothing yet"
    );
    assert_eq!(
        after(&shown, seen("n3", false, 300)),
        Some(seen("n3", false, 300))
    );
}

#[test]
fn a_new_owner_and_a_new_address_begin_without_a_verdict() {
    let [(name, record)] = shown(&seen("n2", false, 100));
    let mut of_another = record.clone();
    of_another.node = "n3".into();
    assert_eq!(next(Some(&[]), &[(&name, of_another)]), write(&[], false));
    let mut of_another_address = record;
    of_another_address.address = Some([192, 168, 50, 60].into());
    assert_eq!(next(Some(&[]), &[(&name, of_another_address)]), write(&[], true));
}

#[test]
fn a_stranger_is_written_once_and_goes_from_the_status_when_it_is_gone() {
    let first = after(&shown(&Verdict::default()), conflict(1, 100)).expect("it is new");
    let shown = shown(&first);
    assert_eq!(after(&shown, conflict(1, 200)), None);
    assert_eq!(
        after(&shown, conflict(2, 200)),
        Some(conflict(2, 100)),
        "another stranger, and no moment without one"
    );
    assert_eq!(after(&shown, Verdict::default()), Some(Verdict::default()));
}

#[test]
fn conditions_say_who_asked_who_answers_and_what_to_do() {
    let words = |verdict: &Verdict, address: &str| {
        let conditions = verdict.conditions(address.parse().unwrap());
        let [condition] = &conditions[..] else {
            panic!("one of them")
        };
        format!(
            "{}={} {}: {}",
            condition.type_, condition.status, condition.reason, condition.message
        )
    };
    assert_eq!(
        words(&seen("n2", true, 100), WEB),
        "Verified=True Answered: node n2 asked the LAN for 192.168.50.52 and was answered"
    );
    assert_eq!(
        words(&seen("n2", false, 100), "fd00:50::1"),
        "Verified=False NoReply: node n2 asked the LAN for fd00:50::1 and was not answered: see that switches and \
         firewalls let neighbour discovery (ICMPv6) pass between the nodes"
    );
    assert_eq!(
        words(&conflict(9, 100), WEB),
        "AddressConflict=True ForeignAnswer: a host at 02:00:00:00:00:09 that is no node of the cluster answers for \
         192.168.50.52: take the address from that host, or exclude it from its pool"
    );
}
