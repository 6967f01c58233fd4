//! Damage to entries, wallets, top-ups and what they refer to.

use super::*;

/// Name, what is done, and what the finding says.
const DAMAGES: &[(&str, &str, &str)] = &[
    ("amount raised", "UPDATE entries SET amount = 601 WHERE id = #4", "entry #4: its balances"),
    ("amount lowered", "UPDATE entries SET amount = 1 WHERE id = #7", "entry #7: its balances"),
    ("amount zero", "UPDATE entries SET amount = 0 WHERE id = #7", "entry #7: its amount"),
    ("amount negative", "UPDATE entries SET amount = -10 WHERE id = #7", "entry #7: its amount"),
    ("paid_after", "UPDATE entries SET paid_after = paid_after + 1 WHERE id = #4", "entry #4: its balances"),
    ("bonus_after", "UPDATE entries SET bonus_after = 0 WHERE id = #4", "entry #4: its balances"),
    ("debt_after", "UPDATE entries SET debt_after = 109 WHERE id = #11", "entry #11: its balances"),
    ("balances unknown", "UPDATE entries SET paid_after = NULL WHERE id = #13", "entry #13: its balances"),
    ("sequence", "UPDATE entries SET sequence = 9 WHERE id = #9", "entry #9: its balances or its number"),
    (
        "sequence unknown",
        "UPDATE entries SET sequence = NULL WHERE id = #3",
        "entry #3: its balances or its number",
    ),
    ("client paid", "UPDATE clients SET paid = paid + 1 WHERE id = 1", "client 1: its balances"),
    ("client bonus", "UPDATE clients SET bonus = 0 WHERE id = 1", "client 1: its balances"),
    ("client debt forgiven", "UPDATE clients SET debt = 0 WHERE id = 2", "client 2: its balances"),
    ("client sequence", "UPDATE clients SET sequence = 3 WHERE id = 2", "client 2: its balances"),
    ("client last entry", "UPDATE clients SET last_entry = #9 WHERE id = 1", "client 1: its balances"),
    ("client balance below zero", "UPDATE clients SET paid = -1 WHERE id = 2", "client 2: its balances"),
    (
        "clients swapped",
        "UPDATE clients SET id = 0 WHERE id = 1; UPDATE clients SET id = 1 WHERE id = 2; UPDATE clients SET id = 2 WHERE id = 0",
        "client 2: its balances",
    ),
    ("first entry gone", "DELETE FROM entries WHERE id = #1", "entry #2: entry #1 is missing"),
    ("middle entry gone", "DELETE FROM entries WHERE id = #7", "entry #8: entry #7 is missing"),
    ("last entry gone", "DELETE FROM entries WHERE id = #13", "client 1: its balances"),
    ("all entries gone", "DELETE FROM entries", "client 2: its balances"),
    (
        "entries cut out and patched over",
        "DELETE FROM entries WHERE id = #4; UPDATE entries SET previous = #2 WHERE id = #5",
        "entry #5: entry #4 is missing",
    ),
    (
        "previous swapped",
        "UPDATE entries SET previous = #4 + #5 - previous WHERE id IN (#5, #6)",
        "entry #5: the chain",
    ),
    ("previous gone", "UPDATE entries SET previous = NULL WHERE id = #13", "entry #13: the chain"),
    ("previous of another client", "UPDATE entries SET previous = #6 WHERE id = #7", "entry #7: the chain"),
    ("client of an entry", "UPDATE entries SET client = 2 WHERE id = #4", "entry #4: the chain"),
    ("nobody's entry", "UPDATE entries SET client = NULL WHERE id = #4", "entry #5: the chain"),
    ("nobody's last entry", "UPDATE entries SET client = NULL WHERE id = #13", "client 1: its balances"),
    (
        "usage of nobody's credit",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) VALUES (#14, 1, 'usage:x', 1, 8, 5, 'usd')",
        "entry #14: it moves what is a client's, but names no client",
    ),
    (
        "bonus for nobody",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) VALUES (#14, 1, 'topup:x/2', 9, 2, 5, 'usd')",
        "entry #14: it moves what is a client's, but names no client",
    ),
    (
        "nobody's debt forgiven",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) VALUES (#14, 1, 'adjustment:x', 10, 3, 5, 'usd')",
        "entry #14: it moves what is a client's, but names no client",
    ),
    (
        "usage of nobody's hold",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) VALUES (#14, 1, 'usage:x', 4, 8, 5, 'usd')",
        "entry #14: it moves what is a client's, but names no client",
    ),
    (
        "nobody's refund paid out",
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) \
         VALUES (#14, 1, 'refund-paid:x', 7, 5, 5, 'usd')",
        "entry #14: it moves what is a client's, but names no client",
    ),
    ("currency of an entry", "UPDATE entries SET currency = 'eur' WHERE id = #4", "entry #4: its currency"),
    ("currency of a client", "UPDATE clients SET currency = 'eur' WHERE id = 2", "entry #3: its currency"),
    (
        "usage twice under another source",
        "INSERT INTO entries SELECT #14, at, 'usage:copy', debit, credit, amount, currency, client, sequence, previous, \
         paid_after, bonus_after, debt_after, route, price_list, upstream_status, key FROM entries WHERE id = #13",
        "entry #14: the chain",
    ),
    (
        "credit to the wrong side",
        "UPDATE entries SET debit = credit, credit = debit WHERE id = #7",
        "entry #7: its balances",
    ),
    (
        "account that does not exist",
        "UPDATE entries SET credit = 99 WHERE id = #4",
        "entry #4: it names an account",
    ),
    (
        "same account",
        "UPDATE entries SET credit = debit WHERE id = #4",
        "entry #4: it debits and credits the same",
    ),
    (
        "kind that does not exist",
        "UPDATE entries SET source = 'usages:a' WHERE id = #4",
        "entry #4: the kind of its source is unknown",
    ),
    (
        "no kind",
        "UPDATE entries SET source = 'a' WHERE id = #4",
        "entry #4: the kind of its source is unknown",
    ),
    ("no id", "UPDATE entries SET source = 'usage:' WHERE id = #4", "entry #4: its source is malformed"),
    (
        "fourth entry",
        "UPDATE entries SET source = 'usage:a/4' WHERE id = #4",
        "entry #4: its source is malformed",
    ),
    (
        "usage as another kind",
        "UPDATE entries SET source = 'hold:a' WHERE id = #4",
        "entry #4: its accounts are not those of its kind",
    ),
    (
        "account without a row",
        "DELETE FROM ledger_accounts WHERE number = 8",
        "entry #4: it names an account that has no row",
    ),
    (
        "account without a row or an entry",
        "DELETE FROM ledger_accounts WHERE number = 12",
        "account 12: it has no row",
    ),
    (
        "account of another kind",
        "UPDATE ledger_accounts SET kind = 'revenues' WHERE number = 8",
        "account 8: its row is of",
    ),
    (
        "account of another rail",
        "UPDATE ledger_accounts SET instance = 'x' WHERE number = 5",
        "account 5: its row is of",
    ),
    (
        "account of nobody",
        "INSERT INTO ledger_accounts VALUES (99, 'x', '')",
        "account 99: this program does not know it",
    ),
    (
        "key of another client",
        "UPDATE entries SET key = (SELECT number FROM client_keys WHERE client = 2) WHERE id = #4",
        "entry #4: it names a key that is not its client's",
    ),
    (
        "key of nobody",
        "UPDATE entries SET key = 99 WHERE id = #4",
        "entry #4: it names a key that is not its client's",
    ),
    ("usage that is no revenue", "UPDATE entries SET credit = 12 WHERE id = #13", "entry #13: its accounts"),
    ("top-up out of nothing", "UPDATE entries SET debit = 10 WHERE id = #3", "entry #3: its accounts"),
    ("bonus as paid by Stripe", "UPDATE entries SET debit = 5 WHERE id = #2", "entry #2: its accounts"),
    (
        "reversal of another kind",
        "UPDATE entries SET debit = 9 WHERE id = #8",
        "its reversal gives back something else",
    ),
    (
        "top-up amount",
        "UPDATE top_ups SET amount = 999 WHERE amount = 1000",
        "its entries are not its amount, bonus and client",
    ),
    (
        "top-up bonus",
        "UPDATE top_ups SET bonus = 201 WHERE bonus = 200",
        "its entries are not its amount, bonus and client",
    ),
    (
        "top-up client",
        "UPDATE top_ups SET client = 1 WHERE id = 'later'",
        "top-up later: its entries are not",
    ),
    (
        "top-up currency",
        "UPDATE top_ups SET currency = 'eur' WHERE id = 'later'",
        "top-up later: its entries are not",
    ),
    (
        "top-up row gone",
        "DELETE FROM top_ups WHERE id = 'later'",
        "top-up later: it is in the books, but there is no such",
    ),
    (
        "top-up not succeeded",
        "UPDATE top_ups SET state = 'failed' WHERE id = 'later'",
        "top-up later: it is in the books, but did not",
    ),
    (
        "top-up open again",
        "UPDATE top_ups SET state = 'pending' WHERE id = 'later'",
        "top-up later: it is in the books, but did not",
    ),
    (
        "top-up without entries",
        "INSERT INTO top_ups SELECT 'never', client, key, key_hash, key_secret, pm_hash, fingerprint, request_key, currency, \
         amount, bonus, state, failure, stripe_customer, 'pi_never', 1, 1, NULL, NULL, 0, NULL, NULL FROM top_ups WHERE id = 'later'",
        "top-up never: it succeeded, but is not in the books",
    ),
    (
        "top-up under another source",
        "UPDATE entries SET source = 'topup:x' WHERE id = #12",
        "top-up x: it is in the books",
    ),
    (
        "frozen without a reason",
        "UPDATE clients SET status = 'frozen' WHERE id = 1",
        "client 1: whether it is frozen",
    ),
    (
        "thawed in spite of a reason",
        "INSERT INTO freezes (client, cause, created_at) VALUES (2, 'dispute:x', 1)",
        "client 2: whether it is frozen",
    ),
    (
        "a refund without entries",
        "INSERT INTO refunds (id, top_up, client, amount, bonus, origin, state, created_at, updated_at) \
         VALUES ('none', 'later', 2, 7, 0, 'operator', 'requested', 1, 1)",
        "refund none: it is requested",
    ),
    (
        "reversal of less",
        "UPDATE entries SET amount = 399, paid_after = 399 WHERE id = #8; UPDATE entries SET paid_after = 399 WHERE id = #9; \
         UPDATE entries SET paid_after = 349 WHERE id = #13; UPDATE clients SET paid = 349 WHERE id = 1",
        "its reversal gives back something else",
    ),
    (
        "reversal of a half",
        "UPDATE entries SET id = #14 WHERE id = #13; DELETE FROM entries WHERE id = #9; \
         INSERT INTO entries SELECT #9, 1, 'fee:1', 6, 5, 1, 'usd', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL; \
         INSERT INTO entries SELECT #13, 1, 'fee:2', 6, 5, 1, 'usd', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL; \
         UPDATE entries SET previous = #8, sequence = 7, bonus_after = 100 WHERE id = #14; \
         UPDATE clients SET bonus = 100, sequence = 7, last_entry = #14 WHERE id = 1",
        "its reversal gives back something else",
    ),
    (
        "reversal without capture",
        "UPDATE entries SET source = 'reversal:none' WHERE id = #9",
        "usage:none: its reversal gives back something else",
    ),
    ("client row gone", "DELETE FROM clients WHERE id = 2", "entry #3: its currency"),
    (
        "client row gone, references",
        "DELETE FROM clients WHERE id = 2",
        "a row of entries refers to a row of clients",
    ),
    ("route gone", "DELETE FROM routes", "a row of entries refers to a row of routes"),
    ("key of nobody", "UPDATE client_keys SET client = 77 WHERE client = 1", "a row of client_keys refers"),
    (
        "binding of nobody",
        "UPDATE payment_method_bindings SET client = 77 WHERE client = 1",
        "a row of payment_method_bindings refers to a row of clients",
    ),
    (
        "binding to no key",
        "UPDATE payment_method_bindings SET key = 'k' WHERE client = 1",
        "a row of payment_method_bindings refers to a row of client_keys",
    ),
    ("top-up of nobody", "UPDATE top_ups SET client = 77 WHERE id = 'later'", "a row of top_ups refers"),
    ("entry names no route", "UPDATE entries SET route = 77 WHERE id = #4", "entry #4: it names a route"),
    (
        "entry names no price list",
        "UPDATE entries SET price_list = 0 WHERE id = #4",
        "entry #4: it names a route",
    ),
];

/// What is found on PostgreSQL instead: ids have gaps there, and entries refer to others without foreign keys.
const ON_POSTGRES: &[(&str, &str)] = &[
    ("first entry gone", "entry #2: the chain"),
    ("middle entry gone", "entry #10: the chain"),
    ("entries cut out and patched over", "entry #5: its balances"),
    ("client row gone, references", "a row of client_keys refers to a row of clients"),
    ("route gone", "entry #4: it names a route"),
];

#[tokio::test]
async fn every_damage_is_found_and_named() {
    let original = original().await;
    let mut missed = Vec::new();
    for (name, sql, says) in DAMAGES {
        let instead = ON_POSTGRES.iter().find(|(of, _)| of == name && original.database.is_postgres());
        let says = original.named(instead.map_or(says, |(_, says)| says));
        let report = verified(&damaged(&original, sql).await).await;
        if !report.findings.iter().any(|finding| finding.contains(&says)) {
            missed.push(format!("{name}: {:#?}", report.findings));
        }
        assert_eq!(report.is_clean(), report.findings.is_empty());
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
