//! A proxy in front that is not in `trusted_proxies` makes all callers look like one, and the first bad card shuts out everybody. The
//! operator is told at the first request that gives it away.

use crate::embedded::Shop;
use crate::support::dice::Dice;
use crate::support::log;
use crate::support::process::Seat;
use crate::support::program::{finish, program};
use crate::support::raw::eventually;
use crate::support::{ROUTES, World, is_on_sqlite};

const METRIC: &str = "prepaid402_untrusted_forwards_total";

async fn text(world: &World, url: &str) -> String {
    world.client.get(url).await.text()
}

/// What the metrics count.
async fn counted(world: &World, admin_url: &str) -> u64 {
    let metrics = text(world, &format!("{admin_url}/metrics")).await;
    let line = metrics.lines().find_map(|line| line.strip_prefix(METRIC));
    line.unwrap_or_else(|| panic!("no {METRIC} in {metrics}")).trim().parse().unwrap()
}

fn with_environment(world: &World, config: &str) -> tokio::process::Command {
    let mut command = program(world.folder.path(), &["check-config", "--config", config]);
    command.envs(world.environment());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_forwarded_request_of_an_untrusted_peer_is_told_everywhere() {
    let world = World::new().await;
    let seat = Seat::new(&world, &mut Dice::random());
    let gateway = seat.start().await;
    let ready = format!("{}/readyz", gateway.admin_url);
    assert!(!text(&world, &ready).await.contains("trusted_proxies"));
    assert_eq!(counted(&world, &gateway.admin_url).await, 0);
    // Whatever the request: it need not be one that pays, nor be of a path that is sold.
    let names = ["X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP"];
    for (asked, (name, path)) in
        names.into_iter().zip(["/api/joke", "/nothing", "/api/health", "/billing/balance", "/"]).enumerate()
    {
        let url = format!("{}{path}", gateway.url);
        world.client.send("GET", &url, &[(name, "203.0.113.9")], None).await;
        assert_eq!(counted(&world, &gateway.admin_url).await, asked as u64 + 1, "{name} {path}");
    }
    assert!(gateway.log().contains("trusted_proxies = [\"127.0.0.1\"]"), "{}", gateway.log());
    assert_eq!(gateway.log().matches("which is not in trusted_proxies").count(), 1, "{}", gateway.log());
    let said = text(&world, &ready).await;
    assert!(said.starts_with("ready\n") && said.contains("trusted_proxies = [\"127.0.0.1\"]"), "{said}");
    // check-config asks the server that runs.
    let ran = finish(with_environment(&world, seat.config.to_str().unwrap()), None).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("proxy: the server that runs says: "), "{}", ran.out);
    assert!(ran.out.contains("write trusted_proxies = [\"127.0.0.1\"]"), "{}", ran.out);
    gateway.kill().await;
    // Without a server, the settings tell: https needs a proxy, and none is trusted.
    let ran = finish(with_environment(&world, seat.config.to_str().unwrap()), None).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(!ran.out.contains("the server that runs"), "{}", ran.out);
    assert!(ran.out.contains("proxy: public_url is https"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_trusted_proxy_writes_is_no_reason() {
    if !is_on_sqlite("the database has nothing to do with it") {
        return;
    }
    let world = World::with("trusted_proxies = [\"127.0.0.1\"]", ROUTES).await;
    let seat = Seat::new(&world, &mut Dice::random());
    let gateway = seat.start().await;
    let url = format!("{}/api/joke", gateway.url);
    for headers in [&[("x-forwarded-for", "203.0.113.9")][..], &[]] {
        world.client.send("GET", &url, headers, None).await;
    }
    assert_eq!(counted(&world, &gateway.admin_url).await, 0);
    let ran = finish(with_environment(&world, seat.config.to_str().unwrap()), None).await;
    assert!(!ran.out.contains("proxy: ") && !ran.out.contains("public_url is https"), "{}", ran.out);
    // One that says it in another way than the one that is believed has not been heard.
    world.client.send("GET", &url, &[("forwarded", "for=203.0.113.9")], None).await;
    assert_eq!(counted(&world, &gateway.admin_url).await, 1);
    eventually("it is in the log", async || gateway.log().contains("sends Forwarded and no X-Forwarded-For"))
        .await;
    gateway.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_with_the_paywall_inside_is_told_the_same() {
    if !is_on_sqlite("the database has nothing to do with it") {
        return;
    }
    log::listen();
    let world = World::new().await;
    let shop = Shop::with(&world, "").await;
    for (path, expected) in [("/five", 1), ("/billing/balance", 2)] {
        let url = format!("{}{path}", shop.url);
        world.client.send("GET", &url, &[("x-forwarded-for", "203.0.113.9")], None).await;
        assert_eq!(counted(&world, &shop.admin_url).await, expected, "{path}");
    }
    assert!(!log::lines_with("which is not in trusted_proxies").is_empty());
    let said = text(&world, &format!("{}/readyz", shop.admin_url)).await;
    assert!(said.contains("trusted_proxies = [\"127.0.0.1\"]"), "{said}");
    shop.close().await;
}
