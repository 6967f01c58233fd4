//! Two descriptions of the same money: what Stripe has, and what the books say. Facts go in, differences come out.
//!
//! Whoever gathers the facts has asked Stripe by its id for everything in the books that Stripe's lists did not name. So what is
//! in the books here and not among Stripe's facts is not at Stripe.

use std::collections::{BTreeMap, BTreeSet};

use super::difference::{Difference, Kind};
use crate::domain::{Currency, decimal_in};
use crate::ledger::{Source, SourceKind};

/// A fee may be booked this much later than it was taken, in seconds.
const FEE_GRACE: i64 = 24 * 60 * 60;

/// Both sides.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Unix seconds.
    pub now: i64,
    /// What Stripe has.
    pub stripe: StripeSide,
    /// What the books say.
    pub books: BooksSide,
}

/// What Stripe has that is ours.
#[derive(Debug, Clone, Default)]
pub struct StripeSide {
    /// PaymentIntents that were charged.
    pub charges: Vec<Charged>,
    /// Each once.
    pub refunds: Vec<Refunded>,
    /// Each movement once.
    pub disputes: Vec<DisputeMoved>,
    /// PaymentIntents that were asked for by id, and exist, but were not charged.
    pub not_charged: BTreeSet<String>,
    /// PaymentIntents that were asked for by id, and that Stripe does not have.
    pub unknown: BTreeSet<String>,
    /// Of the [charges that nobody was credited for](charges_nobody_was_credited_for): those that have been given back.
    pub given_back: BTreeSet<String>,
}

/// A charged PaymentIntent.
#[derive(Debug, Clone)]
pub struct Charged {
    /// `pi_…`.
    pub payment_intent: String,
    /// `ch_…`, where it is known.
    pub charge: Option<String>,
    /// From the metadata, or found by the PaymentIntent.
    pub top_up: String,
    /// The client's public id, from the metadata.
    pub client: Option<String>,
    /// In minor units.
    pub amount: i64,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// What it has moved, where it is known.
    pub movement: Option<Moved>,
}

/// Of a balance transaction.
#[derive(Debug, Clone)]
pub struct Moved {
    /// `txn_…`.
    pub id: String,
    /// In minor units of the settlement currency.
    pub fee: i64,
    /// The settlement currency.
    pub currency: String,
    /// Unix seconds.
    pub created: i64,
}

/// Where a refund stands at Stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundStatus {
    /// On its way.
    Pending,
    /// It has left.
    Succeeded,
    /// It came back, or never left.
    Failed,
}

/// A refund at Stripe.
#[derive(Debug, Clone)]
pub struct Refunded {
    /// `re_…`.
    pub id: String,
    /// `pi_…`.
    pub payment_intent: String,
    /// Our refund, from the metadata.
    pub ours: Option<String>,
    /// In minor units.
    pub amount: i64,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// Where it stands.
    pub status: RefundStatus,
}

/// Money that a dispute has taken or given back.
#[derive(Debug, Clone)]
pub struct DisputeMoved {
    /// Stripe's id of the dispute.
    pub dispute: String,
    /// `pi_…`.
    pub payment_intent: String,
    /// In minor units of `currency`, above zero.
    pub amount: i64,
    /// Of the amount.
    pub currency: String,
    /// Whether it came back.
    pub is_reinstated: bool,
    /// The balance transaction.
    pub movement: Moved,
}

/// What the books say.
#[derive(Debug, Clone, Default)]
pub struct BooksSide {
    /// By id.
    pub top_ups: BTreeMap<String, TopUpRow>,
    /// By id.
    pub refunds: BTreeMap<String, RefundRow>,
    /// Entries by their source, all entries of one command together.
    pub posted: BTreeMap<Source, Posted>,
    /// Entries whose source is none that this program knows, by its text.
    pub unknown: BTreeMap<String, Posted>,
}

/// A row of `top_ups`.
#[derive(Debug, Clone)]
pub struct TopUpRow {
    /// Its number.
    pub client: Option<i64>,
    /// Its public id.
    pub client_public: Option<String>,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// In micros.
    pub amount: i64,
    /// Our word.
    pub state: String,
    /// `pi_…`.
    pub payment_intent: Option<String>,
    /// `ch_…`, once known.
    pub charge: Option<String>,
}

