//! Settings of `prepaid402 sandbox`: a simulated Stripe, demo routes, or the seller's own routes with nothing at stake.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use toml::{Table, Value};

use super::load::{Loaded, environment, finish, folder_of, read_file};
use super::problem::{ConfigProblems, Report};
use super::secrets::SecretSources;
use super::{Secret, layers, webhooks};

/// What the demo sells.
const DEMO_ROUTES: &str = r#"
[[routes]]
path = "/api/health"
free = true
description = "Whether the demo API is up"
mime_type = "application/json"

[[routes]]
path = "/api/joke"
price = "0.01"
description = "A joke"
mime_type = "application/json"

[[routes]]
path = "/api/weather"
price = "0.05"
description = "The weather in a city: ?city=Berlin"
mime_type = "application/json"
"#;

/// A user's own API, sold whole.
const WHOLE_API: &str = r#"
[[routes]]
methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
path = "/*"
price = "0.01"
description = "One request"
"#;

const DEMO_TOP_UP: &str = r#"
[[top_up.options]]
amount = "5.00"

[[top_up.options]]
amount = "20.00"
bonus = "1.00"

[[top_up.options]]
amount = "50.00"
bonus = "5.00"
"#;

/// What the sandbox decides itself.
#[derive(Clone)]
pub struct SandboxOptions {
    /// Holds the sandbox's own database.
    pub data_dir: PathBuf,
    /// Where callers connect; also the public URL.
    pub listen: SocketAddr,
    /// Where the admin pages listen.
    pub admin_listen: SocketAddr,
    /// The simulated Stripe, on this machine.
    pub stripe_base: String,
    /// The simulator's secret key, `sk_test_…`.
    pub secret_key: String,
    /// The simulator's publishable key, `pk_test_…`.
    pub publishable_key: String,
    /// What the simulator signs its webhooks with, `whsec_…`.
    pub webhook_secret: String,
    /// The user's own API; wins over the file's.
    pub upstream: Option<String>,
    /// The demo API, used when neither `upstream` nor the file names one.
    pub demo_upstream: String,
    /// The user's file, for its routes, packs, limits and upstream.
    pub config_file: Option<PathBuf>,
}

impl std::fmt::Debug for SandboxOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SandboxOptions")
            .field("data_dir", &self.data_dir)
            .field("listen", &self.listen)
            .field("admin_listen", &self.admin_listen)
            .field("stripe_base", &self.stripe_base)
            .field("secret_key", &Secret::new(String::new()))
            .field("publishable_key", &self.publishable_key)
            .field("webhook_secret", &Secret::new(String::new()))
            .field("upstream", &self.upstream)
            .field("demo_upstream", &self.demo_upstream)
            .field("config_file", &self.config_file)
            .finish()
    }
}

/// The settings of a sandbox.
///
/// Of the environment only `PREPAID402_LOG__…` and the variables that `value_env` names are used: a sandbox must not
/// change because a shell holds the settings of a real gateway.
///
/// # Errors
/// Every problem at once, each with the key's path and what to write instead.
pub fn sandbox(options: &SandboxOptions) -> Result<Loaded, ConfigProblems> {
    let mut report = Report::default();
    let env = environment(&mut report);
    let file_text = options.config_file.as_deref().and_then(|path| read_file(path, &mut report));
    if !report.problems.is_empty() {
        return Err(ConfigProblems(report.problems));
    }
    sandbox_from(options, file_text.as_deref(), &env)
}

/// The same from given texts.
///
/// # Errors
/// As [`sandbox`].
pub(super) fn sandbox_from(
    options: &SandboxOptions,
    file_text: Option<&str>,
    env: &BTreeMap<String, String>,
) -> Result<Loaded, ConfigProblems> {
    let demo = match options.upstream {
        Some(_) => format!("{WHOLE_API}{DEMO_TOP_UP}"),
        None => format!("{DEMO_ROUTES}{DEMO_TOP_UP}"),
    };
    let mut env: BTreeMap<String, String> = env
        .iter()
        .filter(|(name, _)| !name.starts_with("PREPAID402_") || name.starts_with("PREPAID402_LOG__"))
        .filter(|(name, _)| ![webhooks::SECRETS, webhooks::SECRET].contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    env.insert("STRIPE_SECRET_KEY".to_owned(), options.secret_key.clone());
    env.insert("STRIPE_PUBLISHABLE_KEY".to_owned(), options.publishable_key.clone());
    env.insert(webhooks::SECRETS.to_owned(), options.webhook_secret.clone());
    let mut report = Report::default();
    let mut table = layers::merge(Some(file_text.unwrap_or(&demo)), &env, &mut report)?;
    force(&mut table, options);
    let dir = folder_of(options.config_file.as_deref());
    finish(&table, SecretSources { env: &env, dir }, true, report)
}

/// What a sandbox never takes from a file.
fn force(table: &mut Table, options: &SandboxOptions) {
    table.remove("database_url");
    if let Some(stripe) = table.get_mut("stripe").and_then(Value::as_table_mut) {
        stripe.remove("secret_key_file");
    }
    if let Some(webhooks) = table.get_mut("webhooks").and_then(Value::as_table_mut) {
        webhooks.remove("secrets_file");
    }
    let text = |value: &str| Value::String(value.to_owned());
    layers::set(table, "listen", text(&options.listen.to_string()));
    layers::set(table, "admin_listen", text(&options.admin_listen.to_string()));
    layers::set(table, "public_url", text(&format!("http://{}", options.listen)));
    layers::set(table, "data_dir", text(&options.data_dir.to_string_lossy()));
    layers::set(table, "stripe.api_base", text(&options.stripe_base));
    let own =
        table.get("upstream").and_then(Value::as_table).is_some_and(|upstream| upstream.contains_key("url"));
    match &options.upstream {
        Some(url) => layers::set(table, "upstream.url", text(url)),
        None if !own => layers::set(table, "upstream.url", text(&options.demo_upstream)),
        None => {}
    }
}
