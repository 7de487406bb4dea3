//! What is written about owners: only differences, and never over what another node says of itself.

mod support;

use lb_speaker::status::{Action, action, object_name};
use support::{key, mk_record};

const ME: (&str, &str) = ("n1", "uid-n1");

fn next(wanted: Option<&[&str]>, records: &[(&str, lb_speaker::objects::Record)]) -> Option<Action> {
    let wanted: Option<Vec<String>> =
        wanted.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    let records: Vec<_> = records
        .iter()
        .map(|(name, record)| ((*name).to_owned(), record.clone()))
        .collect();
    let records = records.iter().map(|(name, record)| (name, record));
    action(ME, &key("web"), wanted.as_deref(), records)
}

fn delete(name: &str) -> Option<Action> {
    Some(Action::Delete {
        name: name.to_owned(),
        version: "7".to_owned(),
    })
}

#[test]
fn the_owner_writes_what_is_not_there_or_says_something_else() {
    let name = object_name(&key("web"));
    assert_eq!(next(Some(&[]), &[]), Some(Action::Write));
    assert_eq!(
        next(Some(&[]), &[(&name, mk_record("web", "n2", &[]))]),
        Some(Action::Write)
    );
    assert_eq!(
        next(Some(&["eth0"]), &[(&name, mk_record("web", "n1", &[]))]),
        Some(Action::Write)
    );
    let mut reborn = mk_record("web", "n1", &[]);
    reborn.owner = Some("uid-of-a-former-n1".to_owned());
    assert_eq!(next(Some(&[]), &[(&name, reborn)]), Some(Action::Write));
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
    assert_ne!(name, object_name(&lb_daemon::Key::new("other", "web")));
    // Fixed for ever: speakers of different versions must agree.
    assert_eq!(name, "l2-82b3ade9d00cd1642a4d");
}
