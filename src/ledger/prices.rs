//! Names of routes and versions of prices, which entries use by number.

use sha2::{Digest as _, Sha256};

use crate::db::{Db, DbError, now_micros, query, query_scalar};

/// The numbers of some routes and of their prices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// In the order of the routes.
    pub routes: Vec<i64>,
    /// Of all these prices together.
    pub list: i64,
}

/// Gives routes their numbers and their prices (micros) a version, once and for all nodes.
///
/// # Errors
/// When the database cannot be written to.
pub async fn register(db: &Db, routes: Vec<(String, i64)>) -> Result<Registered, DbError> {
    let prices: serde_json::Map<String, serde_json::Value> =
        routes.iter().map(|(name, price)| (name.clone(), (*price).into())).collect();
    let prices = serde_json::Value::Object(prices).to_string();
    let digest: String = Sha256::digest(prices.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    db.write(move |connection| {
        Box::pin(async move {
            let mut numbers = Vec::with_capacity(routes.len());
            for (name, _) in routes {
                // Another node may make the same one at the same moment.
                query("INSERT INTO routes (name) VALUES ($1) ON CONFLICT (name) DO NOTHING")
                    .bind(&name)
                    .execute(&mut *connection)
                    .await?;
                let number = query_scalar("SELECT id FROM routes WHERE name = $1");
                numbers.push(number.bind(&name).fetch_one(&mut *connection).await?);
            }
            query(
                "INSERT INTO price_lists (digest, prices, created_at) VALUES ($1, $2, $3) ON CONFLICT (digest) DO NOTHING",
            )
            .bind(&digest)
            .bind(&prices)
            .bind(now_micros())
            .execute(&mut *connection)
            .await?;
            let list = query_scalar("SELECT id FROM price_lists WHERE digest = $1");
            Ok(Registered { routes: numbers, list: list.bind(&digest).fetch_one(connection).await? })
        })
    })
    .await
}
