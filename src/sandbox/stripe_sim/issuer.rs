//! The card's bank: whether it takes the card, and what it makes of the CVC.
//!
//! A CVC lives in memory only, like a card number: neither the books' file nor an answer ever shows it.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::books::Books;
use super::cards::{Behaviour, Decline};
use super::objects::Card;

/// What a bank says of a CVC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CvcCheck {
    /// It is the card's.
    Pass,
    /// It is not.
    Fail,
    /// The bank does not check.
    Unavailable,
    /// The bank was given it and has not checked it.
    Unchecked,
}

/// A CVC as somebody typed it in.
#[derive(Clone, Default)]
pub(super) struct TypedCvc(Option<String>);

impl TypedCvc {
    /// What was typed in.
    pub(super) fn new(cvc: Option<&str>) -> Self {
        Self(cvc.map(str::to_owned))
    }
}

impl fmt::Debug for TypedCvc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypedCvc(..)")
    }
}

/// The CVCs that `POST /_sim/cvc` has told, by the card's fingerprint.
#[derive(Default)]
pub(super) struct TrueCvcs(HashMap<String, TrueCvc>);

struct TrueCvc {
    cvc: String,
    declines: bool,
}

impl fmt::Debug for TrueCvcs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrueCvcs(..)")
    }
}

impl TrueCvcs {
    /// From now on the card's CVC is that one, and whether the bank declines another; `None` forgets it.
    pub(super) fn tell(&mut self, fingerprint: String, cvc: Option<String>, declines: bool) {
        match cvc {
            Some(cvc) => drop(self.0.insert(fingerprint, TrueCvc { cvc, declines })),
            None => drop(self.0.remove(&fingerprint)),
        }
    }

    /// The card's CVC, if it is known and another one was typed in. A shared name such as `pm_card_visa` has the right one,
    /// and so has a card from before a restart: nobody knows any more what was typed in.
    fn contradicting(&self, card: &Card) -> Option<&TrueCvc> {
        let typed = card.cvc.0.as_ref()?;
        self.0.get(&card.fingerprint).filter(|known| known.cvc != *typed)
    }
}

/// What the bank says of the CVC when it is asked now; nothing when there is none to show it.
pub(super) fn cvc_check(books: &Books, card: &Card) -> Option<CvcCheck> {
    if !card.cvc_given || card.cvc_used {
        return None;
    }
    Some(match card.behaviour {
        Behaviour::CvcFails | Behaviour::IncorrectCvc => CvcCheck::Fail,
        Behaviour::CvcUnavailable => CvcCheck::Unavailable,
        Behaviour::CvcUnchecked => CvcCheck::Unchecked,
        _ if books.cvcs.contradicting(card).is_some() => CvcCheck::Fail,
        _ => CvcCheck::Pass,
    })
}

/// How the bank refuses a charge, when it refuses it outright.
pub(super) fn decline(books: &Books, card: &Card) -> Option<Decline> {
    let wrong_cvc = || {
        let shown = card.cvc_given && !card.cvc_used;
        let known = books.cvcs.contradicting(card).filter(|known| shown && known.declines);
        known.and_then(|_| Behaviour::IncorrectCvc.decline())
    };
    card.behaviour.decline().or_else(wrong_cvc)
}

/// How the bank refuses to have the card kept for later.
pub(super) fn decline_to_keep(books: &Books, card: &Card) -> Option<Decline> {
    decline(books, card).filter(|_| card.behaviour != Behaviour::DeclineAfterAttach)
}

/// The bank has taken the card: what it said of the CVC stays, the CVC itself does not.
pub(super) fn accepted(card: &mut Card, check: Option<CvcCheck>) {
    card.cvc_check = check.or(card.cvc_check);
    card.cvc_used = true;
    card.cvc = TypedCvc::default();
}
