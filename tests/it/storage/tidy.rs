//! What has expired goes, however much it is.

use prepaid402::db::{Sql, query};

use super::*;
use crate::support::number;

const MANY: &str = "\
WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 2500) ";

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_goes_however_much_it_is_while_others_pay() {
    let world = World::new().await;
    let sale = Sale::open(&world).await;
    sale.process.terminate().await;
    assert!(sale.process.wait().await.success());
    let mut connection = prepaid402::db::connect(&world.database).await.unwrap();
    for (sqlite, postgres) in [
        (
            "INSERT INTO idempotency_keys (scope, fingerprint, request, node, state, created_at, expires_at) \
             SELECT randomblob(32), zeroblob(32), 'r' || n, 'n', 'interrupted', 1, 2 FROM n",
            "INSERT INTO idempotency_keys (scope, fingerprint, request, node, state, created_at, expires_at) \
             SELECT sha256(n::text::bytea), sha256('x'), 'r' || n, 'n', 'interrupted', 1, 2 FROM n",
        ),
        (
            "INSERT INTO charge_attempts (id, at, network) SELECT 'a' || n, 1, '192.0.2.0/24' FROM n",
            "INSERT INTO charge_attempts (id, at, network) SELECT 'a' || n, 1, '192.0.2.0/24' FROM n",
        ),
        (
            "INSERT INTO stripe_events (id, type, object, created, body, state, tries, received_at, next_try_at, ended_at) \
             SELECT 'evt_' || n, 't', 'o', 1, '{}', 'ignored', 0, 1, 1, 1 FROM n",
            "INSERT INTO stripe_events (id, type, object, created, body, state, tries, received_at, next_try_at, ended_at) \
             SELECT 'evt_' || n, 't', 'o', 1, '{}', 'ignored', 0, 1, 1, 1 FROM n",
        ),
    ] {
        let text = |rest: &str| -> &'static str {
            // INSERT comes before WITH on neither.
            let (insert, select) = rest.split_once("SELECT").unwrap();
            Box::leak(format!("{insert} {MANY} SELECT {select}").into_boxed_str())
        };
        assert_eq!(
            query(Sql::each(text(sqlite), text(postgres))).execute(&mut connection).await.unwrap(),
            2_500
        );
    }
    connection.close().await.unwrap();
    let process = sale.seat.start().await;
    let sale = Sale { process, ..sale };
    let begun = std::time::Instant::now();
    let left = "SELECT (SELECT COUNT(*) FROM idempotency_keys WHERE expires_at = 2) + \
                (SELECT COUNT(*) FROM charge_attempts WHERE at = 1) + (SELECT COUNT(*) FROM stripe_events WHERE ended_at = 1)";
    let mut paid = 0i64;
    while number(&world.database, left).await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(25), "it goes on until nothing is left");
        assert_eq!(sale.spend().await.status, 200);
        paid += 1;
    }
    assert_eq!(sale.spend().await.receipt().credits_remaining.unwrap(), LEFT - 100 * (paid + 1));
}
