//! Card data: where it comes from, and a type that never shows it.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::domain::PaymentMethodId;
use crate::files::{ALL_BUT_OWNER, Exposure, exposure};

/// The largest card file, in bytes.
const MAX_FILE: u64 = 4 * 1024;

/// Stripe's test numbers of every brand whose charges succeed. <https://docs.stripe.com/testing>
pub const PAYING_TEST_NUMBERS: [&str; 12] = [
    "4242424242424242",
    "4000056655665556",
    "5555555555554444",
    "2223003122003222",
    "5200828282828210",
    "5105105105105100",
    "378282246310005",
    "371449635398431",
    "6011111111111117",
    "6011000990139424",
    "3566002020360505",
    "6200000000000005",
];

/// The other documented test numbers. Only these and those above are accepted on a command line: arguments are visible to every
/// process. <https://docs.stripe.com/testing>
const OTHER_TEST_NUMBERS: &[&str] = &[
    // Succeed.
    "6011981111111113",
    "3056930009020004",
    "36227206271667",
    "6555900000604105",
    "4000000000000077",
    "4000003720000278",
    // Decline.
    "4000000000000002",
    "4000000000009995",
    "4000000000009987",
    "4000000000009979",
    "4000000000000069",
    "4000000000000127",
    "4000000000000119",
    "4242424242424241",
    "4000000000006975",
    "4000000000000341",
    // Fraud checks and disputes.
    "4100000000000019",
    "4000000000004954",
    "4000000000009235",
    "4000000000000101",
    "4000000000000259",
    "4000000000002685",
    "4000000000001976",
    "4000000000005423",
    // 3-D Secure.
    "4000002500003155",
    "4000002760003184",
    "4000003800000446",
    "4000008260003178",
    "4000008400001629",
    "4000008400001280",
    "4000000000003220",
    "4000000000003063",
    "4000000000003055",
    // Refunds that fail later.
    "4000000000005126",
    "4000000000007726",
];

/// A card. Lives from the moment it is needed until Stripe has tokenised it.
#[derive(Clone, PartialEq, Eq)]
pub struct Card {
    number: String,
    month: u8,
    year: u16,
    cvc: String,
}

/// Why there is no usable card. No variant holds any of its data.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// Cannot be opened or read.
    #[error("the card file {path} cannot be read: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Anybody in the group, or everybody, may read it.
    #[error("the card file {0} can be read by others; run: chmod 600 {0}")]
    ReadableByOthers(String),
    /// Neither of the two forms.
    #[error(
        "the card file must hold the lines number=…, exp=MM/YY and cvc=…, or a JSON object with these three texts"
    )]
    Form,
    /// Wrong number of digits.
    #[error("the card number must have 12 to 19 digits")]
    Number,
    /// Not a month and a year.
    #[error("the expiry must be MM/YY")]
    Expiry,
    /// Wrong number of digits.
    #[error("the CVC must have 3 or 4 digits")]
    Cvc,
    /// Arguments are visible to every process of the machine.
    #[error(
        "only Stripe's test card numbers are accepted on the command line, because other programs can read it; put a real card in a file and use --card-file FILE"
    )]
    RealNumberOnCommandLine,
}

impl Card {
    /// A card from its three fields. Spaces and dashes in the number are ignored.
    ///
    /// # Errors
    /// [`CardError`] names the field.
    pub fn new(number: &str, expiry: &str, cvc: &str) -> Result<Self, CardError> {
        let number: String = number.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
        if !(12..=19).contains(&number.len()) || !all_digits(&number) {
            return Err(CardError::Number);
        }
        let (month, year) = expiry.trim().split_once('/').ok_or(CardError::Expiry)?;
        let (month, year) = (month.trim(), year.trim());
        let long = match year.len() {
            2 => format!("20{year}"),
            4 => year.to_owned(),
            _ => return Err(CardError::Expiry),
        };
        if !all_digits(month) || !all_digits(&long) {
            return Err(CardError::Expiry);
        }
        let month = month.parse().ok().filter(|month| (1..=12).contains(month)).ok_or(CardError::Expiry)?;
        let year = long.parse().map_err(|_| CardError::Expiry)?;
        let cvc = cvc.trim();
        if !(3..=4).contains(&cvc.len()) || !all_digits(cvc) {
            return Err(CardError::Cvc);
        }
        Ok(Self { number, month, year, cvc: cvc.to_owned() })
    }

    /// A card from the command line: one of Stripe's test numbers.
    ///
    /// # Errors
    /// [`CardError::RealNumberOnCommandLine`] for any other number.
    pub fn from_command_line(number: &str, expiry: &str, cvc: &str) -> Result<Self, CardError> {
        let card = Self::new(number, expiry, cvc)?;
        let number = card.number.as_str();
        if !PAYING_TEST_NUMBERS.contains(&number) && !OTHER_TEST_NUMBERS.contains(&number) {
            return Err(CardError::RealNumberOnCommandLine);
        }
        Ok(card)
    }

