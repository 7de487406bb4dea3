//! Tools that build what the tests run.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`image`] | container images from files, without Docker |
//! | [`releases`] | the releases that upgrade tests go between, good and broken |

#![allow(clippy::expect_used)]

pub mod image;
pub mod releases;
