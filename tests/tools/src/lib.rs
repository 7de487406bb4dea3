//! Tools that build what the tests run, and what the chart contains.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`chart`] | packages of the chart |
//! | [`dashboards`] | Grafana dashboards |
//! | [`image`] | container images from files, without Docker |
//! | [`releases`] | the releases that upgrade tests go between, good and broken |

#![allow(clippy::expect_used)]

pub mod chart;
pub mod dashboards;
pub mod image;
pub mod releases;

/// Registry and path of images that are loaded into nodes and not pushed. No image can be pulled from `localhost`, so nobody else
/// can publish one under such a name.
pub const REGISTRY: &str = "localhost/lb-operator";
