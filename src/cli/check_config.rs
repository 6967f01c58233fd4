//! x
use std::process::ExitCode;
/// x
#[derive(Debug, clap::Args)]
pub struct CheckConfigArgs {}
/// x
pub async fn run(_: CheckConfigArgs) -> ExitCode { ExitCode::SUCCESS }
/// x
pub fn load_or_report(_: Option<std::path::PathBuf>) -> Result<crate::config::Loaded, ExitCode> { Err(ExitCode::FAILURE) }
