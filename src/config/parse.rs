//! Small parsers for the texts in the file: durations, statuses, networks, web addresses. Pure and bounded.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use super::IpNetwork;

/// Parses `500ms`, `30s`, `5m` or `1h`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    if number.is_empty() || number.len() > 9 {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

/// Writes a duration the way [`duration`] reads it.
pub(crate) fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        m if m % 60_000 == 0 => format!("{}m", m / 60_000),
        m if m % 1_000 == 0 => format!("{}s", m / 1_000),
        m => format!("{m}ms"),
    }
}

/// The codes that `2xx` or `304` stand for; `None` when it is neither, or outside 200 to 599.
pub(super) fn statuses(text: &str) -> Option<std::ops::Range<u16>> {
    let class = match text {
        "2xx" => 200,
        "3xx" => 300,
        "4xx" => 400,
        "5xx" => 500,
        _ => {
            let code: u16 = (text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit()))
                .then(|| text.parse().ok())
                .flatten()
                .filter(|code| (200..600).contains(code))?;
            return Some(code..code + 1);
        }
    };
    Some(class..class + 100)
}

/// The text is not an address or a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a network such as \"10.0.0.0/8\" or an address such as \"192.0.2.7\"")]
pub struct NotANetwork;

/// Read here, and not by `ipnet`: that takes `010.0.0.1` for an address, which others read as octal, and no address without a prefix.
impl FromStr for IpNetwork {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) if digits.len() <= 3 && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| NotANetwork)?
            }
            Some(_) => return Err(NotANetwork),
        };
        if prefix > bits {
            return Err(NotANetwork);
        }
        Ok(Self { address, prefix })
    }
}

impl IpNetwork {
    /// IPv4 written as IPv6 (`::ffff:10.0.0.0/104`) counts as IPv4, and a prefix longer than the address means the whole address.
    pub(super) fn canonical(&self) -> IpNet {
        let (base, prefix) = match (self.address, self.address.to_canonical(), self.prefix.checked_sub(96)) {
            (IpAddr::V6(_), mapped @ IpAddr::V4(_), Some(prefix)) => (mapped, prefix),
            _ => (self.address, self.prefix),
        };
        IpNet::new(base, prefix).unwrap_or(IpNet::from(base))
    }

    /// Whether the address is in this network. IPv4 written as IPv6 (`::ffff:10.0.0.1`) counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.canonical().contains(&address.to_canonical())
    }
}

/// A web address, taken apart. Here, and not by `url`, which mends what is to be refused (`http:///host`, `0x7f.1`, a backslash), and
/// writes hosts and ports in another way than the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WebAddress {
    /// `http` or `https`.
    pub(super) scheme: String,
    /// Lower case, without brackets.
    pub(super) host: String,
    /// The port, given or the scheme's own.
    pub(super) port: u16,
    /// Lower-case `scheme://host[:port]`.
    pub(super) origin: String,
    /// As written; empty or starting with `/`.
    pub(super) path: String,
}

impl WebAddress {
    /// Parses `http(s)://host[:port][/path]`.
    ///
    /// # Errors
    /// A sentence that says what is wrong; it never echoes the text, which may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "is not a web address such as \"http://127.0.0.1:8080\"";
        if text.len() > 2_000 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(SHAPE);
        }
        if text.contains(['?', '#']) {
            return Err("must not have a query (?) or a fragment (#)");
        }
        let (scheme, rest) = text.split_once("://").ok_or(SHAPE)?;
        let scheme = scheme.to_ascii_lowercase();
        let standard_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return Err("must start with http:// or https://"),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(
                "must not hold a user name or password: use [[upstream.headers]] with value_env instead",
            );
        }
        if path.contains('\\') {
            return Err(SHAPE);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']').ok_or(SHAPE)?;
                host.parse::<Ipv6Addr>().map_err(|_| SHAPE)?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(SHAPE)?) })
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            None => standard_port,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or("has a port outside 1 to 65535")?
            }
            Some(_) => return Err(SHAPE),
        };
        let host = host.to_ascii_lowercase();
        if !is_host(&host) {
            return Err("does not name a host");
        }
        let origin = format!("{scheme}://{}", authority.to_ascii_lowercase());
        Ok(Self { scheme, host, port, origin, path: path.to_owned() })
    }

    /// The host as an address, when it is one.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether the host is this machine.
    pub(super) fn is_loopback(&self) -> bool {
        match self.ip() {
            Some(address) => address.to_canonical().is_loopback(),
            None => self.host == "localhost" || self.host.ends_with(".localhost"),
        }
    }
}

/// The origin that a `Host` header names. `None` for what is no host.
pub(crate) fn origin_of(scheme: &str, host: &str) -> Option<String> {
    let address = WebAddress::parse(&format!("{scheme}://{host}")).ok()?;
    address.path.is_empty().then_some(address.origin)
}

/// The host that an authority such as `Host` names, in lower case and without brackets and a final dot. `None`: it is not one
/// that every reader would take for the same.
pub(crate) fn host_of(authority: &str) -> Option<String> {
    let address =
        WebAddress::parse(&format!("http://{authority}")).ok().filter(|address| address.path.is_empty())?;
    let host = address.host.strip_suffix('.').unwrap_or(&address.host);
    Some(host.to_owned())
}

/// An IP address in its usual form, or a name. Names that resolvers read as numbers (`2852039166`, `0x7f.1`) are neither.
fn is_host(host: &str) -> bool {
    if host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or(name);
    let numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    !numeric
        && name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
}

#[cfg(test)]
mod tests;
