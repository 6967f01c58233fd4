//! The database itself: damage, references between rows, and what keeps entries from being changed.

use super::findings::Verification;
use super::gathered::Gathered;
use crate::db::{Connection, Sql, query, query_scalar};
use crate::ledger::account::Account;

/// The trigger without which entries could be changed on PostgreSQL, and its function, word for word.
const POSTGRES_TRIGGER: &str = "CREATE TRIGGER entries_are_never_changed BEFORE DELETE OR UPDATE OR TRUNCATE ON \
     public.entries FOR EACH STATEMENT EXECUTE FUNCTION entries_are_append_only()";
const POSTGRES_FUNCTION: &str = "BEGIN RAISE EXCEPTION 'ledger entries are append-only' USING ERRCODE = \
     'restrict_violation'; END";

/// The triggers without which entries could be changed on SQLite, word for word.
pub(super) const SQLITE_TRIGGERS: [&str; 2] = [
    "CREATE TRIGGER entries_are_never_updated BEFORE UPDATE ON entries \
     BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END",
    "CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON entries \
     BEGIN SELECT RAISE(ABORT, 'ledger entries are append-only'); END",
];

/// The database itself, references between rows, and what keeps entries from being changed.
pub(super) async fn check_database(
    connection: &mut Connection,
    report: &mut Verification,
) -> Result<(), sqlx::Error> {
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
pub(super) async fn check_accounts(
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
