//! Whose money Stripe moves.

use std::fmt;

/// What a charge is worth. The money of one mode never buys what is sold in another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StripeMode {
    /// A simulated Stripe on this machine: nothing.
    Simulated,
    /// Stripe's test mode: nothing.
    Test,
    /// Money.
    Live,
}

impl StripeMode {
    /// The stored word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Test => "test",
            Self::Live => "live",
        }
    }

    /// Reads the stored word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Simulated, Self::Test, Self::Live].into_iter().find(|mode| mode.word() == word)
    }
}

/// As people call it.
impl fmt::Display for StripeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simulated => "the simulated Stripe (play money)",
            Self::Test => "Stripe's test mode (play money)",
            Self::Live => "Stripe's live mode (real money)",
        })
    }
}
