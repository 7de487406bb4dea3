//! Support for the end-to-end scenarios.
//!
//! | module | contents |
//! | --- | --- |
//! | [`harness`] | a cluster with an administrator's shell and a LAN client's shell |
//! | [`guide`] | `docs/guide.md` as commands to run |
//! | [`client`] | observations of an address from a machine on the LAN |
//! | [`documents`] | links and console samples of the documents, checked |
//! | [`waiting`] | waiting for what a cluster does in its own time |
//! | [`process`] | memory and processor time of a pod's process |

// Support for tests: a cluster that cannot be used ends the scenario, and output goes to the terminal.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

pub mod client;
pub mod documents;
pub mod guide;
pub mod harness;
pub mod process;
pub mod waiting;
