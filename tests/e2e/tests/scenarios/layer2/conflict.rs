//! Address conflicts: another host, the machine of the control plane, gets an address of a Service, and its kernel
//! answers for it.

use std::collections::BTreeSet;
use std::time::Instant;

use lb_e2e::harness::{Harness, SHORT_TIMEOUT, eventually};

use crate::capture::Capture;
use crate::speaker::{announced, metric};

/// The conflicting host, which is not a node.
const CONFLICTING_HOST: &str = "cp";

fn hardware(harness: &Harness) -> anyhow::Result<String> {
    Ok(lb_l2::MacAddr(harness.lab().mac_address(CONFLICTING_HOST)?).to_string())
}

fn service(harness: &Harness, name: &str, family: &str) -> anyhow::Result<String> {
    let families = format!("  ipFamilyPolicy: SingleStack\n  ipFamilies: [{family}]\n");
    harness.apply_service(name, "web", "", &families)?;
    harness.wait_for_address(name)
}

/// The host adds the address and announces it, as a host does with a new address.
fn move_in(harness: &Harness, address: &str) -> anyhow::Result<()> {
    harness.run_on(CONFLICTING_HOST, &format!("ip address add {address}/32 dev eth0"))?;
    say(harness, address)
}

fn say(harness: &Harness, address: &str) -> anyhow::Result<()> {
    harness.run_on(
        CONFLICTING_HOST,
        &format!("arping -q -U -c 1 -I eth0 -s {address} {address}"),
    )?;
    Ok(())
}

fn move_out(harness: &Harness, address: &str) -> anyhow::Result<()> {
    harness.run_on(CONFLICTING_HOST, &format!("ip address del {address}/32 dev eth0"))?;
    harness.client(&format!("ip neigh flush to {address} dev eth0"))?;
    Ok(())
}

/// In IPv6, without an announcement: only a probe detects it.
pub(super) fn silent_host_takes_the_address(harness: &Harness) -> anyhow::Result<String> {
    let address = service(harness, "silent", "IPv6")?;
    harness.wait_for_answer(&format!("[{address}]"), "web")?;
    harness.run_on(
        CONFLICTING_HOST,
        &format!("ip address add {address}/128 dev eth0 nodad"),
    )?;
    Ok(address)
}

/// The backup, which verifies the owner every 30 seconds, has detected it.
pub(super) fn silent_conflict_is_reported(harness: &Harness, address: &str) -> anyhow::Result<()> {
    let reported = eventually("a report of the silent conflict", 2 * SHORT_TIMEOUT, || {
        let events = harness.events("Service", "silent")?;
        Ok(events.contains("addressConflict").then_some(events))
    })?;
    assert!(reported.contains(&hardware(harness)?), "{reported}");
    harness.run_on(
        CONFLICTING_HOST,
        &format!("ip address del {address}/128 dev eth0"),
    )?;
    harness.admin("kubectl delete service silent")?;
    Ok(())
}

/// Duplicate address detection of another host (RFC 4862, section 5.4) finds the address in use, and the host does not
/// use it.
pub(super) fn duplicate_address_detection_is_answered(harness: &Harness) -> anyhow::Result<()> {
    let address = service(harness, "probed", "IPv6")?;
    harness.wait_for_answer(&format!("[{address}]"), "web")?;
    harness.run_on(
        CONFLICTING_HOST,
        &format!("ip address add {address}/128 dev eth0"),
    )?;
    eventually("the other host to detect the duplicate", SHORT_TIMEOUT, || {
        let shown = harness.run_on(
            CONFLICTING_HOST,
            &format!("ip address show dev eth0 to {address}"),
        )?;
        Ok(shown.contains("dadfailed").then_some(()))
    })?;
    harness.run_on(
        CONFLICTING_HOST,
        &format!("ip address del {address}/128 dev eth0"),
    )?;
    harness.admin("kubectl delete service probed")?;
    Ok(())
}

