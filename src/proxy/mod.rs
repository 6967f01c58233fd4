//! Reverse proxy: canonical paths, routes, headers, streaming.

pub mod client_address;
mod connection;
pub mod headers;
pub(crate) mod own_token;
pub(crate) mod pace;
pub mod path;
pub mod reachability;
pub mod route_table;
mod traffic;
pub mod upload;
pub mod upstream;
