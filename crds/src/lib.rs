//! The API types: metallb.io and lb-operator.io.
