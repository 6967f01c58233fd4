//! Whose money the wallets are: books of one mode, or one account, of Stripe do not open with the keys of another one.

mod moved;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use prepaid402::app::{self, RunningApp};
use prepaid402::config::{self, Loaded};
use prepaid402::sandbox::stripe_sim::{self, RunningSim, SimOptions};
use serde_json::json;

use crate::support::dice::Dice;
use crate::support::http::Answer;
use crate::support::program::{finish, program, until};
use crate::support::{
    GOOD, Gateway, PUBLISHABLE_KEY, Pay, SECRET_KEY, World, change, free_listener, intents, number, process,
    rows,
};

/// PostgreSQL with live keys asks for one.
const KEY_SECRET: &str = "1:LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=";
const STRIPE: &str = "https://api.stripe.com";

/// Keys, and where they are sent to.
#[derive(Debug, Clone)]
struct Keys {
    secret: &'static str,
    publishable: &'static str,
    api_base: String,
}

fn simulated(world: &World) -> Keys {
    Keys { secret: SECRET_KEY, publishable: PUBLISHABLE_KEY, api_base: world.sim.base_url.clone() }
}

fn test() -> Keys {
    Keys { secret: "rk_test_it", publishable: PUBLISHABLE_KEY, api_base: STRIPE.to_owned() }
}

fn live() -> Keys {
    Keys {
        secret: concat!("rk_", "live_canarycanarycanary"),
        publishable: concat!("pk_", "live_canarycanarycanary"),
        api_base: STRIPE.to_owned(),
    }
}

fn toml(world: &World, keys: &Keys) -> String {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let toml = world.toml(any, process::lasting_port(&mut Dice::random()));
    toml.replace(PUBLISHABLE_KEY, keys.publishable).replace(&world.sim.base_url, &keys.api_base)
}

fn settings(world: &World, keys: &Keys) -> Loaded {
    let mut environment = world.environment();
    environment.insert("STRIPE_SECRET_KEY".into(), keys.secret.into());
    environment.insert("PREPAID402_KEY_SECRET".into(), KEY_SECRET.into());
    config::load_from(Some(&toml(world, keys)), world.folder.path(), &environment).unwrap()
}

async fn start(world: &World, keys: &Keys) -> Result<RunningApp, String> {
    let started = app::start(settings(world, keys).config, None).await;
    started.map_err(|error| error.to_string())
}

/// The gateway does not start, and says so in these words.
async fn refused(world: &World, keys: &Keys, words: &str) {
    match start(world, keys).await {
        Ok(app) => {
            app.stop().await;
            panic!("started with {keys:?}");
        }
        Err(problem) => {
            assert!(problem.contains(words), "{keys:?} should say {words:?}: {problem}");
            assert!(problem.contains("database") && !problem.contains("canary"), "{problem}");
        }
    }
}

/// A simulated Stripe: an account of its own, or one that has been there before.
async fn sim(listener: TcpListener, data: Option<PathBuf>, secret_key: &str) -> RunningSim {
    let options = SimOptions {
        data,
        secret_key: secret_key.into(),
        publishable_key: PUBLISHABLE_KEY.into(),
        publishable_key_tokenisation: true,
    };
    stripe_sim::start(listener, options).await.unwrap()
}

/// A world whose account at Stripe can be left and come back to.
async fn world_with_account() -> (World, PathBuf) {
    let mut world = World::new().await;
    let data = world.folder.path().join("account.db");
    let account = sim(free_listener(), Some(data.clone()), SECRET_KEY).await;
    std::mem::replace(&mut world.sim, account).stop().await;
    (world, data)
}

/// Another account in its place.
async fn other_account(world: &mut World) {
    let other = sim(free_listener(), None, SECRET_KEY).await;
    std::mem::replace(&mut world.sim, other).stop().await;
}

async fn charged_database(world: &World) -> String {
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    gateway.stop().await;
    client
}

async fn set_mode(world: &World, mode: &str) {
    // Bound as a value, so that the same words serve both databases.
    change(&world.database, "UPDATE installation SET stripe_mode = $1", &[mode]).await;
}

async fn forget_mode(world: &World) {
    change(&world.database, "UPDATE installation SET stripe_mode = NULL", &[]).await;
}

/// Charges a card for more credit.
async fn top_up(gateway: &Gateway<'_>, client: &str, card: &str) -> Answer {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (key, authorization) =
        (COUNT.fetch_add(1, Ordering::Relaxed).to_string(), format!("Bearer {client}"));
    let headers = [("idempotency-key", key.as_str()), ("authorization", authorization.as_str())];
    let body = json!({ "paymentMethodId": card, "topUpAmount": 50_000 }).to_string();
    let url = format!("{}/billing/top-ups", gateway.url);
    gateway.world.client.send("POST", &url, &headers, Some(("application/json", body.as_bytes()))).await
}

