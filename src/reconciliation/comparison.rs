//! Two descriptions of the same money: what Stripe has, and what the books say. Facts go in, differences come out.
//!
//! Whoever gathers the facts has asked Stripe by its id for everything in the books that Stripe's lists did not name. So what is
//! in the books here and not among Stripe's facts is not at Stripe.

mod charges;
mod disputes;
mod refunds;

use std::collections::{BTreeMap, BTreeSet};

use super::difference::{Difference, Kind};
use super::facts::{Facts, Posted};
use crate::domain::{Currency, decimal_in};
use crate::ledger::{Source, SourceKind};

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

#[cfg(test)]
mod tests;
