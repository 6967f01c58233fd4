//! `prepaid402 admin`: people who may look at the admin pages.
