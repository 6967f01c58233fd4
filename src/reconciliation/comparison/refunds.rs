//! Refunds.

use std::collections::{BTreeMap, BTreeSet};

use super::{Comparing, micros, minor, shown};
use crate::ledger::SourceKind;
use crate::reconciliation::difference::Kind;
use crate::reconciliation::facts::{Posted, RefundRow, RefundStatus, Refunded};

impl<'a> Comparing<'a> {
    pub(super) fn refunds(&mut self) {
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
}
