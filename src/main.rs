//! The `prepaid402` binary; see `cli`.

fn main() -> std::process::ExitCode {
    prepaid402::cli::main()
}
