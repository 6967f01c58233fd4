//! Faults on demand: what Stripe, or the network before it, can do to a caller.
//!
//! Faults are instructions for the requests to come; they are not kept across a restart.

use serde::{Deserialize, Serialize};

use super::endpoint::Endpoint;

/// Instructions that fit.
const MAX_FAULTS: usize = 1_000;

/// An instruction: which requests, how many of them, and what happens to them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    /// `payment_intents.create` and so on, or `any`.
    pub(super) on: String,
    /// What happens.
    pub(super) action: Action,
    /// How many requests it happens to.
    #[serde(default = "once")]
    pub(super) times: u32,
    /// Of a hundred matching requests, about how many; all when absent. The others pass, and do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    probability_percent: Option<u8>,
    /// The start of the dice for `probability_percent`: the same seed throws the same.
    #[serde(default)]
    seed: u64,
    /// For `hang`, `drop`, `unparsable` and `html_502`: whether the request is executed first. `hang` with `false`
    /// executes when it is released, and never if the caller has gone by then.
    #[serde(default = "yes")]
    pub(super) execute: bool,
    /// For `fail_before` and `fail_after`: whether the idempotency key remembers the 500, as it can at Stripe. Otherwise
    /// a retry gets the true result.
    #[serde(default)]
    pub(super) saved: bool,
    /// For `rate_limit`: the answer's `Retry-After`.
    #[serde(default = "one_second")]
    pub(super) retry_after_seconds: u32,
}

fn once() -> u32 {
    1
}

fn yes() -> bool {
    true
}

fn one_second() -> u32 {
    1
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    /// 500, and nothing was done.
    FailBefore,
    /// 500, although it was done.
    FailAfter,
    /// No answer until `POST /_sim/release`.
    Hang,
    /// 429, before the idempotency key is looked at.
    RateLimit,
    /// Done, and the connection is closed without an answer.
    Drop,
    /// Done, and the answer is 200 with half of the JSON.
    Unparsable,
    /// Done, and the answer is somebody's HTML page.
    #[serde(rename = "html_502")]
    Html502,
}

/// Why an instruction is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FaultError {
    /// `on` names no endpoint.
    #[error("\"on\" must be \"any\" or one of {0}")]
    UnknownEndpoint(String),
    /// More than a hundred percent.
    #[error("\"probability_percent\" must be from 0 to 100")]
    Probability,
    /// Too many.
    #[error("there are too many faults; DELETE /_sim/faults first")]
    TooMany,
}

/// The instructions that wait.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    /// Adds instructions: all or, if one is wrong, none.
    pub(super) fn add(&mut self, faults: Vec<Fault>) -> Result<(), FaultError> {
        if self.0.len().saturating_add(faults.len()) > MAX_FAULTS {
            return Err(FaultError::TooMany);
        }
        for fault in &faults {
            if fault.on != "any" && !Endpoint::ALL.iter().any(|endpoint| endpoint.name() == fault.on) {
                let names: Vec<_> = Endpoint::ALL.iter().map(|endpoint| endpoint.name()).collect();
                return Err(FaultError::UnknownEndpoint(names.join(", ")));
            }
            if fault.probability_percent.is_some_and(|percent| percent > 100) {
                return Err(FaultError::Probability);
            }
        }
        self.0.extend(faults);
        Ok(())
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What is left.
    pub(super) fn remaining(&self) -> &[Fault] {
        &self.0
    }

    /// The fault that happens to this request, if any: the oldest that matches.
    pub(super) fn take(&mut self, endpoint: Endpoint) -> Option<Fault> {
        let at = self.0.iter_mut().position(|fault| {
            (fault.on == "any" || fault.on == endpoint.name()) && fault.times > 0 && fault.hits()
        })?;
        self.0[at].times = self.0[at].times.saturating_sub(1);
        let fault = self.0[at].clone();
        self.0.retain(|fault| fault.times > 0);
        Some(fault)
    }
}

impl Fault {
    fn hits(&mut self) -> bool {
        let Some(percent) = self.probability_percent else { return true };
        // SplitMix64: <https://prng.di.unimi.it/splitmix64.c>. Good enough for dice, and the same on every machine.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut dice = self.seed;
        dice = (dice ^ (dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        dice = (dice ^ (dice >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        dice ^= dice >> 31;
        dice % 100 < u64::from(percent)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn faults(json: &str) -> Faults {
        let mut faults = Faults::default();
        faults.add(serde_json::from_str(json).unwrap()).unwrap();
        faults
    }

    #[test]
    fn a_fault_happens_to_its_endpoint_so_many_times() {
        let mut faults = faults(
            r#"[{"on":"payment_intents.confirm","action":"drop","times":2},{"on":"any","action":"html_502"}]"#,
        );
        let confirm = Endpoint::ConfirmIntent;
        for (endpoint, expected) in [
            (confirm, Some(Action::Drop)),
            (Endpoint::CreateCustomer, Some(Action::Html502)),
            (Endpoint::CreateCustomer, None),
            (confirm, Some(Action::Drop)),
            (confirm, None),
        ] {
            assert_eq!(faults.take(endpoint).map(|fault| fault.action), expected);
        }
        assert!(faults.remaining().is_empty());
    }

    #[test]
    fn the_same_seed_throws_the_same_dice() {
        let run = |percent: u8| -> Vec<bool> {
            let mut faults = faults(&format!(
                r#"[{{"on":"any","action":"drop","times":1000,"probability_percent":{percent},"seed":7}}]"#
            ));
            (0..400).map(|_| faults.take(Endpoint::CreateIntent).is_some()).collect()
        };
        assert_eq!(run(30), run(30));
        let hits = run(30).into_iter().filter(|hit| *hit).count();
        assert!((80..160).contains(&hits), "{hits} of 400");
        assert!(run(0).iter().all(|hit| !hit));
        assert!(run(100).iter().all(|hit| *hit));
    }

    #[test]
    fn wrong_instructions_are_refused() {
        for json in [
            r#"[{"on":"payment_intents.create"}]"#,
            r#"[{"on":"any","action":"explode"}]"#,
            r#"[{"on":"any","action":"drop","tmes":2}]"#,
        ] {
            assert!(serde_json::from_str::<Vec<Fault>>(json).is_err(), "{json}");
        }
        let add = |json: &str| Faults::default().add(serde_json::from_str(json).unwrap()).unwrap_err();
        assert!(matches!(
            add(r#"[{"on":"charges.destroy","action":"drop"}]"#),
            FaultError::UnknownEndpoint(_)
        ));
        assert_eq!(
            add(r#"[{"on":"any","action":"drop","probability_percent":101}]"#),
            FaultError::Probability
        );
    }
}
