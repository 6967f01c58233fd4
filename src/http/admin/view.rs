//! What the pages show, in words that finance people use.

use chrono::{DateTime, SecondsFormat};

use super::AdminState;
use super::sessions::Session;
use crate::domain::decimal_in;
use crate::ledger::SourceKind;
use crate::ledger::account::{Account, Rail};
use crate::ledger::adjustments::Adjustment;
use crate::ledger::read::{ClientRow, EntryRow, KeyRow, PaymentTrouble, Sum, TopUpRow};
use crate::payments::evidence::Freeze;

/// What surrounds every page.
pub(super) struct Chrome<'a> {
    pub(super) sandbox: bool,
    pub(super) public_url: &'a str,
    /// Who is logged in, and the token that their forms carry.
    pub(super) session: Option<(&'a str, &'a str)>,
    /// The entry of the navigation that the page belongs to.
    pub(super) section: &'static str,
}

impl<'a> Chrome<'a> {
    pub(super) fn new(state: &'a AdminState, session: &'a Session, section: &'static str) -> Self {
        let session = Some((session.name.as_str(), session.csrf_token.as_str()));
        Self { sandbox: state.sandbox, public_url: &state.public_url, session, section }
    }

    /// For pages that nobody has to log in for.
    pub(super) fn outside(state: &'a AdminState) -> Self {
        Self { sandbox: state.sandbox, public_url: &state.public_url, session: None, section: "" }
    }
}

/// An amount of micros as a decimal of the major unit, with its currency: `12.34 USD`.
pub(super) fn money(micros: i64, currency: &str) -> String {
    format!("{} {}", decimal(micros, currency), currency.to_ascii_uppercase())
}

/// The number alone. Sums over all clients may be larger than one amount can be, and revenue may be below zero.
fn decimal(micros: i64, currency: &str) -> String {
    let sign = if micros < 0 { "\u{2212}" } else { "" };
    format!("{sign}{}", decimal_in(micros.unsigned_abs(), currency))
}

/// A moment, for machines and for people. Always UTC.
pub(super) struct Moment {
    pub(super) iso: String,
    pub(super) text: String,
}

impl Moment {
    pub(super) fn at(micros: i64) -> Self {
        match DateTime::from_timestamp_micros(micros) {
            Some(at) => Self {
                iso: at.to_rfc3339_opts(SecondsFormat::Millis, true),
                text: at.format("%Y-%m-%d %H:%M:%S").to_string(),
            },
            None => Self { iso: String::new(), text: format!("{micros} µs") },
        }
    }
}

/// How long something has lasted, in its largest unit.
pub(super) fn duration(micros: i64) -> String {
    let seconds = micros.max(0) / 1_000_000;
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..86_400 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

/// An account's name in words.
pub(super) const fn account_name(account: Account) -> &'static str {
    match account {
        Account::ClientPaid => "Paid credit",
        Account::ClientBonus => "Bonus credit",
        Account::ClientDebt => "Debt",
        Account::Holds => "Holds",
        Account::Clearing(Rail::Stripe) => "Stripe clearing",
        Account::Fees(Rail::Stripe) => "Stripe fees",
        Account::RefundPending => "Refunds on their way",
        Account::Revenue => "Revenue",
        Account::Promotion => "Promotion",
        Account::Adjustment => "Adjustment",
        Account::Dispute(Rail::Stripe) => "Disputes",
        Account::Breakage => "Expired credit",
    }
}

/// What the entry did to the client: more (`+1`), less (`-1`), or moved between the client's own accounts (`0`).
fn direction(debit: Account, credit: Account) -> i8 {
    match (debit.is_the_clients(), credit.is_the_clients()) {
        (false, true) => 1,
        (true, false) => -1,
        _ => 0,
    }
}

