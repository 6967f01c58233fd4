//! What whoever asked for a charge does when it has ended: one decision for priced requests and for top-ups by themselves.

use super::Refusal;
use crate::domain::TopUpId;
use crate::top_up::{Landed, Recorded, TopUpOutcome};

/// See the module.
#[derive(Debug)]
pub enum AfterCharge {
    /// The card was charged, and that is credit.
    Recorded(Box<Recorded>),
    /// Somebody else's charge has ended, or the card leads to a wallet now: look again whose the payer is, and what is there.
    LookAgain,
    /// The outcome is not known.
    Pending(TopUpId),
    /// Nothing was charged.
    Refused(Refusal),
}

impl From<TopUpOutcome> for AfterCharge {
    fn from(outcome: TopUpOutcome) -> Self {
        match outcome {
            TopUpOutcome::Recorded(recorded) => Self::Recorded(recorded),
            TopUpOutcome::Recognised | TopUpOutcome::Shared(Landed::Credited | Landed::Nothing) => {
                Self::LookAgain
            }
            TopUpOutcome::Pending(id) | TopUpOutcome::Shared(Landed::Pending(id)) => Self::Pending(id),
            TopUpOutcome::Unchecked | TopUpOutcome::Shared(Landed::Unchecked) => {
                Self::Refused(Refusal::CardCheckPending)
            }
            TopUpOutcome::Failed(reason) | TopUpOutcome::Shared(Landed::Failed(reason)) => {
                Self::Refused(reason.into())
            }
            TopUpOutcome::InProgress => Self::Refused(Refusal::TopUpInProgress),
            TopUpOutcome::UpstreamUnreachable => Self::Refused(Refusal::UpstreamUnreachable),
            TopUpOutcome::Barred(barred) => Self::Refused(barred.into()),
            TopUpOutcome::Unavailable | TopUpOutcome::Shared(Landed::Unavailable) => {
                Self::Refused(Refusal::Busy)
            }
        }
    }
}
