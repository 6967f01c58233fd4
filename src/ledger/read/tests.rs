//! The questions, asked of a small database whose rows are written by SQL.

use super::*;
use crate::db::testing::{TestDatabase, both, is_about_sqlite};
use crate::db::{self, Connection, Db, Readers, query};
use crate::domain::TopUpId;

/// A database that lives as long.
struct Books {
    _database: TestDatabase,
    db: Db,
    writer: Connection,
}

impl Books {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let db = db::run_writes_only(&database.config).await.expect("a database");
        let writer = database.connect().await;
        Self { _database: database, db, writer }
    }

    fn pool(&self) -> &Readers {
        self.db.reader()
    }

    async fn client(&mut self, id: i64, public_id: &str, currency: &str, paid: i64, debt: i64) {
        query(both(
            "INSERT INTO clients (id, public_id, currency, paid, bonus, debt, sequence, status, stripe_customer, created_at) \
             VALUES ($1, $2, $3, $4, 7, $5, 0, 'active', 'cus_' || $1, $1)",
        ))
        .bind(id)
        .bind(public_id)
        .bind(currency)
        .bind(paid)
        .bind(debt)
        .execute(&mut self.writer)
        .await
        .expect("a client");
    }

    /// Of one micro each, with ids that have gaps.
    async fn many_entries(&mut self, count: i64, at: i64) {
        query(both(
            "INSERT INTO entries (id, at, source, debit, credit, amount, currency) \
             WITH RECURSIVE n (i) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
             SELECT i * 5, $2, 'usage:many-' || i, 1, 8, 1, 'usd' FROM n",
        ))
        .bind(count)
        .bind(at)
        .execute(&mut self.writer)
        .await
        .expect("entries");
    }

    async fn entry(&mut self, id: i64, at: i64, client: Option<i64>, previous: Option<i64>, amount: i64) {
        query(both(
            "INSERT INTO entries (id, at, source, debit, credit, amount, currency, client, previous) \
             VALUES ($1, $2, 'usage:' || $1, 1, 8, $3, 'usd', $4, $5)",
        ))
        .bind(id)
        .bind(at)
        .bind(amount)
        .bind(client)
        .bind(previous)
        .execute(&mut self.writer)
        .await
        .expect("an entry");
        if let Some(client) = client {
            query("UPDATE clients SET last_entry = $2, sequence = sequence + 1 WHERE id = $1")
                .bind(client)
                .bind(id)
                .execute(&mut self.writer)
                .await
                .expect("the chain goes on");
        }
    }

    async fn top_up(&mut self, id: &str, client: Option<i64>, state: &str, amount: i64, at: i64) {
        query(both(
            "INSERT INTO top_ups (id, client, key, key_hash, key_secret, currency, amount, bonus, state, payment_intent, created_at, updated_at) \
             VALUES ($1, $2, 'k', zeroblob(32), 1, 'usd', $4, 0, $3, 'pi_' || $1, $5, $5)",
        ))
        .bind(id)
        .bind(client)
        .bind(state)
        .bind(amount)
        .bind(at)
        .execute(&mut self.writer)
        .await
        .expect("a top-up");
    }

    async fn key(&mut self, id: &str, client: i64, shown: &str) {
        query(both(
            "INSERT INTO client_keys (id, client, hash, shown_prefix, secret_version, scope, created_at) \
             VALUES ($1, $2, randomblob(32), $3, 1, 'owner', 1)",
        ))
        .bind(id)
        .bind(client)
        .bind(shown)
        .execute(&mut self.writer)
        .await
        .expect("a key");
    }

    async fn found(&self, search: &str) -> Vec<i64> {
        let rows = list_clients(self.pool(), Some(search), None, 50).await.expect("a list");
        rows.into_iter().map(|row| row.id).collect()
    }
}

