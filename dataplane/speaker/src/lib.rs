//! Addresses to announcements.
