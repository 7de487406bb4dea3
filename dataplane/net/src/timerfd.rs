//! A kernel timer (timerfd_create(2)).
//!
//! Tokio's timer wheel wakes the program once or twice before each deadline and rounds up to milliseconds. That is
//! measurable in a program that otherwise wakes up twenty times per second.

use std::io;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;

/// One deadline that can be changed at any time.
#[derive(Debug)]
pub struct TimerFd {
    timer: Receiver,
    deadline: Option<Instant>,
}

impl TimerFd {
    /// Creates a disarmed timer. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the process has too many open files.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self {
            timer: crate::register_readable(timer)?,
            deadline: None,
        })
    }

    /// Replaces the deadline; `None` disarms the timer. A deadline in the past expires at once.
    ///
    /// # Errors
    /// None is documented for valid times.
    pub fn set(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        if self.deadline == deadline {
            return Ok(());
        }
        // Zero disarms the timer.
        let wait = deadline.map_or(Duration::ZERO, |deadline| {
            deadline
                .saturating_duration_since(Instant::now())
                .max(Duration::from_nanos(1))
        });
        let setting = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
        self.deadline = deadline;
        Ok(())
    }

    /// Waits for the deadline and disarms the timer. Cancel safe.
    pub async fn expired(&mut self) {
        let mut expirations = [0; 8];
        while self.timer.readable().await.is_ok() {
            // There is nothing to read if the deadline was replaced after it expired.
            if self.timer.try_read(&mut expirations).is_ok() {
                self.deadline = None;
                return;
            }
        }
        // The runtime is shutting down.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    async fn expires_within(timer: &mut TimerFd, time: Duration) -> bool {
        tokio::time::timeout(time, timer.expired()).await.is_ok()
    }

    #[tokio::test]
    async fn expires_once_and_not_before_its_deadline() {
        let mut timer = TimerFd::new().unwrap();
        assert!(!expires_within(&mut timer, ms(20)).await, "disarmed");
        let deadline = Instant::now() + ms(30);
        timer.set(Some(deadline)).unwrap();
        assert!(expires_within(&mut timer, ms(5000)).await);
        assert!(Instant::now() >= deadline);
        assert!(!expires_within(&mut timer, ms(20)).await, "already expired");
        timer.set(Some(deadline)).unwrap();
        assert!(expires_within(&mut timer, ms(5000)).await, "deadline in the past");
    }

    #[tokio::test]
    async fn new_deadline_replaces_the_previous_one() {
        let mut timer = TimerFd::new().unwrap();
        timer.set(Some(Instant::now())).unwrap();
        // The timer has expired, but expired() was not called.
        tokio::time::sleep(ms(5)).await;
        timer.set(Some(Instant::now() + ms(10_000))).unwrap();
        assert!(!expires_within(&mut timer, ms(50)).await);
        timer.set(Some(Instant::now() + ms(10))).unwrap();
        assert!(expires_within(&mut timer, ms(5000)).await);
        timer.set(Some(Instant::now() + ms(10))).unwrap();
        timer.set(None).unwrap();
        assert!(!expires_within(&mut timer, ms(50)).await);
    }
}
