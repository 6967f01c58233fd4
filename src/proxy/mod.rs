//! Reverse proxy: headers, streaming, the upstream.

pub mod client_address;
mod connection;
pub mod headers;
pub(crate) mod own_token;
pub(crate) mod pace;
pub mod reachability;
mod traffic;
pub mod upload;
pub mod upstream;
