//! Reverse proxy: canonical paths, routes, headers, streaming.

pub mod client_address;
pub mod headers;
pub mod path;
pub mod route_table;