    /// Reads `number=…`, `exp=…`, `cvc=…` lines, or a JSON object with these fields.
    ///
    /// # Errors
    /// [`CardError`], without any of the content.
    pub fn parse(text: &str) -> Result<Self, CardError> {
        if text.trim_start().starts_with('{') {
            let fields: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text).map_err(|_| CardError::Form)?;
            let field = |name| fields.get(name).and_then(|value| value.as_str()).ok_or(CardError::Form);
            return Self::new(field("number")?, field("exp")?, field("cvc")?);
        }
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim()).ok_or(CardError::Form)
        };
        Self::new(field("number")?, field("exp")?, field("cvc")?)
    }

    /// The form fields of Stripe's `POST /v1/payment_methods`. Every value is digits, so nothing needs escaping.
    pub(super) fn form(&self) -> String {
        let Self { number, month, year, cvc } = self;
        format!(
            "type=card&card%5Bnumber%5D={number}&card%5Bexp_month%5D={month}&card%5Bexp_year%5D={year}&card%5Bcvc%5D={cvc}"
        )
    }
}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Card(redacted)")
    }
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// What pays for a top-up.
#[derive(Debug, Clone)]
pub enum CardSource {
    /// Nothing: only a balance can be spent.
    None,
    /// A card that was tokenised elsewhere.
    PaymentMethod(PaymentMethodId),
    /// Read when a top-up is needed, and not before.
    File(PathBuf),
    /// Standard input, read when a top-up is needed.
    Stdin,
    /// One of Stripe's test cards.
    Test(Card),
}

impl CardSource {
    /// Whether there is something to pay with.
    #[must_use]
    pub fn exists(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// Reads a card file that only its owner may read. Where that is not ours to change, as with the secrets of containers, `say` is
/// told.
///
/// # Errors
/// [`CardError`], without any of the content.
pub(super) fn read_file(path: &Path, say: fn(&str)) -> Result<Card, CardError> {
    let failed = |source| CardError::Read { path: path.display().to_string(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    match exposure(path, &file.metadata().map_err(failed)?, ALL_BUT_OWNER) {
        Exposure::None => {}
        Exposure::Ours => return Err(CardError::ReadableByOthers(path.display().to_string())),
        Exposure::NotOurs => say(&format!(
            "the card file {} can be read by others, which only its owner can change; usual in a container",
            path.display()
        )),
    }
    read(file).map_err(failed).and_then(|text| Card::parse(&text))
}

/// Reads a card from standard input, to its end.
///
/// # Errors
/// [`CardError`], without any of the content.
pub(super) fn read_stdin() -> Result<Card, CardError> {
    let failed = |source| CardError::Read { path: "standard input".to_owned(), source };
    read(std::io::stdin()).map_err(failed).and_then(|text| Card::parse(&text))
}

fn read(from: impl std::io::Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_give_the_same_card() {
        let lines = Card::parse("number=4242 4242 4242 4242\nexp=12/34\ncvc=123\n").expect("lines");
        let json =
            Card::parse(r#"{"number":"4242-4242-4242-4242","exp":"12/2034","cvc":"123"}"#).expect("json");
        assert_eq!(lines, json);
        assert!(
            lines
                .form()
                .contains("card%5Bnumber%5D=4242424242424242&card%5Bexp_month%5D=12&card%5Bexp_year%5D=2034")
        );
    }

    #[test]
    fn neither_debug_nor_errors_show_a_card() {
        let card = Card::new("4242424242424242", "12/34", "987").expect("valid");
        assert_eq!(format!("{card:?}"), "Card(redacted)");
        for text in [
            "number=4111111111111111",
            r#"{"number":4111111111111111,"exp":"1/30","cvc":"123"}"#,
            "number=4111111111111111\nexp=13/30\ncvc=123",
            "number=4111111111111111\nexp=1/30\ncvc=12",
            "number=4111111111111111x\nexp=1/30\ncvc=123",
        ] {
            let error = Card::parse(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("4111"), "{error:?}");
        }
    }

    #[test]
    fn only_test_numbers_come_from_the_command_line() {
        assert!(Card::from_command_line("4242424242424242", "12/34", "123").is_ok());
        assert!(matches!(
            Card::from_command_line("4111111111111111", "12/34", "123"),
            Err(CardError::RealNumberOnCommandLine)
        ));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("card");
        std::fs::write(&path, "number=4242424242424242\nexp=12/34\ncvc=123\n").expect("write");
        for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
            assert_eq!(read_file(&path, |_| {}).is_ok(), fine, "{mode:o}");
        }
    }
}
