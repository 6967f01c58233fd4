//! What can be asked of the books.

use super::entries::About;
use super::{ClientId, KeyNumber};
use crate::domain::{Currency, Micros};
use crate::ledger::account::Account;
use crate::ledger::source::{Source, SourceKind};

/// A change that is asked for. The source is its idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Charge one request to a client: paid credit first, then bonus.
    Capture(Capture),
    /// Turn a succeeded card charge into credit; debt is repaid first.
    TopUp(TopUp),
    /// Give a captured request back, to the credit it was taken from.
    Reverse(Reverse),
    /// Take money back (refund, dispute): paid credit, and what is not there becomes debt. Bonus is no money: it is forfeited or
    /// stays. So any order of taking, giving back and topping up leaves the same balances.
    Clawback(Clawback),
    /// Set an amount aside durably for a request that is about to run: paid credit first, then bonus.
    Hold(Hold),
    /// Give a held amount back to the credit it was taken from, because its request was not charged.
    Release(Release),
    /// End a hold with what its request came to: so much becomes revenue, paid credit first, and what is left goes back to the
    /// credit it was taken from.
    Settle(Settle),
    /// Note that a refund has left for the card.
    PayOut(PayOut),
    /// Give back what a clawback took, because the refund failed or the dispute was won.
    Reinstate(Reinstate),
    /// Note what Stripe keeps, or gives back of it.
    Fee(Fee),
    /// Give credit, or write debt off, because an operator has decided so.
    Adjust(Adjust),
}

/// See [`Command::Capture`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// Who pays.
    pub client: ClientId,
    /// [`SourceKind::Usage`] of the request.
    pub source: Source,
    /// The exact price.
    pub price: Micros,
    /// The route's number.
    pub route: i64,
    /// The price list's number.
    pub price_list: i64,
    /// What the upstream answered.
    pub upstream_status: u16,
    /// Whether the price was set aside by a hold of the same request, which this ends.
    pub held: bool,
    /// The client key that spends.
    pub key: Option<KeyNumber>,
}

impl Capture {
    pub(super) fn about(&self) -> About {
        About::a_charge(self.route, self.price_list, self.upstream_status, self.key)
    }
}

/// See [`Command::TopUp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopUp {
    /// Whose credit.
    pub client: ClientId,
    /// [`SourceKind::TopUp`].
    pub source: Source,
    /// Charged to the card.
    pub amount: Micros,
    /// Given on top.
    pub bonus: Micros,
    /// Of the charge; must be the client's.
    pub currency: Currency,
}

/// See [`Command::Reverse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reverse {
    /// [`SourceKind::Usage`] of the request, the capture to give back. The reversal's own is [`SourceKind::Reversal`].
    pub capture: Source,
    /// Whose capture it is, if that is known; it is looked up otherwise.
    pub client: Option<ClientId>,
}

/// See [`Command::Hold`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Whose credit.
    pub client: ClientId,
    /// [`SourceKind::Hold`] of the request.
    pub source: Source,
    /// How much.
    pub amount: Micros,
    /// The client key that spends.
    pub key: Option<KeyNumber>,
}

/// See [`Command::Release`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Whose credit.
    pub client: ClientId,
    /// [`SourceKind::Hold`] of the request, the hold to end. The release's own is [`SourceKind::Release`].
    pub hold: Source,
}

/// See [`Command::Settle`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settle {
    /// Who pays.
    pub client: ClientId,
    /// [`SourceKind::Hold`] of the request, the hold to end. What is charged has [`SourceKind::Usage`], like every charge, and what
    /// goes back [`SourceKind::Release`].
    pub hold: Source,
    /// What the request came to, in micros: at most what is held. Nothing at all is a [`Command::Release`].
    pub amount: Micros,
    /// The route's number.
    pub route: i64,
    /// The price list's number.
    pub price_list: i64,
    /// What the upstream answered.
    pub upstream_status: u16,
    /// The client key that spends.
    pub key: Option<KeyNumber>,
}

impl Settle {
    /// The source of what is charged.
    #[must_use]
    pub fn usage(&self) -> Source {
        self.hold.sibling(SourceKind::Usage)
    }

    /// Whether anything is charged.
    #[must_use]
    pub fn charges(&self) -> bool {
        !self.amount.is_zero()
    }

    pub(super) fn release(&self) -> Release {
        Release { client: self.client, hold: self.hold.clone() }
    }

    pub(super) fn about(&self) -> About {
        About::a_charge(self.route, self.price_list, self.upstream_status, self.key)
    }
}

/// See [`Command::Clawback`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clawback {
    /// From whom.
    pub client: ClientId,
    /// [`SourceKind::Refund`], [`SourceKind::Dispute`] or [`SourceKind::WriteOffReturn`].
    pub source: Source,
    /// How much.
    pub amount: Micros,
    /// Where it goes: `RefundPending`, `Clearing` when Stripe has taken it already, or `Adjustment`.
    pub to: Account,
    /// Bonus that is forfeited with it, as far as it has not been spent.
    pub forfeits: Micros,
    /// What happens when it is not there.
    pub within: Within,
}

/// How far a clawback goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// The decision is ours: only paid credit, and only what running requests have not set aside.
    Credit {
        /// Set aside.
        reserved: Micros,
    },
    /// The money is gone already: what is not there is owed.
    Debt,
}

