//! Background loops around one-step functions.
