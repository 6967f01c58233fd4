//! Every rule about money, as an ordinary function: `apply(state, commands) → entries, new state, outcomes`.
//!
//! No I/O, no clock, no randomness: the same input gives the same books, so tables, a model and millions of random
//! commands can test it. The shell (`writer.rs`, `sqlite.rs`) reads the state, calls [`Batch::apply`] for each command and
//! writes the result in one transaction.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::account::{Account, Rail};
use super::source::{EntrySource, Source, SourceKind};
use crate::domain::{Currency, Micros};

/// A client's number: integer, because the hot path joins on it.
pub type ClientId = i64;
/// A client key's number.
pub type KeyNumber = i64;
/// An entry's number. Those of one client ascend in the order of commits; where there is one writer, all do.
pub type EntryId = i64;

/// A client's balances, as posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientState {
    /// Fixed by the client's first top-up.
    pub currency: Currency,
    /// Credit that was paid for.
    pub paid: Micros,
    /// Credit that was given on top.
    pub bonus: Micros,
    /// What the client owes after money was taken back that it had spent.
    pub debt: Micros,
    /// Entries so far.
    pub sequence: i64,
    /// The newest entry.
    pub last_entry: Option<EntryId>,
    /// An operator or a dispute stopped this client from spending.
    pub frozen: bool,
}

impl ClientState {
    /// A client without any entry.
    #[must_use]
    pub fn new(currency: Currency) -> Self {
        Self {
            currency,
            paid: Micros::ZERO,
            bonus: Micros::ZERO,
            debt: Micros::ZERO,
            sequence: 0,
            last_entry: None,
            frozen: false,
        }
    }

    /// What can be spent, reservations aside: nothing while there is debt, whatever the bonus.
    #[must_use]
    pub fn spendable(&self) -> Micros {
        if self.is_frozen() { Micros::ZERO } else { self.credit() }
    }

    /// Paid and bonus credit together.
    #[must_use]
    pub fn credit(&self) -> Micros {
        self.paid.checked_add(self.bonus).unwrap_or(Micros::MAX)
    }

    /// Frozen by decision or by debt.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen || !self.debt.is_zero()
    }
}

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

    fn release(&self) -> Release {
        Release { client: self.client, hold: self.hold.clone() }
    }

    fn about(&self) -> About {
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

/// One line of the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Ascending.
    pub id: EntryId,
    /// Unique.
    pub source: EntrySource,
    /// The account that is debited.
    pub debit: Account,
    /// The account that is credited.
    pub credit: Account,
    /// More than nothing.
    pub amount: Micros,
    /// Of the amount.
    pub currency: Currency,
    /// Whose balance it changes.
    pub client: ClientId,
    /// The client's counter after it.
    pub sequence: i64,
    /// The client's entry before it.
    pub previous: Option<EntryId>,
    /// Balances after it.
    pub paid_after: Micros,
    /// Balances after it.
    pub bonus_after: Micros,
    /// Balances after it.
    pub debt_after: Micros,
    /// For usage: the route.
    pub route: Option<i64>,
    /// For usage: the price list.
    pub price_list: Option<i64>,
    /// For usage: what the upstream answered.
    pub upstream_status: Option<u16>,
    /// For usage and holds: the client key that spent. `None` where nobody did, and before schema 8.
    pub key: Option<KeyNumber>,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the books, now or already before (`repeated`).
    Posted {
        /// The first entry.
        entry: EntryId,
        /// Whose balance changed.
        client: ClientId,
        /// The balances now.
        state: ClientState,
        /// The same command had been posted before; nothing was added.
        repeated: bool,
    },
    /// It is not in the books.
    Refused(Refusal),
}

