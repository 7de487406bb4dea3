//! Files that change: the kernel tells (inotify(7)), nobody has to look again and again.
//!
//! Made for the volumes into which the kubelet puts Secrets: there, a symbolic link in the directory is replaced when the
//! Secret changes.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A file or link has come, has gone, or was written to; or the directory itself has gone.
const EVENTS: u32 = libc::IN_CREATE
    | libc::IN_CLOSE_WRITE
    | libc::IN_MOVED_TO
    | libc::IN_MOVED_FROM
    | libc::IN_DELETE
    | libc::IN_MOVE_SELF
    | libc::IN_ONLYDIR;
/// After one of these the kernel tells nothing more of the directory at this path.
const LAST: u32 = libc::IN_IGNORED | libc::IN_UNMOUNT | libc::IN_MOVE_SELF;
/// Bytes of an event before its name.
const HEADER: usize = size_of::<libc::inotify_event>();
/// Room for some events; each is at most 272 bytes long.
const BUFFER: usize = 4096;

/// Watches the entries of one directory, not of those below it.
#[derive(Debug)]
pub struct DirectoryWatch {
    events: AsyncFd<File>,
}

impl DirectoryWatch {
    /// Watches a directory: what happens from now on is told. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When there is no such directory, or this user has as many watches as the kernel allows
    /// (`fs.inotify.max_user_instances`, 128 for all containers that run as root on a node, unless it was raised).
    pub fn open(directory: &Path) -> io::Result<Self> {
        let path = CString::new(directory.as_os_str().as_bytes())?;
        // SAFETY: no memory is passed.
        let descriptor = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened it for us, and nothing else has it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
        // SAFETY: the path ends with a zero byte and lives longer than the call.
        let watch = unsafe { libc::inotify_add_watch(file.as_raw_fd(), path.as_ptr(), EVENTS) };
        if watch < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the file keeps one open descriptor from here until it is dropped, which AsyncFd does after it
        // deregistered it; nothing takes it out or replaces it.
        let events =
            unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }.map_err(io::Error::from)?;
        Ok(Self { events })
    }

    /// Waits until something in the directory has changed since it was opened, or since this returned last. May be cancelled
    /// without loss.
    ///
    /// # Errors
    /// When nothing more will be told, because the directory is gone or its volume unmounted.
    pub async fn changed(&self) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        let len = self
            .events
            .async_io(Interest::READABLE, |mut file: &File| file.read(&mut buffer))
            .await?;
        if is_last(buffer.get(..len).unwrap_or_default()) {
            return Err(io::Error::other("the directory is gone"));
        }
        Ok(())
    }
}

/// Whether one of the events says that there will be no more.
fn is_last(mut events: &[u8]) -> bool {
    // struct inotify_event: watch, mask, cookie, length of the name; four bytes each, in the order of this machine.
    while let Some((header, rest)) = events.split_first_chunk::<HEADER>() {
        let &[_, _, _, _, a, b, c, d, _, _, _, _, e, f, g, h] = header;
        if u32::from_ne_bytes([a, b, c, d]) & LAST != 0 {
            return true;
        }
        let name = usize::try_from(u32::from_ne_bytes([e, f, g, h])).unwrap_or(usize::MAX);
        events = rest.get(name..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn mk_directory(name: &str) -> std::path::PathBuf {
        let directory = std::env::temp_dir().join(format!("lb-net-files-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    /// What the watch tells within a time that is long for a kernel; `None` when nothing.
    async fn told(watch: &DirectoryWatch, within: Duration) -> Option<io::Result<()>> {
        tokio::time::timeout(within, watch.changed()).await.ok()
    }

    #[tokio::test]
    async fn a_link_that_is_replaced_as_the_kubelet_does_it_is_told() {
        let directory = mk_directory("link");
        let link = |to: &str| {
            let new = directory.join("..data_tmp");
            std::os::unix::fs::symlink(to, &new).unwrap();
            std::fs::rename(new, directory.join("..data")).unwrap();
        };
        link("a");
        let watch = DirectoryWatch::open(&directory).unwrap();
        assert!(
            told(&watch, Duration::from_millis(50)).await.is_none(),
            "nothing happened"
        );
        link("b");
        assert!(told(&watch, Duration::from_secs(5)).await.unwrap().is_ok());
        std::fs::write(directory.join("file"), "x").unwrap();
        assert!(told(&watch, Duration::from_secs(5)).await.unwrap().is_ok());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_goes_is_told_as_the_last() {
        let directory = mk_directory("gone");
        let watch = DirectoryWatch::open(&directory).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let mut last = Ok(());
        while last.is_ok() {
            last = told(&watch, Duration::from_secs(5)).await.unwrap();
        }
        assert!(DirectoryWatch::open(&directory).is_err(), "there is none");
    }
}
