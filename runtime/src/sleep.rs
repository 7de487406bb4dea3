//! Sleeping until a deadline that may be absent, for `tokio::select!` loops.

use tokio::time::Instant;

/// Sleeps until the deadline, an `Instant` of `std` or of Tokio. Never completes without one.
pub async fn sleep_until<T: Into<Instant>>(deadline: Option<T>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn completes_at_the_deadline() {
        block_on(async {
            let due = Instant::now() + Duration::from_millis(5);
            sleep_until(Some(due)).await;
            assert!(Instant::now() >= due);
            sleep_until(Some(std::time::Instant::now())).await;
        });
    }

    #[test]
    fn never_completes_without_a_deadline() {
        block_on(async {
            assert!(sleep_until(None::<Instant>).now_or_never().is_none());
        });
    }
}
