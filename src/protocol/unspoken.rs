//! Payment protocols that this gateway knows of and does not speak. Their credentials are money to somebody: they are refused, and no
//! upstream sees them.

use super::dialect::{Claim, When};

/// A protocol that is not spoken.
#[derive(Debug)]
pub struct Unspoken {
    /// For people and logs.
    pub name: &'static str,
    /// The request headers that are its credentials.
    pub claims: &'static [Claim],
}

/// x402, version 2 and version 1: signed authorisations to move stablecoins.
pub(super) static X402: Unspoken = Unspoken {
    name: "x402",
    claims: &[
        Claim { name: "payment-signature", when: When::Always },
        Claim { name: "x-payment", when: When::Always },
    ],
};

/// The Machine Payments Protocol: the `Payment` authentication scheme, in either header that its clients use.
pub(super) static MPP: Unspoken = Unspoken {
    name: "MPP",
    claims: &[
        Claim { name: "authorization", when: When::Scheme("Payment") },
        Claim { name: "payment-authorization", when: When::Always },
    ],
};
