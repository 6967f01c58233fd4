//! The command line: one file per subcommand.

pub mod admin;
pub mod check_config;
pub mod get;
pub mod stripe_sim;

/// Runs the program.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
