//! Recomputes everything from the entries and compares it with what is stored. Reads only.

use std::collections::{HashMap, HashSet};

use super::account::{Account, Rail};
use super::source::{EntrySource, Source, SourceError, SourceId, SourceKind};
use crate::db::{Connection, Row, Sql, query, query_scalar};

/// Entries read at once.
const CHUNK: i64 = 20_000;

/// The trigger without which entries could be changed on PostgreSQL, and its function, word for word.
const POSTGRES_TRIGGER: &str = "CREATE TRIGGER entries_are_never_changed BEFORE DELETE OR UPDATE OR TRUNCATE ON \
     public.entries FOR EACH STATEMENT EXECUTE FUNCTION entries_are_append_only()";
const POSTGRES_FUNCTION: &str = "BEGIN RAISE EXCEPTION 'ledger entries are append-only' USING ERRCODE = \
     'restrict_violation'; END";

/// The triggers without which entries could be changed on SQLite, word for word.
const SQLITE_TRIGGERS: [&str; 2] = [
    "CREATE TRIGGER entries_are_never_updated BEFORE UPDATE ON entries \
     BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END",
    "CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries \
     BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END",
];

/// Findings kept in full; the rest is only counted.
const MAX_FINDINGS: usize = 100;

/// What `verify` found.
#[derive(Debug, Default)]
pub struct Verification {
    /// Entries read.
    pub entries: u64,
    /// Clients read.
    pub clients: u64,
    /// Top-ups read.
    pub top_ups: u64,
    /// Top-ups whose outcome is open: no fault, but not yet in the books.
    pub open_top_ups: u64,
    /// Holds of requests that run: no fault.
    pub open_holds: u64,
    /// What is wrong, the first hundred.
    pub findings: Vec<String>,
    /// How much is wrong.
    pub found: u64,
    /// Trial balance: per currency and account, debits minus credits in micros.
    pub trial_balance: Vec<(String, Account, i128)>,
}

impl Verification {
    /// Nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.found == 0
    }

    fn find(&mut self, what: String) {
        self.found = self.found.saturating_add(1);
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(what);
        }
    }
}

/// A client as the entries tell it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Recomputed {
    paid: i64,
    bonus: i64,
    debt: i64,
    sequence: i64,
    last_entry: Option<i64>,
}

/// Sums of one source's entries.
#[derive(Debug, Clone, Copy, Default)]
struct SourceSums {
    client: i64,
    clearing: i64,
    promotion: i64,
}

/// What the books say about one refund.
#[derive(Debug, Clone, Copy, Default)]
struct RefundSums {
    client: i64,
    /// Taken for it, and how much bonus was forfeited with it.
    taken: i64,
    forfeited: i64,
    /// Left for the card.
    paid_out: i64,
    /// Come back, and how much bonus with it.
    returned: i64,
    given_back: i64,
}

/// What the books say about one request's hold.
#[derive(Debug, Clone, Copy)]
struct HeldSums {
    client: i64,
    /// Not ended yet.
    held: i64,
    /// Taken from paid credit, less what was given back to it; the same of bonus.
    paid: i64,
    bonus: i64,
    taken_from_paid: i64,
    charged: i64,
}

impl HeldSums {
    /// What was charged was charged to paid credit first, and the rest of each is back where it was taken from.
    fn is_where_it_belongs(&self) -> bool {
        let from_paid = self.charged.min(self.taken_from_paid);
        (self.paid, self.bonus) == (from_paid, self.charged.saturating_sub(from_paid))
    }
}

/// One entry of a reversal.
#[derive(Debug)]
struct Reversal {
    source: EntrySource,
    client: i64,
    amount: i64,
    debit: Account,
    credit: Account,
}

