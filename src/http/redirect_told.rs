//! Says once of each thing that is sold that a redirect was not charged: what is sold may be behind it, for nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::pricing::Listing;

/// Whether it was said.
#[derive(Debug, Default)]
pub(crate) struct RedirectTold(AtomicBool);

impl RedirectTold {
    /// Whether to say it of this answer. Once.
    pub(crate) fn is_due(&self, listing: &Listing, status: u16) -> bool {
        let is_for_nothing = (300..400).contains(&status) && !listing.charged().has_redirects();
        is_for_nothing && !self.0.swap(true, Ordering::Relaxed)
    }
}
