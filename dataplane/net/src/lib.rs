//! Packet sockets, kernel filters and netlink.
