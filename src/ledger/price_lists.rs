//! Names of routes and versions of prices, which entries use by number.

use sha2::{Digest as _, Sha256};

use crate::db::{Db, DbError, now_micros, query, query_scalar};
use crate::domain::Micros;
use crate::pricing::{Booking, ListNumber, PriceRule, RouteCharge, RouteNumber};

/// Gives routes their numbers and their prices together a version, once and for all nodes. Answers in the order of the routes.
///
/// # Errors
/// When the database cannot be written to.
pub async fn register(db: &Db, routes: Vec<(String, RouteCharge)>) -> Result<Vec<Booking>, DbError> {
    let prices = routes.iter().map(|(name, charge)| (name.clone(), written(*charge)));
    let prices = serde_json::Value::Object(prices.collect()).to_string();
    let digest: String = Sha256::digest(prices.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    db.write(move |connection| {
        Box::pin(async move {
            let mut numbers: Vec<i64> = Vec::with_capacity(routes.len());
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
            let list = ListNumber::new(list.bind(&digest).fetch_one(connection).await?);
            Ok(numbers.into_iter().map(|number| Booking { route: RouteNumber::new(number), list }).collect())
        })
    })
    .await
}

/// A price in a list: micros where it is fixed, nothing where it is free.
fn written(charge: RouteCharge) -> serde_json::Value {
    use PriceRule::{ByBody, Fixed, Metered};
    let up_to = |most: Micros, rule: &str| serde_json::json!({ "most": most.get(), "rule": rule });
    match charge {
        RouteCharge::Free => 0.into(),
        RouteCharge::Priced(Fixed(price)) => price.get().into(),
        RouteCharge::Priced(ByBody(price)) => up_to(price.most, price.name),
        RouteCharge::Priced(Metered { most, meter }) => up_to(most, meter.name),
    }
}