/// Everything gathered on the way through the entries.
#[derive(Debug, Default)]
struct Gathered {
    clients: HashMap<i64, Recomputed>,
    currencies: HashMap<i64, String>,
    top_ups: HashMap<SourceId, SourceSums>,
    reversals: Vec<Reversal>,
    refunds: HashMap<SourceId, RefundSums>,
    /// What disputes have taken from each client and not given back.
    disputed: HashMap<i64, i64>,
    /// Whose, how much, and what became of it.
    adjustments: HashMap<SourceId, (i64, i64, Account)>,
    /// What of each write-off was taken back.
    taken_back: HashMap<SourceId, i64>,
    /// Requests that hold something.
    holds: HashMap<SourceId, HeldSums>,
    /// Requests whose hold ended with somebody else.
    foreign_holds: Vec<SourceId>,
    /// Requests whose hold was not given back to where it was taken from.
    misplaced_holds: Vec<SourceId>,
    routes: HashSet<i64>,
    price_lists: HashSet<i64>,
    /// Whose each client key is.
    keys: HashMap<i64, i64>,
    /// Accounts that have a row.
    accounts: HashSet<i64>,
    trial: HashMap<(String, i64), i128>,
    /// The id that must come next, where ids have no gaps.
    next_id: Option<i64>,
}

const ENTRIES: &str = "\
SELECT id, source, debit, credit, amount, currency, client, sequence, previous, paid_after, bonus_after, debt_after,
       route, price_list, key
FROM entries WHERE id > $1 ORDER BY id LIMIT $2";

/// Verifies the whole database. `progress` is told the number of entries read now and then.
///
/// # Errors
/// When the database cannot be read at all.
pub async fn verify(
    connection: &mut Connection,
    mut progress: impl FnMut(u64),
) -> Result<Verification, sqlx::Error> {
    let mut report = Verification::default();
    // One snapshot, so that a server that goes on writing does not disturb the comparison.
    connection.begin_snapshot().await?;
    check_database(connection, &mut report).await?;
    // Several nodes take ids from a sequence, which leaves gaps where a transaction was rolled back.
    let next_id = match connection {
        Connection::Sqlite(_) => Some(1),
        Connection::Postgres(_) | Connection::Lost => None,
    };
    let mut gathered = Gathered {
        next_id,
        routes: query_scalar("SELECT id FROM routes")
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .collect(),
        price_lists: query_scalar("SELECT id FROM price_lists")
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .collect(),
        ..Gathered::default()
    };
    check_accounts(connection, &mut gathered, &mut report).await?;
    for row in query("SELECT number, client FROM client_keys").fetch_all(&mut *connection).await? {
        match row.try_get::<Option<i64>, _>(0)? {
            Some(number) => {
                gathered.keys.insert(number, row.try_get(1)?);
            }
            None => {
                let client: i64 = row.try_get(1)?;
                report.find(format!(
                    "client {client}: one of its keys has no number, so entries cannot name it"
                ));
            }
        }
    }
    for row in query("SELECT id, currency FROM clients").fetch_all(&mut *connection).await? {
        report.clients = report.clients.saturating_add(1);
        gathered.currencies.insert(row.try_get(0)?, row.try_get(1)?);
    }
    let mut last = i64::MIN;
    loop {
        let rows = query(ENTRIES).bind(last).bind(CHUNK).fetch_all(&mut *connection).await?;
        let Some(newest) = rows.last() else { break };
        last = newest.try_get(0)?;
        for row in &rows {
            report.entries = report.entries.saturating_add(1);
            check_entry(row, &mut gathered, &mut report)?;
        }
        progress(report.entries);
    }
    check_clients(connection, &gathered, &mut report).await?;
    check_top_ups(connection, &mut gathered, &mut report).await?;
    check_reversals(connection, &gathered, &mut report).await?;
    check_holds(connection, &mut gathered, &mut report).await?;
    check_refunds(connection, &mut gathered, &mut report).await?;
    check_adjustments(connection, &mut gathered, &mut report).await?;
    check_disputes(&gathered, &mut report);
    check_freezes(connection, &mut report).await?;
    report.trial_balance = trial_balance(&gathered);
    connection.rollback().await?;
    Ok(report)
}

/// The database itself, references between rows, and what keeps entries from being changed.
async fn check_database(connection: &mut Connection, report: &mut Verification) -> Result<(), sqlx::Error> {
    let guarded = match connection {
        Connection::Sqlite(_) => check_file(connection, report).await?,
        Connection::Postgres(_) => {
            check_references(connection, report).await?;
            has_postgres_guard(connection).await?
        }
        Connection::Lost => false,
    };
    if !guarded {
        report.find("the triggers that keep entries append-only are missing or others".to_owned());
    }
    Ok(())
}

