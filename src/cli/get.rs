//! `prepaid402 get`: the paying client.
