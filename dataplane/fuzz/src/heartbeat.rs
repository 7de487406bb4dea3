//! The heartbeat protocol. The bytes are opened as a datagram, as a datagram with a valid HMAC, and as the body of a
//! datagram with a valid header and HMAC.

use hmac::{Hmac, KeyInit, Mac};
use lb_l2::wire::heartbeat::{
    Datagram, DatagramError, Entry, FORMAT, Fragment, HeartbeatKeys, MAX_DATAGRAM_LEN, MAX_ENTRIES_LEN,
    MAX_MACS, MAX_NODE_NAME_LEN, MAX_VERSION_LEN, Message,
};
use sha2::Sha256;

const KEY: [u8; 32] = [0x5a; 32];
const HEADER_LEN: usize = 33;
const TAG_LEN: usize = 32;

/// Decoded datagrams are within the limits and encode to the same bytes, except for what a later release has added;
/// datagrams without a valid HMAC are rejected.
pub fn target(bytes: &[u8]) {
    let keys = HeartbeatKeys::new([KEY.as_slice()]).expect("the key is long enough");
    let _ = check(&keys, bytes);
    let other_keys = HeartbeatKeys::new([[1; 32].as_slice(), &[2; 16]]).expect("the keys are long enough");
    assert!(
        other_keys.open(bytes).is_err(),
        "no key authenticates the datagram"
    );

    let max_signed = MAX_DATAGRAM_LEN - TAG_LEN;
    let signed = bytes.get(..max_signed).unwrap_or(bytes);
    let _ = check(&keys, &with_hmac(signed));

    let Some((kind, body)) = bytes.split_first() else {
        return;
    };
    let body = body.get(..max_signed - HEADER_LEN - 2).unwrap_or(body);
    let mut signed = [b"LBHB".as_slice(), &[FORMAT, *kind]].concat();
    signed.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    signed.extend([7; 24]);
    signed.extend([2, b'n', b'1']);
    signed.extend(body);
    let sealed = with_hmac(&signed);
    let opened = check(&keys, &sealed);
    assert_ne!(opened, Err(DatagramError::Authentication));
    assert!(other_keys.open(&sealed).is_err());
}

fn with_hmac(signed: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(&KEY).expect("HMAC takes keys of any length");
    let tag = mac.chain_update(signed).finalize().into_bytes();
    [signed, &tag].concat()
}

fn check(keys: &HeartbeatKeys, bytes: &[u8]) -> Result<Datagram, DatagramError> {
    let datagram = keys.open(bytes)?;
    assert!(bytes.len() <= MAX_DATAGRAM_LEN);
    let name = datagram.node.len();
    assert!((1..=MAX_NODE_NAME_LEN).contains(&name));
    let body = bytes.len() - HEADER_LEN - name - TAG_LEN;
    // The order of answered and unanswered addresses is the sender's choice, and a heartbeat may have flags and fields of
    // a later release.
    let mut canonical = true;
    match &datagram.message {
        Message::Heartbeat(heartbeat) => {
            assert!(heartbeat.macs.len() <= MAX_MACS && heartbeat.version.len() <= MAX_VERSION_LEN);
            let sealed = keys.seal(&datagram);
            assert!(sealed.len() <= bytes.len());
            assert_eq!(keys.open(&sealed).as_ref(), Ok(&datagram));
            return Ok(datagram);
        }
        Message::Announced(part) | Message::Restore(part) => {
            assert!(part.index < part.count);
            assert_eq!(12 + len(part), body, "allocates for received entries only");
        }
        Message::Verification { answered, unanswered } => {
            let of = |list: &[std::net::IpAddr]| -> usize {
                let entries = list
                    .iter()
                    .map(|address| Entry::announced(*address).encoded_len());
                entries.sum()
            };
            assert_eq!(of(answered) + of(unanswered), body);
            canonical = false;
        }
        Message::Change(change) => {
            let entries: usize = change.entries.iter().map(Entry::encoded_len).sum();
            let removed = change
                .removed
                .iter()
                .map(|address| Entry::announced(*address).encoded_len());
            assert_eq!(
                18 + entries + removed.sum::<usize>(),
                body,
                "allocates for received entries only"
            );
        }
    }
    // A longer body fits next to a short name only, and no speaker encodes one.
    if body <= MAX_ENTRIES_LEN {
        let sealed = keys.seal(&datagram);
        assert!(sealed.len() == bytes.len() && (!canonical || sealed == bytes));
        assert_eq!(keys.open(&sealed).as_ref(), Ok(&datagram));
    }
    Ok(datagram)
}

fn len(part: &Fragment) -> usize {
    part.entries.iter().map(Entry::encoded_len).sum()
}
