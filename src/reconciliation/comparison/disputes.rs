//! Money that disputes have taken and given back.

use super::{Comparing, micros, minor, shown};
use crate::ledger::SourceKind;
use crate::reconciliation::difference::Kind;

impl<'a> Comparing<'a> {
    pub(super) fn disputes(&mut self) {
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
}
