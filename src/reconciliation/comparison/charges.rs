//! Charges and the top-ups that they became.

use std::collections::{BTreeMap, BTreeSet};

use super::{Comparing, micros, minor, shown};
use crate::ledger::SourceKind;
use crate::reconciliation::difference::Kind;
use crate::reconciliation::facts::{Charged, Moved, Posted, TopUpRow};

/// A fee may be booked this much later than it was taken, in seconds.
pub(super) const FEE_GRACE: i64 = 24 * 60 * 60;

impl<'a> Comparing<'a> {
    pub(super) fn charges(&mut self) {
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
    pub(super) fn fee(
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

    pub(super) fn top_ups_without_charge(&mut self) {
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
    pub(super) fn is_sound(&self, intent: &str) -> bool {
        !self.charged.contains(intent) || self.sound.contains(intent)
    }
}