/// `Warn`, the default: both keep answering.
pub(super) fn conflict_is_reported(harness: &Harness) -> anyhow::Result<()> {
    let address = service(harness, "four", "IPv4")?;
    let owner = harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
    let other_host = hardware(harness)?;
    let conflict = || metric(harness, &owner, "lb_speaker_address_conflict");
    assert_eq!(conflict()?, 0);
    move_in(harness, &address)?;
    let reported = harness.wait_for_event("Service", "four", "addressConflict")?;
    assert!(
        reported.contains(&format!(
            "host {other_host} outside the cluster also answers for {address}"
        )),
        "{reported}"
    );
    assert_eq!(conflict()?, 1);
    let says = announced(harness, "four", "False", "AddressConflict: host ")?;
    assert!(says.to_lowercase().contains(&other_host), "{says}");
    assert_eq!(
        harness.owners(&address)?,
        BTreeSet::from([owner.clone(), other_host]),
        "both answer"
    );
    move_out(harness, &address)?;
    assert_eq!(harness.wait_for_owner(&address, SHORT_TIMEOUT)?, owner);
    harness.wait_for_answer(&address, "web")
}

/// `Defend`: after each announcement of the other host, but at most once in ten seconds, the owner announces the
/// address.
pub(super) fn address_is_defended(harness: &Harness) -> anyhow::Result<()> {
    let address = harness.wait_for_address("four")?;
    let owner = harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
    harness.wait_for_answer(&address, "web")?;
    let number: u8 = owner.trim_start_matches('n').parse()?;
    let mac = format!("02:1b:00:00:00:{:02x}", 10 + number);
    let capture = Capture::on(harness, "eth0")?;
    move_in(harness, &address)?;
    let other_host = hardware(harness)?;
    let first = eventually("the other host's announcement", SHORT_TIMEOUT, || {
        let heard = capture.of(&address, 0.0);
        Ok(heard.into_iter().find(|heard| heard.mac == other_host))
    })?;
    let since = first.at;
    let delay = capture.delay(&address, &mac, since)?;
    println!("Defend: announced {delay:?} after the other host");
    eventually("the client to know the owner again", SHORT_TIMEOUT, || {
        Ok((harness.neighbor(&address)? == owner).then_some(()))
    })?;
    // It continues for more than ten seconds.
    for _ in 0..12 {
        say(harness, &address)?;
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    let mut starts: Vec<f64> = Vec::new();
    let mut last = f64::MIN;
    for heard in capture
        .of(&address, since)
        .iter()
        .filter(|heard| heard.mac == mac)
    {
        // A defense is a series of announcements, at most 1.1 s apart.
        if heard.at > last + 2.0 {
            starts.push(heard.at);
        }
        last = heard.at;
    }
    assert!(
        starts.len() >= 2,
        "one defence at once, and the next ten seconds after: {starts:?}"
    );
    for pair in starts.windows(2) {
        assert!(
            pair[1] - pair[0] >= 9.9,
            "at most once in ten seconds: {starts:?}"
        );
    }
    move_out(harness, &address)?;
    harness.wait_for_answer(&address, "web")
}

/// `Yield`: the other host has the address for as long as it answers.
pub(super) fn address_is_yielded(harness: &Harness) -> anyhow::Result<()> {
    let address = harness.wait_for_address("four")?;
    let other_host = hardware(harness)?;
    harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
    move_in(harness, &address)?;
    eventually("only the other host to answer", SHORT_TIMEOUT, || {
        Ok((harness.owners(&address)? == BTreeSet::from([other_host.clone()])).then_some(()))
    })?;
    harness.wait_for_event("Service", "four", "addressConflict")?;
    move_out(harness, &address)?;
    let gone = Instant::now();
    let owner = harness.wait_for_owner(&address, SHORT_TIMEOUT)?;
    assert!(owner.starts_with('n'), "a node: {owner}");
    println!(
        "Yield: acquired again by {owner} {:?} after the other host released it",
        gone.elapsed()
    );
    harness.wait_for_answer(&address, "web")
}
