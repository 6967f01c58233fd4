//! The accounts that entries debit and credit.

/// An account of the books. The numbers are stored; never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Account {
    /// What we owe clients for what they paid (liability).
    ClientPaid,
    /// What we owe clients on top, given away with packs (liability).
    ClientBonus,
    /// What clients owe us after money was taken back that they had spent (asset).
    ClientDebt,
    /// Reserved for running metered requests (liability).
    Holds,
    /// Charged at Stripe, on its way (asset).
    StripeClearing,
    /// What Stripe keeps (expense).
    StripeFees,
    /// Refunds on their way to cards (liability).
    RefundPending,
    /// Earned by serving requests (income).
    Revenue,
    /// The cost of bonuses (expense).
    Promotion,
    /// Corrections by the operator.
    Adjustment,
    /// What Stripe charges for disputes (expense).
    Dispute,
    /// Credit that expired unused (income).
    Breakage,
}

impl Account {
    /// Every account.
    pub const ALL: [Self; 12] = [
        Self::ClientPaid,
        Self::ClientBonus,
        Self::ClientDebt,
        Self::Holds,
        Self::StripeClearing,
        Self::StripeFees,
        Self::RefundPending,
        Self::Revenue,
        Self::Promotion,
        Self::Adjustment,
        Self::Dispute,
        Self::Breakage,
    ];

    /// The stored number.
    #[must_use]
    pub const fn number(self) -> i64 {
        match self {
            Self::ClientPaid => 1,
            Self::ClientBonus => 2,
            Self::ClientDebt => 3,
            Self::Holds => 4,
            Self::StripeClearing => 5,
            Self::StripeFees => 6,
            Self::RefundPending => 7,
            Self::Revenue => 8,
            Self::Promotion => 9,
            Self::Adjustment => 10,
            Self::Dispute => 11,
            Self::Breakage => 12,
        }
    }

    /// Whether it is a part of a client's wallet: what the client has, or owes.
    #[must_use]
    pub const fn is_the_clients(self) -> bool {
        matches!(self, Self::ClientPaid | Self::ClientBonus | Self::ClientDebt)
    }

    /// From a stored number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|account| account.number() == number)
    }

    /// The name in exports and pages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientPaid => "client_paid",
            Self::ClientBonus => "client_bonus",
            Self::ClientDebt => "client_debt",
            Self::Holds => "holds",
            Self::StripeClearing => "stripe_clearing",
            Self::StripeFees => "stripe_fees",
            Self::RefundPending => "refund_pending",
            Self::Revenue => "revenue",
            Self::Promotion => "promotion",
            Self::Adjustment => "adjustment",
            Self::Dispute => "dispute",
            Self::Breakage => "breakage",
        }
    }
}
