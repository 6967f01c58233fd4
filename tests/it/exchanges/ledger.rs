//! What an exchange did to the books: movements by account, and each payer's balance before and after.
//!
//! The same on both databases: where the price of a request is held first, the hold and its end are one movement with the
//! charge, or none.

use std::collections::BTreeMap;

use prepaid402::config::DatabaseConfig;
use prepaid402::db::{self, Connection};
use prepaid402::domain::Micros;
use prepaid402::ledger::account::Account;

use crate::support::column;

/// The books at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moment {
    last_entry: i64,
    /// Wallets by the id that people see.
    wallets: BTreeMap<String, Wallet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wallet {
    paid: i64,
    bonus: i64,
    debt: i64,
    is_frozen: bool,
}

/// One entry.
#[derive(Debug)]
struct Entry {
    source: String,
    debit: i64,
    credit: i64,
    amount: i64,
    upstream_status: Option<i64>,
}

/// Looks into the books while a gateway writes them.
#[derive(Debug)]
pub struct Books(Connection);

impl Books {
    pub async fn open(database: &DatabaseConfig) -> Self {
        Self(db::connect_read_only(database).await.unwrap())
    }

    pub async fn now(&mut self) -> Moment {
        let found = db::query("SELECT CAST(COALESCE(MAX(id), 0) AS BIGINT) FROM entries");
        let last_entry = column(&found.fetch_all(&mut self.0).await.unwrap()[0], 0);
        let found = db::query("SELECT public_id, paid, bonus, debt, status FROM clients");
        let rows = found.fetch_all(&mut self.0).await.unwrap();
        let wallet = |row: &db::Row| Wallet {
            paid: column(row, 1),
            bonus: column(row, 2),
            debt: column(row, 3),
            is_frozen: column::<String>(row, 4) == "frozen",
        };
        Moment { last_entry, wallets: rows.iter().map(|row| (column(row, 0), wallet(row))).collect() }
    }

    /// Whether there is a reversal since then.
    pub async fn has_reversal_since(&mut self, then: &Moment) -> bool {
        self.entries_since(then).await.iter().any(|entry| entry.source.starts_with("reversal:"))
    }

    pub async fn has_usage_since(&mut self, then: &Moment) -> bool {
        self.entries_since(then).await.iter().any(|entry| entry.source.starts_with("usage:"))
    }

    async fn entries_since(&mut self, then: &Moment) -> Vec<Entry> {
        let sql =
            "SELECT source, debit, credit, amount, upstream_status FROM entries WHERE id > $1 ORDER BY id";
        let rows = db::query(sql).bind(then.last_entry).fetch_all(&mut self.0).await.unwrap();
        let entry = |row: &db::Row| Entry {
            source: column(row, 0),
            debit: column(row, 1),
            credit: column(row, 2),
            amount: column(row, 3),
            upstream_status: column(row, 4),
        };
        rows.iter().map(entry).collect()
    }

    /// Lines about everything since then. None: nothing has happened.
    pub async fn since(&mut self, then: &Moment) -> Vec<String> {
        let mut lines = movements(&self.entries_since(then).await);
        let now = self.now().await;
        for (id, wallet) in &now.wallets {
            let before = then.wallets.get(id);
            if before != Some(wallet) {
                let before = before.map_or("nothing".to_owned(), Wallet::to_string);
                lines.push(format!("payer {id}: {before} → {wallet}"));
            }
        }
        lines
    }
}

fn decimal(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    format!("{sign}{}", Micros::new(micros.abs()).unwrap().to_major_string())
}

impl std::fmt::Display for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&decimal(self.paid))?;
        for (amount, what) in [(self.bonus, "bonus"), (self.debt, "debt")] {
            if amount != 0 {
                write!(f, ", {what} {}", decimal(amount))?;
            }
        }
        f.write_str(if self.is_frozen { ", frozen" } else { "" })
    }
}

/// What moved, for each thing that moved it.
fn movements(entries: &[Entry]) -> Vec<String> {
    let mut kinds: Vec<(String, &str)> = Vec::new();
    let mut nets: BTreeMap<String, (BTreeMap<i64, i64>, Option<i64>)> = BTreeMap::new();
    for entry in entries {
        let (kind, id) = entry.source.split_once(':').unwrap();
        let id = id.split('/').next().unwrap();
        // A hold is part of what it was for.
        let key = match kind {
            "hold" | "usage" | "release" => format!("usage:{id}"),
            _ => format!("{kind}:{id}"),
        };
        match kinds.iter_mut().find(|(found, _)| *found == key) {
            None => kinds.push((key.clone(), kind)),
            Some((_, shown)) if kind == "usage" => *shown = kind,
            Some(_) => {}
        }
        let (net, status) = nets.entry(key).or_default();
        *net.entry(entry.debit).or_default() -= entry.amount;
        *net.entry(entry.credit).or_default() += entry.amount;
        *status = status.or(entry.upstream_status);
    }
    let mut lines = Vec::new();
    for (key, kind) in kinds {
        let (net, status) = &nets[&key];
        let moved = net.iter().filter(|(_, amount)| **amount != 0);
        let parts: Vec<String> = moved
            .map(|(account, amount)| {
                let sign = if *amount > 0 { "+" } else { "" };
                format!("{} {sign}{}", Account::from_number(*account).unwrap().name(), decimal(*amount))
            })
            .collect();
        if parts.is_empty() {
            continue;
        }
        let status = status.map_or(String::new(), |status| format!(", for a {status}"));
        lines.push(format!("{kind}: {}{status}", parts.join(", ")));
    }
    lines
}

#[test]
fn a_hold_and_the_charge_that_ends_it_are_one_movement() {
    let entry = |source: &str, debit: Account, credit: Account, amount: i64| Entry {
        source: source.to_owned(),
        debit: debit.number(),
        credit: credit.number(),
        amount,
        upstream_status: (source.starts_with("usage")).then_some(200),
    };
    use Account::{ClientBonus, ClientPaid, Holds, Revenue};
    let at_once =
        [entry("usage:1", ClientPaid, Revenue, 30_000), entry("usage:1/2", ClientBonus, Revenue, 20_000)];
    let held = [
        entry("hold:1", ClientPaid, Holds, 30_000),
        entry("hold:2", ClientPaid, Holds, 70_000),
        entry("hold:1/2", ClientBonus, Holds, 20_000),
        entry("usage:1", Holds, Revenue, 50_000),
        entry("release:2", Holds, ClientPaid, 70_000),
    ];
    let expected = ["usage: client_paid -0.03, client_bonus -0.02, revenue +0.05, for a 200"];
    assert_eq!(movements(&at_once), expected);
    assert_eq!(movements(&held), expected);
}
