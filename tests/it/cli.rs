//! The commands other than `sandbox` and `get`, as children: what they print, and what they exit with.

use std::path::Path;

use crate::support::http::Client;
use crate::support::program::{Ran, Running, clean, finish, free_address, program, run, serve, until};
use crate::support::{GOOD, Pay, SECRET_KEY, World, change, number};

const COMMANDS: [&str; 15] = [
    "sandbox",
    "serve",
    "check-config",
    "get",
    "bench",
    "verify",
    "reconcile",
    "backup",
    "migrate",
    "admin",
    "refund",
    "freeze",
    "unfreeze",
    "export",
    "stripe-sim",
];

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_help_has_an_example_that_its_command_understands() {
    let home = home();
    let whole = run(home.path(), &["--help"]).await;
    assert_eq!(whole.code, 0);
    for command in COMMANDS {
        assert!(whole.out.contains(&format!("  {command} ")), "{command} in {}", whole.out);
        let help = run(home.path(), &[command, "--help"]).await;
        assert_eq!((help.code, help.err.as_str()), (0, ""), "{command}");
        let examples: Vec<_> =
            help.out.lines().filter(|line| line.starts_with(&format!("  prepaid402 {command}"))).collect();
        assert!(!examples.is_empty(), "{command} has an example:\n{}", help.out);
        // `--help` at the end is refused when a word before it is unknown.
        for example in examples {
            let words = example.trim().split("   ").next().unwrap();
            let words = words.split(" < ").next().unwrap().replacen(
                "prepaid402",
                crate::support::program::PROGRAM,
                1,
            );
            let mut sh = clean(home.path(), "sh");
            sh.args(["-c", &format!("{words} --help")]);
            let ran = finish(sh, None).await;
            assert_eq!(ran.code, 0, "{example}: {}", ran.err);
        }
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "help touches nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_2_and_says_what_is_wrong() {
    let home = home();
    for (args, part) in [
        (&["bogus"][..], "bogus"),
        (&["verify", "--databse", "x"], "--databse"),
        (&["get"], "<URL>"),
        (&["get", "ftp://example.com"], "http"),
        (&["get", "http://example.com/x"], "--allow-insecure-http"),
        (&["get", "https://example.com/x", "--max-price", "ten"], "--max-price"),
        (&["sandbox", "--listen", "everywhere"], "everywhere"),
        (&["stripe-sim", "--secret-key", "sk_live_x"], "test"),
        (&["stripe-sim", "--listen", "127.0.0.1:0", "--webhook-url", "http://192.0.2.1/"], "loopback"),
        (
            &["stripe-sim", "--listen", "127.0.0.1:0", "--webhook-url", "http://127.0.0.1/"],
            "STRIPE_WEBHOOK_SECRET",
        ),
        (&["stripe-sim", "--webhook-secret-env", "X"], "--webhook-url"),
    ] {
        let ran = run(home.path(), args).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {ran:?}");
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
}

fn write(home: &Path, name: &str, text: &str) {
    std::fs::write(home.join(name), text).unwrap();
}

async fn check_config(home: &Path, env: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = program(home, &["check-config"]);
    command.args(args).envs(env.iter().copied());
    finish(command, None).await
}

const TEST_KEYS: [(&str, &str); 2] =
    [("STRIPE_SECRET_KEY", "sk_test_keepme"), ("STRIPE_PUBLISHABLE_KEY", "pk_test_shown")];

#[tokio::test(flavor = "multi_thread")]
async fn check_config_shows_prices_and_overlaps() {
    let home = home();
    write(
        home.path(),
        "prepaid402.toml",
        "[upstream]\nurl = \"http://127.0.0.1:8080\"\n\
         [[routes]]\npath = \"/api/*\"\nprice = \"0.05\"\n\
         [[routes]]\nmethods = [\"POST\"]\npath = \"/ask\"\nprice = \"0.0001\"\n\
         [[routes]]\npath = \"/api/health\"\nfree = true\n",
    );
    let ran = check_config(home.path(), &TEST_KEYS, &[]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    for part in [
        "GET /api/*  0.05 usd (500 units)",
        "POST /ask  0.0001 usd (1 unit)",
        "GET /api/health  free",
        "pk_test_shown",
    ] {
        assert!(ran.out.contains(part), "{part} in\n{}", ran.out);
    }
    let overlaps: Vec<_> = ran.out.lines().filter(|line| line.starts_with("overlap: ")).collect();
    assert_eq!(overlaps.len(), 1, "{}", ran.out);
    assert!(overlaps[0].contains("GET /api/health") && overlaps[0].contains("GET /api/*"), "{overlaps:?}");
    assert!(!ran.out.contains("keepme"));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "it starts nothing and writes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_config_tells_all_problems_at_once() {
    let home = home();
    write(
        home.path(),
        "bad.toml",
        "listen = \"nowhere\"\ncurrency = \"gold\"\n[upstream]\nurl = \"ftp://x\"\n\
         [[routes]]\npath = \"api\"\nprice = \"0.05\"\n[[routes]]\npath = \"/a\"\nprice = \"-1\"\n\
         [[routes]]\npath = \"/b\"\n[[routes]]\npath = \"/c\"\nprise = \"1\"\n",
    );
    let ran = check_config(home.path(), &TEST_KEYS, &["--config", "bad.toml"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
    for part in ["listen", "currency", "upstream.url", "routes", "prise"] {
        assert!(
            ran.err.lines().any(|line| line.starts_with("  ") && line.contains(part)),
            "{part} in\n{}",
            ran.err
        );
    }
    let count = ran.err.lines().count() - 1;
    assert!(count >= 7, "{}", ran.err);
    assert!(ran.err.starts_with(&format!("The configuration has {count} problems:\n")), "{}", ran.err);
    // The same through serve, which starts nothing.
    let mut serve = program(home.path(), &["serve", "--config", "bad.toml"]);
    serve.envs(TEST_KEYS);
    let served = finish(serve, None).await;
    assert_eq!((served.code, served.err), (2, ran.err));
    let ran = check_config(home.path(), &TEST_KEYS, &["--config", "absent.toml"]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains("absent.toml"), "{}", ran.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_keys_start_nothing() {
    let home = home();
    let file = "[upstream]\nurl = \"http://127.0.0.1:8080\"\n[[routes]]\npath = \"/a\"\nprice = \"0.05\"\n";
    write(home.path(), "prepaid402.toml", file);
    for command in ["check-config", "serve"] {
        let ran = run(home.path(), &[command]).await;
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(
            ran.err.contains("STRIPE_SECRET_KEY: is required") && ran.err.contains("STRIPE_PUBLISHABLE_KEY"),
            "{}",
            ran.err
        );
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "no data directory was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_what_was_tampered_with_and_says_when_there_is_nothing() {
    let world = World::new().await;
    let gateway = world.gateway().await;
    let client = gateway.new_client("/api/weather").await;
    assert_eq!(gateway.pay("/api/joke", &Pay::client(&client)).await.status, 200);
    gateway.stop().await;
    let path = world.file();
    let right = run(world.folder.path(), &["verify", "--database", path.to_str().unwrap()]).await;
    assert_eq!(right.code, 0, "{right:?}");

    for (what, tamper) in [
        ("a balance", "UPDATE clients SET paid = paid + 10000"),
        ("a top-up", "UPDATE top_ups SET amount = amount + 10000 WHERE state = 'succeeded'"),
        (
            "an entry",
            "DROP TRIGGER entries_are_never_updated; UPDATE entries SET amount = amount + 1 WHERE id = 2",
        ),
        ("a lost entry", "DROP TRIGGER entries_are_never_deleted; DELETE FROM entries WHERE id = 2"),
    ] {
        let copy = world.folder.path().join("copy.db");
        std::fs::copy(&path, &copy).unwrap();
        for statement in tamper.split("; ") {
            change(&copy.clone().into(), statement, &[]).await;
        }
        let wrong = run(world.folder.path(), &["verify", "--database", "copy.db"]).await;
        assert_eq!(wrong.code, 1, "{what}: {wrong:?}");
        assert!(wrong.out.lines().any(|line| line.starts_with("WRONG: ")), "{what}: {}", wrong.out);
        assert!(!wrong.out.contains("the books are right"), "{what}: {}", wrong.out);
        let json = run(world.folder.path(), &["verify", "--database", "copy.db", "--json"]).await;
        let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!((json.code, &report["clean"]), (1, &serde_json::json!(false)), "{what}");
    }

    for args in
        [&["verify"][..], &["verify", "--data-dir", "nowhere"], &["verify", "--database", "nowhere.db"]]
    {
        let ran = run(world.folder.path(), args).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{ran:?}");
        assert!(ran.err.starts_with("there is no database at "), "{}", ran.err);
        assert!(ran.err.contains("--data-dir"), "{}", ran.err);
    }
    assert!(!world.folder.path().join("nowhere.db").exists(), "verify creates nothing");
    write(world.folder.path(), "text.db", "this is no database, however long it may be");
    let ran = run(world.folder.path(), &["verify", "--database", "text.db"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("text.db cannot be verified"), "{}", ran.err);
}

async fn signs_in(admin_url: &str, name: &str, password: &str) -> bool {
    let form = format!("name={name}&password={}", password.replace(' ', "+"));
    let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
    let url = format!("{admin_url}/admin/login");
    let answer = Client::new().send("POST", &url, &[("origin", admin_url)], body).await;
    assert!([303, 403].contains(&answer.status), "{}", answer.text());
    answer.status == 303
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_users_come_and_go_with_and_without_the_server() {
    let world = World::new().await;
    let home = world.folder.path();
    let database = world.file();
    let database = database.to_str().unwrap();
    let create = async |name: &str, input: &str| {
        let args = ["admin", "create-user", name, "--password-stdin", "--database", database];
        finish(program(home, &args), Some(input)).await
    };
    let before = create("alice", "violet kettle orbit\n").await;
    assert_eq!(before.code, 0, "before the first start: {before:?}");
    assert!(before.out.starts_with("alice may now sign in"), "{}", before.out);

    let (listen, admin) = (free_address(), free_address());
    let server = serve(&world, listen, admin).await;
    let admin_url = format!("http://{admin}");
    assert!(signs_in(&admin_url, "alice", "violet kettle orbit").await);
    let while_running = create("bob", "another long password\n").await;
    assert_eq!(while_running.code, 0, "{while_running:?}");
    assert!(signs_in(&admin_url, "bob", "another long password").await);
    assert!(!signs_in(&admin_url, "bob", "violet kettle orbit").await);
    for (name, password, code, part) in [
        ("bob", "another long password", 1, "already"),
        ("carol", "tiny", 2, "12"),
        ("carol", "", 2, "12"),
        ("two words", "another long password", 2, "letters"),
    ] {
        let ran = create(name, password).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{name}: {ran:?}");
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
        assert!(password.is_empty() || !ran.err.contains(password), "{}", ran.err);
    }
    let removed = run(home, &["admin", "remove-user", "bob", "--database", database]).await;
    assert_eq!(removed.code, 0, "{removed:?}");
    assert!(!signs_in(&admin_url, "bob", "another long password").await);
    let listed = run(home, &["admin", "list-users", "--database", database]).await;
    assert_eq!((listed.code, listed.out.lines().count()), (0, 1), "{listed:?}");
    assert!(listed.out.starts_with("alice\t"), "{}", listed.out);
    assert_eq!(server.terminate().await, 0);
    let missing = run(home, &["admin", "list-users", "--data-dir", "nowhere"]).await;
    assert_eq!(missing.code, 2, "{missing:?}");
    assert!(missing.err.contains("there is no database at nowhere/prepaid402.db"), "{}", missing.err);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn serve_sells_keeps_its_files_private_and_is_alone_on_its_database() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new().await;
    // The folder existed before, open to others: what is made in it is not.
    let data = world.folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (listen, admin) = (free_address(), free_address());
    let server = serve(&world, listen, admin).await;
    let card = world.tokenise(GOOD).await;
    let header = Pay::card(&card).header();
    let url = format!("http://{listen}/api/weather");
    let paid = world.client.send("GET", &url, &[("payment", &header)], None).await;
    assert_eq!(paid.status, 200, "{}", paid.text());
    for file in std::fs::read_dir(&data).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        if name.starts_with("prepaid402.db") || name == "key-secret" {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
    }

    std::fs::write(world.folder.path().join("second.toml"), world.toml(free_address(), free_address()))
        .unwrap();
    let mut second = program(world.folder.path(), &["serve", "--config", "second.toml"]);
    second.env("STRIPE_SECRET_KEY", SECRET_KEY);
    let second = finish(second, None).await;
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.err.contains("another prepaid402 process is using"), "{}", second.err);
    assert!(!server.err().contains(SECRET_KEY) && !server.err().contains(&card), "logs hold no credentials");
    assert_eq!(server.terminate().await, 0);
    world.assert_books_agree().await;
}

/// A file as an older version of this program has left it.
async fn file_of_schema(path: &Path, version: i64) {
    use sqlx::migrate::{Migrate as _, Migration, MigrationType, Migrator};
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let migrations = files.iter().filter_map(|file| {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let (number, name) = name.split_once('_').unwrap();
        let sql = sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(std::fs::read_to_string(file).unwrap()));
        let number = number.parse().unwrap();
        (number <= version)
            .then(|| Migration::new(number, name.to_owned().into(), MigrationType::Simple, sql, false))
    });
    let migrator = Migrator::with_migrations(migrations.collect());
    let url = format!("sqlite:{}?mode=rwc", path.display());
    let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    migrator.run(&mut connection).await.unwrap();
    assert!(connection.list_applied_migrations("_sqlx_migrations").await.unwrap().len() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_copies_a_file_of_an_older_schema_before_it_is_changed() {
    let home = home();
    let database = home.path().join("old.db");
    file_of_schema(&database, 2).await;
    let admin = "INSERT INTO admin_users (name, password_hash, created_at) VALUES ('frida', 'x', 1)";
    change(&database.clone().into(), admin, &[]).await;
    let args = ["migrate", "--database", "old.db"];
    let migrated = run(home.path(), &args).await;
    assert_eq!((migrated.code, migrated.err.as_str()), (0, ""), "{migrated:?}");
    let version = prepaid402::db::SCHEMA_VERSION;
    assert!(migrated.out.contains(&format!("from schema 2 to {version}")), "{}", migrated.out);
    let copy = home.path().join(format!("old.db.before-schema-{version}-of-2"));
    assert!(
        migrated.out.contains(&format!("was copied to {}", copy.file_name().unwrap().display())),
        "{migrated:?}"
    );
    for (file, schema) in [(&copy, 2), (&database, version)] {
        let file = file.clone().into();
        assert_eq!(number(&file, "SELECT MAX(version) FROM _sqlx_migrations").await, schema);
        assert_eq!(number(&file, "SELECT COUNT(*) FROM admin_users WHERE name = 'frida'").await, 1);
    }
    let again = run(home.path(), &args).await;
    assert_eq!(again.code, 0, "{again:?}");
    assert!(again.out.contains("nothing was changed"), "{again:?}");
    // A file on which a server runs is not changed under it.
    let verified = run(home.path(), &["verify", "--database", "old.db"]).await;
    assert_eq!(verified.code, 0, "{verified:?}");
}

#[tokio::test]
async fn every_setting_can_be_printed() {
    let home = tempfile::tempdir().unwrap();
    let printed = run(home.path(), &["defaults"]).await;
    assert_eq!((printed.code, printed.out.as_str()), (0, prepaid402::config::DEFAULT_TOML));
    for setting in ["reconcile_every", "poll_every", "new_payers_at_once", "admin_listen"] {
        assert!(printed.out.contains(setting), "{setting}");
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_does_not_end_the_server() {
    let world = World::new().await;
    let (listen, admin) = (free_address(), free_address());
    let server = serve(&world, listen, admin).await;
    // One by one: signals of a kind that have not been heard yet are one.
    for count in [1, 2] {
        server.signal("HUP").await;
        until("it is told of", async || server.err().matches("SIGHUP").count() == count).await;
    }
    assert!(server.err().contains("restart to change the configuration"), "{}", server.err());
    assert_eq!(world.client.get(&format!("http://{listen}/api/weather")).await.status, 402);
    assert_eq!(server.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_a_line_in_the_log_at_debug_with_its_id() {
    let world = World::new().await;
    let (listen, admin) = (free_address(), free_address());
    let file = world.folder.path().join("serve.toml");
    std::fs::write(&file, world.toml(listen, admin)).unwrap();
    let mut command = program(world.folder.path(), &["serve", "--config", "serve.toml"]);
    command.envs(world.environment()).env("PREPAID402_LOG__FILTER", "prepaid402=debug");
    let server = Running::watched(command);
    server.says("selling on").await;
    for (door, path, status, shown) in [
        (listen, "/api/weather?key=hidden", 402, "/api/weather"),
        (listen, "/api/health", 200, "/api/health"),
        (listen, "/nowhere/4242424242424242", 404, "/nowhere/{id}"),
        (listen, "/billing/balance", 401, "/billing/balance"),
        (listen, "/webhooks/stripe", 404, "/webhooks/stripe"),
        (admin, "/readyz", 200, "/readyz"),
        (admin, "/admin/nothing", 303, "/admin/nothing"),
    ] {
        let answer = world.client.get(&format!("http://{door}{path}")).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let id = answer.header("x-request-id").unwrap_or_else(|| panic!("{path} has no id")).to_owned();
        until(&format!("{path} is in the log"), async || {
            server.err().lines().any(|line| {
                let has = |part: &str| line.contains(part);
                has("DEBUG") && has(&id) && has(&format!("{shown:?}")) && has(&status.to_string())
            })
        })
        .await;
    }
    assert!(!server.err().contains("hidden") && !server.err().contains("4242"), "{}", server.err());
    assert_eq!(server.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn stripe_sim_reads_dot_env_as_serve_does() {
    let home = home();
    std::fs::write(home.path().join(".env"), "STRIPE_WEBHOOK_SECRETS=whsec_0123456789abcdefghijklmn\n")
        .unwrap();
    let args = [
        "stripe-sim",
        "--listen",
        "127.0.0.1:0",
        "--json",
        "--webhook-url",
        "http://127.0.0.1:9/webhooks/stripe",
    ];
    let sim = Running::start(program(home.path(), &args), "\"url\"").await.unwrap();
    assert_eq!(sim.terminate().await, 0);
    std::fs::write(home.path().join(".env"), "STRIPE_WEBHOOK_SECRETS").unwrap();
    let refused = run(home.path(), &args).await;
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains(".env: entry 1 is not NAME=value"), "{}", refused.err);
}