/// Why a command is not in the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The credit does not cover it.
    #[error("the credit does not cover it")]
    InsufficientCredits,
    /// The client is frozen or in debt.
    #[error("the client is frozen")]
    ClientFrozen,
    /// The amount is of another currency than the client's.
    #[error("the amount is of another currency than the client's")]
    CurrencyMismatch,
    /// There is no such client.
    #[error("there is no such client")]
    UnknownClient,
    /// The source is taken by a command with other content.
    #[error("the source is taken by a command with other content")]
    SourceConflict,
    /// There is no such capture to reverse.
    #[error("there is no such capture")]
    NothingToReverse,
    /// There is no such hold, or it has ended.
    #[error("there is no such hold, or it has ended")]
    NoHold,
    /// The credit is there, but running requests have set it aside.
    #[error("running requests have set the credit aside")]
    ReservationsInFlight,
    /// More than is held.
    #[error("that is more than is held")]
    ExceedsHold,
    /// More than is left of the charge.
    #[error("that is more than is left of the charge")]
    ExceedsCharge,
    /// More than the client owes.
    #[error("that is more than the client owes")]
    ExceedsDebt,
    /// More credit than operators may give in a day.
    #[error("that is more credit than operators may give in a day")]
    DailyLimit,
    /// The top-up has not succeeded, or not yet.
    #[error("the top-up has not succeeded")]
    NotCharged,
    /// A balance would leave the range of amounts.
    #[error("a balance would leave the range of amounts")]
    OutOfRange,
}

/// The state that one batch works on: what the shell read, then what the commands made of it.
#[derive(Debug, Default)]
pub struct Batch {
    /// The clients that the commands touch, as read under the lock. A missing one does not exist.
    pub clients: HashMap<ClientId, ClientState>,
    /// Entries already in the books under the sources that may repeat, and under the captures to reverse.
    pub recorded: HashMap<EntrySource, Entry>,
    /// Appended by the commands.
    pub entries: Vec<Entry>,
    /// Clients whose state changed.
    pub changed: HashSet<ClientId>,
    /// Ids for new entries.
    ids: Ids,
    /// Sources posted in this batch, for commands that come twice in it.
    posted: HashMap<EntrySource, usize>,
}

/// Where the ids of new entries come from.
#[derive(Debug)]
enum Ids {
    /// One after the other: there is one writer.
    From(EntryId),
    /// From a block that is ours: several writers share a sequence.
    Within(Range<EntryId>),
}

impl Default for Ids {
    fn default() -> Self {
        Self::From(1)
    }
}

impl Ids {
    /// The n-th id from here, counted from nothing.
    fn nth(&self, n: usize) -> Option<EntryId> {
        match self {
            Self::From(next) => next.checked_add(i64::try_from(n).ok()?),
            Self::Within(ids) => {
                let id = ids.start.checked_add(i64::try_from(n).ok()?)?;
                ids.contains(&id).then_some(id)
            }
        }
    }

    /// Uses up the next `n`.
    fn advance(&mut self, n: usize) {
        let (Self::From(next) | Self::Within(Range { start: next, .. })) = self;
        *next = next.saturating_add(i64::try_from(n).unwrap_or(i64::MAX));
    }
}

/// What an entry says beside what it moves.
#[derive(Debug, Clone, Copy, Default)]
struct About {
    route: Option<i64>,
    price_list: Option<i64>,
    upstream_status: Option<u16>,
    key: Option<KeyNumber>,
}

impl About {
    fn a_charge(route: i64, price_list: i64, upstream_status: u16, key: Option<KeyNumber>) -> Self {
        Self { route: Some(route), price_list: Some(price_list), upstream_status: Some(upstream_status), key }
    }
}

impl Capture {
    fn about(&self) -> About {
        About::a_charge(self.route, self.price_list, self.upstream_status, self.key)
    }
}

/// What is posted under one source.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    source: &'a Source,
    legs: &'a [Leg],
    about: About,
}

/// One movement between accounts, before it becomes an entry.
#[derive(Debug, Clone, Copy)]
struct Leg {
    debit: Account,
    credit: Account,
    amount: Micros,
}

impl Batch {
    /// An empty batch whose first entry will have this id.
    #[must_use]
    pub fn starting_at(next_entry: EntryId) -> Self {
        Self { ids: Ids::From(next_entry), ..Self::default() }
    }

    /// An empty batch whose entries get ids of this block, ascending.
    #[must_use]
    pub fn within(ids: Range<EntryId>) -> Self {
        Self { ids: Ids::Within(ids), ..Self::default() }
    }

    /// The id of the next entry, while there are ids left.
    #[must_use]
    pub fn next_entry(&self) -> Option<EntryId> {
        self.ids.nth(0)
    }

