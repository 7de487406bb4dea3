//! An alarm clock of the kernel's. The runtime's own timers are kept in a wheel, which wakes the program once or twice more before
//! each is due, and rounds up to milliseconds: a program that does little but wake up twenty times in a second notices.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Rings at a time that may be changed at will.
#[derive(Debug)]
pub struct Alarm {
    timer: AsyncFd<File>,
    at: Option<Instant>,
}

impl Alarm {
    /// One that is not set. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When the process has too many open files.
    pub fn new() -> io::Result<Self> {
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: takes no pointers; what it returns is checked.
        let descriptor = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened, and nobody else knows of it.
        let timer = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
        // SAFETY: the descriptor stays open and the same until AsyncFd drops it, which deregisters it first.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Self { timer, at: None })
    }

    /// It is to ring then, or not at all; a time that has passed rings at once. Forgets the time before.
    ///
    /// # Errors
    /// None that the kernel documents for times such as these.
    pub fn set(&mut self, at: Option<Instant>) -> io::Result<()> {
        if self.at == at {
            return Ok(());
        }
        // Zero would switch it off.
        let wait = at.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(Instant::now())
                .max(Duration::from_nanos(1))
        });
        let none = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(wait.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let setting = libc::itimerspec {
            it_interval: none,
            it_value: value,
        };
        // SAFETY: the descriptor is open, the setting lives until the call returns, and where the one before would go, null is
        // allowed.
        let set = unsafe {
            libc::timerfd_settime(
                self.timer.as_raw_fd(),
                0,
                &raw const setting,
                std::ptr::null_mut(),
            )
        };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        self.at = at;
        Ok(())
    }

    /// Waits until it rings; then it is not set any more. May be cancelled without loss.
    pub async fn rings(&mut self) {
        while let Ok(mut guard) = self.timer.readable_mut().await {
            let mut times = [0; 8];
            // Where there is nothing to read, it was set anew since it rang.
            if guard.try_io(|timer| timer.get_mut().read(&mut times)).is_ok() {
                guard.clear_ready();
                self.at = None;
                return;
            }
        }
        // The runtime is being shut down: nobody is woken any more.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    async fn rings_within(alarm: &mut Alarm, time: Duration) -> bool {
        tokio::time::timeout(time, alarm.rings()).await.is_ok()
    }

    #[tokio::test]
    async fn it_rings_once_and_not_before_its_time() {
        let mut alarm = Alarm::new().unwrap();
        assert!(!rings_within(&mut alarm, ms(20)).await, "it is not set");
        let at = Instant::now() + ms(30);
        alarm.set(Some(at)).unwrap();
        assert!(rings_within(&mut alarm, ms(5000)).await);
        assert!(Instant::now() >= at);
        assert!(!rings_within(&mut alarm, ms(20)).await, "it has rung");
        alarm.set(Some(at)).unwrap();
        assert!(rings_within(&mut alarm, ms(5000)).await, "its time has passed");
    }

    #[tokio::test]
    async fn what_it_was_set_to_before_does_not_count() {
        let mut alarm = Alarm::new().unwrap();
        alarm.set(Some(Instant::now())).unwrap();
        // It has rung, and nobody has heard it.
        tokio::time::sleep(ms(5)).await;
        alarm.set(Some(Instant::now() + ms(10_000))).unwrap();
        assert!(!rings_within(&mut alarm, ms(50)).await);
        alarm.set(Some(Instant::now() + ms(10))).unwrap();
        assert!(rings_within(&mut alarm, ms(5000)).await);
        alarm.set(Some(Instant::now() + ms(10))).unwrap();
        alarm.set(None).unwrap();
        assert!(!rings_within(&mut alarm, ms(50)).await);
    }
}