/// A ledger entry in words.
fn describe(entry: &EntryRow) -> String {
    let touches = |account| entry.debit == account || entry.credit == account;
    let words = match entry.of().map(|source| source.kind()) {
        Some(SourceKind::TopUp) if entry.credit == Account::ClientDebt => "Top-up, repaying debt",
        Some(SourceKind::TopUp) if touches(Account::Promotion) => "Bonus of a top-up",
        Some(SourceKind::TopUp) => "Top-up",
        Some(SourceKind::Usage) => "Usage",
        Some(SourceKind::Reversal) => "Reversal",
        Some(SourceKind::Refund) => "Refund",
        Some(SourceKind::RefundPaid) => "Refund paid out",
        Some(SourceKind::RefundReturn) => "Refund returned",
        Some(SourceKind::Reinstatement) => "Dispute, money back",
        Some(SourceKind::DisputeFee) => "Dispute fee",
        Some(SourceKind::Fee) => "Stripe fee",
        Some(SourceKind::Dispute) => "Dispute",
        Some(SourceKind::Hold) => "Hold",
        Some(SourceKind::Release) => "Hold released",
        Some(SourceKind::Adjustment) if entry.credit == Account::ClientDebt => "Adjustment, debt written off",
        Some(SourceKind::Adjustment) => "Adjustment, credit given",
        Some(SourceKind::WriteOffReturn) => "Adjustment, written-off debt taken back",
        // Of a newer program.
        None => "Entry",
    };
    match &entry.route {
        Some(route) if words == "Usage" => format!("Usage {route}"),
        Some(route) => format!("{words} ({route})"),
        None => words.to_owned(),
    }
}

/// A row of a table of entries.
pub(super) struct EntryView {
    pub(super) id: i64,
    pub(super) at: Moment,
    pub(super) what: String,
    pub(super) source: String,
    pub(super) client: Option<String>,
    pub(super) debit: &'static str,
    pub(super) credit: &'static str,
    pub(super) sign: &'static str,
    pub(super) amount: String,
    pub(super) paid_after: String,
    pub(super) bonus_after: String,
    pub(super) debt_after: String,
    pub(super) upstream_status: Option<i64>,
    pub(super) key: Option<String>,
}

impl From<EntryRow> for EntryView {
    fn from(entry: EntryRow) -> Self {
        let after = |micros: Option<i64>| {
            micros.map_or_else(|| "\u{2013}".to_owned(), |micros| decimal(micros, &entry.currency))
        };
        Self {
            id: entry.id,
            at: Moment::at(entry.at),
            what: describe(&entry),
            debit: account_name(entry.debit),
            credit: account_name(entry.credit),
            sign: match direction(entry.debit, entry.credit) {
                1 => "+",
                -1 => "\u{2212}",
                _ => "",
            },
            amount: money(entry.amount, &entry.currency),
            paid_after: after(entry.paid_after),
            bonus_after: after(entry.bonus_after),
            debt_after: after(entry.debt_after),
            upstream_status: entry.upstream_status,
            key: entry.key,
            client: entry.client_public_id,
            source: entry.source,
        }
    }
}

/// A row of a table of top-ups.
pub(super) struct TopUpView {
    pub(super) id: String,
    pub(super) at: Moment,
    pub(super) client: Option<String>,
    pub(super) amount: String,
    /// `None` when there is none.
    pub(super) bonus: Option<String>,
    pub(super) state: &'static str,
    /// The colour of the state's badge.
    pub(super) tone: &'static str,
    pub(super) failure: Option<String>,
    pub(super) payment_intent: Option<String>,
    /// `None` when nothing went back.
    pub(super) refunded: Option<String>,
}

