//! How much of the internet several networks hold together.

use std::net::IpAddr;

use super::IpNetwork;

/// Addresses that are given out on the internet, first and last: all of IPv4, and 2000::/3 of IPv6.
const PUBLIC_4: (u128, u128) = (0, 0xffff_ffff);
const PUBLIC_6: (u128, u128) = (0x2000 << 112, (0x4000 << 112) - 1);

/// Whether half of all addresses or more are in these networks, of IPv4 or of IPv6, in whatever pieces: nobody has so many proxies.
pub(super) fn hold_the_internet(networks: &[IpNetwork]) -> bool {
    let (mut of_4, mut of_6) = (Vec::new(), Vec::new());
    for network in networks {
        match network.canonical() {
            (IpAddr::V4(base), prefix) => of_4.push(range(u128::from(u32::from(base)), 32, prefix)),
            (IpAddr::V6(base), prefix) => of_6.push(range(base.into(), 128, prefix)),
        }
    }
    holds_half(of_4, PUBLIC_4) || holds_half(of_6, PUBLIC_6)
}

/// First and last address.
fn range(base: u128, bits: u8, prefix: u8) -> (u128, u128) {
    let free = u32::from(bits.saturating_sub(prefix));
    let rest = 1u128.checked_shl(free).map_or(u128::MAX, |size| size.wrapping_sub(1));
    (base & !rest, base | rest)
}

/// Whether at least half of `all` is in one of these ranges or another.
fn holds_half(mut ranges: Vec<(u128, u128)>, all: (u128, u128)) -> bool {
    ranges.sort_unstable();
    let half = (all.1 - all.0) / 2 + 1;
    let (mut held, mut next) = (0u128, all.0);
    for (first, last) in ranges {
        let (first, last) = (first.max(next), last.min(all.1));
        if first <= last {
            held += last - first + 1;
            next = last + 1;
        }
    }
    held >= half
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
