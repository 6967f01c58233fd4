//! A copy that is put back under nodes that run: they notice, and serve nothing from memory.

use super::*;
use crate::support::postgres::tool;
use crate::support::program::until;
use crate::support::{change, is_on_sqlite, number};
use prepaid402::config::DatabaseConfig;

fn url(world: &World) -> String {
    let DatabaseConfig::Postgres(url) = &world.database else { unreachable!() };
    url.expose().to_owned()
}

/// A sale of which all answers are known to be delivered.
async fn quiet_sale(world: &World) -> Sale<'_> {
    let sale = Sale::open(world).await;
    let open = "SELECT COUNT(*) FROM undelivered WHERE entries <> '[]'";
    until("all is delivered", async || number(&world.database, open).await == 0).await;
    sale
}

/// Sells nothing, says why, and goes on when it is started again, from what the database says.
async fn is_noticed(sale: Sale<'_>, words: &str, left: i64) {
    sale.until_ready(503).await;
    assert_eq!(sale.readyz().await.text(), "the database is not the one that was opened\n");
    sale.sells_nothing(false).await;
    sale.shows_what_is_free().await;
    let log = sale.process.log();
    assert!(log.contains(words) && log.contains("stop every node"), "{log}");
    sale.process.terminate().await;
    assert!(sale.process.wait().await.success());
    sale.world.lapse_leases().await;
    let process = sale.seat.start().await;
    let again = Sale { process, world: sale.world, seat: sale.seat, wallet: sale.wallet };
    assert_eq!(again.spend().await.receipt().credits_remaining.unwrap(), left - 100);
    drop(again);
    sale.world.lapse_leases().await;
    sale.world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_restore_under_a_running_node_is_noticed() {
    if is_on_sqlite("") {
        return;
    }
    let world = World::new().await;
    let sale = quiet_sale(&world).await;
    let dump = world.folder.path().join("monday.dump");
    let done = tool("pg_dump").args(["-Fc", "-f"]).arg(&dump).arg(url(&world)).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(sale.spend().await.receipt().credits_remaining.unwrap(), LEFT - 100);
    let mut restore = tool("pg_restore");
    let done = restore.args(["--clean", "--if-exists", "-d"]).arg(url(&world)).arg(&dump).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    is_noticed(sale, "its tables were made anew", LEFT).await;
}

/// As after a recovery to a moment in the past, or a failover to a copy that lagged behind: the tables are the same.
#[tokio::test(flavor = "multi_thread")]
async fn entries_that_are_gone_are_noticed() {
    if is_on_sqlite("") {
        return;
    }
    let world = World::new().await;
    let sale = quiet_sale(&world).await;
    assert_eq!(sale.spend().await.receipt().credits_remaining.unwrap(), LEFT - 100);
    for sql in [
        "ALTER TABLE entries DISABLE TRIGGER USER",
        "UPDATE clients SET paid = e.paid_after, sequence = e.sequence, last_entry = e.id FROM entries AS e \
         WHERE e.client = clients.id AND e.sequence = clients.sequence - 1",
        "DELETE FROM entries AS e USING clients AS c WHERE e.client = c.id AND e.sequence > c.sequence",
        "ALTER TABLE entries ENABLE TRIGGER USER",
    ] {
        change(&world.database, sql, &[]).await;
    }
    is_noticed(sale, "which was committed, is not in it", LEFT).await;
}
