//! `prepaid402 check-config`: what the configuration means, before it is used.
