//! Each entry by itself, and after the entry before it.

use std::collections::HashSet;

use super::findings::Verification;
use super::gathered::{Gathered, Recomputed, note_source};
use crate::db::Row;
use crate::ledger::account::Account;
use crate::ledger::source::{EntrySource, SourceError};

pub(super) fn check_entry(
    row: &Row,
    gathered: &mut Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    let id: i64 = row.try_get(0)?;
    let source = row.try_get::<&str, _>(1)?.parse::<EntrySource>();
    let (debit, credit): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
    let amount: i64 = row.try_get(4)?;
    let currency: &str = row.try_get(5)?;
    if let Some(next) = gathered.next_id {
        if id != next {
            report.find(format!("entry {id}: entry {next} is missing before it"));
        }
        gathered.next_id = Some(id.saturating_add(1));
    }
    let known = |name: Option<i64>, names: &HashSet<i64>| name.is_none_or(|name| names.contains(&name));
    if !known(row.try_get(12)?, &gathered.routes) || !known(row.try_get(13)?, &gathered.price_lists) {
        report.find(format!("entry {id}: it names a route or a price list that does not exist"));
    }
    if amount <= 0 {
        report.find(format!("entry {id}: its amount is not above zero"));
    }
    let (Some(debit), Some(credit)) = (Account::from_number(debit), Account::from_number(credit)) else {
        report.find(format!("entry {id}: it names an account that does not exist"));
        return Ok(());
    };
    if debit == credit {
        report.find(format!("entry {id}: it debits and credits the same account"));
    }
    match &source {
        Ok(source) if debit != credit && !source.kind().allows(debit, credit) => {
            report.find(format!("entry {id}: its accounts are not those of its kind"));
        }
        Ok(_) => {}
        Err(SourceError::UnknownKind) => {
            report.find(format!("entry {id}: the kind of its source is unknown"))
        }
        Err(SourceError::Malformed) => report.find(format!("entry {id}: its source is malformed")),
    }
    if [debit, credit].iter().any(|account| !gathered.accounts.contains(&account.number())) {
        report.find(format!("entry {id}: it names an account that has no row"));
    }
    for (account, signed) in [(debit, i128::from(amount)), (credit, i128::from(amount).saturating_neg())] {
        let sum = gathered.trial.entry((currency.to_owned(), account.number())).or_default();
        *sum = sum.saturating_add(signed);
    }

    let Some(client) = row.try_get::<Option<i64>, _>(6)? else {
        // No client's row would tell that it is there: everything that is compared with a wallet goes by the wallet that is named.
        if [debit, credit].into_iter().any(is_of_a_wallet) {
            report.find(format!("entry {id}: it moves what is a client's, but names no client"));
        }
        return Ok(());
    };
    if gathered.currencies.get(&client).is_none_or(|of_client| of_client != currency) {
        report.find(format!("entry {id}: its currency is not its client's"));
    }
    let key: Option<i64> = row.try_get(14)?;
    if key.is_some_and(|key| gathered.keys.get(&key) != Some(&client)) {
        report.find(format!("entry {id}: it names a key that is not its client's"));
    }
    let state = gathered.clients.entry(client).or_default();
    let previous: Option<i64> = row.try_get(8)?;
    if previous != state.last_entry {
        report.find(format!("entry {id}: the chain of its client's entries is broken"));
    }
    state.last_entry = Some(id);
    state.sequence = state.sequence.saturating_add(1);
    for (account, change) in [(debit, amount.saturating_neg()), (credit, amount)] {
        match account {
            Account::ClientPaid => state.paid = state.paid.saturating_add(change),
            Account::ClientBonus => state.bonus = state.bonus.saturating_add(change),
            Account::ClientDebt => state.debt = state.debt.saturating_sub(change),
            _ => {}
        }
    }
    let stored = Recomputed {
        sequence: row.try_get::<Option<i64>, _>(7)?.unwrap_or(-1),
        last_entry: Some(id),
        paid: row.try_get::<Option<i64>, _>(9)?.unwrap_or(-1),
        bonus: row.try_get::<Option<i64>, _>(10)?.unwrap_or(-1),
        debt: row.try_get::<Option<i64>, _>(11)?.unwrap_or(-1),
    };
    let told = *state;
    if stored != told {
        report
            .find(format!("entry {id}: its balances or its number are not what the entries before it give"));
    }
    if told.paid < 0 || told.bonus < 0 || told.debt < 0 {
        report.find(format!("entry {id}: a balance of its client is below zero after it"));
    }
    if let Ok(source) = source {
        note_source(source, client, (debit, credit), amount, gathered);
    }
    Ok(())
}

/// Whether what is in an account belongs to a wallet, or is on its way to or from one.
fn is_of_a_wallet(account: Account) -> bool {
    account.is_the_clients() || matches!(account, Account::Holds | Account::RefundPending)
}
