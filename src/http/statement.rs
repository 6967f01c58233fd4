//! The books as a payer sees them: only what moved the payer's own wallet, in a few stable words.
//!
//! The seller's accounts, fees and ids stay out of it. docs/callers.md documents the words.

use serde_json::{Value, json};

use crate::domain::decimal_in;
use crate::ledger::account::Account;
use crate::ledger::read::EntryRow;
use crate::ledger::source::{SourceId, SourceKind};

/// One line of a payer's statement.
pub(super) fn line(entry: &EntryRow) -> Value {
    let (part, is_more) = movement(entry);
    let exact = |micros: i64| decimal_in(micros.unsigned_abs(), &entry.currency);
    let amount = exact(entry.amount);
    let after = entry.paid_after.unwrap_or(0).saturating_add(entry.bonus_after.unwrap_or(0));
    let (kind, about) = kind(entry);
    let mut line = json!({
        "id": entry.id.to_string(),
        "at": chrono::DateTime::from_timestamp_micros(entry.at).map(|at| at.to_rfc3339()),
        "kind": kind,
        "part": part,
        "amountExact": amount,
        "changeExact": format!("{}{amount}", if is_more { "" } else { "-" }),
        "currency": entry.currency,
        "balanceAfterExact": exact(after),
        "debtAfterExact": exact(entry.debt_after.unwrap_or(0)),
    });
    if let Value::Object(members) = &mut line {
        let id = about.map(|(name, id)| (name.to_owned(), json!(id.to_string())));
        let route = entry.route.as_ref().map(|route| ("route".to_owned(), json!(route)));
        let status = entry.upstream_status.map(|status| ("upstreamStatus".to_owned(), json!(status)));
        members.extend(id.into_iter().chain(route).chain(status));
    }
    line
}

/// Which part of the wallet an entry moved, and whether there is more of it now. Debt is what the payer owes: it grows by debits.
fn movement(entry: &EntryRow) -> (&'static str, bool) {
    match (entry.debit, entry.credit) {
        (_, Account::ClientPaid) => ("paid", true),
        (_, Account::ClientBonus) => ("bonus", true),
        (_, Account::ClientDebt) => ("debt", false),
        (Account::ClientDebt, _) => ("debt", true),
        (Account::ClientBonus, _) => ("bonus", false),
        _ => ("paid", false),
    }
}

/// The word for an entry, and what its id names with that id, if it means something to a payer.
fn kind(entry: &EntryRow) -> (&'static str, Option<(&'static str, SourceId)>) {
    let Some(source) = entry.of() else {
        return ("adjustment", None);
    };
    let about = |name| Some((name, source.id().clone()));
    match source.kind() {
        SourceKind::TopUp if entry.credit == Account::ClientBonus => ("bonus", about("topUpId")),
        SourceKind::TopUp => ("topup", about("topUpId")),
        SourceKind::Usage => ("usage", about("requestId")),
        // What was set aside has paid for the request once the API's answer is known.
        SourceKind::Hold if entry.upstream_status.is_some() => ("usage", about("requestId")),
        SourceKind::Hold => ("set_aside", about("requestId")),
        SourceKind::Reversal | SourceKind::Release => ("given_back", about("requestId")),
        SourceKind::Refund => ("refund", None),
        SourceKind::RefundReturn => ("refund_returned", None),
        SourceKind::Dispute => ("dispute", None),
        SourceKind::Reinstatement => ("dispute_returned", None),
        SourceKind::RefundPaid
        | SourceKind::Fee
        | SourceKind::DisputeFee
        | SourceKind::Adjustment
        | SourceKind::WriteOffReturn => ("adjustment", None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::ledger::account::Rail;

    fn entry(source: &str, debit: Account, credit: Account) -> EntryRow {
        EntryRow {
            id: 7,
            at: 0,
            source: source.to_owned(),
            debit,
            credit,
            amount: 1_500_000,
            currency: "usd".to_owned(),
            client: Some(1),
            client_public_id: Some("p".to_owned()),
            sequence: Some(1),
            previous: None,
            paid_after: Some(3_000_000),
            bonus_after: Some(1_000_000),
            debt_after: Some(0),
            route: None,
            price_list: Some(1),
            upstream_status: None,
            key: None,
        }
    }

    #[test]
    fn every_movement_has_a_word_of_the_payers() {
        use Account::{
            Adjustment, ClientBonus, ClientDebt, ClientPaid, Holds, Promotion, RefundPending, Revenue,
        };
        const CLEARING: Account = Account::Clearing(Rail::Stripe);
        for (source, debit, credit, kind, part, change) in [
            ("topup:t", CLEARING, ClientDebt, "topup", "debt", "-1.50"),
            ("topup:t/2", CLEARING, ClientPaid, "topup", "paid", "1.50"),
            ("topup:t/3", Promotion, ClientBonus, "bonus", "bonus", "1.50"),
            ("usage:r", ClientPaid, Revenue, "usage", "paid", "-1.50"),
            ("usage:r/2", ClientBonus, Revenue, "usage", "bonus", "-1.50"),
            ("hold:r", ClientPaid, Holds, "set_aside", "paid", "-1.50"),
            ("release:r", Holds, ClientPaid, "given_back", "paid", "1.50"),
            ("reversal:r", Revenue, ClientBonus, "given_back", "bonus", "1.50"),
            ("refund:x", ClientPaid, RefundPending, "refund", "paid", "-1.50"),
            ("refund:x/2", ClientDebt, RefundPending, "refund", "debt", "1.50"),
            ("refund:x/3", ClientBonus, Promotion, "refund", "bonus", "-1.50"),
            ("refund-return:x", RefundPending, ClientPaid, "refund_returned", "paid", "1.50"),
            ("dispute:txn_1", ClientDebt, CLEARING, "dispute", "debt", "1.50"),
            ("reinstatement:txn_2", CLEARING, ClientPaid, "dispute_returned", "paid", "1.50"),
            ("adjustment:a", Adjustment, ClientBonus, "adjustment", "bonus", "1.50"),
            ("adjustment:a", Adjustment, ClientDebt, "adjustment", "debt", "-1.50"),
            ("write-off-return:a.2", ClientPaid, Adjustment, "adjustment", "paid", "-1.50"),
        ] {
            let line = line(&entry(source, debit, credit));
            assert_eq!(
                (&line["kind"], &line["part"], &line["changeExact"]),
                (&json!(kind), &json!(part), &json!(change)),
                "{source}"
            );
            let text = line.to_string();
            for word in ["stripe", "txn_", "promotion", "revenue", "client_", "price"] {
                assert!(!text.contains(word), "{word} in {text}");
            }
        }
        let captured = EntryRow { upstream_status: Some(200), ..entry("hold:r/2", ClientBonus, Holds) };
        let line = line(&captured);
        assert_eq!(
            (&line["kind"], &line["requestId"], &line["upstreamStatus"]),
            (&json!("usage"), &json!("r"), &json!(200))
        );
    }
}