/// A row of `refunds`.
#[derive(Debug, Clone)]
pub struct RefundRow {
    /// Ours.
    pub top_up: String,
    /// In micros.
    pub amount: i64,
    /// Our word.
    pub state: String,
    /// `re_…`, once known.
    pub stripe_refund: Option<String>,
}

/// What the entries of one source move, in micros: debits minus credits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Posted {
    /// Whose.
    pub client: Option<i64>,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// Of `stripe_clearing`.
    pub clearing: i128,
    /// Of `refund_pending`.
    pub pending: i128,
    /// Of `stripe_fees`.
    pub fees: i128,
    /// Of `dispute`.
    pub dispute: i128,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// In the order of charges, refunds, disputes, and what Stripe does not have.
    pub differences: Vec<Difference>,
    /// Fees that Stripe took less than a day ago and that are not booked yet: no difference.
    pub fees_not_booked_yet: u64,
}

/// Compares.
#[must_use]
pub fn compare(facts: &Facts) -> Comparison {
    let mut comparing = Comparing {
        facts,
        found: Comparison::default(),
        seen: BTreeSet::new(),
        charged: facts.stripe.charges.iter().map(|charge| charge.payment_intent.as_str()).collect(),
        sound: BTreeSet::new(),
        known_intents: BTreeMap::new(),
    };
    comparing.charges();
    comparing.top_ups_without_charge();
    comparing.refunds();
    comparing.disputes();
    comparing.entries_without_anything();
    comparing.found
}

/// PaymentIntents that were charged, and that no credit stands for. Whoever gathers the facts asks what has been given back.
#[must_use]
pub fn charges_nobody_was_credited_for(facts: &Facts) -> Vec<String> {
    let kinds = [Kind::ChargeMissing, Kind::ChargeOfFailed, Kind::ChargedTwice];
    let found = compare(facts).differences.into_iter().filter(|found| kinds.contains(&found.kind));
    found.filter_map(|found| found.ids.into_iter().next()).collect()
}

struct Comparing<'a> {
    facts: &'a Facts,
    found: Comparison,
    /// Sources that something at Stripe, or a row, has accounted for.
    seen: BTreeSet<Source>,
    /// Every charged PaymentIntent, and those among them that a succeeded top-up here stands for.
    charged: BTreeSet<&'a str>,
    sound: BTreeSet<String>,
    /// Every PaymentIntent of a top-up, with the top-up's id.
    known_intents: BTreeMap<String, String>,
}

/// An amount of Stripe's for people.
fn minor(amount: i64, currency: &str) -> String {
    match micros(amount, currency) {
        Some(micros) => shown(micros, currency),
        None => format!("{amount} of the smallest unit of {currency}"),
    }
}

/// An amount of Stripe's in micros; may be below zero.
fn micros(amount: i64, currency: &str) -> Option<i128> {
    let currency: Currency = currency.parse().ok()?;
    let size = currency.minor_to_micros(amount.checked_abs()?)?;
    let size = i128::from(size.get());
    Some(if amount < 0 { size.saturating_neg() } else { size })
}

/// An amount of ours for people.
pub(super) fn shown(micros: i128, currency: &str) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    match u64::try_from(micros.unsigned_abs()) {
        Ok(size) => format!("{sign}{} {currency}", decimal_in(size, currency)),
        Err(_) => format!("{micros} micros of {currency}"),
    }
}

impl<'a> Comparing<'a> {
    fn differ(&mut self, kind: Kind, ids: &[&str], stripe: impl Into<String>, books: impl Into<String>) {
        self.found.differences.push(Difference {
            kind,
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            stripe: stripe.into(),
            books: books.into(),
        });
    }