/// What the metrics say of the account.
async fn standing(gateway: &Gateway<'_>) -> String {
    let text = gateway.world.client.get(&format!("{}/metrics", gateway.admin_url)).await.text();
    text.lines().find_map(|line| line.strip_prefix("prepaid402_stripe_account ")).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn play_money_never_buys_with_keys_of_another_mode() {
    let world = World::new().await;
    charged_database(&world).await;
    let words = "nobody may spend the one as the other";
    refused(&world, &test(), words).await;
    refused(&world, &live(), words).await;
    for (mode, others) in [("test", [live(), simulated(&world)]), ("live", [test(), simulated(&world)])] {
        set_mode(&world, mode).await;
        for keys in &others {
            refused(&world, keys, words).await;
        }
    }
    set_mode(&world, "simulated").await;
    world.gateway().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_paywalls_refuse_the_same() {
    let world = World::new().await;
    charged_database(&world).await;
    let toml = toml(&world, &live());
    let toml = toml.split("[upstream]").next().unwrap().replace("listen = \"127.0.0.1:0\"\n", "");
    let mut environment = world.environment();
    environment.insert("STRIPE_SECRET_KEY".into(), live().secret.into());
    environment.insert("PREPAID402_KEY_SECRET".into(), KEY_SECRET.into());
    let settings = config::embedded_from(Some(&toml), world.folder.path(), &environment).unwrap();
    let refused = prepaid402::embed::Embedded::start(settings).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("nobody may spend the one as the other"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_has_never_charged_goes_with_every_key() {
    let mut world = World::new().await;
    world.gateway().await.stop().await;
    other_account(&mut world).await;
    for keys in [live(), test(), simulated(&world)] {
        start(&world, &keys).await.unwrap().stop().await;
    }
    charged_database(&world).await;
    refused(&world, &live(), "nobody may spend").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_account_is_refused_and_a_rolled_key_is_not() {
    let (mut world, data) = world_with_account().await;
    let client = charged_database(&world).await;
    other_account(&mut world).await;
    refused(&world, &simulated(&world), "accept-account").await;
    assert!(intents(&world.books().await).is_empty());

    let rolled = Keys { secret: "rk_test_rolled", ..simulated(&world) };
    let account = sim(free_listener(), Some(data), rolled.secret).await;
    std::mem::replace(&mut world.sim, account).stop().await;
    let rolled = Keys { api_base: world.sim.base_url.clone(), ..rolled };
    let app = start(&world, &rolled).await.unwrap();
    let gateway = Gateway {
        world: &world,
        url: format!("http://{}", app.address),
        admin_url: format!("http://{}", app.admin_address),
        app,
    };
    let card = world.tokenise(GOOD).await;
    let topped_up = top_up(&gateway, &client, &card).await;
    assert_eq!(topped_up.status, 201, "{}", topped_up.text());
    gateway.stop().await;
}

/// The first start after an upgrade: the tables say nothing, and the newest charge proves it.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_the_version_before_is_proven_by_its_newest_charge() {
    let (mut world, data) = world_with_account().await;
    charged_database(&world).await;
    forget_mode(&world).await;
    other_account(&mut world).await;
    refused(&world, &simulated(&world), "does not know pi_").await;
    let nobody = Keys { api_base: "http://127.0.0.1:9".into(), ..simulated(&world) };
    refused(&world, &nobody, "earlier version").await;
    assert_eq!(
        number(&world.database, "SELECT COUNT(*) FROM installation WHERE stripe_mode IS NULL").await,
        1
    );
    // A key that Stripe does not take proves nothing either.
    let account = sim(free_listener(), Some(data), SECRET_KEY).await;
    std::mem::replace(&mut world.sim, account).stop().await;
    refused(&world, &Keys { secret: "sk_test_revoked", ..simulated(&world) }, "earlier version").await;
    world.gateway().await.stop().await;
    let stored = "SELECT COUNT(*) FROM installation WHERE stripe_mode = 'simulated'";
    assert_eq!(number(&world.database, stored).await, 1);
}

/// Without Stripe at start: what is paid for is served, and nothing is charged or refunded before the account is proven.
#[tokio::test(flavor = "multi_thread")]
async fn while_stripe_is_away_at_start_balances_serve_and_nothing_is_charged() {
    let (mut world, data) = world_with_account().await;
    let client = charged_database(&world).await;
    let address: SocketAddr = world.sim.base_url.strip_prefix("http://").unwrap().parse().unwrap();
    let card = world.tokenise(GOOD).await;
    let elsewhere = sim(free_listener(), None, SECRET_KEY).await;
    std::mem::replace(&mut world.sim, elsewhere).stop().await;
    let away = Keys { api_base: format!("http://{address}"), ..simulated(&world) };

    // It comes back as another account: what is in the wallet is served, a card is not charged.
    let app = start(&world, &away).await.unwrap();
    let gateway = Gateway {
        url: format!("http://{}", app.address),
        admin_url: format!("http://{}", app.admin_address),
        app,
        world: &world,
    };
    assert_eq!(gateway.pay("/api/weather", &Pay::client(&client)).await.status, 200);
    assert_eq!(standing(&gateway).await, "0");
    let refused = top_up(&gateway, &client, &card).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "busy"), "{}", refused.text());
    let other = sim(TcpListener::bind(address).unwrap(), None, SECRET_KEY).await;
    until("it is another account", async || standing(&gateway).await == "-1").await;
    let refused = top_up(&gateway, &client, &card).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "busy"), "{}", refused.text());
    assert_eq!(gateway.pay("/api/weather", &Pay::client(&client)).await.status, 200);
    let calls = world.client.get(&format!("{}/_sim/requests", other.base_url)).await.json();
    let counts = calls["counts"].as_object().unwrap();
    assert!(counts.keys().all(|name| name == "payment_intents.retrieve"), "{counts:?}");
    gateway.stop().await;
    other.stop().await;

    // It comes back as itself.
    let app = start(&world, &away).await.unwrap();
    let gateway = Gateway {
        url: format!("http://{}", app.address),
        admin_url: format!("http://{}", app.admin_address),
        app,
        world: &world,
    };
    let account = sim(TcpListener::bind(address).unwrap(), Some(data), SECRET_KEY).await;
    until("the account is proven", async || standing(&gateway).await == "1").await;
    let topped_up = top_up(&gateway, &client, &card).await;
    assert_eq!(topped_up.status, 201, "{}", topped_up.text());
    gateway.stop().await;
    account.stop().await;
}

