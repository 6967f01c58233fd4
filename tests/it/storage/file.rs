//! The SQLite file under a running gateway, and other names of it.

use super::*;
use crate::support::program::{finish, program};
use crate::support::{SECRET_KEY, is_on_sqlite};

/// A second `serve` in the same world, with its database somewhere else.
async fn second(world: &World, data: &Path) -> String {
    let mut dice = dice::Dice::random();
    let [one, two] = [(); 2].map(|()| crate::support::process::lasting_port(&mut dice));
    let ours = world.folder.path().join("data");
    let toml = world.toml(one, two).replace(&format!("{ours:?}"), &format!("{data:?}"));
    std::fs::write(world.folder.path().join("second.toml"), toml).unwrap();
    let mut serve = program(world.folder.path(), &["serve", "--config", "second.toml"]);
    serve.env("STRIPE_SECRET_KEY", SECRET_KEY);
    let ran = tokio::time::timeout(Duration::from_secs(20), finish(serve, None)).await;
    let ran = ran.expect("it must not start");
    assert_eq!(ran.code, 1, "{ran:?}");
    ran.err
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_has_one_gateway_by_whatever_name() {
    if !is_on_sqlite("a file") {
        return;
    }
    let world = World::new().await;
    let sale = Sale::open(&world).await;
    let (file, folder) = (world.file(), world.folder.path().to_owned());
    let elsewhere = folder.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let other = elsewhere.join("prepaid402.db");

    std::fs::hard_link(&file, &other).unwrap();
    let said = second(&world, &elsewhere).await;
    assert!(said.contains("hard links"), "{said}");
    std::fs::remove_file(&other).unwrap();

    std::os::unix::fs::symlink(&file, &other).unwrap();
    let said = second(&world, &elsewhere).await;
    assert!(said.contains("another prepaid402 process is using"), "{said}");

    std::os::unix::fs::symlink(folder.join("data"), folder.join("same")).unwrap();
    let said = second(&world, &folder.join("same")).await;
    assert!(said.contains("another prepaid402 process is using"), "{said}");

    // The one that was there is not disturbed.
    assert_eq!(sale.spend().await.receipt().credits_remaining.unwrap(), LEFT - 100);
    sale.process.terminate().await;
    assert!(sale.process.wait().await.success());
    // A second name is refused also when nobody runs: what SQLite keeps beside the file goes by its name.
    let third = elsewhere.join("third.db");
    std::fs::hard_link(&file, &third).unwrap();
    let said = second(&world, &folder.join("data")).await;
    assert!(said.contains("hard links") && said.contains("prepaid402 backup"), "{said}");
    std::fs::remove_file(&third).unwrap();
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_taken_away_stops_the_sale_and_the_very_file_lets_it_go_on() {
    if !is_on_sqlite("a file") {
        return;
    }
    let world = World::new().await;
    let sale = Sale::open(&world).await;
    let away = world.folder.path().join("away.db");
    std::fs::rename(world.file(), &away).unwrap();
    sale.until_ready(503).await;
    assert_eq!(sale.readyz().await.text(), "the database is not the one that was opened\n");
    sale.sells_nothing(false).await;
    sale.shows_what_is_free().await;
    let log = sale.process.log();
    assert!(log.contains("was deleted or moved under the running gateway"), "{log}");
    std::fs::rename(&away, world.file()).unwrap();
    sale.until_ready(200).await;
    assert_eq!(sale.spend().await.receipt().credits_remaining.unwrap(), LEFT - 100);
    sale.process.terminate().await;
    assert!(sale.process.wait().await.success());
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_in_its_place_stops_the_sale() {
    if !is_on_sqlite("a file") {
        return;
    }
    for (how, words) in [
        ("replaced", "was replaced under the running gateway"),
        ("overwritten", "was overwritten under the running gateway"),
        ("log", "-wal, which holds the newest entries, was deleted"),
    ] {
        let world = World::new().await;
        let sale = Sale::open(&world).await;
        sale.process.terminate().await;
        assert!(sale.process.wait().await.success());
        // By now everything is in the one file.
        let process = sale.seat.start().await;
        let sale = Sale { process, ..sale };
        let copy = world.folder.path().join("copy.db");
        let file = world.file();
        let args = ["backup", "--database", file.to_str().unwrap(), "--to", copy.to_str().unwrap()];
        let ran = crate::support::program::run(world.folder.path(), &args).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        match how {
            "replaced" => std::fs::rename(&copy, &file).unwrap(),
            "overwritten" => std::fs::write(&file, &std::fs::read(&copy).unwrap()[..4096]).unwrap(),
            _ => std::fs::remove_file(format!("{}-wal", file.display())).unwrap(),
        }
        sale.until_ready(503).await;
        sale.sells_nothing(false).await;
        assert!(sale.process.log().contains(words), "{how}: {}", sale.process.log());
    }
}
