//! A database that is gone although there was one: nothing begins anew in silence.

use super::*;
use crate::support::program::{Ran, finish, program};
use crate::support::{SECRET_KEY, is_on_sqlite};

async fn run(world: &World, args: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = program(world.folder.path(), args);
    command.env("STRIPE_SECRET_KEY", SECRET_KEY).envs(environment.iter().copied());
    finish(command, Some("correct horse battery staple")).await
}

fn config(sale: &Sale<'_>) -> String {
    sale.seat.config.to_str().unwrap().to_owned()
}

/// Takes the database away, or empties it.
fn lose(world: &World, how: &str) {
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", world.file().display()));
    }
    if how == "empty" {
        std::fs::write(world.file(), b"").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_is_not_begun_anew() {
    if !is_on_sqlite("a file") {
        return;
    }
    for how in ["missing", "empty"] {
        let world = World::new().await;
        let sale = Sale::open(&world).await;
        let file = config(&sale);
        sale.process.terminate().await;
        assert!(sale.process.wait().await.success());
        let kept = world.folder.path().join("kept.db");
        std::fs::copy(world.file(), &kept).unwrap();
        lose(&world, how);
        let (data, path) = (world.folder.path().join("data"), world.file());
        let (data_dir, path) = (data.to_str().unwrap(), path.to_str().unwrap());
        let before = names(&data);
        for (args, code, words) in [
            (&["serve", "--config", &file][..], 1, "missing or empty, but it was here before"),
            (&["check-config", "--config", &file], 2, "missing or empty, but it was here before"),
            (&["migrate", "--config", &file], 2, "database"),
            (&["migrate", "--database", path], 2, "database"),
            (
                &["backup", "--data-dir", data_dir, "--to", "copy.db"],
                if how == "empty" { 1 } else { 2 },
                "database",
            ),
            (&["verify", "--data-dir", data_dir], 2, "database"),
            (&["accept-account", "--config", &file], 1, "database"),
            (
                &["admin", "create-user", "alice", "--password-stdin", "--data-dir", data_dir],
                1,
                "it was here before",
            ),
            (&["admin", "list-users", "--data-dir", data_dir], 2, "database"),
        ] {
            let ran = run(&world, args, &[]).await;
            assert_eq!(ran.code, code, "{how} {args:?}: {ran:?}");
            assert!(ran.err.contains(words), "{how} {args:?}: {}", ran.err);
            assert_eq!(names(&data), before, "{how} {args:?} leaves nothing behind");
            let size = std::fs::metadata(path).map_or(0, |file| file.len());
            assert_eq!(size, 0, "{how} {args:?}");
        }
        let said = run(&world, &["serve", "--config", &file], &[]).await.err;
        assert!(said.contains("key-secret") && said.contains("Put a backup back"), "{said}");
        // Put back, everybody has what they had.
        std::fs::copy(&kept, world.file()).unwrap();
        let process = sale.seat.start().await;
        let again = Sale { process, wallet: sale.wallet, world: &world, seat: sale.seat };
        assert_eq!(again.spend().await.receipt().credits_remaining.unwrap(), LEFT - 100);
        drop(again);
        world.assert_books_agree().await;
    }
}

/// The key secret is elsewhere: what the lock's file says is enough.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_known_without_a_key_secret_and_can_be_begun_anew_on_purpose() {
    if !is_on_sqlite("a file") {
        return;
    }
    let mut world = World::new().await;
    let secret = "1:Nzq8k9G1X0v9a7Zl3hWQm5sT2bYcRdEfUgHiJkLnOpo=".to_owned();
    world.secrets.insert("PREPAID402_KEY_SECRET".to_owned(), secret.clone());
    let sale = Sale::open(&world).await;
    let file = config(&sale);
    sale.process.terminate().await;
    assert!(sale.process.wait().await.success());
    lose(&world, "missing");
    let environment = [("PREPAID402_KEY_SECRET", secret.as_str())];
    let ran = run(&world, &["serve", "--config", &file], &environment).await;
    assert!(ran.code == 1 && ran.err.contains("it was here before"), "{ran:?}");
    // As it says.
    let left = world.folder.path().join("left");
    std::fs::rename(world.folder.path().join("data"), &left).unwrap();
    let process = sale.seat.start().await;
    let anew = Sale { process, wallet: sale.wallet, world: &world, seat: sale.seat };
    let unknown = anew.spend().await;
    assert_eq!((unknown.status, unknown.code().as_str()), (402, "unknown_client"), "{}", unknown.text());
}

/// A first start that ended early is no life before this one.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_first_start_left_that_failed_is_no_trace() {
    if !is_on_sqlite("a file") {
        return;
    }
    let world = World::new().await;
    let data = world.folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("prepaid402.db"), b"").unwrap();
    std::fs::write(data.join("prepaid402.lock"), b"").unwrap();
    let sale = Sale::open(&world).await;
    assert_eq!(sale.spend().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_of_another_gateway_is_refused() {
    if !is_on_sqlite("a file") {
        return;
    }
    let (one, other) = (World::new().await, World::new().await);
    let (first, second) = (Sale::open(&one).await, Sale::open(&other).await);
    let file = config(&first);
    for sale in [&first, &second] {
        sale.process.terminate().await;
    }
    assert!(first.process.wait().await.success() && second.process.wait().await.success());
    std::fs::copy(other.file(), one.file()).unwrap();
    // Both gateways charge in one account of Stripe, which therefore tells nothing.
    let settings = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, settings.replace(&one.sim.base_url, &other.sim.base_url)).unwrap();
    let ran = run(&one, &["serve", "--config", &file], &[]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.err.contains("is another gateway's") && ran.err.contains("move the file key-secret away"),
        "{}",
        ran.err
    );
    // A secret that is lost is made anew, and no start after that is refused for it.
    let secret = other.folder.path().join("data/key-secret");
    std::fs::remove_file(&secret).unwrap();
    for _ in 0..2 {
        let process = second.seat.start().await;
        process.terminate().await;
        assert!(process.wait().await.success());
    }
    assert!(std::fs::read_to_string(&secret).unwrap().starts_with("2:"), "a version of its own");
}
