//! Sources are read as they are written, and nothing else is one.
#![allow(clippy::unwrap_used, clippy::cmp_owned, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::program_text;

// What tests expect is written as it is stored.
impl PartialEq<&str> for Source {
    fn eq(&self, text: &&str) -> bool {
        self.to_string() == *text
    }
}

impl PartialEq<&str> for EntrySource {
    fn eq(&self, text: &&str) -> bool {
        self.to_string() == *text
    }
}

#[test]
fn every_kind_has_one_word_and_the_kinds_are_in_the_order_of_the_texts() {
    let prefixes = SourceKind::ALL.map(SourceKind::prefix);
    let mut sorted = prefixes;
    sorted.sort_unstable();
    assert_eq!(prefixes, sorted);
    for (place, kind) in SourceKind::ALL.into_iter().enumerate() {
        assert_eq!(SourceKind::from_word(kind.word()), Some(kind));
        assert_eq!(format!("{}:", kind.word()), kind.prefix());
        assert!(
            SourceKind::ALL[place + 1..].iter().all(|later| *later > kind && later.word() != kind.word())
        );
    }
}

/// What is stored in databases that exist already. Never change these.
#[test]
fn the_stored_texts_are_these() {
    let id = "0198c5f0-1c00-7000-8000-0123456789ab";
    let of = |kind, id| Source::named(kind, id).unwrap();
    for (source, text) in [
        (of(SourceKind::Usage, id), format!("usage:{id}")),
        (of(SourceKind::Hold, id), format!("hold:{id}")),
        (of(SourceKind::Release, id), format!("release:{id}")),
        (of(SourceKind::Reversal, id), format!("reversal:{id}")),
        (of(SourceKind::TopUp, id), format!("topup:{id}")),
        (of(SourceKind::Refund, id), format!("refund:{id}")),
        (of(SourceKind::RefundPaid, id), format!("refund-paid:{id}")),
        (of(SourceKind::RefundReturn, id), format!("refund-return:{id}")),
        (of(SourceKind::Dispute, "txn_1"), "dispute:txn_1".to_owned()),
        (of(SourceKind::Reinstatement, "txn_1"), "reinstatement:txn_1".to_owned()),
        (of(SourceKind::Fee, "txn_1"), "fee:txn_1".to_owned()),
        (of(SourceKind::DisputeFee, "txn_1"), "dispute-fee:txn_1".to_owned()),
        (of(SourceKind::Adjustment, id), format!("adjustment:{id}")),
        (of(SourceKind::WriteOffReturn, id), format!("write-off-return:{id}")),
        (of(SourceKind::WriteOffReturn, id).part(1), format!("write-off-return:{id}")),
        (of(SourceKind::WriteOffReturn, id).part(2), format!("write-off-return:{id}.2")),
    ] {
        assert_eq!(source.to_string(), text);
        assert_eq!(text.parse(), Ok(source.clone()));
        assert_eq!(source.entry(0).to_string(), text);
        assert_eq!(source.entry(2).to_string(), format!("{text}/3"));
        assert_eq!(format!("{text}/3").parse(), Ok(source.entry(2)));
        assert_eq!(matches!(source.id(), SourceId::Own(_)), text.contains(id));
    }
}

#[test]
fn what_is_no_source_is_refused() {
    use SourceError::{Malformed, UnknownKind};
    let long = format!("fee:{}", "x".repeat(256));
    for (text, why) in [
        ("", UnknownKind),
        ("a", UnknownKind),
        (":a", UnknownKind),
        ("repay:1", UnknownKind),
        ("Usage:1", UnknownKind),
        ("usage:", Malformed),
        ("usage:1/", Malformed),
        ("usage:1/1", Malformed),
        ("usage:1/02", Malformed),
        ("usage:1/+2", Malformed),
        ("usage:1/4", Malformed),
        ("usage:1/2/2", Malformed),
        ("usage:1.2", Malformed),
        ("usage:1:2", Malformed),
        ("usage:a b", Malformed),
        ("usage:a\"", Malformed),
        ("usage:ä", Malformed),
        ("write-off-return:a.1", Malformed),
        ("write-off-return:a.02", Malformed),
        ("write-off-return:a.2.3", Malformed),
        (&long, Malformed),
    ] {
        assert_eq!(text.parse::<EntrySource>(), Err(why), "{text}");
    }
    assert_eq!("usage:1/2".parse::<Source>(), Err(Malformed));
    assert!(long[..long.len() - 1].parse::<Source>().is_ok());
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_the_same(text in "(usage|fee|write-off-return|refund-paid|x)?:?[!-~]{0,40}(/[0-9]{1,2})?") {
        if let Ok(source) = text.parse::<EntrySource>() {
            prop_assert_eq!(source.to_string(), text);
        }
    }

    #[test]
    fn a_uuid_is_ours_in_its_usual_spelling_and_comes_back_as_it_was(bytes in any::<[u8; 16]>(), upper in any::<bool>()) {
        let mut text = Uuid::from_bytes(bytes).to_string();
        if upper {
            text = text.to_uppercase();
        }
        let source = Source::named(SourceKind::Usage, &text).unwrap();
        let is_usual = text == text.to_lowercase();
        prop_assert_eq!(matches!(source.id(), SourceId::Own(_)), is_usual);
        prop_assert_eq!(source.to_string(), format!("usage:{text}"));
    }
}