    /// The entries of a source, which is thereby accounted for. What no source can be named after has none.
    fn posted(&mut self, kind: SourceKind, id: &str) -> Option<&'a Posted> {
        let source = Source::named(kind, id).ok()?;
        let found = self.facts.books.posted.get(&source);
        self.seen.insert(source);
        found
    }

    fn charges(&mut self) {
        let facts = self.facts;
        for (id, row) in &facts.books.top_ups {
            if let Some(intent) = &row.payment_intent {
                self.known_intents.insert(intent.clone(), id.clone());
            }
        }
        let mut by_top_up: BTreeMap<&str, Vec<&'a Charged>> = BTreeMap::new();
        for charge in &facts.stripe.charges {
            by_top_up.entry(&charge.top_up).or_default().push(charge);
        }
        for (id, mut charges) in by_top_up {
            let posted = self.posted(SourceKind::TopUp, id);
            let Some(row) = facts.books.top_ups.get(id) else {
                for charge in charges {
                    let amount = minor(charge.amount, &charge.currency);
                    match posted {
                        None if self.is_given_back(charge) => {}
                        None => {
                            self.differ(Kind::ChargeMissing, &[&charge.payment_intent, id], amount, "nothing")
                        }
                        Some(posted) => {
                            let books = shown(posted.clearing, &posted.currency);
                            self.differ(
                                Kind::EntryWithoutTopUp,
                                &[&charge.payment_intent, id],
                                amount,
                                books,
                            );
                        }
                    }
                    self.account_for_fee(charge);
                }
                continue;
            };
            let at =
                charges.iter().position(|charge| Some(&charge.payment_intent) == row.payment_intent.as_ref());
            let main = charges.remove(at.unwrap_or(0));
            for twice in charges {
                if !self.is_given_back(twice) {
                    let ids = [twice.payment_intent.as_str(), id, &main.payment_intent];
                    let amount = minor(twice.amount, &twice.currency);
                    self.differ(Kind::ChargedTwice, &ids, amount, "nothing");
                }
                self.account_for_fee(twice);
            }
            self.charge(id, row, main, posted);
        }
    }

    /// A person has followed the remedy of a charge that nobody was credited for.
    fn is_given_back(&self, charge: &Charged) -> bool {
        self.facts.stripe.given_back.contains(&charge.payment_intent)
    }

    /// A fee of a charge that is a difference by itself.
    fn account_for_fee(&mut self, charge: &Charged) {
        if let Some(movement) = &charge.movement {
            self.posted(SourceKind::Fee, &movement.id);
        }
    }

    fn charge(&mut self, id: &str, row: &'a TopUpRow, charge: &Charged, posted: Option<&Posted>) {
        let ids = [charge.payment_intent.as_str(), id];
        let stripe = minor(charge.amount, &charge.currency);
        let ours = shown(row.amount.into(), &row.currency);
        if row.state != "succeeded" {
            let is_failed = row.state == "failed";
            if !is_failed || !self.is_given_back(charge) {
                let kind = if is_failed { Kind::ChargeOfFailed } else { Kind::ChargeOfOpen };
                self.differ(kind, &ids, stripe, format!("{ours}, {}", row.state));
            }
            self.account_for_fee(charge);
            return;
        }
        self.sound.insert(charge.payment_intent.clone());
        if row.payment_intent.as_ref() != Some(&charge.payment_intent) {
            let books = row.payment_intent.clone().unwrap_or_else(|| "no PaymentIntent".to_owned());
            self.differ(Kind::IntentDiffers, &ids, charge.payment_intent.clone(), books);
        }
        if row.currency != charge.currency {
            // Its fee cannot be compared either.
            self.account_for_fee(charge);
            self.differ(Kind::TopUpCurrencyDiffers, &ids, stripe, ours);
        } else if micros(charge.amount, &charge.currency) != Some(row.amount.into()) {
            self.differ(Kind::TopUpAmountDiffers, &ids, stripe, ours);
        } else {
            match posted {
                None => self.differ(Kind::TopUpWithoutEntries, &ids, stripe, "no entries"),
                Some(posted)
                    if posted.clearing != i128::from(row.amount) || posted.currency != row.currency =>
                {
                    self.differ(
                        Kind::TopUpEntriesDiffer,
                        &ids,
                        stripe,
                        shown(posted.clearing, &posted.currency),
                    );
                }
                Some(posted) if posted.client != row.client => {
                    let books = format!("entries of client {}", posted.client.unwrap_or_default());
                    let of = row.client_public.clone().unwrap_or_default();
                    self.differ(Kind::TopUpEntriesOfOther, &ids, format!("{stripe}, client {of}"), books);
                }
                Some(_) => {}
            }
        }
        if let (Some(theirs), Some(ours)) = (&charge.client, &row.client_public)
            && theirs != ours
        {
            self.differ(Kind::ClientDiffers, &ids, format!("client {theirs}"), format!("client {ours}"));
        }
        if let (Some(theirs), Some(ours)) = (&charge.charge, &row.charge)
            && theirs != ours
        {
            self.differ(Kind::ChargeIdDiffers, &ids, theirs.clone(), ours.clone());
        }
        if let Some(movement) = charge.movement.as_ref().filter(|_| row.currency == charge.currency) {
            let posted = self.posted(SourceKind::Fee, &movement.id);
            let booked = posted.map(|posted| (posted.fees, posted.currency.as_str()));
            self.fee([Kind::FeeNotBooked, Kind::FeeDiffers], &ids, movement, booked, &row.currency);
        }
    }

    /// A fee in another currency than the client's is left to the settlement currency's books, which are not ours.
    fn fee(
        &mut self,
        [not_booked, differs]: [Kind; 2],
        ids: &[&str],
        movement: &Moved,
        booked: Option<(i128, &str)>,
        currency: &str,
    ) {
        let expected = match movement.currency == currency {
            true => micros(movement.fee, currency),
            false => Some(0),
        };
        let ids: Vec<&str> = std::iter::once(movement.id.as_str()).chain(ids.iter().copied()).collect();
        let stripe = minor(movement.fee, &movement.currency);
        match booked {
            None if expected == Some(0) => {}
            None if self.facts.now.saturating_sub(movement.created) < FEE_GRACE => {
                self.found.fees_not_booked_yet = self.found.fees_not_booked_yet.saturating_add(1);
            }
            None => self.differ(not_booked, &ids, stripe, "nothing"),
            Some((amount, _)) if Some(amount) == expected => {}
            Some((amount, currency)) => self.differ(differs, &ids, stripe, shown(amount, currency)),
        }
    }

    fn top_ups_without_charge(&mut self) {
        let facts = self.facts;
        let charged: BTreeSet<&str> =
            facts.stripe.charges.iter().map(|charge| charge.top_up.as_str()).collect();
        for (id, row) in facts.books.top_ups.iter().filter(|(id, _)| !charged.contains(id.as_str())) {
            let posted = self.posted(SourceKind::TopUp, id);
            let intent = row.payment_intent.as_deref().unwrap_or("no PaymentIntent");
            let ours = shown(row.amount.into(), &row.currency);
            match (row.state.as_str(), posted) {
                ("succeeded", _) if facts.stripe.not_charged.contains(intent) => {
                    self.differ(Kind::TopUpNotCharged, &[intent, id], "not charged", ours);
                }
                ("succeeded", _) if facts.stripe.unknown.contains(intent) => {
                    self.differ(Kind::TopUpUnknownAtStripe, &[intent, id], "nothing", ours);
                }
                // Needed for something that has become of it; charged outside what is compared.
                ("succeeded", _) => {}
                (state, Some(posted)) => {
                    let books = format!("{}, {state}", shown(posted.clearing, &posted.currency));
                    self.differ(Kind::EntriesOfUnsuccessful, &[intent, id], "not charged", books);
                }
                _ => {}
            }
        }
    }

    /// Whether something at Stripe is about a charge that is no difference by itself.
    fn is_sound(&self, intent: &str) -> bool {
        !self.charged.contains(intent) || self.sound.contains(intent)
    }

    fn refunds(&mut self) {
        let facts = self.facts;
        let mut matched = BTreeSet::new();
        let by_stripe: BTreeMap<&str, &str> = facts
            .books
            .refunds
            .iter()
            .filter_map(|(id, row)| Some((row.stripe_refund.as_deref()?, id.as_str())))
            .collect();
        for refund in &facts.stripe.refunds {
            let ours = refund
                .ours
                .as_deref()
                .filter(|ours| facts.books.refunds.get(*ours).is_some_and(|row| row.stripe_refund.is_none()));
            let found = by_stripe.get(refund.id.as_str()).copied().or(ours);
            match found.and_then(|id| Some((id, facts.books.refunds.get(id)?))) {
                Some((id, row)) => {
                    matched.insert(id);
                    self.refund(id, row, refund);
                }
                // What came back and was never booked has moved nothing.
                None if refund.status == RefundStatus::Failed || !self.is_sound(&refund.payment_intent) => {}
                None => {
                    let amount = minor(refund.amount, &refund.currency);
                    self.differ(
                        Kind::RefundUnknownHere,
                        &[&refund.id, &refund.payment_intent],
                        amount,
                        "nothing",
                    );
                }
            }
        }
        for (id, row) in facts.books.refunds.iter().filter(|(id, _)| !matched.contains(id.as_str())) {
            self.refund_without_stripe(id, row);
        }
    }

    /// What the entries of a refund say: taken, paid out, returned.
    fn refund_entries(&mut self, id: &str) -> [Option<&'a Posted>; 3] {
        [SourceKind::Refund, SourceKind::RefundPaid, SourceKind::RefundReturn]
            .map(|kind| self.posted(kind, id))
    }

    fn refund(&mut self, id: &str, row: &RefundRow, refund: &Refunded) {
        let [taken, paid, back] = self.refund_entries(id);
        let ids = [refund.id.as_str(), id];
        let top_up = self.facts.books.top_ups.get(&row.top_up);
        let currency = top_up.map_or(refund.currency.as_str(), |row| row.currency.as_str());
        let amount = i128::from(row.amount);
        let stripe = format!("{}, {}", minor(refund.amount, &refund.currency), refund.status.word());
        let ours = format!("{}, {}", shown(amount, currency), row.state);
        let of_other =
            self.known_intents.get(&refund.payment_intent).is_none_or(|known| *known != row.top_up);
        if of_other {
            self.differ(
                Kind::RefundOfOtherTopUp,
                &ids,
                refund.payment_intent.clone(),
                format!("top-up {}", row.top_up),
            );
        } else if micros(refund.amount, &refund.currency) != Some(amount) || refund.currency != currency {
            self.differ(Kind::RefundAmountDiffers, &ids, stripe, ours);
        } else {
            let kind = match (refund.status, row.state.as_str()) {
                (RefundStatus::Failed, "failed") => match (taken, back) {
                    (Some(_), None) => Some(Kind::RefundNotReturned),
                    _ => None,
                },
                (RefundStatus::Failed, _) => Some(Kind::RefundFailedAtStripe),
                (_, "failed") => Some(Kind::RefundFailedHere),
                (RefundStatus::Pending, "succeeded") => Some(Kind::RefundPendingAtStripe),
                (RefundStatus::Succeeded, "requested" | "pending") | (_, "requested") => {
                    Some(Kind::RefundOpenHere)
                }
                _ => match (taken, paid) {
                    _ if back.is_some() => Some(Kind::RefundReturnedWrongly),
                    (None, _) => Some(Kind::RefundWithoutEntries),
                    (Some(taken), _) if taken.pending != amount.saturating_neg() => {
                        Some(Kind::RefundEntriesDiffer)
                    }
                    (_, None) if refund.status == RefundStatus::Succeeded => Some(Kind::RefundNotPaidOut),
                    (_, Some(paid)) if paid.clearing != amount.saturating_neg() => {
                        Some(Kind::RefundEntriesDiffer)
                    }
                    _ => None,
                },
            };
            if let Some(kind) = kind {
                self.differ(kind, &ids, stripe, ours);
            }
        }
    }

    fn refund_without_stripe(&mut self, id: &str, row: &RefundRow) {
        let [taken, _, back] = self.refund_entries(id);
        let currency = self.facts.books.top_ups.get(&row.top_up).map_or("", |row| row.currency.as_str());
        let ours = format!("{}, {}", shown(row.amount.into(), currency), row.state);
        let ids = [row.stripe_refund.as_deref().unwrap_or("no Stripe refund"), id];
        match row.state.as_str() {
            "failed" if taken.is_some() && back.is_none() => {
                self.differ(Kind::RefundNotReturned, &ids, "nothing", ours);
            }
            "failed" => {}
            "requested" => self.differ(Kind::RefundNotAsked, &ids, "nothing", ours),
            _ => self.differ(Kind::RefundUnknownAtStripe, &ids, "nothing", ours),
        }
    }

    fn disputes(&mut self) {
        let facts = self.facts;
        for moved in &facts.stripe.disputes {
            let (kinds, of, sign) = match moved.is_reinstated {
                false => ([Kind::DisputeNotBooked, Kind::DisputeAmountDiffers], SourceKind::Dispute, -1_i128),
                true => (
                    [Kind::ReinstatementNotBooked, Kind::ReinstatementAmountDiffers],
                    SourceKind::Reinstatement,
                    1,
                ),
            };
            let id = moved.movement.id.as_str();
            let posted = self.posted(of, id);
            let fee = self.posted(SourceKind::DisputeFee, id);
            let row =
                self.known_intents.get(&moved.payment_intent).and_then(|id| facts.books.top_ups.get(id));
            if !self.is_sound(&moved.payment_intent) {
                continue;
            }
            let ids = [id, moved.dispute.as_str(), moved.payment_intent.as_str()];
            let stripe = minor(moved.amount, &moved.currency);
            let Some(posted) = posted else {
                self.differ(kinds[0], &ids, stripe, "nothing");
                continue;
            };
            let expected = micros(moved.amount, &moved.currency).map(|amount| amount.saturating_mul(sign));
            if Some(posted.clearing) != expected || posted.currency != moved.currency {
                let books = shown(posted.clearing.saturating_mul(sign), &posted.currency);
                self.differ(kinds[1], &ids, stripe, books);
            } else if let Some(row) = row.filter(|row| row.client != posted.client) {
                let theirs = row.client_public.clone().unwrap_or_default();
                let books = format!("entries of client {}", posted.client.unwrap_or_default());
                self.differ(Kind::DisputeOfOtherClient, &ids, format!("client {theirs}"), books);
            }
            let booked = fee.map(|posted| (posted.dispute, posted.currency.as_str()));
            let kinds = [Kind::DisputeFeeNotBooked, Kind::DisputeFeeDiffers];
            self.fee(kinds, &ids[1..], &moved.movement, booked, &moved.currency);
        }
    }

    /// Entries that nothing at Stripe and no row accounts for.
    fn entries_without_anything(&mut self) {
        let facts = self.facts;
        let mut refunds = BTreeSet::new();
        for (source, posted) in &facts.books.posted {
            if self.seen.contains(source) {
                continue;
            }
            let (kind, moved) = match source.kind() {
                SourceKind::TopUp => (Kind::EntryWithoutTopUp, posted.clearing),
                SourceKind::Refund | SourceKind::RefundPaid | SourceKind::RefundReturn
                    if !refunds.insert(source.id()) =>
                {
                    continue;
                }
                SourceKind::Refund => (Kind::EntryWithoutRefund, posted.pending),
                SourceKind::RefundPaid | SourceKind::RefundReturn => {
                    (Kind::EntryWithoutRefund, posted.clearing)
                }
                SourceKind::Fee => (Kind::FeeUnknownAtStripe, posted.fees),
                SourceKind::Dispute => (Kind::DisputeUnknownAtStripe, posted.clearing),
                SourceKind::Reinstatement => (Kind::ReinstatementUnknownAtStripe, posted.clearing),
                SourceKind::DisputeFee => (Kind::DisputeFeeUnknownAtStripe, posted.dispute),
                SourceKind::Usage
                | SourceKind::Hold
                | SourceKind::Release
                | SourceKind::Reversal
                | SourceKind::Adjustment
                | SourceKind::WriteOffReturn => (Kind::ClearingDiffers, posted.clearing),
            };
            if kind != Kind::ClearingDiffers || moved != 0 {
                self.differ(kind, &[&source.to_string()], "nothing", shown(moved, &posted.currency));
            }
        }
        for (source, posted) in facts.books.unknown.iter().filter(|(_, posted)| posted.clearing != 0) {
            let moved = shown(posted.clearing, &posted.currency);
            self.differ(Kind::ClearingDiffers, &[source], "nothing", moved);
        }
    }
}

impl RefundStatus {
    fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests;