/// The file itself, and references between rows. Answers whether the triggers are there.
async fn check_file(connection: &mut Connection, report: &mut Verification) -> Result<bool, sqlx::Error> {
    let damage: Vec<String> = query_scalar("PRAGMA quick_check(20)").fetch_all(&mut *connection).await?;
    for line in damage.into_iter().filter(|line| line != "ok") {
        report.find(format!("the database file is damaged: {line}"));
    }
    for row in query("PRAGMA foreign_key_check").fetch_all(&mut *connection).await? {
        let (table, parent): (String, String) = (row.try_get(0)?, row.try_get(2)?);
        report.find(format!("a row of {table} refers to a row of {parent} that is not there"));
    }
    let triggers: Vec<String> =
        query_scalar("SELECT sql FROM sqlite_master WHERE type = 'trigger'").fetch_all(connection).await?;
    let triggers: Vec<String> = triggers.iter().map(|sql| single_spaced(sql)).collect();
    Ok(SQLITE_TRIGGERS.iter().all(|wanted| triggers.iter().any(|sql| sql == wanted)))
}

/// References between rows on PostgreSQL, which has no statement for it: a restore or a superuser can pass its foreign keys by.
/// Those of entries are looked at with each entry.
async fn check_references(connection: &mut Connection, report: &mut Verification) -> Result<(), sqlx::Error> {
    const REFERENCES: [(&str, &str, &str); 13] = [
        (
            "client_keys",
            "clients",
            "SELECT COUNT(*) FROM client_keys AS r WHERE NOT EXISTS (SELECT 1 FROM clients AS c WHERE c.id = r.client)",
        ),
        (
            "payment_method_bindings",
            "clients",
            "SELECT COUNT(*) FROM payment_method_bindings AS r \
             WHERE NOT EXISTS (SELECT 1 FROM clients AS c WHERE c.id = r.client)",
        ),
        (
            "payment_method_bindings",
            "client_keys",
            "SELECT COUNT(*) FROM payment_method_bindings AS r \
             WHERE NOT EXISTS (SELECT 1 FROM client_keys AS k WHERE k.id = r.key)",
        ),
        (
            "top_ups",
            "clients",
            "SELECT COUNT(*) FROM top_ups AS r \
             WHERE client IS NOT NULL AND NOT EXISTS (SELECT 1 FROM clients AS c WHERE c.id = r.client)",
        ),
        (
            "card_checks",
            "clients",
            "SELECT COUNT(*) FROM card_checks AS r \
             WHERE client IS NOT NULL AND NOT EXISTS (SELECT 1 FROM clients AS c WHERE c.id = r.client)",
        ),
        (
            "refunds",
            "top_ups",
            "SELECT COUNT(*) FROM refunds AS r WHERE NOT EXISTS (SELECT 1 FROM top_ups AS p WHERE p.id = r.top_up)",
        ),
        (
            "refunds",
            "clients",
            "SELECT COUNT(*) FROM refunds AS r WHERE NOT EXISTS (SELECT 1 FROM clients AS p WHERE p.id = r.client)",
        ),
        (
            "disputes",
            "top_ups",
            "SELECT COUNT(*) FROM disputes AS r WHERE NOT EXISTS (SELECT 1 FROM top_ups AS p WHERE p.id = r.top_up)",
        ),
        (
            "disputes",
            "clients",
            "SELECT COUNT(*) FROM disputes AS r WHERE NOT EXISTS (SELECT 1 FROM clients AS p WHERE p.id = r.client)",
        ),
        (
            "fraud_warnings",
            "top_ups",
            "SELECT COUNT(*) FROM fraud_warnings AS r WHERE NOT EXISTS (SELECT 1 FROM top_ups AS p WHERE p.id = r.top_up)",
        ),
        (
            "fraud_warnings",
            "clients",
            "SELECT COUNT(*) FROM fraud_warnings AS r WHERE NOT EXISTS (SELECT 1 FROM clients AS p WHERE p.id = r.client)",
        ),
        (
            "adjustments",
            "clients",
            "SELECT COUNT(*) FROM adjustments AS r WHERE NOT EXISTS (SELECT 1 FROM clients AS p WHERE p.id = r.client)",
        ),
        (
            "freezes",
            "clients",
            "SELECT COUNT(*) FROM freezes AS r WHERE NOT EXISTS (SELECT 1 FROM clients AS p WHERE p.id = r.client)",
        ),
    ];
    for (table, parent, orphans) in REFERENCES {
        let orphans: i64 = query_scalar(orphans).fetch_one(&mut *connection).await?;
        for _ in 0..orphans {
            report.find(format!("a row of {table} refers to a row of {parent} that is not there"));
        }
    }
    Ok(())
}