/// Nodes that share a database have one mode, and of two accounts the first that charges is the database's.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_keys_of_two_accounts_do_not_charge_in_both() {
    let world = World::new().await;
    if !world.database.is_shared() {
        return;
    }
    let other = sim(free_listener(), None, SECRET_KEY).await;
    let keys = Keys { api_base: other.base_url.clone(), ..simulated(&world) };
    let right = world.gateway().await;
    refused(&world, &live(), "another node runs").await;
    let app = start(&world, &keys).await.unwrap();
    let (url, admin_url) = (format!("http://{}", app.address), format!("http://{}", app.admin_address));
    let wrong = Gateway { world: &world, app, url, admin_url };
    right.new_client("/api/weather").await;
    let refused = wrong.pay("/api/weather", &Pay::card("pm_card_visa")).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    let books = world.client.get(&format!("{}/_sim/books", other.base_url)).await.json();
    assert!(intents(&books).is_empty(), "{books}");
    assert_eq!(rows(&world.database, "SELECT id FROM clients").await.len(), 1);
    wrong.stop().await;
    right.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_says_it_and_makes_nothing() {
    let world = World::new().await;
    let check = async |keys: &Keys| {
        std::fs::write(world.folder.path().join("prepaid402.toml"), toml(&world, keys)).unwrap();
        let mut command = program(world.folder.path(), &["check-config"]);
        command.envs(world.environment()).env("STRIPE_SECRET_KEY", keys.secret);
        command.env("PREPAID402_KEY_SECRET", KEY_SECRET);
        finish(command, None).await
    };
    let nothing = check(&simulated(&world)).await;
    assert_eq!(nothing.code, 0, "{nothing:?}");
    if !world.database.is_shared() {
        assert!(nothing.out.contains("there is no database yet"), "{nothing:?}");
        assert!(!world.folder.path().join("data").exists());
    }
    charged_database(&world).await;
    let same = check(&simulated(&world)).await;
    assert_eq!(same.code, 0, "{same:?}");
    assert!(same.out.contains("belongs to the simulated Stripe"), "{same:?}");
    for keys in [test(), live()] {
        let other = check(&keys).await;
        assert_eq!(other.code, 2, "{other:?}");
        assert!(other.err.contains("STRIPE_SECRET_KEY: the database holds wallets of"), "{other:?}");
    }
    change(&world.database, "UPDATE clients SET currency = 'eur'", &[]).await;
    let currency = check(&simulated(&world)).await;
    assert_eq!(currency.code, 2, "{currency:?}");
    assert!(currency.err.contains("currency: the database holds"), "{currency:?}");
}

/// Another account has none of it: every line would be a difference.
#[tokio::test(flavor = "multi_thread")]
async fn reconcile_does_not_compare_with_another_account() {
    let (mut world, _) = world_with_account().await;
    charged_database(&world).await;
    other_account(&mut world).await;
    std::fs::write(world.folder.path().join("prepaid402.toml"), toml(&world, &simulated(&world))).unwrap();
    let mut command = program(world.folder.path(), &["reconcile", "--since", "2h", "--until", "now"]);
    command.envs(world.environment());
    let ran = finish(command, None).await;
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    assert!(ran.err.contains("nothing can be compared: Stripe does not know pi_"), "{ran:?}");
}
