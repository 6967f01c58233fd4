//! temp
use super::*;
use std::collections::BTreeMap;
use std::path::Path;
/// x
#[derive(Debug)]
pub struct Loaded { /// x
 pub config: Config, /// x
 pub warnings: Vec<String> }
/// x
#[derive(Debug)]
pub struct SandboxOptions { /// x
 pub data_dir: PathBuf, /// x
 pub listen: SocketAddr, /// x
 pub admin_listen: SocketAddr, /// x
 pub stripe_base: String, /// x
 pub secret_key: String, /// x
 pub publishable_key: String, /// x
 pub upstream: Option<String>, /// x
 pub demo_upstream: String, /// x
 pub config_file: Option<PathBuf> }
/// x
pub fn load_from(_: Option<&str>, _: &Path, _: &BTreeMap<String,String>) -> Result<Loaded, String> { Err("x".into()) }
/// x
pub fn sandbox(o: &SandboxOptions) -> Result<Loaded, String> {
    let m = |s: &str| Micros::parse_major(s).unwrap();
    let r = |p: &str, c: RouteCharge| RouteConfig { methods: ["GET".to_owned()].into(), pattern: p.into(), charge: c, description: None, mime_type: None, charged_statuses: StatusSet::default_charged(), response_timeout: None, max_body_bytes: None };
    let s = Duration::from_secs;
    Ok(Loaded { warnings: vec![], config: Config {
        listen: o.listen, admin_listen: o.admin_listen, public_url: format!("http://{}", o.listen), data_dir: o.data_dir.clone(),
        database_url: format!("sqlite:{}/prepaid402.db", o.data_dir.display()), currency: Currency::USD, key_secret: None,
        stripe: StripeConfig { secret_key: Secret::new(o.secret_key.clone()), publishable_key: o.publishable_key.clone(), api_base: o.stripe_base.clone(), api_version: None, timeout: s(20), statement_descriptor_suffix: None },
        upstream: UpstreamConfig { url: o.demo_upstream.clone(), headers: vec![], connect_timeout: s(5), response_timeout: s(60), idle_timeout: s(60), preserve_host: false },
        routes: vec![r("/api/health", RouteCharge::Free), r("/api/joke", RouteCharge::Fixed(m("0.01"))), r("/api/weather", RouteCharge::Fixed(m("0.05")))],
        top_up: TopUpConfig { minimum: m("5"), maximum: m("500"), max_balance: m("5000"), options: vec![TopUpPack{amount: m("5"), bonus: m("0"), label: "5".into()}] },
        limits: LimitsConfig { max_body_bytes: 10<<20, body_timeout: s(60), max_concurrent_requests: 1024, max_concurrent_per_client: 64, shutdown_timeout: s(30) },
        trusted_proxies: vec![], log: LogConfig { filter: "info".into(), json: false }, sandbox: true } })
}
