//! The paying client behind `prepaid402 get`.