/// The rows of accounts are the accounts of this program.
async fn check_accounts(
    connection: &mut Connection,
    gathered: &mut Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    for row in query("SELECT number, kind, instance FROM ledger_accounts").fetch_all(connection).await? {
        let (number, kind, instance): (i64, &str, &str) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        gathered.accounts.insert(number);
        match Account::from_number(number) {
            Some(account) if (account.kind(), account.instance()) == (kind, instance) => {}
            Some(_) => report.find(format!("account {number}: its row is of another account")),
            None => report.find(format!("account {number}: this program does not know it")),
        }
    }
    for account in Account::ALL {
        if !gathered.accounts.contains(&account.number()) {
            report.find(format!("account {}: it has no row", account.number()));
        }
    }
    Ok(())
}

fn single_spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The trigger is there, switched on, and does what it should.
async fn has_postgres_guard(connection: &mut Connection) -> Result<bool, sqlx::Error> {
    const GUARD: &str = "\
SELECT pg_get_triggerdef(t.oid), p.prosrc, n.nspname::text FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE t.tgrelid = 'entries'::regclass AND t.tgname = 'entries_are_never_changed' AND t.tgenabled IN ('O', 'A')";
    let Some(row) = query(Sql::from(GUARD)).fetch_optional(connection).await? else {
        return Ok(false);
    };
    let (trigger, function, schema): (String, String, String) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    // The schema may have another name than the usual one.
    let trigger = trigger.replace(&format!("ON {schema}.entries"), "ON public.entries");
    let same =
        |text: &str, wanted: &str| single_spaced(text).trim_end_matches(';').trim() == single_spaced(wanted);
    Ok(same(&trigger, POSTGRES_TRIGGER) && same(&function, POSTGRES_FUNCTION))
}

