//! The paywall inside an application.
