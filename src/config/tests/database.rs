//! Where the books are.

use super::*;

fn database(file: &str, more: &[(&str, &str)]) -> (DatabaseConfig, Vec<String>) {
    let loaded = load_with(file, more).unwrap_or_else(|problems| panic!("{file}\n{problems}"));
    (loaded.config.database, loaded.warnings)
}

#[test]
fn a_file_or_a_server() {
    for (url, path) in [
        ("sqlite:prepaid402.db", "prepaid402.db"),
        ("sqlite:/var/lib/p/x.db", "/var/lib/p/x.db"),
        ("sqlite:./a folder/x.db", "./a folder/x.db"),
    ] {
        let (config, _) = database(&format!("database_url = '{url}'"), &[]);
        assert_eq!(config, DatabaseConfig::Sqlite(path.into()));
        assert_eq!((config.shown().as_str(), config.is_shared()), (path, false));
    }
    for (url, shown) in [
        ("postgres://gateway@db.example.com/books", "postgres://db.example.com:5432/books"),
        ("postgresql://gateway@127.0.0.1:6000/books", "postgres://127.0.0.1:6000/books"),
        ("postgres://localhost/books?sslmode=disable&user=gateway", "postgres://localhost:5432/books"),
    ] {
        let (config, _) = database(&format!("database_url = '{url}'"), &[]);
        assert_eq!(config, DatabaseConfig::Postgres(Secret::new(url.to_owned())));
        assert_eq!((config.shown().as_str(), config.is_shared()), (shown, true));
    }
    let (config, _) = database("data_dir = '/data'", &[]);
    assert_eq!(config, DatabaseConfig::Sqlite("/data/prepaid402.db".into()));
    let (config, _) = database("data_dir = '/data'\ndatabase_url = 'sqlite:x.db'", &[]);
    assert_eq!(config, DatabaseConfig::Sqlite("x.db".into()));
    let (config, _) =
        database("database_url = 'sqlite:x.db'", &[("PREPAID402_DATABASE_URL", "postgres://u@h/d")]);
    assert!(config.is_shared(), "the environment wins");
}

#[test]
fn other_addresses_are_refused_with_what_to_write() {
    for (url, words) in [
        ("", "is empty"),
        ("prepaid402.db", "sqlite:PATH"),
        ("sqlite:", "sqlite:PATH"),
        ("sqlite::memory:", "would lose every balance"),
        ("sqlite:x.db?mode=memory", "without ? or #"),
        ("sqlite:x#y.db", "without ? or #"),
        ("mysql://u@h/d", "postgres://USER@HOST/DATABASE"),
        ("POSTGRES://u@h/d", "postgres://USER@HOST/DATABASE"),
        ("postgres://", "is not an address"),
        ("postgres://u@h", "is not an address"),
        ("postgres://u@h/", "is not an address"),
        ("postgres://u@h:port/d", "is not an address"),
        ("postgres://u@h/d?sslmode=perhaps", "is not an address"),
    ] {
        if url.is_empty() {
            // In the file it is an address; in the environment it counts as not set.
            refused("database_url = ''", "database_url", words);
            assert!(!database("", &[("PREPAID402_DATABASE_URL", "")]).0.is_shared());
        } else {
            refused(&format!("database_url = '{url}'"), "database_url", words);
        }
    }
}

#[test]
fn a_password_stands_in_the_environment_and_is_shown_nowhere() {
    for url in [
        "postgres://u:hidden@h/d",
        "postgresql://u:hidden@h:5432/d?sslmode=require",
        "postgres://u:hid@hidden@h/d",
        "postgres://:hidden@h/d",
        "postgres://u@h/d?password=hidden",
        "postgres://u@h/d?sslmode=require&password=hidden",
    ] {
        let problems = load_with(&format!("database_url = '{url}'"), &[]).unwrap_err();
        assert!(problems.0.iter().any(|problem| problem.path == "database_url"), "{url}\n{problems}");
        assert!(!problems.to_string().contains("hidden"), "{problems}");
        assert!(DatabaseConfig::holds_password(url));

        let loaded = load_with("", &[("PREPAID402_DATABASE_URL", url)]);
        let Ok(loaded) = loaded else {
            // What no address is, is not repeated either.
            assert!(!loaded.unwrap_err().to_string().contains("hidden"));
            continue;
        };
        let config = &loaded.config.database;
        assert!(config.is_shared());
        let said = format!("{} {config:?} {:?} {:?}", config.shown(), loaded.config, loaded.warnings);
        assert!(!said.contains("hidden"), "{said}");
    }
    for url in
        ["postgres://u:hidden@h", "postgres://u:hidden@h:x/d", "postgres:u:hidden@h/d", "sqlite:x?hidden"]
    {
        let refused = DatabaseConfig::parse(url).unwrap_err();
        assert!(!refused.contains("hidden"), "{refused}");
        let problems = load_with("", &[("PREPAID402_DATABASE_URL", url)]).unwrap_err();
        assert!(!problems.to_string().contains("hidden"), "{problems}");
    }
    for url in
        ["postgres://u@h/d", "postgres://h:5432/d", "postgres://u@h/d?application_name=a:b@c", "sqlite:a:b@c"]
    {
        assert!(!DatabaseConfig::holds_password(url), "{url}");
    }
}

#[test]
fn a_server_elsewhere_without_tls_is_warned_of() {
    for (url, warned) in [
        ("postgres://u@db.example.com/d", true),
        ("postgres://u@10.0.0.5/d", true),
        ("postgres://u@db.example.com/d?sslmode=prefer", true),
        ("postgres://u@db.example.com/d?sslmode=allow", true),
        ("postgres://u@db.example.com/d?sslmode=disable", true),
        ("postgres://u@localhost.example.com/d", true),
        ("postgres://u@db.example.com/d?sslmode=require", false),
        ("postgres://u@db.example.com/d?sslmode=verify-ca", false),
        ("postgres://u@db.example.com/d?sslmode=verify-full", false),
        ("postgres://u@localhost/d", false),
        ("postgres://u@127.0.0.1/d?sslmode=disable", false),
        ("postgres://u@127.9.9.9/d", false),
        ("postgres://u@[::1]/d", false),
        ("postgres://u@%2Fvar%2Frun%2Fpostgresql/d", false),
        ("postgres:///d?host=/var/run/postgresql&user=u", false),
    ] {
        let (_, warnings) = database(&format!("database_url = '{url}'"), &[]);
        let said = warnings.iter().find(|warning| warning.contains("TLS"));
        assert_eq!(said.is_some(), warned, "{url}: {warnings:?}");
        assert!(said.is_none_or(|said| said.contains("sslmode=verify-full")));
    }
}
