//! Which address a request comes from when proxies stand in front.

use std::net::{IpAddr, SocketAddr};

use crate::config::IpNetwork;

/// The right-most address that is not a trusted proxy.
///
/// `X-Forwarded-For` is believed only as far as trusted proxies wrote it: from the right, beginning with the peer. Several
/// header lines are one list in order. Something that is no address ends the walk at the last address that a trusted proxy
/// vouched for. IPv4-mapped IPv6 addresses are answered as IPv4.
pub fn client_address<'a>(
    peer: IpAddr,
    x_forwarded_for: impl Iterator<Item = &'a str>,
    trusted: &[IpNetwork],
) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut believed = peer.to_canonical();
    if !is_trusted(believed) {
        return believed;
    }
    let lines: Vec<&str> = x_forwarded_for.collect();
    for entry in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Some(address) = parse(entry.trim_matches([' ', '\t'])) else {
            return believed;
        };
        believed = address;
        if !is_trusted(believed) {
            return believed;
        }
    }
    believed
}

/// An address, or one with a port as some proxies write it.
fn parse(entry: &str) -> Option<IpAddr> {
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || entry.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    entry.parse::<IpAddr>().ok().or_else(bracketed).or_else(with_port).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        let network = |text: &str| {
            let (address, prefix) = text.split_once('/').expect("a prefix");
            IpNetwork { address: address.parse().expect("address"), prefix: prefix.parse().expect("prefix") }
        };
        texts.iter().map(|text| network(text)).collect()
    }

    #[test]
    fn the_right_most_address_that_is_not_a_trusted_proxy() {
        let trusted = networks(&["10.0.0.0/8", "192.168.1.1/32", "fd00::/8"]);
        let cases: [(&str, &[&str], &str); 19] = [
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("203.0.113.1", &["198.51.100.7"], "203.0.113.1"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9, 10.2.2.2,192.168.1.1"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9", "10.2.2.2", "192.168.1.1"], "203.0.113.9"),
            ("10.0.0.1", &["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
            ("10.0.0.1", &["203.0.113.9, unknown, 10.2.2.2"], "10.2.2.2"),
            ("10.0.0.1", &["203.0.113.9, _hidden"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9,"], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("10.0.0.1", &["[2001:db8::1]:4711, [fd00::1]"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("::ffff:203.0.113.1", &["1.1.1.1"], "203.0.113.1"),
            ("fd00::5", &["2001:db8::7"], "2001:db8::7"),
            ("192.168.1.2", &["1.1.1.1"], "192.168.1.2"),
            ("10.0.0.1", &["203.0.113.9\u{a0}"], "10.0.0.1"),
        ];
        for (peer, lines, expected) in cases {
            let answer = client_address(peer.parse().expect("peer"), lines.iter().copied(), &trusted);
            assert_eq!(answer, expected.parse::<IpAddr>().expect("address"), "{peer} {lines:?}");
        }
    }

    #[test]
    fn networks_hold_what_their_prefix_says() {
        for (network, address, expected) in [
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("10.0.0.0/9", "10.128.0.0", false),
            ("10.0.0.0/9", "10.127.255.255", true),
            ("10.0.0.1/99", "10.0.0.1", true),
            ("10.0.0.1/99", "10.0.0.2", false),
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
            ("::ffff:10.0.0.0/104", "11.0.0.0", false),
            ("2001:db8::/32", "2001:db9::", false),
        ] {
            let answer = networks(&[network])[0].contains(address.parse().expect("address"));
            assert_eq!(answer, expected, "{network} {address}");
        }
    }

    proptest! {
        #[test]
        fn an_untrusted_peer_cannot_claim_another_address(peer in any::<[u8; 4]>(), claim in any::<String>()) {
            prop_assume!(peer[0] != 10);
            let peer = IpAddr::from(peer);
            prop_assert_eq!(client_address(peer, [claim.as_str()].into_iter(), &networks(&["10.0.0.0/8"])), peer);
        }

        #[test]
        fn what_the_caller_writes_changes_nothing(claim in any::<String>(), client in any::<[u8; 4]>()) {
            prop_assume!(client[0] != 10);
            let appended = format!("{claim}, {}", IpAddr::from(client));
            let trusted = networks(&["10.0.0.0/8"]);
            let answer = client_address(IpAddr::from([10, 0, 0, 1]), [appended.as_str()].into_iter(), &trusted);
            prop_assert_eq!(answer, IpAddr::from(client));
        }
    }
}
