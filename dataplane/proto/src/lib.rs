//! Wire formats, responder and owner election, without I/O.
