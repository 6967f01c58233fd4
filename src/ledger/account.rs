//! The accounts that entries debit and credit: the rows of `ledger_accounts`, each a kind, and through whom its money goes where there may
//! be several. Another rail is another value of [`Rail`], a number for each of its accounts, and a migration with their rows.

/// Through whom money comes in and goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rail {
    /// Cards, charged at Stripe.
    Stripe,
}

impl Rail {
    /// The stored word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stripe => "stripe",
        }
    }
}

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
    /// Charged there, on its way (asset).
    Clearing(Rail),
    /// What is kept there (expense).
    Fees(Rail),
    /// Refunds on their way to cards (liability).
    RefundPending,
    /// Earned by serving requests (income).
    Revenue,
    /// The cost of bonuses (expense).
    Promotion,
    /// Corrections by the operator.
    Adjustment,
    /// What disputes cost there (expense).
    Dispute(Rail),
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
        Self::Clearing(Rail::Stripe),
        Self::Fees(Rail::Stripe),
        Self::RefundPending,
        Self::Revenue,
        Self::Promotion,
        Self::Adjustment,
        Self::Dispute(Rail::Stripe),
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
            Self::Clearing(Rail::Stripe) => 5,
            Self::Fees(Rail::Stripe) => 6,
            Self::RefundPending => 7,
            Self::Revenue => 8,
            Self::Promotion => 9,
            Self::Adjustment => 10,
            Self::Dispute(Rail::Stripe) => 11,
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

    /// What it is, as its row says.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Clearing(_) => "clearing",
            Self::Fees(_) => "fees",
            other => other.name(),
        }
    }

    /// Through whom its money goes, where there may be several.
    #[must_use]
    pub const fn rail(self) -> Option<Rail> {
        match self {
            Self::Clearing(rail) | Self::Fees(rail) | Self::Dispute(rail) => Some(rail),
            _ => None,
        }
    }

    /// The word of its rail, as its row says; empty for one that has none.
    #[must_use]
    pub fn instance(self) -> &'static str {
        self.rail().map_or("", Rail::word)
    }

    /// The name in exports and pages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientPaid => "client_paid",
            Self::ClientBonus => "client_bonus",
            Self::ClientDebt => "client_debt",
            Self::Holds => "holds",
            Self::Clearing(Rail::Stripe) => "stripe_clearing",
            Self::Fees(Rail::Stripe) => "stripe_fees",
            Self::RefundPending => "refund_pending",
            Self::Revenue => "revenue",
            Self::Promotion => "promotion",
            Self::Adjustment => "adjustment",
            Self::Dispute(Rail::Stripe) => "dispute",
            Self::Breakage => "breakage",
        }
    }
}
