//! Peers that are gone without a word: a machine that lost its power or its network does not close its connections. Where nothing is
//! sent and nobody has a time-out, only the system notices, when it is told to ask.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// A connection on which nothing came for this long is asked after.
pub(crate) const SILENT: Duration = Duration::from_secs(30);
/// Time between two questions.
pub(crate) const EVERY: Duration = Duration::from_secs(15);
/// Questions without an answer until the peer counts as gone.
pub(crate) const TIMES: u32 = 4;

/// Has the system ask after the peer of a socket. What a listening socket accepts inherits this on Linux, so nobody pays for it.
pub(crate) fn ask(socket: SockRef<'_>) {
    let keep_alive = TcpKeepalive::new().with_time(SILENT);
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "macos",
        target_os = "freebsd",
        windows
    ))]
    let keep_alive = keep_alive.with_interval(EVERY);
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "freebsd"))]
    let keep_alive = keep_alive.with_retries(TIMES);
    if let Err(error) = socket.set_tcp_keepalive(&keep_alive) {
        tracing::debug!(%error, "the system does not ask after peers that are silent");
    }
}
