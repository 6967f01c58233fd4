//! Why a request is not served, as dialects see it.

/// A refusal, with everything that any protocol tells of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable.
    pub code: &'static str,
    /// A sentence.
    pub message: String,
    /// Whether repeating the same request can help.
    pub retryable: bool,
    /// `agent`, `human` or `seller`: who can do something about it.
    pub who_acts: &'static str,
    /// Whether whoever reads this may pay. The sale clears it once money may have moved for the request, and no dialect overrides
    /// that: programs pay as often as they are asked to.
    pub payable: bool,
    /// Whether nothing was presented: this is the first challenge.
    pub is_first: bool,
}