impl From<TopUpRow> for TopUpView {
    fn from(top_up: TopUpRow) -> Self {
        let (state, tone) = match top_up.state.as_str() {
            "succeeded" if top_up.refunded >= top_up.amount => ("Refunded", "open"),
            "succeeded" if top_up.refunded > 0 => ("Partly refunded", "good"),
            "succeeded" => ("Succeeded", "good"),
            "failed" => ("Failed", "bad"),
            "pending" => ("Outcome unknown", "open"),
            "confirming" => ("Being charged", "open"),
            _ => ("Begun", "open"),
        };
        Self {
            at: Moment::at(top_up.created_at),
            client: top_up.client_public_id,
            amount: money(top_up.amount, &top_up.currency),
            bonus: (top_up.bonus > 0).then(|| money(top_up.bonus, &top_up.currency)),
            state,
            tone,
            failure: top_up.failure.map(|code| code.replace('_', " ")),
            payment_intent: top_up.payment_intent,
            refunded: (top_up.refunded > 0).then(|| money(top_up.refunded, &top_up.currency)),
            id: top_up.id,
        }
    }
}

/// A client, as a row or as a page.
pub(super) struct ClientView {
    pub(super) number: i64,
    pub(super) public_id: String,
    /// Paid and bonus credit.
    pub(super) balance: String,
    pub(super) spendable: String,
    pub(super) paid: String,
    pub(super) bonus: String,
    pub(super) debt: String,
    pub(super) in_debt: bool,
    pub(super) frozen: bool,
    pub(super) entries: i64,
    pub(super) stripe_customer: Option<String>,
    pub(super) created: Moment,
}

impl From<ClientRow> for ClientView {
    fn from(client: ClientRow) -> Self {
        let frozen = client.status != "active";
        Self {
            number: client.id,
            balance: money(client.paid.saturating_add(client.bonus), &client.currency),
            spendable: money(if frozen { 0 } else { client.spendable() }, &client.currency),
            paid: money(client.paid, &client.currency),
            bonus: money(client.bonus, &client.currency),
            debt: money(client.debt, &client.currency),
            in_debt: client.debt > 0,
            frozen,
            entries: client.sequence,
            created: Moment::at(client.created_at),
            stripe_customer: client.stripe_customer,
            public_id: client.public_id,
        }
    }
}

/// What became of a client's payments, and why it may not spend: a line of text each.
pub(super) struct Trouble {
    pub(super) at: Moment,
    pub(super) what: String,
    pub(super) state: String,
    pub(super) amount: String,
    pub(super) detail: String,
}

impl Trouble {
    /// Refunds and disputes.
    pub(super) fn of_payment(row: PaymentTrouble) -> Self {
        Self {
            at: Moment::at(row.created_at),
            what: if row.is_dispute { "Dispute" } else { "Refund" }.to_owned(),
            state: row.state.replace('_', " "),
            amount: money(row.amount, &row.currency),
            detail: [row.id, row.detail.unwrap_or_default()].join(" "),
        }
    }

    /// What an operator gave.
    pub(super) fn of_adjustment(made: Adjustment) -> Self {
        Self {
            at: Moment::at(made.created_at),
            what: if made.kind == "credit" { "Credit given" } else { "Debt written off" }.to_owned(),
            state: format!("by {}", made.operator),
            amount: money(made.amount, &made.currency),
            detail: made.reason,
        }
    }

    /// Causes of a freeze.
    pub(super) fn of_freeze(freeze: Freeze) -> Self {
        let state = match (freeze.lifted_at, freeze.lifted_by) {
            (None, _) => "in force".to_owned(),
            (Some(at), by) => format!("lifted {} {}", Moment::at(at).text, by.unwrap_or_default()),
        };
        Self {
            at: Moment::at(freeze.created_at),
            what: "Freeze".to_owned(),
            state,
            amount: String::new(),
            detail: freeze.cause,
        }
    }
}

/// A key of a client.
pub(super) struct KeyView {
    pub(super) shown_prefix: String,
    pub(super) scope: &'static str,
    pub(super) created: Moment,
    pub(super) revoked: Option<Moment>,
}

