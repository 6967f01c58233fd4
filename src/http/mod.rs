//! Every door that speaks HTTP.

pub mod admin;
