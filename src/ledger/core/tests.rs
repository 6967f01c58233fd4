//! Tables: each rule about money by an example. The model beside it tries what nobody thought of.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

mod batches;
mod credit;
mod model;
mod spending;

use std::collections::{HashMap, HashSet};

use super::*;
use crate::domain::{Currency, Micros};
use crate::ledger::account::{Account, Rail};
use crate::ledger::source::{Source, SourceKind};

fn m(n: i64) -> Micros {
    Micros::new(n).unwrap()
}

fn eur() -> Currency {
    "eur".parse().unwrap()
}

fn wallet(paid: i64, bonus: i64, debt: i64) -> ClientState {
    ClientState { paid: m(paid), bonus: m(bonus), debt: m(debt), ..ClientState::new(Currency::USD) }
}

/// A batch in which client 1 has this state, and nobody else exists.
fn batch(state: ClientState) -> Batch {
    let mut batch = Batch::starting_at(1);
    batch.clients.insert(1, state);
    batch
}

/// The batch after this one: what was appended is now recorded.
fn next_batch(before: Batch) -> Batch {
    let mut next = Batch::starting_at(before.next_entry().unwrap());
    next.clients = before.clients;
    next.recorded = before.recorded;
    next.recorded.extend(before.entries.into_iter().map(|entry| (entry.source.clone(), entry)));
    next
}

/// As it is stored.
fn stored(text: &str) -> Source {
    text.parse().unwrap()
}

fn source(kind: &str, id: &str) -> Source {
    stored(&format!("{kind}:{id}"))
}

fn capture(request: &str, price: i64) -> Command {
    Command::Capture(Capture {
        client: 1,
        source: source("usage", request),
        price: m(price),
        route: 5,
        price_list: 6,
        upstream_status: 201,
        held: false,
        key: Some(3),
    })
}

fn top_up(id: &str, amount: i64, bonus: i64) -> TopUp {
    TopUp {
        client: 1,
        source: source("topup", id),
        amount: m(amount),
        bonus: m(bonus),
        currency: Currency::USD,
    }
}

fn clawback(id: &str, amount: i64) -> Clawback {
    Clawback {
        client: 1,
        source: source("refund", id),
        amount: m(amount),
        to: Account::RefundPending,
        forfeits: Micros::ZERO,
        within: Within::Debt,
    }
}

fn reverse(capture: &str) -> Command {
    Command::Reverse(Reverse { capture: stored(capture), client: None })
}

fn hold(request: &str, amount: i64) -> Hold {
    Hold { client: 1, source: source("hold", request), amount: m(amount), key: Some(3) }
}

/// A capture that ends the hold of the same request.
fn settle(request: &str, price: i64) -> Capture {
    let Command::Capture(capture) = capture(request, price) else { unreachable!() };
    Capture { held: true, ..capture }
}

fn release(request: &str) -> Release {
    Release { client: 1, hold: source("hold", request) }
}

/// The end of a hold with what its request came to.
fn came_to(request: &str, amount: i64) -> Settle {
    Settle {
        client: 1,
        hold: source("hold", request),
        amount: m(amount),
        route: 5,
        price_list: 6,
        upstream_status: 201,
        key: Some(3),
    }
}

/// Paid, bonus and debt of client 1.
fn balances(batch: &Batch) -> (i64, i64, i64) {
    let state = batch.clients[&1];
    (state.paid.get(), state.bonus.get(), state.debt.get())
}

/// Debit, credit and amount of each entry.
fn moves(batch: &Batch) -> Vec<(Account, Account, i64)> {
    batch.entries.iter().map(|e| (e.debit, e.credit, e.amount.get())).collect()
}

#[track_caller]
fn posted(outcome: &Outcome) -> (EntryId, bool) {
    match outcome {
        Outcome::Posted { entry, repeated, .. } => (*entry, *repeated),
        Outcome::Refused(refusal) => panic!("refused: {refusal}"),
    }
}

/// Refused, and not the least trace of it.
#[track_caller]
fn refuses(batch: &mut Batch, command: &Command, because: Refusal) {
    let before = (batch.clients.clone(), batch.entries.clone(), batch.changed.clone(), batch.next_entry());
    let known = batch.posted.clone();
    assert_eq!(batch.apply(command), Outcome::Refused(because));
    let after = (batch.clients.clone(), batch.entries.clone(), batch.changed.clone(), batch.next_entry());
    assert_eq!(before, after);
    assert_eq!(known, batch.posted);
}

use Account::{ClientBonus, ClientDebt, ClientPaid, Holds, Promotion, RefundPending, Revenue};

const CLEARING: Account = Account::Clearing(Rail::Stripe);
const FEES: Account = Account::Fees(Rail::Stripe);
const DISPUTE: Account = Account::Dispute(Rail::Stripe);

fn pay_out(id: &str) -> PayOut {
    PayOut { client: 1, refund: source("refund", id) }
}

/// The whole of a refund comes back.
fn returned(id: &str) -> Reinstate {
    Reinstate { client: 1, source: source("refund-return", id), of: source("refund", id), amount: None }
}

fn fee(id: &str, amount: i64, is_returned: bool) -> Fee {
    Fee { client: 1, source: source("fee", id), amount: m(amount), account: FEES, is_returned }
}
