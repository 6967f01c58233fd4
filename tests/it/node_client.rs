//! A client in another language, written from the protocol's description alone, against our gateway.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::World;
use crate::support::program::{finish, is_installed};

fn node(args: &[&str]) -> Command {
    let mut command = Command::new("node");
    command.args(args).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn it_buys_spends_runs_dry_and_tops_up_again() {
    if !is_installed("node").await {
        return;
    }
    let world = World::new().await;
    let gateway = world.gateway().await;
    let ran = finish(node(&["flow.mjs", &gateway.url, &world.sim.base_url]), None).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["ok"], &report["topUps"]), (&Value::Bool(true), &Value::from(2)), "{report}");
    let (paid, left) = (report["paid"].as_i64().unwrap(), report["creditsRemaining"].as_i64().unwrap());
    assert!(paid > 100, "{report}");
    assert_eq!(2 * 50_000 - 500 * paid, left, "every unit is accounted for: {report}");
    assert_eq!(world.succeeded_charges().await.len(), 2);
    let paid_hits = world.upstream.seen().iter().filter(|seen| seen.target == "/api/weather").count();
    assert_eq!(i64::try_from(paid_hits).unwrap(), paid, "what was served is what was paid");
    gateway.stop().await;
    world.assert_books_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_tests_pass() {
    if !is_installed("node").await {
        return;
    }
    let ran = finish(node(&["--test", "client.test.mjs"]), None).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
}
