//! Builders of the objects of BGP.

#![allow(dead_code, reason = "each test file uses a part of it")]

use lb_speaker::bgp::bfd::BfdProfile;
use lb_speaker::bgp::configuration::Update;
use lb_speaker::bgp::objects::{Advertisement, Aliases, Peer};
use serde_json::{Value, json};

use crate::support::from;

pub(crate) fn mk_peer(name: &str, spec: &Value) -> Update {
    let object = json!({"metadata": {"name": name}, "spec": spec});
    Update::Peer(name.to_owned(), Some(Peer::read(from(object))))
}

pub(crate) fn mk_bgp_advertisement(name: &str, spec: &Value) -> Update {
    let object = json!({"metadata": {"name": name}, "spec": spec});
    Update::Advertisement(name.to_owned(), Some(Advertisement::read(from(object))))
}

pub(crate) fn mk_community(name: &str, aliases: &Value) -> Update {
    let object = json!({"metadata": {"name": name}, "spec": {"communities": aliases}});
    Update::Community(name.to_owned(), Some(Aliases::read(from(object))))
}

pub(crate) fn mk_bfd_profile(name: &str, spec: &Value) -> Update {
    let object = json!({"metadata": {"name": name}, "spec": spec});
    Update::BfdProfile(name.to_owned(), Some(BfdProfile::read(from(object))))
}