fn ids(rows: &[EntryRow]) -> Vec<i64> {
    rows.iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn a_clients_entries_are_paged_along_their_chain() {
    let mut books = Books::new().await;
    books.client(1, "a", "usd", 0, 0).await;
    books.client(2, "b", "usd", 0, 0).await;
    let (mut last, mut own) = ([None, None], [Vec::new(), Vec::new()]);
    for id in 1..=25 {
        let who = usize::from(id % 3 == 0);
        let client = if who == 0 { 1 } else { 2 };
        books.entry(id, id, Some(client), last[who], 10).await;
        last[who] = Some(id);
        own[who].insert(0, id);
    }
    let first = client_entries(books.pool(), 1, None, 5).await.expect("entries");
    assert_eq!(ids(&first), own[0][..5]);
    let mut all = ids(&first);
    while let Some(&cursor) = all.last() {
        let page = client_entries(books.pool(), 1, Some(cursor), 5).await.expect("entries");
        if page.is_empty() {
            break;
        }
        all.extend(ids(&page));
    }
    assert_eq!(all, own[0]);
    // A cursor of somebody else, or of nobody, gives nothing.
    for cursor in [own[1][0], 999] {
        assert_eq!(client_entries(books.pool(), 1, Some(cursor), 5).await.expect("entries"), []);
    }
    assert_eq!(client_entries(books.pool(), 1, None, 0).await.expect("entries"), []);
    assert_eq!(client_entries(books.pool(), 3, None, 5).await.expect("entries"), []);
    let newest = &client_entries(books.pool(), 2, None, 1).await.expect("entries")[0];
    assert_eq!((newest.debit, newest.credit), (Account::ClientPaid, Account::Revenue));
    assert_eq!((newest.client, newest.client_public_id.as_deref()), (Some(2), Some("b")));
    assert_eq!(ids(&recent_entries(books.pool(), 3).await.expect("entries")), [25, 24, 23]);
}

#[tokio::test]
async fn an_account_of_a_newer_program_is_an_error_not_a_guess() {
    let mut books = Books::new().await;
    query(both(
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) VALUES (1, 1, 's', 99, 8, 1, 'usd')",
    ))
    .execute(&mut books.writer)
    .await
    .expect("an entry");
    let error = recent_entries(books.pool(), 1).await.expect_err("unknown account").to_string();
    assert!(error.contains("there is no account 99"), "{error}");
}

#[tokio::test]
async fn clients_are_found_by_what_people_have_in_hand() {
    let mut books = Books::new().await;
    books.client(1, "019aa-1111", "usd", 0, 0).await;
    books.client(2, "019aa-2222", "usd", 0, 0).await;
    books.client(3, "%_'\\--", "usd", 0, 0).await;
    books.key("k1", 1, "pck_AbCdEf").await;
    books.key("k2", 2, "pck_Ab_dEf").await;
    books.top_up("t1", Some(2), "succeeded", 5, 1).await;
    books.top_up("t2", None, "failed", 5, 1).await;
    for (search, expected) in [
        ("019aa", vec![2, 1]),
        ("019AA-1", vec![1]),
        (" 019aa-2222 ", vec![2]),
        ("19aa", vec![]),
        ("pck_Ab", vec![2, 1]),
        ("pck_AbC", vec![1]),
        ("pck_ab", vec![]),
        ("cus_2", vec![2]),
        ("cus_", vec![]),
        ("pi_t1", vec![2]),
        ("pi_t", vec![]),
        ("pi_t2", vec![]),
        // Wildcards and quotes mean themselves.
        ("%", vec![3]),
        ("_", vec![]),
        ("pck_Ab_", vec![2]),
        ("019aa_", vec![]),
        ("%_'\\", vec![3]),
        ("' OR 1=1 --", vec![]),
        ("", vec![3, 2, 1]),
        ("   ", vec![3, 2, 1]),
    ] {
        assert_eq!(books.found(search).await, expected, "{search:?}");
    }
    let long = "é".repeat(500);
    assert_eq!(books.found(&long).await, Vec::<i64>::new());
    assert_eq!(client_keys(books.pool(), 1).await.expect("keys").len(), 1);
}

#[tokio::test]
async fn clients_are_paged_and_bounded() {
    let mut books = Books::new().await;
    for id in 1..=250 {
        books.client(id, &format!("0-{id:04}"), "usd", 0, 0).await;
    }
    let page = |search: Option<&'static str>, before| list_clients(books.pool(), search, before, 100);
    let first = page(None, None).await.expect("clients");
    assert_eq!((first[0].id, first[99].id), (250, 151));
    assert_eq!(page(None, Some(151)).await.expect("clients")[0].id, 150);
    // A search that fits everybody stops after its candidates, and is paged as well.
    let mut found = page(Some("0-"), None).await.expect("clients");
    found.extend(page(Some("0-"), Some(151)).await.expect("clients"));
    found.extend(page(Some("0-"), Some(51)).await.expect("clients"));
    let expected: Vec<i64> = (51..=250).rev().collect();
    assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), expected);
    assert_eq!(list_clients(books.pool(), None, None, u32::MAX).await.expect("clients").len(), 250);
}

