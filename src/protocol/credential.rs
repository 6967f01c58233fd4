//! What a caller presents to pay, whatever protocol it speaks.

use crate::domain::{ClientKey, Micros, PaymentMethodId};
use crate::pricing::QuoteDigest;

use super::dialect::Dialect;

/// What a caller presents. At least one of `client_key` and `instrument` is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The protocol that it came in, in which the caller is answered.
    pub dialect: &'static Dialect,
    /// The wallet to spend from.
    pub client_key: Option<ClientKey>,
    /// What to charge when the balance does not suffice.
    pub instrument: Option<Instrument>,
    /// How much to charge; above zero.
    pub top_up_amount: Option<Micros>,
    /// Refuse when the price is above this.
    pub max_amount: Option<Micros>,
    /// Pay into a new wallet, although the instrument has founded one already.
    pub new_wallet: bool,
    /// The challenge that it answers, in protocols where a credential answers one.
    pub binding: Option<Binding>,
    /// A clientId was sent beside the card that this gateway has never issued, or promised in vain. It is left out, and the card is
    /// taken as if it had come alone.
    pub left_out_unknown_client: bool,
}

/// What can be charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instrument {
    /// A card that Stripe has tokenised.
    Card(PaymentMethodId),
}

/// The challenge that a credential answers, as it was sent back: [`Dialect::verify`] tells whether it is one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// What was offered.
    pub quote: QuoteDigest,
    /// Until when, in seconds since 1970.
    pub expires: i64,
    /// Makes the challenge one of a kind, so that it is used once.
    pub nonce: [u8; 16],
    /// Shows that it is one of ours.
    pub seal: [u8; 32],
}

impl Credential {
    /// The card, if that is what can be charged.
    #[must_use]
    pub fn card(&self) -> Option<&PaymentMethodId> {
        match &self.instrument {
            Some(Instrument::Card(card)) => Some(card),
            None => None,
        }
    }

    /// Whether anything can be charged.
    #[must_use]
    pub fn can_charge(&self) -> bool {
        self.instrument.is_some()
    }

    /// Takes the instrument as if it had come alone. `false`: there is none.
    pub fn leave_out_unknown_client(&mut self) -> bool {
        let can_charge = self.can_charge();
        if can_charge {
            self.client_key = None;
            self.left_out_unknown_client = true;
        }
        can_charge
    }
}
