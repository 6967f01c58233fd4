//! What operators give: credit that cannot be refunded, and debt that is written off. The row, the daily limit and the entry are one
//! transaction.

use super::aftermath::{Prepared, lock_client};
use super::core::{Adjust, ClientId, Command, Gift, Refusal};
use super::request_key::{asked_before, made_under};
use super::source::{Source, SourceKind};
use crate::db::{Connection, On, Row, Sql, query, query_scalar};
use crate::domain::Micros;

/// Of all operators and nodes together, so much time is a day: in microseconds.
const DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// An adjustment to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAdjustment {
    /// Ours.
    pub id: String,
    /// Whose wallet.
    pub client: ClientId,
    /// What is given.
    pub gift: Gift,
    /// How much; `None`: the whole debt.
    pub amount: Option<Micros>,
    /// For people.
    pub reason: String,
    /// The operator's name.
    pub operator: String,
    /// Of the request, see [`stored_key`](super::request_key::stored_key): the same key adjusts once.
    pub request_key: String,
    /// The most credit that may be given in a day.
    pub max_a_day: Micros,
}

/// An adjustment, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjustment {
    /// Ours.
    pub id: String,
    /// `credit` or `write_off_debt`.
    pub kind: String,
    /// In micros.
    pub amount: i64,
    /// Lower-case ISO 4217 code.
    pub currency: String,
    /// For people.
    pub reason: String,
    /// The operator's name.
    pub operator: String,
    /// Unix microseconds.
    pub created_at: i64,
}

fn kind(gift: Gift) -> &'static str {
    match gift {
        Gift::Credit => "credit",
        Gift::Forgiveness => "write_off_debt",
    }
}

/// Whoever has this row's lock sees what everybody before has given: it is taken in a statement of its own, and the statements
/// after it see what was committed by then.
const TURN: Sql = Sql::each(
    "SELECT one FROM adjustments_turn WHERE one = 1",
    "SELECT one FROM adjustments_turn WHERE one = 1 FOR UPDATE",
);
const OF_REQUEST: &str =
    "SELECT client, kind, amount, whole, reason FROM adjustments WHERE request_key = $1 OR id = $2";
const GIVEN: &str = "\
SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM adjustments WHERE kind = 'credit' AND created_at > $1";
const DEBT: &str = "SELECT debt FROM clients WHERE id = $1";
const INSERT: &str = "\
INSERT INTO adjustments (id, client, kind, amount, whole, reason, operator, request_key, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT a.id, a.kind, a.amount, c.currency, a.reason, a.operator, a.created_at FROM adjustments AS a \
             JOIN clients AS c ON c.id = a.client ",
            $rest
        )
    };
}
const BY_KEY: &str = select!("WHERE a.request_key = $1");
const OF_CLIENT: &str = select!("WHERE a.client = $1 ORDER BY a.created_at DESC, a.id DESC LIMIT $2");

pub(super) async fn adjust(
    connection: &mut Connection,
    new: &NewAdjustment,
    at: i64,
) -> Result<Prepared, sqlx::Error> {
    query(TURN).fetch_optional(&mut *connection).await?;
    lock_client(connection, new.client).await?;
    let request = (Some(new.request_key.as_str()), new.id.as_str());
    let before = asked_before(connection, OF_REQUEST, request, new.client, |row| {
        let amount: i64 = row.try_get(2)?;
        Ok(row.try_get::<ClientId, _>(0)? == new.client
            && row.try_get::<&str, _>(1)? == kind(new.gift)
            && new.amount.is_none_or(|wanted| wanted.get() == amount)
            && row.try_get::<i64, _>(3)? == i64::from(new.amount.is_none())
            && row.try_get::<&str, _>(4)? == new.reason)
    });
    if let Some(before) = before.await? {
        return Ok(before);
    }
    let debt: Option<i64> = query_scalar(DEBT).bind(new.client).fetch_optional(&mut *connection).await?;
    let Some(debt) = debt.and_then(Micros::new) else {
        return Ok(Prepared::Refused(Refusal::UnknownClient));
    };
    let amount = new.amount.unwrap_or(debt);
    match new.gift {
        Gift::Forgiveness if amount.is_zero() || amount > debt => {
            return Ok(Prepared::Refused(Refusal::ExceedsDebt));
        }
        Gift::Forgiveness => {}
        Gift::Credit => {
            let given: i64 =
                query_scalar(GIVEN).bind(at.saturating_sub(DAY)).fetch_one(&mut *connection).await?;
            let sum = Micros::new(given).and_then(|given| given.checked_add(amount));
            if sum.is_none_or(|sum| sum > new.max_a_day) {
                return Ok(Prepared::Refused(Refusal::DailyLimit));
            }
        }
    }
    query(INSERT)
        .bind(&new.id)
        .bind(new.client)
        .bind(kind(new.gift))
        .bind(amount.get())
        .bind(i64::from(new.amount.is_none()))
        .bind(&new.reason)
        .bind(&new.operator)
        .bind(&new.request_key)
        .bind(at)
        .execute(connection)
        .await?;
    let source = Source::named(SourceKind::Adjustment, &new.id)?;
    let command = Command::Adjust(Adjust { client: new.client, source, amount, gift: new.gift });
    Ok(Prepared::Commands(new.client, vec![command]))
}

fn read(row: &Row) -> Result<Adjustment, sqlx::Error> {
    Ok(Adjustment {
        id: row.try_get(0)?,
        kind: row.try_get(1)?,
        amount: row.try_get(2)?,
        currency: row.try_get(3)?,
        reason: row.try_get(4)?,
        operator: row.try_get(5)?,
        created_at: row.try_get(6)?,
    })
}

/// What a request has made, by its stored key.
///
/// # Errors
/// What the database said.
pub async fn by_key(on: impl Into<On<'_>>, stored_key: &str) -> Result<Option<Adjustment>, sqlx::Error> {
    made_under(on, BY_KEY, stored_key, read).await
}

/// The adjustments of a client, newest first. Bounded by `limit`.
///
/// # Errors
/// What the database said.
pub async fn of_client(
    on: impl Into<On<'_>>,
    client: ClientId,
    limit: i64,
) -> Result<Vec<Adjustment>, sqlx::Error> {
    query(OF_CLIENT).bind(client).bind(limit).fetch_all(on).await?.iter().map(read).collect()
}
