//! The `prepaid402` binary; see `cli`.

/// A paid request makes and frees a few dozen small values, some of them on another thread. Without large pages: they would
/// more than double what an idle process holds.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    prepaid402::cli::main()
}
