//! Services to addresses.
