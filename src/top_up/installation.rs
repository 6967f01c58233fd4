//! Which gateway this is: a random id in the database, and in the metadata of every charge. Two gateways on one Stripe account
//! must not take each other's charges for their own; nodes that share a database are one gateway, and so is what was put back
//! from a backup. (A copy of the database that runs beside the original is not told apart from it: let none run.)

use crate::db::{Db, DbError, On, now_micros, query, query_scalar};
use crate::domain::InstallationId;

/// The id of the database's gateway; made when it is first asked for.
///
/// # Errors
/// When the database cannot be used.
pub async fn id(db: &Db) -> Result<InstallationId, DbError> {
    if let Some(known) = known(db.reader()).await? {
        return Ok(known);
    }
    let (id, newest): (String, Option<i64>) = db
        .write(|connection| {
            Box::pin(async move {
                // Nothing at Stripe carries an id that is only being made. Another node may be making one as well.
                let made = query("INSERT INTO installation (one, id, compared_until) VALUES (1, $1, $2) ON CONFLICT (one) DO NOTHING")
                    .bind(InstallationId::new().to_string())
                    .bind(now_micros().div_euclid(1_000_000))
                    .execute(&mut *connection)
                    .await?;
                let id = query_scalar("SELECT id FROM installation").fetch_one(&mut *connection).await?;
                let newest = match made {
                    0 => None,
                    // Ids ascend in time.
                    _ => query_scalar("SELECT created_at FROM top_ups ORDER BY id DESC LIMIT 1").fetch_optional(connection).await?,
                };
                Ok((id, newest))
            })
        })
        .await?;
    if let Some(newest) = newest {
        let since = chrono::DateTime::from_timestamp_micros(newest)
            .map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true));
        let since = since.unwrap_or_default();
        tracing::error!(
            since,
            "this database has top-ups and has only now been given the id by which its charges are known at Stripe. If it is a \
             backup that was put back, charges made since it was taken carry another id: they are not credited again, and \
             `prepaid402 reconcile` takes them for another gateway's. Look at the payments of that time in Stripe's dashboard. In \
             any case make a backup now, because older ones have the same gap"
        );
    }
    Ok(parsed(&id)?)
}

/// The same, where nothing may be written. `None`: no server has run on this database since it has its tables, so nothing at
/// Stripe carries its id.
///
/// # Errors
/// When the database cannot be read.
pub async fn known(on: impl Into<On<'_>>) -> Result<Option<InstallationId>, sqlx::Error> {
    let id: Option<String> = query_scalar("SELECT id FROM installation").fetch_optional(on).await?;
    id.as_deref().map(parsed).transpose()
}

fn parsed(id: &str) -> Result<InstallationId, sqlx::Error> {
    InstallationId::parse(id).ok_or_else(|| sqlx::Error::Decode("the installation's id is malformed".into()))
}

/// Up to when every charge has its row, in Unix seconds.
pub(super) async fn compared_until(db: &Db) -> Result<i64, DbError> {
    Ok(query_scalar("SELECT compared_until FROM installation").fetch_one(db.reader()).await?)
}

/// Notes that; never takes back what was noted.
pub(super) async fn set_compared_until(db: &Db, until: i64) -> Result<(), DbError> {
    db.write(move |connection| {
        Box::pin(async move {
            query("UPDATE installation SET compared_until = $1 WHERE compared_until < $1")
                .bind(until)
                .execute(connection)
                .await
                .map(drop)
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::db::testing::TestDatabase;

    #[tokio::test]
    async fn a_database_has_one_id_for_good_and_its_mark_only_moves_forward() {
        let database = TestDatabase::new().await;
        let db = crate::db::run_writes_only(&database.config).await.unwrap();
        assert_eq!(known(db.reader()).await.unwrap(), None, "whoever only reads makes none");
        let before = now_micros().div_euclid(1_000_000);
        let (one, other) = tokio::join!(id(&db), id(&db));
        let one = one.unwrap();
        assert_eq!(one, other.unwrap());
        assert_eq!(one, id(&db).await.unwrap());
        assert_eq!(known(db.reader()).await.unwrap(), Some(one));
        let mark = compared_until(&db).await.unwrap();
        assert!(mark >= before, "nothing older can carry the new id");
        for (set, expected) in [(mark + 5, mark + 5), (mark + 1, mark + 5), (mark + 6, mark + 6)] {
            set_compared_until(&db, set).await.unwrap();
            assert_eq!(compared_until(&db).await.unwrap(), expected);
        }
        let another = TestDatabase::new().await;
        let another = crate::db::run_writes_only(&another.config).await.unwrap();
        assert_ne!(id(&another).await.unwrap(), one);
    }
}