impl From<KeyRow> for KeyView {
    fn from(key: KeyRow) -> Self {
        Self {
            shown_prefix: key.shown_prefix,
            scope: match key.scope.as_str() {
                "owner" => "Owner",
                "spend" => "May spend",
                _ => "May read",
            },
            created: Moment::at(key.created_at),
            revoked: key.revoked_at.map(Moment::at),
        }
    }
}

/// A figure of the overview: one line a currency.
pub(super) struct Figure {
    pub(super) label: String,
    pub(super) lines: Vec<String>,
    pub(super) note: String,
}

impl Figure {
    pub(super) fn new(label: impl Into<String>, lines: Vec<String>, note: impl Into<String>) -> Self {
        Self { label: label.into(), lines, note: note.into() }
    }
}

/// One line a currency.
pub(super) fn sums(sums: &[Sum]) -> Vec<String> {
    sums.iter().map(|sum| money(sum.amount, &sum.currency)).collect()
}

/// How many things the sums count, `3 payments`.
pub(super) fn counted(sums: &[Sum], one: &str) -> String {
    let count: i64 = sums.iter().fold(0, |count, sum| count.saturating_add(sum.count));
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_decimals_with_a_currency() {
        for (micros, expected) in [
            (0, "0.00 USD"),
            (5_000_000, "5.00 USD"),
            (50_125, "0.050125 USD"),
            (-1_500_000, "\u{2212}1.50 USD"),
            (9_000_000_000_000_001, "9000000000.000001 USD"),
            (i64::MIN, "\u{2212}9223372036854.775808 USD"),
        ] {
            assert_eq!(money(micros, "usd"), expected);
        }
        assert_eq!(money(500_000_000, "jpy"), "500 JPY");
        assert_eq!(money(-1_500_000, "kwd"), "\u{2212}1.500 KWD");
    }

    #[test]
    fn moments_are_utc() {
        let moment = Moment::at(1_767_225_599_123_456);
        assert_eq!(moment.iso, "2025-12-31T23:59:59.123Z");
        assert_eq!(moment.text, "2025-12-31 23:59:59");
        assert_eq!(Moment::at(i64::MAX).iso, "");
    }

    #[test]
    fn durations_have_one_unit() {
        for (seconds, expected) in
            [(-5, "0 seconds"), (1, "1 second"), (119, "1 minute"), (7_200, "2 hours"), (200_000, "2 days")]
        {
            assert_eq!(duration(seconds * 1_000_000), expected);
        }
    }

    #[test]
    fn entries_are_described_in_words() {
        let entry = |source: &str, debit, credit, route: Option<&str>| EntryRow {
            id: 1,
            at: 0,
            source: source.to_owned(),
            debit,
            credit,
            amount: 1,
            currency: "usd".to_owned(),
            client: Some(1),
            client_public_id: None,
            sequence: None,
            previous: None,
            paid_after: None,
            bonus_after: None,
            debt_after: None,
            route: route.map(str::to_owned),
            price_list: None,
            upstream_status: None,
            key: None,
        };
        use Account::{ClientBonus, ClientDebt, ClientPaid, Promotion, Revenue};
        const CLEARING: Account = Account::Clearing(Rail::Stripe);
        for (source, debit, credit, route, expected, sign) in [
            ("topup:1", CLEARING, ClientPaid, None, "Top-up", "+"),
            ("topup:1/2", Promotion, ClientBonus, None, "Bonus of a top-up", "+"),
            ("topup:1/2", CLEARING, ClientDebt, None, "Top-up, repaying debt", "+"),
            ("usage:1", ClientPaid, Revenue, Some("GET /a"), "Usage GET /a", "\u{2212}"),
            ("reversal:1", Revenue, ClientPaid, Some("GET /a"), "Reversal (GET /a)", "+"),
            ("repay:1", ClientPaid, ClientDebt, None, "Entry", ""),
        ] {
            let view = EntryView::from(entry(source, debit, credit, route));
            assert_eq!((view.what.as_str(), view.sign), (expected, sign), "{source}");
        }
    }
}