    /// What is left of the block that the batch was given ([`Batch::within`]).
    #[must_use]
    pub fn ids_left(&self) -> Range<EntryId> {
        match &self.ids {
            Ids::From(next) => *next..*next,
            Ids::Within(ids) => ids.clone(),
        }
    }

    /// Applies one command. A refused command changes nothing.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        let result = match command {
            Command::Capture(capture) => self.capture(capture),
            Command::TopUp(top_up) => self.top_up(top_up),
            Command::Reverse(reverse) => self.reverse(reverse),
            Command::Clawback(clawback) => self.clawback(clawback),
            Command::Hold(hold) => self.hold(hold),
            Command::Release(release) => self.release(release),
            Command::Settle(settle) => self.settle(settle),
            Command::PayOut(pay_out) => self.pay_out(pay_out),
            Command::Reinstate(reinstate) => self.reinstate(reinstate),
            Command::Fee(fee) => self.fee(fee),
            Command::Adjust(adjust) => self.adjust(adjust),
        };
        result.unwrap_or_else(Outcome::Refused)
    }

    fn client(&self, id: ClientId) -> Result<ClientState, Refusal> {
        self.clients.get(&id).copied().ok_or(Refusal::UnknownClient)
    }

    /// The first entry under a source, from the books or from this batch.
    fn find(&self, source: &Source) -> Option<&Entry> {
        self.find_entry(&source.entry(0))
    }

    fn find_entry(&self, source: &EntrySource) -> Option<&Entry> {
        match self.posted.get(source) {
            Some(index) => self.entries.get(*index),
            None => self.recorded.get(source),
        }
    }

    /// All entries of one command, in the order of its legs.
    fn legs_of(&self, source: &Source) -> Vec<Entry> {
        source.entries().map_while(|source| self.find_entry(&source).cloned()).collect()
    }

    /// The answer for a source that is in the books: the recorded outcome if the content is the same. `totals` are the
    /// accounts outside the client's wallet and what they move; how the wallet's side split depends on its state then.
    fn repeat(
        &self,
        source: &Source,
        client: ClientId,
        totals: &[(Account, Micros)],
    ) -> Option<Result<Outcome, Refusal>> {
        let first = self.find(source)?;
        let legs = self.legs_of(source);
        let touches = |leg: &Entry, account: Account| leg.debit == account || leg.credit == account;
        let moved = |account: Account| {
            legs.iter()
                .filter(|leg| touches(leg, account))
                .try_fold(Micros::ZERO, |sum, leg| sum.checked_add(leg.amount))
        };
        let same = first.client == client
            && totals.iter().all(|(account, total)| moved(*account) == Some(*total))
            && legs.iter().all(|leg| totals.iter().any(|(account, _)| touches(leg, *account)));
        if !same {
            return Some(Err(Refusal::SourceConflict));
        }
        let (entry, client) = (first.id, first.client);
        Some(self.client(client).map(|state| Outcome::Posted { entry, client, state, repeated: true }))
    }

    fn capture(&mut self, capture: &Capture) -> Result<Outcome, Refusal> {
        if let Some(outcome) =
            self.repeat(&capture.source, capture.client, &[(Account::Revenue, capture.price)])
        {
            return outcome;
        }
        if capture.held {
            let settled = |_| (Account::Holds, Account::Revenue);
            let hold = capture.source.sibling(SourceKind::Hold);
            let legs = self.held_legs(capture.client, &hold, capture.price, settled)?;
            return self.post(capture.client, &capture.source, &legs, capture.about());
        }
        let legs = self.spending_legs(capture.client, capture.price, Account::Revenue)?;
        self.post(capture.client, &capture.source, &legs, capture.about())
    }

    fn hold(&mut self, hold: &Hold) -> Result<Outcome, Refusal> {
        if let Some(outcome) = self.repeat(&hold.source, hold.client, &[(Account::Holds, hold.amount)]) {
            return outcome;
        }
        let legs = self.spending_legs(hold.client, hold.amount, Account::Holds)?;
        self.post(hold.client, &hold.source, &legs, About { key: hold.key, ..About::default() })
    }

    fn release(&mut self, release: &Release) -> Result<Outcome, Refusal> {
        let held = self.legs_of(&release.hold);
        if held.iter().any(|leg| leg.credit != Account::Holds) {
            return Err(Refusal::NoHold);
        }
        let total = held
            .iter()
            .try_fold(Micros::ZERO, |sum, leg| sum.checked_add(leg.amount))
            .ok_or(Refusal::OutOfRange)?;
        if self.find(&release.hold.sibling(SourceKind::Usage)).is_some() {
            // What went back by then was the rest of what was charged.
            return Err(Refusal::NoHold);
        }
        let source = release.hold.sibling(SourceKind::Release);
        if let Some(outcome) = self.repeat(&source, release.client, &[(Account::Holds, total)]) {
            return outcome;
        }
        let legs =
            self.held_legs(release.client, &release.hold, total, |taken_from| (Account::Holds, taken_from))?;
        self.post(release.client, &source, &legs, About::default())
    }

    fn settle(&mut self, settle: &Settle) -> Result<Outcome, Refusal> {
        if !settle.charges() {
            return self.release(&settle.release());
        }
        let usage = settle.usage();
        if let Some(outcome) = self.repeat(&usage, settle.client, &[(Account::Revenue, settle.amount)]) {
            // Charged without a hold, it was another request.
            let is_of_hold = self.find(&usage).is_some_and(|first| first.debit == Account::Holds);
            return if is_of_hold { outcome } else { Err(Refusal::SourceConflict) };
        }
        let release = settle.hold.sibling(SourceKind::Release);
        let held = self.legs_of(&settle.hold);
        if held.is_empty()
            || held.iter().any(|leg| leg.credit != Account::Holds)
            || self.find(&release).is_some()
        {
            return Err(Refusal::NoHold);
        }
        if held.iter().any(|leg| leg.client != settle.client) {
            return Err(Refusal::SourceConflict);
        }
        // The hold's legs are in the order in which credit is spent, and so is what is charged of them.
        let mut left = settle.amount;
        let (mut charged, mut back) = (Vec::with_capacity(held.len()), Vec::with_capacity(held.len()));
        for leg in &held {
            let charge = left.min(leg.amount);
            let rest = leg.amount.checked_sub(charge).ok_or(Refusal::OutOfRange)?;
            left = left.checked_sub(charge).ok_or(Refusal::OutOfRange)?;
            charged.push(Leg { debit: Account::Holds, credit: Account::Revenue, amount: charge });
            back.push(Leg { debit: Account::Holds, credit: leg.debit, amount: rest });
        }
        if !left.is_zero() {
            return Err(Refusal::ExceedsHold);
        }
        let parts = [
            Part { source: &usage, legs: &charged, about: settle.about() },
            Part { source: &release, legs: &back, about: About::default() },
        ];
        self.post_parts(settle.client, &parts)
    }

    /// Paid credit first, then bonus.
    fn spending_legs(&self, client: ClientId, amount: Micros, to: Account) -> Result<[Leg; 2], Refusal> {
        let state = self.client(client)?;
        if state.is_frozen() {
            return Err(Refusal::ClientFrozen);
        }
        let from_paid = state.paid.min(amount);
        let from_bonus = amount.checked_sub(from_paid).ok_or(Refusal::OutOfRange)?;
        if from_bonus > state.bonus {
            return Err(Refusal::InsufficientCredits);
        }
        Ok([
            Leg { debit: Account::ClientPaid, credit: to, amount: from_paid },
            Leg { debit: Account::ClientBonus, credit: to, amount: from_bonus },
        ])
    }

    /// What ends a hold: one leg for each of the hold's. The debit and credit follow from the account it was taken from. A
    /// hold ends once: settled by a capture or released. That the client has been frozen since does not matter.
    fn held_legs(
        &self,
        client: ClientId,
        hold: &Source,
        amount: Micros,
        accounts: impl Fn(Account) -> (Account, Account),
    ) -> Result<Vec<Leg>, Refusal> {
        let held = self.legs_of(hold);
        let has_ended = |by| self.find(&hold.sibling(by)).is_some();
        if held.is_empty() || has_ended(SourceKind::Release) || has_ended(SourceKind::Usage) {
            return Err(Refusal::NoHold);
        }
        let total = held.iter().try_fold(Micros::ZERO, |sum, leg| sum.checked_add(leg.amount));
        if total != Some(amount) || held.iter().any(|leg| leg.client != client) {
            return Err(Refusal::SourceConflict);
        }
        let leg = |leg: &Entry| {
            let (debit, credit) = accounts(leg.debit);
            Leg { debit, credit, amount: leg.amount }
        };
        Ok(held.iter().map(leg).collect())
    }

    fn top_up(&mut self, top_up: &TopUp) -> Result<Outcome, Refusal> {
        if self.find(&top_up.source).is_some_and(|first| first.currency != top_up.currency) {
            return Err(Refusal::SourceConflict);
        }
        let totals = [(Account::Clearing(Rail::Stripe), top_up.amount), (Account::Promotion, top_up.bonus)];
        if let Some(outcome) = self.repeat(&top_up.source, top_up.client, &totals) {
            return outcome;
        }
        let state = self.client(top_up.client)?;
        if state.currency != top_up.currency {
            return Err(Refusal::CurrencyMismatch);
        }
        let repaid = state.debt.min(top_up.amount);
        let credited = top_up.amount.checked_sub(repaid).ok_or(Refusal::OutOfRange)?;
        let legs = [
            Leg { debit: Account::Clearing(Rail::Stripe), credit: Account::ClientDebt, amount: repaid },
            Leg { debit: Account::Clearing(Rail::Stripe), credit: Account::ClientPaid, amount: credited },
            Leg { debit: Account::Promotion, credit: Account::ClientBonus, amount: top_up.bonus },
        ];
        self.post(top_up.client, &top_up.source, &legs, About::default())
    }

    fn reverse(&mut self, reverse: &Reverse) -> Result<Outcome, Refusal> {
        let captured = self.legs_of(&reverse.capture);
        let Some(first) = captured.first() else {
            return Err(Refusal::NothingToReverse);
        };
        if captured.iter().any(|leg| leg.credit != Account::Revenue) {
            return Err(Refusal::NothingToReverse);
        }
        let client = first.client;
        let source = reverse.capture.sibling(SourceKind::Reversal);
        let total = captured
            .iter()
            .try_fold(Micros::ZERO, |sum, leg| sum.checked_add(leg.amount))
            .ok_or(Refusal::OutOfRange)?;
        if let Some(outcome) = self.repeat(&source, client, &[(Account::Revenue, total)]) {
            return outcome;
        }
        // What was captured from a hold goes back to where the hold had taken it from.
        let held = self.legs_of(&reverse.capture.sibling(SourceKind::Hold));
        let taken_from = |nth: usize, leg: &Entry| match leg.debit {
            Account::Holds => held.get(nth).map(|hold| hold.debit).ok_or(Refusal::NothingToReverse),
            debit => Ok(debit),
        };
        let legs = captured
            .iter()
            .enumerate()
            .map(|(nth, leg)| {
                Ok(Leg { debit: leg.credit, credit: taken_from(nth, leg)?, amount: leg.amount })
            })
            .collect::<Result<Vec<Leg>, Refusal>>()?;
        self.post(client, &source, &legs, About::default())
    }

    fn clawback(&mut self, clawback: &Clawback) -> Result<Outcome, Refusal> {
        let forfeited = moved_by(&self.legs_of(&clawback.source), Account::Promotion)?;
        if forfeited > clawback.forfeits {
            return Err(Refusal::SourceConflict);
        }
        let totals = [(clawback.to, clawback.amount), (Account::Promotion, forfeited)];
        if let Some(outcome) = self.repeat(&clawback.source, clawback.client, &totals) {
            return outcome;
        }
        let state = self.client(clawback.client)?;
        if clawback.amount.is_zero() {
            // Without money there is nothing that bonus could go with.
            return Err(Refusal::OutOfRange);
        }
        let forfeited = clawback.forfeits.min(state.bonus);
        if let Within::Credit { reserved } = clawback.within {
            if !state.debt.is_zero() || clawback.amount > state.paid {
                return Err(Refusal::InsufficientCredits);
            }
            let taken = clawback.amount.checked_add(forfeited).ok_or(Refusal::OutOfRange)?;
            if state.credit().saturating_sub(taken) < reserved {
                return Err(Refusal::ReservationsInFlight);
            }
        }
        let from_paid = state.paid.min(clawback.amount);
        let owed = clawback.amount.checked_sub(from_paid).ok_or(Refusal::OutOfRange)?;
        let legs = [
            Leg { debit: Account::ClientPaid, credit: clawback.to, amount: from_paid },
            Leg { debit: Account::ClientDebt, credit: clawback.to, amount: owed },
            Leg { debit: Account::ClientBonus, credit: Account::Promotion, amount: forfeited },
        ];
        self.post(clawback.client, &clawback.source, &legs, About::default())
    }

    fn pay_out(&mut self, pay_out: &PayOut) -> Result<Outcome, Refusal> {
        let taken = self.legs_of(&pay_out.refund);
        if taken.iter().any(|leg| leg.client != pay_out.client) {
            return Err(Refusal::SourceConflict);
        }
        let amount = moved_by(&taken, Account::RefundPending)?;
        if amount.is_zero() {
            return Err(Refusal::NothingToReverse);
        }
        let source = pay_out.refund.sibling(SourceKind::RefundPaid);
        if let Some(outcome) = self.repeat(&source, pay_out.client, &[(Account::RefundPending, amount)]) {
            return outcome;
        }
        if self.find(&pay_out.refund.sibling(SourceKind::RefundReturn)).is_some() {
            return Err(Refusal::SourceConflict);
        }
        let leg = Leg { debit: Account::RefundPending, credit: Account::Clearing(Rail::Stripe), amount };
        self.post(pay_out.client, &source, &[leg], About::default())
    }

    /// Debt is repaid first, whatever it came from, and the rest is paid credit again; so is the bonus that was forfeited.
    fn reinstate(&mut self, reinstate: &Reinstate) -> Result<Outcome, Refusal> {
        let taken = self.legs_of(&reinstate.of);
        let to = taken.first().ok_or(Refusal::NothingToReverse)?.credit;
        if taken.iter().any(|leg| leg.client != reinstate.client) {
            return Err(Refusal::SourceConflict);
        }
        let total = moved_by(&taken, to)?;
        let amount = reinstate.amount.unwrap_or(total);
        let forfeited = match reinstate.amount {
            None => moved_by(&taken, Account::Promotion)?,
            Some(_) => Micros::ZERO,
        };
        // A refund that had left for the card comes back to where it had come from.
        let has_left = to == Account::RefundPending
            && self.find(&reinstate.of.sibling(SourceKind::RefundPaid)).is_some();
        let from = match self.find(&reinstate.source).map(|first| first.debit) {
            // Asked for again: it may have left only after a part had come back.
            Some(before) if before == to => to,
            _ if has_left => Account::Clearing(Rail::Stripe),
            _ => to,
        };
        let totals = [(from, amount), (Account::Promotion, forfeited)];
        if let Some(outcome) = self.repeat(&reinstate.source, reinstate.client, &totals) {
            return outcome;
        }
        if amount > total {
            return Err(Refusal::SourceConflict);
        }
        let repaid = self.client(reinstate.client)?.debt.min(amount);
        let credited = amount.checked_sub(repaid).ok_or(Refusal::OutOfRange)?;
        let legs = [
            Leg { debit: from, credit: Account::ClientDebt, amount: repaid },
            Leg { debit: from, credit: Account::ClientPaid, amount: credited },
            Leg { debit: Account::Promotion, credit: Account::ClientBonus, amount: forfeited },
        ];
        self.post(reinstate.client, &reinstate.source, &legs, About::default())
    }

    fn fee(&mut self, fee: &Fee) -> Result<Outcome, Refusal> {
        let totals = [(fee.account, fee.amount)];
        if let Some(outcome) = self.repeat(&fee.source, fee.client, &totals) {
            return outcome;
        }
        let (debit, credit) = match fee.is_returned {
            false => (fee.account, Account::Clearing(Rail::Stripe)),
            true => (Account::Clearing(Rail::Stripe), fee.account),
        };
        self.post(fee.client, &fee.source, &[Leg { debit, credit, amount: fee.amount }], About::default())
    }

    fn adjust(&mut self, adjust: &Adjust) -> Result<Outcome, Refusal> {
        let to = match adjust.gift {
            Gift::Credit => Account::ClientBonus,
            Gift::Forgiveness => Account::ClientDebt,
        };
        let totals = [(Account::Adjustment, adjust.amount)];
        if let Some(outcome) = self.repeat(&adjust.source, adjust.client, &totals) {
            return match self.find(&adjust.source).is_some_and(|first| first.credit == to) {
                true => outcome,
                false => Err(Refusal::SourceConflict),
            };
        }
        if adjust.gift == Gift::Forgiveness && adjust.amount > self.client(adjust.client)?.debt {
            return Err(Refusal::ExceedsDebt);
        }
        let leg = Leg { debit: Account::Adjustment, credit: to, amount: adjust.amount };
        self.post(adjust.client, &adjust.source, &[leg], About::default())
    }

    fn post(
        &mut self,
        client: ClientId,
        source: &Source,
        legs: &[Leg],
        about: About,
    ) -> Result<Outcome, Refusal> {
        self.post_parts(client, &[Part { source, legs, about }])
    }

    /// Appends the legs that are more than nothing, or changes nothing at all.
    fn post_parts(&mut self, client: ClientId, parts: &[Part<'_>]) -> Result<Outcome, Refusal> {
        let mut state = self.client(client)?;
        let mut entries = Vec::with_capacity(parts.iter().map(|part| part.legs.len()).sum());
        for Part { source, legs, about } in parts {
            for (nth, leg) in legs.iter().filter(|leg| !leg.amount.is_zero()).enumerate() {
                state = moved(state, *leg)?;
                state.sequence = state.sequence.checked_add(1).ok_or(Refusal::OutOfRange)?;
                let id = self.ids.nth(entries.len()).ok_or(Refusal::OutOfRange)?;
                entries.push(Entry {
                    id,
                    source: source.entry(nth),
                    debit: leg.debit,
                    credit: leg.credit,
                    amount: leg.amount,
                    currency: state.currency,
                    client,
                    sequence: state.sequence,
                    previous: state.last_entry,
                    paid_after: state.paid,
                    bonus_after: state.bonus,
                    debt_after: state.debt,
                    route: about.route,
                    price_list: about.price_list,
                    upstream_status: about.upstream_status,
                    key: about.key,
                });
                state.last_entry = Some(id);
            }
        }
        let Some(first) = entries.first() else {
            // An amount of nothing is no change, so there is nothing to find again under its source.
            return Err(Refusal::OutOfRange);
        };
        let entry = first.id;
        self.ids.advance(entries.len());
        for added in entries {
            self.posted.insert(added.source.clone(), self.entries.len());
            self.entries.push(added);
        }
        self.clients.insert(client, state);
        self.changed.insert(client);
        Ok(Outcome::Posted { entry, client, state, repeated: false })
    }
}

