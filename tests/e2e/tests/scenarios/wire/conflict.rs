//! A stranger, which is the machine of the control plane, has an address of a Service for real: its kernel answers for it.

use std::collections::BTreeSet;
use std::time::Instant;

use lb_e2e::stage::{SOON, Stage, eventually};

use crate::capture::Capture;
use crate::speaker::{announced, metric};

/// The machine that is no node.
const STRANGER: &str = "cp";

fn hardware(stage: &Stage) -> anyhow::Result<String> {
    Ok(lb_l2::MacAddr(stage.the_lab().hardware_address(STRANGER)?).to_string())
}

fn service(stage: &Stage, name: &str, family: &str) -> anyhow::Result<String> {
    let families = format!("  ipFamilyPolicy: SingleStack\n  ipFamilies: [{family}]\n");
    stage.apply_service(name, "web", "", &families)?;
    stage.address(name)
}

/// The stranger takes the address, and says so as a host does that gets one.
fn move_in(stage: &Stage, address: &str) -> anyhow::Result<()> {
    stage.on_machine(STRANGER, &format!("ip address add {address}/32 dev eth0"))?;
    say(stage, address)
}

fn say(stage: &Stage, address: &str) -> anyhow::Result<()> {
    stage.on_machine(
        STRANGER,
        &format!("arping -q -U -c 1 -I eth0 -s {address} {address}"),
    )?;
    Ok(())
}

fn move_out(stage: &Stage, address: &str) -> anyhow::Result<()> {
    stage.on_machine(STRANGER, &format!("ip address del {address}/32 dev eth0"))?;
    stage.client(&format!("ip neigh flush to {address} dev eth0"))?;
    Ok(())
}

/// In IPv6, without a word: only somebody who asks can know.
pub(super) fn a_stranger_that_says_nothing_moves_in(stage: &Stage) -> anyhow::Result<String> {
    let address = service(stage, "silent", "IPv6")?;
    stage.answers(&format!("[{address}]"), "web")?;
    stage.on_machine(STRANGER, &format!("ip address add {address}/128 dev eth0 nodad"))?;
    Ok(address)
}

/// The next owner, which looks after the owner every half minute, has met it.
pub(super) fn the_silent_stranger_is_told_too(stage: &Stage, address: &str) -> anyhow::Result<()> {
    let told = eventually("the silent stranger to be told", 2 * SOON, || {
        let events = stage.events("Service", "silent")?;
        Ok(events.contains("addressConflict").then_some(events))
    })?;
    assert!(told.contains(&hardware(stage)?), "{told}");
    stage.on_machine(STRANGER, &format!("ip address del {address}/128 dev eth0"))?;
    stage.admin("kubectl delete service silent")?;
    Ok(())
}

/// A host that asks before it takes an IPv6 address gets told that it is taken, and leaves it.
pub(super) fn a_probe_for_duplicates_is_answered(stage: &Stage) -> anyhow::Result<()> {
    let address = service(stage, "probed", "IPv6")?;
    stage.answers(&format!("[{address}]"), "web")?;
    stage.on_machine(STRANGER, &format!("ip address add {address}/128 dev eth0"))?;
    eventually("the stranger to find it taken", SOON, || {
        let shown = stage.on_machine(STRANGER, &format!("ip address show dev eth0 to {address}"))?;
        Ok(shown.contains("dadfailed").then_some(()))
    })?;
    stage.on_machine(STRANGER, &format!("ip address del {address}/128 dev eth0"))?;
    stage.admin("kubectl delete service probed")?;
    Ok(())
}

/// `Warn`, the default: both go on.
pub(super) fn a_stranger_is_told(stage: &Stage) -> anyhow::Result<()> {
    let address = service(stage, "four", "IPv4")?;
    let owner = stage.owner(&address, SOON)?;
    let stranger = hardware(stage)?;
    let conflict = || metric(stage, &owner, "lb_speaker_address_conflict");
    assert_eq!(conflict()?, 0);
    move_in(stage, &address)?;
    let told = stage.event("Service", "four", "addressConflict")?;
    assert!(
        told.contains(&format!(
            "host {stranger} outside the cluster also answers for {address}"
        )),
        "{told}"
    );
    assert_eq!(conflict()?, 1);
    let says = announced(stage, "four", "False", "AddressConflict: host ")?;
    assert!(says.to_lowercase().contains(&stranger), "{says}");
    assert_eq!(
        stage.owners(&address)?,
        BTreeSet::from([owner.clone(), stranger]),
        "both answer"
    );
    move_out(stage, &address)?;
    assert_eq!(stage.owner(&address, SOON)?, owner);
    stage.answers(&address, "web")
}

/// `Defend`: each time that the stranger speaks up, but at most once in ten seconds, the owner has the last word.
pub(super) fn the_address_is_defended(stage: &Stage) -> anyhow::Result<()> {
    let address = stage.address("four")?;
    let owner = stage.owner(&address, SOON)?;
    stage.answers(&address, "web")?;
    let number: u8 = owner.trim_start_matches('n').parse()?;
    let mac = format!("02:1b:00:00:00:{:02x}", 10 + number);
    let capture = Capture::on(stage, "eth0")?;
    move_in(stage, &address)?;
    let stranger = hardware(stage)?;
    let first = eventually("the stranger to be heard", SOON, || {
        let heard = capture.of(&address, 0.0);
        Ok(heard.into_iter().find(|heard| heard.mac == stranger))
    })?;
    let since = first.at;
    let delay = capture.delay(&address, &mac, since)?;
    println!("Defend: announced {delay:?} after the stranger");
    eventually("the client to know the owner again", SOON, || {
        Ok((stage.neighbour(&address)? == owner).then_some(()))
    })?;
    // It goes on for more than ten seconds.
    for _ in 0..12 {
        say(stage, &address)?;
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    let mut starts: Vec<f64> = Vec::new();
    let mut last = f64::MIN;
    for heard in capture
        .of(&address, since)
        .iter()
        .filter(|heard| heard.mac == mac)
    {
        // A defence is a series of announcements, at most 1.1 s apart.
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
    move_out(stage, &address)?;
    stage.answers(&address, "web")
}

/// `Yield`: the address is the stranger's for as long as it is there.
pub(super) fn the_address_is_left_to_the_stranger(stage: &Stage) -> anyhow::Result<()> {
    let address = stage.address("four")?;
    let stranger = hardware(stage)?;
    stage.owner(&address, SOON)?;
    move_in(stage, &address)?;
    eventually("the address to be the stranger's alone", SOON, || {
        Ok((stage.owners(&address)? == BTreeSet::from([stranger.clone()])).then_some(()))
    })?;
    stage.event("Service", "four", "addressConflict")?;
    move_out(stage, &address)?;
    let gone = Instant::now();
    let owner = stage.owner(&address, SOON)?;
    assert!(owner.starts_with('n'), "a node: {owner}");
    println!(
        "Yield: taken again by {owner} {:?} after the stranger went",
        gone.elapsed()
    );
    stage.answers(&address, "web")
}
