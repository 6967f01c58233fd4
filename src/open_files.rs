//! How many connections this process can have open: each is a file to the system, and systems allow few unless they are asked.

use crate::config::LimitsConfig;

/// Files for everything but connections of callers and to the upstream: database, log, libraries.
const OTHER_FILES: usize = 128;

/// Asks the system for as many open files as it lets this process have. Without effect where it is refused.
pub(crate) fn allow_as_many_as_possible() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the system allows no more open files");
        }
    }
}

/// Connections of callers that there may be: as configured, or fewer where the system allows few files. One that is served may
/// need another one to the upstream.
pub(crate) fn connections(limits: &LimitsConfig) -> usize {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit};
        let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
        let possible = files.map(|files| files.saturating_sub(OTHER_FILES).div_euclid(2).max(1));
        if let Some(possible) = possible.filter(|possible| *possible < limits.max_connections) {
            tracing::warn!(
                "the system allows this process so few open files that {possible} connections are taken instead of {}, \
                 limits.max_connections; raise it with ulimit -n or LimitNOFILE",
                limits.max_connections
            );
            return possible;
        }
    }
    limits.max_connections
}