/// What these entries move into or out of an account.
fn moved_by(legs: &[Entry], account: Account) -> Result<Micros, Refusal> {
    legs.iter()
        .filter(|leg| leg.debit == account || leg.credit == account)
        .try_fold(Micros::ZERO, |sum, leg| sum.checked_add(leg.amount))
        .ok_or(Refusal::OutOfRange)
}

/// The client's balances after one movement. Liabilities grow by credits, the asset `ClientDebt` by debits.
fn moved(mut state: ClientState, leg: Leg) -> Result<ClientState, Refusal> {
    let grow = |balance: Micros| balance.checked_add(leg.amount).ok_or(Refusal::OutOfRange);
    let shrink = |balance: Micros| balance.checked_sub(leg.amount).ok_or(Refusal::InsufficientCredits);
    match leg.debit {
        Account::ClientPaid => state.paid = shrink(state.paid)?,
        Account::ClientBonus => state.bonus = shrink(state.bonus)?,
        Account::ClientDebt => state.debt = grow(state.debt)?,
        _ => {}
    }
    match leg.credit {
        Account::ClientPaid => state.paid = grow(state.paid)?,
        Account::ClientBonus => state.bonus = grow(state.bonus)?,
        Account::ClientDebt => state.debt = shrink(state.debt)?,
        _ => {}
    }
    Ok(state)
}

#[cfg(test)]
mod tests;