#[tokio::test]
async fn searches_use_indexes() {
    if is_about_sqlite("plans are SQLite's; PostgreSQL scans small tables whatever indexes they have") {
        return;
    }
    let books = Books::new().await;
    for (sql, required) in [
        (super::clients::SEARCH, "sqlite_autoindex_clients_1 (public_id>? AND public_id<?)"),
        (super::clients::SEARCH, "client_keys_shown_prefix (shown_prefix>? AND shown_prefix<?)"),
        (super::clients::SEARCH, "clients_stripe_customer (stripe_customer=?)"),
        (super::clients::SEARCH, "sqlite_autoindex_top_ups_3 (payment_intent=?)"),
        (super::top_ups::UNFINISHED, "SCAN t USING INDEX top_ups_open"),
        (super::top_ups::OF_CLIENT, "SEARCH t USING INDEX top_ups_client (client=? AND id<?)"),
        (super::entries::FROM_CURSOR, "SEARCH e USING INTEGER PRIMARY KEY (rowid=?)"),
        (super::entries::FROM_CURSOR, "SEARCH k USING INDEX client_keys_number (number=?)"),
        (super::entries::PAYERS_FROM_CURSOR, "SEARCH u USING INDEX sqlite_autoindex_entries_1 (source=?)"),
        (super::overview::UNFINISHED, "USING INDEX top_ups_open"),
        (super::overview::CHARGED, "SEARCH top_ups USING INDEX sqlite_autoindex_top_ups_1 (id>?)"),
        (super::overview::REVENUE, "SEARCH entries USING INTEGER PRIMARY KEY (rowid>?)"),
    ] {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let Readers::Sqlite(pool) = books.pool() else { panic!("it is a file") };
        let rows = sqlx::query(explain).fetch_all(pool).await.expect("a plan");
        let plan: String = rows
            .iter()
            .map(|row| sqlx::Row::try_get::<String, _>(row, "detail").expect("text") + "\n")
            .collect();
        assert!(plan.contains(required), "{sql}\n{plan}");
        // Large tables are searched; what is scanned is the chain, a bounded arm, or the unfinished few.
        for table in ["clients", "client_keys", "entries", "e", "routes", "r"] {
            assert!(!plan.lines().any(|line| line == format!("SCAN {table}")), "{sql}\n{plan}");
        }
    }
}

#[tokio::test]
async fn spendable_credit_is_nothing_in_debt() {
    let mut books = Books::new().await;
    books.client(1, "a", "usd", 100, 0).await;
    books.client(2, "b", "usd", 100, 1).await;
    let of = |id| client_by_id(books.pool(), id);
    assert_eq!(of(1).await.expect("answers").expect("is there").spendable(), 107);
    assert_eq!(of(2).await.expect("answers").expect("is there").spendable(), 0);
    assert_eq!(of(3).await.expect("answers"), None);
    let by_name = client_by_public_id(books.pool(), "b").await.expect("answers").expect("is there");
    assert_eq!(by_name.id, 2);
}

#[tokio::test]
async fn top_ups_are_filtered_and_paged() {
    let mut books = Books::new().await;
    books.client(1, "a", "usd", 0, 0).await;
    let mut made = Vec::new();
    for number in 0..9 {
        // Version 7 ids ascend, within a millisecond too.
        let id = TopUpId::new().to_string();
        let (state, client) = match number % 3 {
            0 => ("succeeded", Some(1)),
            1 => ("failed", None),
            _ => ("pending", None),
        };
        books.top_up(&id, client, state, 10, number).await;
        made.insert(0, id);
    }
    for (filter, step) in [
        (TopUpFilter::All, None),
        (TopUpFilter::Unfinished, Some(0)),
        (TopUpFilter::Failed, Some(1)),
        (TopUpFilter::Succeeded, Some(2)),
    ] {
        let expected: Vec<String> = made
            .iter()
            .enumerate()
            .filter(|(index, _)| step.is_none_or(|step| index % 3 == step))
            .map(|(_, id)| id.clone())
            .collect();
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = list_top_ups(books.pool(), filter, cursor.as_deref(), 2).await.expect("a page");
            assert!(page.rows.len() <= 2);
            seen.extend(page.rows.into_iter().map(|row| row.id));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, expected, "{filter:?}");
    }
    let own = client_top_ups(books.pool(), 1, 2, None).await.expect("top-ups");
    assert_eq!(own.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), [&made[2], &made[5]]);
    assert_eq!(own[0].client_public_id.as_deref(), Some("a"));
    let older = client_top_ups(books.pool(), 1, 2, Some(&made[5])).await.expect("top-ups");
    assert_eq!(older[0].id, made[8]);
    assert_eq!(recent_top_ups(books.pool(), 1).await.expect("top-ups")[0].id, made[0]);
    let one = top_up_by_id(books.pool(), &made[0]).await.expect("answers").expect("is there");
    assert_eq!(one.payment_intent, Some(format!("pi_{}", made[0])));
}

