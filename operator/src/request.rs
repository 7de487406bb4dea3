//! Requests to the API server: their time limit and their errors.

use std::fmt;
use std::time::Duration;

use crate::ownership::ForeignObject;

/// Time limit of one request: an API server that hangs must not block the operator.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The API server refused it, or the connection failed.
    #[error("{what}: {}", explain(.source))]
    Failed {
        /// The request.
        what: String,
        /// Cause.
        source: Box<kube::Error>,
    },
    /// An object of another owner has the name of an object to create.
    #[error("{0}")]
    Foreign(ForeignObject),
    /// The API server did not answer.
    #[error("{what}: no answer from the API server for {} seconds", TIMEOUT.as_secs())]
    Timeout {
        /// The request.
        what: String,
    },
}

impl RequestError {
    /// Whether the object is gone, or is not in the state that the request names: the watch reports how it changed.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        matches!(self.status_code(), Some(404 | 409))
    }

    /// Whether the API server refused the object as invalid.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.status_code() == Some(422)
    }

    fn status_code(&self) -> Option<u16> {
        let Self::Failed { source, .. } = self else {
            return None;
        };
        match &**source {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        }
    }
}

/// The API server's message without the client's prefix.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The answer to a request.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn in_time<T>(
    what: impl fmt::Display,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, RequestError> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|source| RequestError::Failed {
            what: what.to_string(),
            source: Box::new(source),
        }),
        Err(_) => Err(RequestError::Timeout {
            what: what.to_string(),
        }),
    }
}
