//! Which answers are charged.

use std::collections::BTreeSet;
use std::fmt;

/// A set of HTTP status codes such as `2xx, 304`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSet(BTreeSet<u16>);

impl StatusSet {
    /// The given codes.
    pub fn new(codes: impl IntoIterator<Item = u16>) -> Self {
        Self(codes.into_iter().collect())
    }

    /// 200 to 299. Not 3xx: whoever follows a redirect would pay twice.
    #[must_use]
    pub fn default_charged() -> Self {
        Self::new(200..300)
    }

    /// The same, and all of 3xx.
    #[must_use]
    pub fn with_redirects(&self) -> Self {
        Self::new(self.iter().chain(300..400))
    }

    /// Whether all of 3xx is in the set.
    #[must_use]
    pub fn has_redirects(&self) -> bool {
        (300..400).all(|status| self.contains(status))
    }

    /// Whether the code is in the set.
    #[must_use]
    pub fn contains(&self, status: u16) -> bool {
        self.0.contains(&status)
    }

    /// The codes in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied()
    }

    /// Whole classes as `2xx`, the rest code by code.
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut rest: BTreeSet<u16> = self.iter().collect();
        for class in 1..=9u16 {
            let codes = class * 100..class * 100 + 100;
            if codes.clone().all(|code| self.contains(code)) {
                words.push(format!("{class}xx"));
                rest.retain(|code| !codes.contains(code));
            }
        }
        words.extend(rest.iter().map(u16::to_string));
        words
    }

    /// The line of the file that says so: `charged_statuses = ["2xx", "304"]`.
    #[must_use]
    pub fn setting(&self) -> String {
        format!("charged_statuses = [\"{}\"]", self.words().join("\", \""))
    }
}

impl fmt::Display for StatusSet {
    /// `2xx, 304`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_sets_are_shown_by_class() {
        let charged = StatusSet::default_charged();
        assert_eq!(charged.to_string(), "2xx");
        assert_eq!(charged.with_redirects().setting(), r#"charged_statuses = ["2xx", "3xx"]"#);
        assert!(!charged.has_redirects() && charged.with_redirects().has_redirects());
        assert!(!StatusSet::new([200, 301]).has_redirects());
        assert_eq!(StatusSet::new((200..300).chain([304, 404])).to_string(), "2xx, 304, 404");
    }
}