/// See [`Command::PayOut`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayOut {
    /// Whose refund.
    pub client: ClientId,
    /// [`SourceKind::Refund`], the clawback. The payout's own is [`SourceKind::RefundPaid`].
    pub refund: Source,
}

/// See [`Command::Reinstate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reinstate {
    /// To whom.
    pub client: ClientId,
    /// [`SourceKind::RefundReturn`] or [`SourceKind::Reinstatement`].
    pub source: Source,
    /// The clawback's source.
    pub of: Source,
    /// How much of it; `None`: all, and the bonus that was forfeited with it.
    pub amount: Option<Micros>,
}

/// See [`Command::Fee`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fee {
    /// Whose payment.
    pub client: ClientId,
    /// [`SourceKind::Fee`] or [`SourceKind::DisputeFee`].
    pub source: Source,
    /// How much.
    pub amount: Micros,
    /// `Fees` or `Dispute`.
    pub account: Account,
    /// It comes back.
    pub is_returned: bool,
}

/// See [`Command::Adjust`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjust {
    /// To whom.
    pub client: ClientId,
    /// [`SourceKind::Adjustment`].
    pub source: Source,
    /// How much.
    pub amount: Micros,
    /// What becomes of it.
    pub gift: Gift,
}

/// What an operator gives. No money moves, so nothing of it can go to a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gift {
    /// Bonus credit.
    Credit,
    /// Less debt.
    Forgiveness,
}

impl Command {
    /// The idempotency key of the change.
    #[must_use]
    pub fn source(&self) -> Source {
        match self {
            Self::Capture(capture) => capture.source.clone(),
            Self::TopUp(top_up) => top_up.source.clone(),
            Self::Reverse(reverse) => reverse.capture.sibling(SourceKind::Reversal),
            Self::Clawback(clawback) => clawback.source.clone(),
            Self::Hold(hold) => hold.source.clone(),
            Self::Release(release) => release.hold.sibling(SourceKind::Release),
            Self::Settle(settle) if settle.charges() => settle.usage(),
            Self::Settle(settle) => settle.hold.sibling(SourceKind::Release),
            Self::PayOut(pay_out) => pay_out.refund.sibling(SourceKind::RefundPaid),
            Self::Reinstate(reinstate) => reinstate.source.clone(),
            Self::Fee(fee) => fee.source.clone(),
            Self::Adjust(adjust) => adjust.source.clone(),
        }
    }

    /// Whose balance it changes, as far as the command says so.
    #[must_use]
    pub fn client(&self) -> Option<ClientId> {
        match self {
            Self::Capture(capture) => Some(capture.client),
            Self::TopUp(top_up) => Some(top_up.client),
            Self::Reverse(reverse) => reverse.client,
            Self::Clawback(clawback) => Some(clawback.client),
            Self::Hold(hold) => Some(hold.client),
            Self::Release(release) => Some(release.client),
            Self::Settle(settle) => Some(settle.client),
            Self::PayOut(pay_out) => Some(pay_out.client),
            Self::Reinstate(reinstate) => Some(reinstate.client),
            Self::Fee(fee) => Some(fee.client),
            Self::Adjust(adjust) => Some(adjust.client),
        }
    }

    /// The sources that must be looked up before it is applied. Captures and holds are new by construction and guarded by the
    /// unique index, so their own are looked up only when they are `repeated` after a failure.
    #[must_use]
    pub fn recalls(&self, repeated: bool) -> Vec<Source> {
        match self {
            Self::Capture(capture) if capture.held => {
                let of = |kind| capture.source.sibling(kind);
                vec![capture.source.clone(), of(SourceKind::Release), of(SourceKind::Hold)]
            }
            Self::Capture(capture) if repeated => vec![capture.source.clone()],
            Self::Hold(hold) if repeated => vec![hold.source.clone()],
            Self::Capture(_) | Self::Hold(_) => Vec::new(),
            Self::Reverse(reverse) => vec![
                reverse.capture.clone(),
                reverse.capture.sibling(SourceKind::Reversal),
                reverse.capture.sibling(SourceKind::Hold),
            ],
            Self::Release(release) => {
                vec![
                    release.hold.clone(),
                    release.hold.sibling(SourceKind::Release),
                    release.hold.sibling(SourceKind::Usage),
                ]
            }
            Self::Settle(settle) => {
                vec![settle.usage(), settle.hold.sibling(SourceKind::Release), settle.hold.clone()]
            }
            Self::TopUp(_) | Self::Clawback(_) | Self::Fee(_) | Self::Adjust(_) => vec![self.source()],
            Self::PayOut(pay_out) => {
                vec![self.source(), pay_out.refund.clone(), pay_out.refund.sibling(SourceKind::RefundReturn)]
            }
            Self::Reinstate(reinstate) => {
                vec![self.source(), reinstate.of.clone(), reinstate.of.sibling(SourceKind::RefundPaid)]
            }
        }
    }

    /// The most entries it makes.
    #[must_use]
    pub fn max_legs(&self) -> usize {
        match self {
            Self::Capture(_) | Self::Reverse(_) | Self::Hold(_) | Self::Release(_) => 2,
            // Of two parts that are held, at most one is divided.
            Self::TopUp(_) | Self::Clawback(_) | Self::Reinstate(_) | Self::Settle(_) => MAX_LEGS,
            Self::PayOut(_) | Self::Fee(_) | Self::Adjust(_) => 1,
        }
    }
}

/// The most entries one command makes.
pub const MAX_LEGS: usize = 3;
