//! Notices changes in a directory (inotify(7)).
//!
//! Made for volumes with Secrets: the kubelet replaces a symbolic link in the directory when the Secret changes.

use std::io;
use std::mem::MaybeUninit;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::net::unix::pipe::Receiver;

/// Buffer size for events, in bytes; an event has at most 272.
const EVENT_BUFFER_LEN: usize = 4096;

/// Watches the entries of one directory, without its subdirectories.
#[derive(Debug)]
pub struct DirectoryWatch {
    events: Receiver,
}

impl DirectoryWatch {
    /// Starts watching `directory`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If there is no such directory, or this user has as many inotify instances as the kernel allows
    /// (`fs.inotify.max_user_instances`, by default 128 for all containers that run as root on a node).
    pub fn open(directory: &Path) -> io::Result<Self> {
        // An entry was created, deleted, renamed or written, or the directory itself was moved.
        let changes = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&events, directory, changes)?;
        Ok(Self {
            events: crate::register_readable(events)?,
        })
    }

    /// Waits until an entry has changed since [`open`](Self::open) or since this last returned. Cancel safe.
    ///
    /// # Errors
    /// If the watch has ended, because the directory was deleted or moved, or its volume was unmounted.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            self.events.readable().await?;
            match self.events.try_io(|| self.read_events()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(events)
                    if events.intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT | ReadFlags::MOVE_SELF) =>
                {
                    return Err(io::Error::other("the watched directory is gone"));
                }
                result => return result.map(drop),
            }
        }
    }

    /// Reads at least one queued event. Returns the flags of all events read.
    fn read_events(&self) -> io::Result<ReadFlags> {
        let mut buffer = [MaybeUninit::uninit(); EVENT_BUFFER_LEN];
        let mut reader = Reader::new(&self.events, &mut buffer);
        let mut events = reader.next()?.events();
        while !reader.is_buffer_empty() {
            events |= reader.next()?.events();
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn mk_directory(name: &str) -> std::path::PathBuf {
        let directory = std::env::temp_dir().join(format!("lb-net-inotify-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    /// The result of `changed`, or `None` after the time.
    async fn changed(watch: &DirectoryWatch, within: Duration) -> Option<io::Result<()>> {
        tokio::time::timeout(within, watch.changed()).await.ok()
    }

    #[tokio::test]
    async fn reports_a_link_replaced_by_the_kubelet() {
        let directory = mk_directory("link");
        let link = |to: &str| {
            let new = directory.join("..data_tmp");
            std::os::unix::fs::symlink(to, &new).unwrap();
            std::fs::rename(new, directory.join("..data")).unwrap();
        };
        link("a");
        let watch = DirectoryWatch::open(&directory).unwrap();
        assert!(
            changed(&watch, Duration::from_millis(50)).await.is_none(),
            "nothing has changed"
        );
        link("b");
        assert!(changed(&watch, Duration::from_secs(5)).await.unwrap().is_ok());
        std::fs::write(directory.join("file"), "x").unwrap();
        assert!(changed(&watch, Duration::from_secs(5)).await.unwrap().is_ok());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[tokio::test]
    async fn fails_after_the_directory_was_deleted() {
        let directory = mk_directory("gone");
        let watch = DirectoryWatch::open(&directory).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let mut last = Ok(());
        while last.is_ok() {
            last = changed(&watch, Duration::from_secs(5)).await.unwrap();
        }
        assert!(DirectoryWatch::open(&directory).is_err(), "no such directory");
    }
}
