//! Ranges, pools, selection and allocation of addresses, without I/O.
