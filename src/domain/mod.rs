//! Values without I/O: money, currencies, identifiers. Everything else may use this folder; it uses nothing of ours.

pub mod currency;
pub mod ids;
pub mod money;
pub mod stripe_mode;

pub use currency::{Currency, decimal_in, minor_text};
pub use ids::{
    ClientKey, ClientPublicId, InstallationId, KeyId, NodeId, PaymentMethodId, RefundId, RequestId,
    SecretHash, TopUpId,
};
pub use money::{Micros, MoneyError, Units};
pub use stripe_mode::StripeMode;