#[tokio::test]
async fn the_overview_sums_by_currency_and_time() {
    const DAY: i64 = 86_400_000_000;
    let mut books = Books::new().await;
    let now = db::now_micros();
    let midnight = now - now % DAY;
    books.client(1, "a", "usd", 100, 0).await;
    books.client(2, "b", "usd", 50, 3).await;
    books.client(3, "c", "eur", 9, 0).await;
    for (state, amount, at) in [
        ("succeeded", 1, midnight),
        ("succeeded", 10, midnight - 1),
        ("succeeded", 100, now - 7 * DAY - 1),
        ("failed", 1_000, now),
    ] {
        books.top_up(&TopUpId::new().to_string(), Some(1), state, amount, at).await;
    }
    books.top_up("open", None, "pending", 5, now - 60).await;
    books.entry(1, now - DAY - 1, Some(1), None, 1).await;
    books.entry(2, now - DAY, Some(1), Some(1), 10).await;
    books.entry(3, now, Some(1), Some(2), 100).await;
    // A reversal: revenue is debited.
    query(both(
        "INSERT INTO entries (id, at, source, debit, credit, amount, currency) VALUES (4, $1, 'reversal:3', 8, 1, 30, 'usd')",
    ))
    .bind(now)
    .execute(&mut books.writer)
    .await
    .expect("an entry");

    let overview = overview(books.pool(), now).await.expect("an overview");
    let usd = |count, amount| vec![Sum { currency: "usd".to_owned(), count, amount }];
    let balances = |currency: &str, clients, paid, bonus, debt| Balances {
        currency: currency.to_owned(),
        clients,
        paid,
        bonus,
        debt,
    };
    assert_eq!(overview.balances, [balances("eur", 1, 9, 7, 0), balances("usd", 2, 150, 14, 3)]);
    assert_eq!(overview.charged_today, usd(1, 1));
    assert_eq!(overview.charged_7_days, usd(2, 11));
    assert_eq!(overview.unfinished, UnfinishedTopUps { sums: usd(1, 5), oldest: Some(now - 60) });
    assert_eq!(overview.revenue, usd(3, 80));
    assert_eq!((overview.revenue_since, overview.revenue_is_partial), (now - DAY, false));
}

#[tokio::test]
async fn revenue_says_when_it_covers_less_than_a_day() {
    let mut books = Books::new().await;
    let now = db::now_micros();
    // Ids have gaps; how many entries there are counts.
    books.entry(1, now - 50, None, None, 1_000_000).await;
    books.many_entries(REVENUE_ENTRIES - 1, now - 40).await;
    books.entry(9 * REVENUE_ENTRIES, now - 30, None, None, 100).await;
    let first = overview(books.pool(), now).await.expect("an overview");
    assert_eq!(
        (first.revenue[0].amount, first.revenue_since, first.revenue_is_partial),
        (REVENUE_ENTRIES - 1 + 100, now - 40, true)
    );
    // A day later nothing is cut off: everything left out is older than the day.
    let later = now - 35 + 86_400_000_000;
    let second = overview(books.pool(), later).await.expect("an overview");
    assert_eq!((second.revenue[0].amount, second.revenue_is_partial), (100, false));
    let empty = Books::new().await;
    let nothing = overview(empty.pool(), now).await.expect("an overview");
    assert_eq!((nothing.revenue, nothing.balances, nothing.revenue_is_partial), (vec![], vec![], false));
}
