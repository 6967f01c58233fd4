//! What the entries say together, by subject.

use std::collections::{HashMap, HashSet};

use crate::ledger::account::{Account, Rail};
use crate::ledger::source::{EntrySource, Source, SourceId, SourceKind};

/// A client as the entries tell it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Recomputed {
    pub(super) paid: i64,
    pub(super) bonus: i64,
    pub(super) debt: i64,
    pub(super) sequence: i64,
    pub(super) last_entry: Option<i64>,
}

/// Sums of one source's entries.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SourceSums {
    pub(super) client: i64,
    pub(super) clearing: i64,
    pub(super) promotion: i64,
}

/// What the books say about one refund.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RefundSums {
    pub(super) client: i64,
    /// Taken for it, and how much bonus was forfeited with it.
    pub(super) taken: i64,
    pub(super) forfeited: i64,
    /// Left for the card.
    pub(super) paid_out: i64,
    /// Come back, and how much bonus with it.
    pub(super) returned: i64,
    pub(super) given_back: i64,
}

/// What the books say about one request's hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldSums {
    pub(super) client: i64,
    /// Not ended yet.
    pub(super) held: i64,
    /// Taken from paid credit, less what was given back to it; the same of bonus.
    paid: i64,
    bonus: i64,
    taken_from_paid: i64,
    charged: i64,
}

impl HeldSums {
    /// What was charged was charged to paid credit first, and the rest of each is back where it was taken from.
    fn is_where_it_belongs(&self) -> bool {
        let from_paid = self.charged.min(self.taken_from_paid);
        (self.paid, self.bonus) == (from_paid, self.charged.saturating_sub(from_paid))
    }
}

/// One entry of a reversal.
#[derive(Debug)]
pub(super) struct Reversal {
    pub(super) source: EntrySource,
    pub(super) client: i64,
    pub(super) amount: i64,
    pub(super) debit: Account,
    pub(super) credit: Account,
}

/// Everything gathered on the way through the entries.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) clients: HashMap<i64, Recomputed>,
    pub(super) currencies: HashMap<i64, String>,
    pub(super) top_ups: HashMap<SourceId, SourceSums>,
    pub(super) reversals: Vec<Reversal>,
    pub(super) refunds: HashMap<SourceId, RefundSums>,
    /// What disputes have taken from each client and not given back.
    pub(super) disputed: HashMap<i64, i64>,
    /// Whose, how much, and what became of it.
    pub(super) adjustments: HashMap<SourceId, (i64, i64, Account)>,
    /// What of each write-off was taken back.
    pub(super) taken_back: HashMap<SourceId, i64>,
    /// Requests that hold something.
    pub(super) holds: HashMap<SourceId, HeldSums>,
    /// Requests whose hold ended with somebody else.
    pub(super) foreign_holds: Vec<SourceId>,
    /// Requests whose hold was not given back to where it was taken from.
    pub(super) misplaced_holds: Vec<SourceId>,
    pub(super) routes: HashSet<i64>,
    pub(super) price_lists: HashSet<i64>,
    /// Whose each client key is.
    pub(super) keys: HashMap<i64, i64>,
    /// Accounts that have a row.
    pub(super) accounts: HashSet<i64>,
    pub(super) trial: HashMap<(String, i64), i128>,
    /// The id that must come next, where ids have no gaps.
    pub(super) next_id: Option<i64>,
}

pub(super) fn note_source(
    source: EntrySource,
    client: i64,
    (debit, credit): (Account, Account),
    amount: i64,
    gathered: &mut Gathered,
) {
    if debit == Account::Holds || credit == Account::Holds {
        let request = source.id();
        let sums = gathered.holds.entry(request.clone()).or_insert(HeldSums {
            client,
            held: 0,
            paid: 0,
            bonus: 0,
            taken_from_paid: 0,
            charged: 0,
        });
        if sums.client != client {
            gathered.foreign_holds.push(request.clone());
        }
        let add = |sum: &mut i64, by: i64| *sum = sum.saturating_add(by);
        add(&mut sums.held, if credit == Account::Holds { amount } else { amount.saturating_neg() });
        match (debit, credit) {
            (Account::ClientPaid, _) => {
                add(&mut sums.paid, amount);
                add(&mut sums.taken_from_paid, amount);
            }
            (Account::ClientBonus, _) => add(&mut sums.bonus, amount),
            (_, Account::ClientPaid) => add(&mut sums.paid, amount.saturating_neg()),
            (_, Account::ClientBonus) => add(&mut sums.bonus, amount.saturating_neg()),
            _ => add(&mut sums.charged, amount),
        }
        if sums.held == 0 {
            if !sums.is_where_it_belongs() {
                gathered.misplaced_holds.push(request.clone());
            }
            gathered.holds.remove(request);
        }
    }
    match source.kind() {
        SourceKind::TopUp => {
            let sums = gathered.top_ups.entry(source.id().clone()).or_default();
            sums.client = client;
            match debit {
                Account::Clearing(Rail::Stripe) => sums.clearing = sums.clearing.saturating_add(amount),
                Account::Promotion => sums.promotion = sums.promotion.saturating_add(amount),
                _ => {}
            }
        }
        SourceKind::Reversal => {
            gathered.reversals.push(Reversal { source, client, amount, debit, credit });
        }
        _ => note_aftermath(source.command(), client, (debit, credit), amount, gathered),
    }
}

/// The same for what becomes of a charge.
fn note_aftermath(
    source: &Source,
    client: i64,
    (debit, credit): (Account, Account),
    amount: i64,
    gathered: &mut Gathered,
) {
    let (kind, id) = (source.kind(), source.id());
    match kind {
        SourceKind::Refund | SourceKind::RefundPaid | SourceKind::RefundReturn => {
            let sums = gathered.refunds.entry(id.clone()).or_default();
            sums.client = client;
            let sum = match (kind, debit, credit) {
                (SourceKind::Refund, _, Account::Promotion) => &mut sums.forfeited,
                (SourceKind::Refund, _, _) => &mut sums.taken,
                (SourceKind::RefundPaid, _, _) => &mut sums.paid_out,
                (_, Account::Promotion, _) => &mut sums.given_back,
                (_, _, _) => &mut sums.returned,
            };
            *sum = sum.saturating_add(amount);
        }
        SourceKind::WriteOffReturn => {
            let taken_back = gathered.taken_back.entry(id.clone()).or_default();
            *taken_back = taken_back.saturating_add(amount);
        }
        SourceKind::Adjustment => {
            gathered.adjustments.insert(id.clone(), (client, amount, credit));
        }
        SourceKind::Dispute | SourceKind::Reinstatement => {
            let signed = if kind == SourceKind::Dispute { amount } else { amount.saturating_neg() };
            let disputed = gathered.disputed.entry(client).or_default();
            *disputed = disputed.saturating_add(signed);
        }
        _ => {}
    }
}

/// What the entries say of a thing, by the id in its row. An id that no source can have has no entries.
pub(super) fn taken<T>(by_id: &mut HashMap<SourceId, T>, id: &str) -> Option<T> {
    by_id.remove(&SourceId::parse(id).ok()?)
}