#[test]
fn siblings_are_of_the_same_thing_and_no_part_of_it() {
    let taken_back = Source::named(SourceKind::WriteOffReturn, "a").unwrap().part(3);
    assert_eq!(taken_back.sibling(SourceKind::Adjustment), "adjustment:a");
    let request = RequestId::new();
    let usage = Source::new(SourceKind::Usage, request);
    assert_eq!(usage.sibling(SourceKind::Hold), Source::new(SourceKind::Hold, request));
    assert_eq!(usage.id().to_string(), request.to_string());
}

/// Nothing of the client's moves without a rule that says so, and every kind has one.
#[test]
fn every_kind_has_a_rule_and_none_allows_one_account_twice() {
    for kind in SourceKind::ALL {
        let pairs: Vec<_> = Account::ALL
            .into_iter()
            .flat_map(|debit| Account::ALL.map(|credit| (debit, credit)))
            .filter(|(debit, credit)| kind.allows(*debit, *credit))
            .collect();
        assert!((1..=6).contains(&pairs.len()), "{kind:?}: {pairs:?}");
        assert!(pairs.iter().all(|(debit, credit)| debit != credit), "{kind:?}: {pairs:?}");
    }
}

// ---- the program's texts ------------------------------------------------------------------------------------------

/// Whether a line has a source as a text: a quote and a kind behind it.
fn has_source_as_text(line: &str) -> bool {
    let quoted = |word: &str| ['"', '\''].iter().any(|quote| line.contains(&format!("{quote}{word}")));
    SourceKind::ALL.iter().any(|kind| {
        // Words with a hyphen mean nothing else, so they are found without their colon, too.
        quoted(if kind.word().contains('-') { kind.word() } else { kind.prefix() })
    })
}

/// Whether a line has the number of an account: `debit = 5`, `credit IN (5, 6)`.
fn has_account_number(line: &str) -> bool {
    ["debit", "credit"].iter().any(|side| {
        line.match_indices(side).any(|(at, _)| {
            let rest = line[at + side.len()..].trim_start();
            let compared =
                ["IN (", "= ", "<> ", "=", "<>", "!= "].iter().find_map(|by| rest.strip_prefix(by));
            compared.is_some_and(|value| value.starts_with(|first: char| first.is_ascii_digit()))
        })
    })
}

/// These only look like sources.
const NO_SOURCES: [(&str, &str); 3] = [
    // Causes of freezes name the dispute.
    ("ledger/aftermath/disputes.rs", "format!(\"dispute:{id}\")"),
    ("shield/store.rs", "f.cause = 'dispute:' || d.id"),
    // The key of an operator's request, before it is hashed.
    ("http/admin/api/adjustments.rs", "format!(\"adjustment:{key}\")"),
];

#[test]
fn no_ledger_source_is_a_text_and_no_account_a_number_elsewhere() {
    let mut found = Vec::new();
    for file in program_text::files().iter().filter(|file| file.name != "ledger/source.rs") {
        for (number, line) in file.lines() {
            let is_known = NO_SOURCES.iter().any(|(name, known)| *name == file.name && line.contains(known));
            if (has_source_as_text(line) && !is_known) || has_account_number(line) {
                found.push(format!("{}:{number}: {}", file.name, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn what_the_look_at_the_program_finds() {
    for (line, is_found) in [
        ("format!(\"usage:{id}\")", true),
        ("WHERE e.source = 'hold:' || k.request", true),
        ("source LIKE 'topup:%'", true),
        ("Some(\"refund-paid\") => 1,", true),
        ("\"usage\": row.usage,", false),
        ("\"dispute\" => 1,", false),
        ("for usage: see there", false),
    ] {
        assert_eq!(has_source_as_text(line), is_found, "{line}");
    }
    for (line, is_found) in [
        ("AND (debit IN (5, 6) OR", true),
        ("WHERE credit = 8", true),
        ("WHERE credit = $1", false),
        ("credit IN ($3, $4)", false),
        ("let credit = known", false),
    ] {
        assert_eq!(has_account_number(line), is_found, "{line}");
    }
}
