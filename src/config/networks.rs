//! How much of the internet several networks hold together.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};

use super::IpNetwork;

/// Addresses of IPv6 that are given out on the internet. Of IPv4, all count.
const PUBLIC_6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Whether half of all addresses or more are in these networks, of IPv4 or of IPv6, in whatever pieces: nobody has so many proxies.
pub(super) fn hold_the_internet(networks: &[IpNetwork]) -> bool {
    let networks = networks.iter().map(IpNetwork::canonical).collect();
    let (mut of_4, mut of_6) = (0u64, 0u128);
    for network in IpNet::aggregate(&networks) {
        match network {
            IpNet::V4(network) => of_4 += 1u64 << (32 - network.prefix_len()),
            IpNet::V6(network) if network.contains(&PUBLIC_6) => return true,
            IpNet::V6(network) if PUBLIC_6.contains(&network) => {
                of_6 += 1u128 << (128 - network.prefix_len())
            }
            IpNet::V6(_) => {}
        }
    }
    of_4 >= 1 << 31 || of_6 >= 1 << 124
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(texts: &[&str]) -> bool {
        let networks: Vec<IpNetwork> = texts.iter().map(|text| text.parse().expect("a network")).collect();
        hold_the_internet(&networks)
    }

    #[test]
    fn the_internet_in_pieces_is_the_internet() {
        for whole in [
            &["0.0.0.0/0"][..],
            &["::/0"],
            &["0.0.0.0/1", "128.0.0.0/1"],
            &["10.0.0.0/8", "200.1.2.3/1", "1.2.3.4/1"],
            &["0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/3"],
            &["128.0.0.0/1"],
            &["::ffff:0.0.0.0/96"],
            &["::ffff:0.0.0.0/97", "128.0.0.0/1"],
            &["::/1", "8000::/1"],
            &["::/1"],
            &["2000::/4", "3000::/4"],
            &["2000::/3"],
        ] {
            assert!(holds(whole), "{whole:?}");
        }
        // Pieces of any size.
        let pieces: Vec<String> = (0..=255).map(|first| format!("{first}.0.0.0/8")).collect();
        assert!(holds(&pieces.iter().map(String::as_str).collect::<Vec<_>>()));
    }

    #[test]
    fn proxies_are_not_the_internet() {
        for some in [
            &[][..],
            &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10", "::1", "127.0.0.1"],
            &["0.0.0.0/2", "0.0.0.0/2", "0.0.0.0/3", "64.0.0.0/3"],
            &["2400:cb00::/32", "2606:4700::/32", "2c0f:f248::/32", "2a06:98c0::/29"],
            &["2000::/5", "2000::/5", "fc00::/7", "8000::/1"],
            &["::ffff:10.0.0.0/104"],
        ] {
            assert!(!holds(some), "{some:?}");
        }
    }
}
