//! Headers and bodies of the wire protocols, and the strict way of reading them. No I/O, no decisions.

pub mod card_number;
pub mod strict_json;
pub mod stripe402;
