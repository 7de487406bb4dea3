//! Writes of the operator. [`write`] has them as values, [`executor`] sends them: server-side apply with one field
//! manager, deletions, and patches that name the version that was observed. Fields of other managers, such as the
//! annotation of `kubectl rollout restart`, are not changed. Nothing is read here, except the owner of an object that is
//! not known to exist.

pub mod executor;
mod lifecycle;
mod metallb;
pub mod retry;
pub mod write;
