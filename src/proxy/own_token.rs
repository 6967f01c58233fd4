//! Notices that the upstream refuses the gateway itself. When it answers 401 or 403 to one paying caller after the other, the
//! callers' credentials are not what is wrong: those never reach it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// So many in a row, whoever asked.
const RUN: u32 = 10;

/// Counts refusals in a row. One per upstream.
#[derive(Debug, Default)]
pub(crate) struct OwnToken {
    in_a_row: AtomicU32,
    /// Said already, until the upstream has served somebody: callers could begin runs at will.
    is_told: AtomicBool,
}

impl OwnToken {
    /// The upstream has answered a paid request. `true`: this is the run that should be told, once.
    fn is_refused(&self, status: u16) -> bool {
        if !matches!(status, 401 | 403) {
            // Loads alone, as good as always.
            if self.in_a_row.load(Ordering::Relaxed) != 0 {
                self.in_a_row.store(0, Ordering::Relaxed);
            }
            if (200..300).contains(&status) && self.is_told.load(Ordering::Relaxed) {
                self.is_told.store(false, Ordering::Relaxed);
            }
            return false;
        }
        let before = self.in_a_row.fetch_add(1, Ordering::Relaxed);
        before.saturating_add(1) == RUN && !self.is_told.swap(true, Ordering::Relaxed)
    }

    /// The same, told to the operator. `sends_token`: whether there are `[[upstream.headers]]`.
    pub(crate) fn notice(&self, status: u16, sends_token: bool) {
        if !self.is_refused(status) {
            return;
        }
        let probably = match sends_token {
            true => "a credential in [[upstream.headers]] is probably wrong or has expired",
            false => "it probably wants a credential of the gateway's own: set [[upstream.headers]]",
        };
        tracing::error!(
            upstream.status = status,
            "the API has refused {RUN} paid requests in a row with 401 or 403, and nothing is sold: {probably} \
             (callers' own Authorization headers are not passed on)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(statuses: impl IntoIterator<Item = u16>, token: &OwnToken) -> usize {
        statuses.into_iter().filter(|status| token.is_refused(*status)).count()
    }

    #[test]
    fn ten_in_a_row_are_told_once_until_somebody_was_served() {
        let token = OwnToken::default();
        assert_eq!(told([401; 9], &token), 0);
        assert_eq!(told([404], &token), 0);
        assert_eq!(told([403; 9], &token), 0, "the run was interrupted");
        assert_eq!(told([401], &token), 1);
        assert_eq!(told([401; 50], &token), 0);
        assert_eq!(told([500].into_iter().chain([403; 50]), &token), 0, "nobody was served since");
        assert_eq!(told([200].into_iter().chain([401; 50]), &token), 1);
    }
}
