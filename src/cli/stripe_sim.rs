//! `prepaid402 stripe-sim`: the simulated Stripe alone.