fn check_entry(row: &Row, gathered: &mut Gathered, report: &mut Verification) -> Result<(), sqlx::Error> {
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

fn note_source(
    source: EntrySource,
    client: i64,
    (debit, credit): (Account, Account),
    amount: i64,
    gathered: &mut Gathered,
) {
    if debit == Account::Holds || credit == Account::Holds {
        let request = source.id();
        let sums = gathered.holds.entry(request.clone()).or_insert(HeldSums {
            client,
            held: 0,
            paid: 0,
            bonus: 0,
            taken_from_paid: 0,
            charged: 0,
        });
        if sums.client != client {
            gathered.foreign_holds.push(request.clone());
        }
        let add = |sum: &mut i64, by: i64| *sum = sum.saturating_add(by);
        add(&mut sums.held, if credit == Account::Holds { amount } else { amount.saturating_neg() });
        match (debit, credit) {
            (Account::ClientPaid, _) => {
                add(&mut sums.paid, amount);
                add(&mut sums.taken_from_paid, amount);
            }
            (Account::ClientBonus, _) => add(&mut sums.bonus, amount),
            (_, Account::ClientPaid) => add(&mut sums.paid, amount.saturating_neg()),
            (_, Account::ClientBonus) => add(&mut sums.bonus, amount.saturating_neg()),
            _ => add(&mut sums.charged, amount),
        }
        if sums.held == 0 {
            if !sums.is_where_it_belongs() {
                gathered.misplaced_holds.push(request.clone());
            }
            gathered.holds.remove(request);
        }
    }
    match source.kind() {
        SourceKind::TopUp => {
            let sums = gathered.top_ups.entry(source.id().clone()).or_default();
            sums.client = client;
            match debit {
                Account::Clearing(Rail::Stripe) => sums.clearing = sums.clearing.saturating_add(amount),
                Account::Promotion => sums.promotion = sums.promotion.saturating_add(amount),
                _ => {}
            }
        }
        SourceKind::Reversal => {
            gathered.reversals.push(Reversal { source, client, amount, debit, credit });
        }
        _ => note_aftermath(source.command(), client, (debit, credit), amount, gathered),
    }
}

/// The same for what becomes of a charge.
fn note_aftermath(
    source: &Source,
    client: i64,
    (debit, credit): (Account, Account),
    amount: i64,
    gathered: &mut Gathered,
) {
    let (kind, id) = (source.kind(), source.id());
    match kind {
        SourceKind::Refund | SourceKind::RefundPaid | SourceKind::RefundReturn => {
            let sums = gathered.refunds.entry(id.clone()).or_default();
            sums.client = client;
            let sum = match (kind, debit, credit) {
                (SourceKind::Refund, _, Account::Promotion) => &mut sums.forfeited,
                (SourceKind::Refund, _, _) => &mut sums.taken,
                (SourceKind::RefundPaid, _, _) => &mut sums.paid_out,
                (_, Account::Promotion, _) => &mut sums.given_back,
                (_, _, _) => &mut sums.returned,
            };
            *sum = sum.saturating_add(amount);
        }
        SourceKind::WriteOffReturn => {
            let taken_back = gathered.taken_back.entry(id.clone()).or_default();
            *taken_back = taken_back.saturating_add(amount);
        }
        SourceKind::Adjustment => {
            gathered.adjustments.insert(id.clone(), (client, amount, credit));
        }
        SourceKind::Dispute | SourceKind::Reinstatement => {
            let signed = if kind == SourceKind::Dispute { amount } else { amount.saturating_neg() };
            let disputed = gathered.disputed.entry(client).or_default();
            *disputed = disputed.saturating_add(signed);
        }
        _ => {}
    }
}

/// What the entries say of a thing, by the id in its row. An id that no source can have has no entries.
fn taken<T>(by_id: &mut HashMap<SourceId, T>, id: &str) -> Option<T> {
    by_id.remove(&SourceId::parse(id).ok()?)
}

async fn check_clients(
    connection: &mut Connection,
    gathered: &Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    let rows = query("SELECT id, paid, bonus, debt, sequence, last_entry FROM clients")
        .fetch_all(connection)
        .await?;
    for row in rows {
        let id: i64 = row.try_get(0)?;
        let stored = Recomputed {
            paid: row.try_get(1)?,
            bonus: row.try_get(2)?,
            debt: row.try_get(3)?,
            sequence: row.try_get(4)?,
            last_entry: row.try_get(5)?,
        };
        if stored != gathered.clients.get(&id).copied().unwrap_or_default() {
            report.find(format!("client {id}: its balances are not the sum of its entries"));
        }
    }
    Ok(())
}

async fn check_top_ups(
    connection: &mut Connection,
    gathered: &mut Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    let rows =
        query("SELECT id, client, amount, bonus, state, currency FROM top_ups").fetch_all(connection).await?;
    for row in rows {
        report.top_ups = report.top_ups.saturating_add(1);
        let id: &str = row.try_get(0)?;
        let state: &str = row.try_get(4)?;
        let booked = taken(&mut gathered.top_ups, id);
        match (state, booked) {
            ("succeeded", Some(sums)) => {
                let client: Option<i64> = row.try_get(1)?;
                let (amount, bonus): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
                let currency: String = row.try_get(5)?;
                let same = (sums.clearing, sums.promotion, Some(sums.client)) == (amount, bonus, client)
                    && gathered.currencies.get(&sums.client) == Some(&currency);
                if !same {
                    report.find(format!("top-up {id}: its entries are not its amount, bonus and client"));
                }
            }
            ("succeeded", None) => report.find(format!("top-up {id}: it succeeded, but is not in the books")),
            ("failed", None) => {}
            (_, None) => report.open_top_ups = report.open_top_ups.saturating_add(1),
            (_, Some(_)) => report.find(format!("top-up {id}: it is in the books, but did not succeed")),
        }
    }
    for id in gathered.top_ups.keys() {
        report.find(format!("top-up {id}: it is in the books, but there is no such top-up"));
    }
    Ok(())
}

/// The rows of adjustments are exactly the entries of adjustments.
async fn check_adjustments(
    connection: &mut Connection,
    gathered: &mut Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    for row in query("SELECT id, client, amount, kind FROM adjustments").fetch_all(connection).await? {
        let (id, kind): (&str, &str) = (row.try_get(0)?, row.try_get(3)?);
        let became = if kind == "credit" { Account::ClientBonus } else { Account::ClientDebt };
        match taken(&mut gathered.adjustments, id) {
            Some(booked) if booked == (row.try_get(1)?, row.try_get(2)?, became) => {}
            Some(_) => report.find(format!("adjustment {id}: its entry is not its client, amount and kind")),
            None => report.find(format!("adjustment {id}: it is not in the books")),
        }
        match taken(&mut gathered.taken_back, id) {
            Some(taken_back) if kind == "credit" || taken_back > row.try_get(2)? => {
                report.find(format!("adjustment {id}: more of it was taken back than was written off"));
            }
            _ => {}
        }
    }
    for id in gathered.taken_back.keys() {
        report.find(format!("adjustment {id}: it was taken back, but there is no such adjustment"));
    }
    for id in gathered.adjustments.keys() {
        report.find(format!("adjustment {id}: it is in the books, but there is no such adjustment"));
    }
    Ok(())
}

async fn check_reversals(
    connection: &mut Connection,
    gathered: &Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    for reversal in &gathered.reversals {
        let (given, leg) = (reversal.source.command(), reversal.source.leg());
        let usage = given.sibling(SourceKind::Usage);
        let capture = usage.entry(leg);
        let found = query("SELECT client, amount, debit, credit FROM entries WHERE source = $1")
            .bind(capture.to_string())
            .fetch_optional(&mut *connection)
            .await?;
        let mirrored = match found {
            Some(row) => {
                let taken: (i64, i64, i64, i64) =
                    (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
                // What was taken from a hold goes back to where the hold had taken it from.
                let (client, amount, mut from, to) = taken;
                if from == Account::Holds.number() {
                    from = query_scalar("SELECT debit FROM entries WHERE source = $1")
                        .bind(given.sibling(SourceKind::Hold).entry(leg).to_string())
                        .fetch_optional(&mut *connection)
                        .await?
                        .unwrap_or(0);
                }
                (client, amount, from, to)
                    == (reversal.client, reversal.amount, reversal.credit.number(), reversal.debit.number())
            }
            None => false,
        };
        if !mirrored || legs(connection, &usage).await? != legs(connection, given).await? {
            report.find(format!("{capture}: its reversal gives back something else than was taken"));
        }
    }
    Ok(())
}

/// The rows of holds are exactly the requests for which the books hold something.
async fn check_holds(
    connection: &mut Connection,
    gathered: &mut Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    for row in query("SELECT request, client, amount FROM holds").fetch_all(connection).await? {
        report.open_holds = report.open_holds.saturating_add(1);
        let request: String = row.try_get(0)?;
        let stored: (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
        let told = taken(&mut gathered.holds, &request).map(|sums| (sums.client, sums.held));
        if told != Some(stored) {
            report.find(format!("hold {request}: its row is not what the books hold for it"));
        }
    }
    for request in &gathered.foreign_holds {
        report.find(format!("hold {request}: it was taken from one client and ended with another"));
    }
    for request in &gathered.misplaced_holds {
        report.find(format!("hold {request}: it was not given back to the credit it was taken from"));
    }
    for request in gathered.holds.keys() {
        report.find(format!("hold {request}: the books hold something for it, but it has no row"));
    }
    Ok(())
}

/// Each refund's entries are what its state says, and what is on its way to cards is the refunds that are on their way.
async fn check_refunds(
    connection: &mut Connection,
    gathered: &mut Gathered,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
    const REFUNDS: &str = "\
SELECT r.id, r.state, r.client, r.amount, r.bonus, t.client, c.currency FROM refunds AS r
LEFT JOIN top_ups AS t ON t.id = r.top_up LEFT JOIN clients AS c ON c.id = r.client";
    const ABOVE: &str = "\
SELECT t.id FROM top_ups AS t JOIN refunds AS r ON r.top_up = t.id WHERE r.state <> 'failed'
GROUP BY t.id, t.amount HAVING SUM(r.amount) > t.amount";
    let mut pending: HashMap<String, i128> = gathered
        .trial
        .iter()
        .filter(|((_, account), _)| *account == Account::RefundPending.number())
        .map(|((currency, _), sum)| (currency.clone(), *sum))
        .collect();
    for row in query(REFUNDS).fetch_all(&mut *connection).await? {
        let (id, state): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let (client, amount, bonus): (i64, i64, i64) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        let told = taken(&mut gathered.refunds, &id).unwrap_or_default();
        // One that failed at Stripe before it was known here has taken nothing.
        let nothing = state == "failed" && told.taken == 0;
        let taken = told.taken == amount && told.client == client && (0..=bonus).contains(&told.forfeited);
        let paid_out = told.paid_out == amount;
        let is_back = told.returned == amount && told.given_back == told.forfeited;
        let none = told.paid_out == 0 && told.returned == 0 && told.given_back == 0;
        let fits = match state.as_str() {
            "succeeded" => taken && paid_out && told.returned == 0 && told.given_back == 0,
            "failed" if nothing => none && told.forfeited == 0,
            "failed" => taken && is_back && (paid_out || told.paid_out == 0),
            _ => taken && none,
        };
        if !fits {
            report.find(format!("refund {id}: it is {state}, which its entries do not tell"));
        }
        if row.try_get::<Option<i64>, _>(5)? != Some(client) {
            report.find(format!("refund {id}: its client is not its top-up's"));
        }
        if let (Some(currency), "requested" | "pending") =
            (row.try_get::<Option<String>, _>(6)?, state.as_str())
        {
            let open = pending.entry(currency).or_default();
            *open = open.saturating_add(i128::from(amount));
        }
    }
    for id in gathered.refunds.keys() {
        report.find(format!("refund {id}: it is in the books, but there is no such refund"));
    }
    for (currency, left) in pending {
        if left != 0 {
            report
                .find(format!("the refunds on their way in {currency} are not what the books have for them"));
        }
    }
    for row in query(ABOVE).fetch_all(connection).await? {
        let id: String = row.try_get(0)?;
        report.find(format!("top-up {id}: more was refunded than charged"));
    }
    Ok(())
}

/// Disputes give back at most what they have taken.
fn check_disputes(gathered: &Gathered, report: &mut Verification) {
    for (client, left) in &gathered.disputed {
        if *left < 0 {
            report.find(format!("client {client}: disputes have given back more than they had taken"));
        }
    }
}

/// A client is frozen exactly as long as something freezes it.
async fn check_freezes(connection: &mut Connection, report: &mut Verification) -> Result<(), sqlx::Error> {
    const WRONG: &str = "\
SELECT c.id FROM clients AS c WHERE (c.status = 'frozen') <>
    EXISTS (SELECT 1 FROM freezes AS f WHERE f.client = c.id AND f.lifted_at IS NULL)";
    for row in query(WRONG).fetch_all(connection).await? {
        let id: i64 = row.try_get(0)?;
        report.find(format!("client {id}: whether it is frozen is not what its freezes tell"));
    }
    Ok(())
}

/// How many entries a command made.
async fn legs(connection: &mut Connection, source: &Source) -> Result<i64, sqlx::Error> {
    let mut legs = 0i64;
    for source in source.entries() {
        let found: i64 = query_scalar("SELECT COUNT(*) FROM entries WHERE source = $1")
            .bind(source.to_string())
            .fetch_one(&mut *connection)
            .await?;
        legs = legs.saturating_add(found);
    }
    Ok(legs)
}

/// There is nothing to check about its sum: each entry adds the same to both of its sides, so that it is nothing whatever was done to
/// the books. What the accounts should hold is checked by wallet, hold and refund.
fn trial_balance(gathered: &Gathered) -> Vec<(String, Account, i128)> {
    let mut lines: Vec<(String, Account, i128)> = gathered
        .trial
        .iter()
        .filter_map(|((currency, number), sum)| {
            Some((currency.clone(), Account::from_number(*number)?, *sum))
        })
        .collect();
    lines.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    lines
}

#[cfg(test)]
mod tests;
