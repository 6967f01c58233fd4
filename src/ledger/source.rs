//! What an entry stands for: a kind, and the id of what caused it. The source of a command is its idempotency key.
//!
//! Stored as text, `KIND:ID`: `usage:0198…`, `fee:txn_1`. The second entry of a command has `/2` behind it, the third `/3`; the
//! second part of a write-off that is taken back has `.2` behind its id. Only this module knows that text. Everything else asks
//! for a [`SourceKind`], also for the prefix by which a statement joins entries.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

use super::account::Account;
use super::core::MAX_LEGS;
use crate::domain::{RefundId, RequestId, TopUpId};

/// The longest id that others may give: Stripe promises 255 characters.
const MAX_FOREIGN: usize = 255;

/// What kind of thing moved the money. In the order of the stored texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// An operator gave credit, or wrote debt off.
    Adjustment,
    /// What Stripe charged for a dispute, or gave back of it; by balance transaction.
    DisputeFee,
    /// Money that a dispute took; by balance transaction.
    Dispute,
    /// What Stripe kept of a charge; by balance transaction.
    Fee,
    /// Set aside for a request that runs.
    Hold,
    /// A refund left for the card.
    RefundPaid,
    /// A refund came back.
    RefundReturn,
    /// Credit taken for a refund.
    Refund,
    /// Money that a dispute gave back; by balance transaction.
    Reinstatement,
    /// A hold, or what was left of it, given back.
    Release,
    /// A request that was charged, given back.
    Reversal,
    /// A charge that became credit.
    TopUp,
    /// A request that was charged.
    Usage,
    /// Debt that was written off, taken back; in parts.
    WriteOffReturn,
}

impl SourceKind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Adjustment,
        Self::DisputeFee,
        Self::Dispute,
        Self::Fee,
        Self::Hold,
        Self::RefundPaid,
        Self::RefundReturn,
        Self::Refund,
        Self::Reinstatement,
        Self::Release,
        Self::Reversal,
        Self::TopUp,
        Self::Usage,
        Self::WriteOffReturn,
    ];

    /// What its sources begin with, for statements: `usage:`.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Adjustment => "adjustment:",
            Self::DisputeFee => "dispute-fee:",
            Self::Dispute => "dispute:",
            Self::Fee => "fee:",
            Self::Hold => "hold:",
            Self::RefundPaid => "refund-paid:",
            Self::RefundReturn => "refund-return:",
            Self::Refund => "refund:",
            Self::Reinstatement => "reinstatement:",
            Self::Release => "release:",
            Self::Reversal => "reversal:",
            Self::TopUp => "topup:",
            Self::Usage => "usage:",
            Self::WriteOffReturn => "write-off-return:",
        }
    }

    /// The stored word, without its colon.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.prefix().trim_end_matches(':')
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Its rule for accounts: whether an entry of this kind may debit the one and credit the other.
    #[must_use]
    pub const fn allows(self, debit: Account, credit: Account) -> bool {
        use Account::{
            Adjustment, Clearing, ClientBonus, ClientDebt, ClientPaid, Dispute, Fees, Holds, Promotion,
            RefundPending, Revenue,
        };
        match self {
            Self::Usage => matches!((debit, credit), (ClientPaid | ClientBonus | Holds, Revenue)),
            Self::Hold => matches!((debit, credit), (ClientPaid | ClientBonus, Holds)),
            Self::Release => matches!((debit, credit), (Holds, ClientPaid | ClientBonus)),
            Self::Reversal => matches!((debit, credit), (Revenue, ClientPaid | ClientBonus)),
            Self::TopUp => {
                matches!((debit, credit), (Clearing(_), ClientPaid | ClientDebt) | (Promotion, ClientBonus))
            }
            Self::Refund => {
                matches!((debit, credit), (ClientPaid | ClientDebt, RefundPending) | (ClientBonus, Promotion))
            }
            Self::RefundPaid => matches!((debit, credit), (RefundPending, Clearing(_))),
            Self::RefundReturn => matches!(
                (debit, credit),
                (RefundPending | Clearing(_), ClientPaid | ClientDebt) | (Promotion, ClientBonus)
            ),
            Self::Dispute => matches!((debit, credit), (ClientPaid | ClientDebt, Clearing(_))),
            Self::Reinstatement => matches!((debit, credit), (Clearing(_), ClientPaid | ClientDebt)),
            Self::WriteOffReturn => matches!((debit, credit), (ClientPaid | ClientDebt, Adjustment)),
            Self::Adjustment => matches!((debit, credit), (Adjustment, ClientBonus | ClientDebt)),
            Self::Fee => {
                matches!((debit, credit), (Fees(_), Clearing(_)) | (Clearing(_), Fees(_)))
            }
            Self::DisputeFee => {
                matches!((debit, credit), (Dispute(_), Clearing(_)) | (Clearing(_), Dispute(_)))
            }
        }
    }
}

/// The id of what caused an entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceId {
    /// Ours.
    Own(Uuid),
    /// Somebody else's, such as Stripe's: 1 to 255 printable ASCII characters, without `/`, `.`, `:`, `"` and `\`.
    Foreign(Arc<str>),
}

impl SourceId {
    /// Reads it as it is stored.
    ///
    /// # Errors
    /// [`SourceError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        // Other spellings of a UUID are texts of somebody else: what is read is what was written.
        let is_own = text.len() == 36 && !text.bytes().any(|byte| byte.is_ascii_uppercase());
        if is_own && let Ok(uuid) = Uuid::try_parse(text) {
            return Ok(Self::Own(uuid));
        }
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !br#"/.:"\"#.contains(&byte);
        if text.is_empty() || text.len() > MAX_FOREIGN || !text.bytes().all(is_plain) {
            return Err(SourceError::Malformed);
        }
        Ok(Self::Foreign(text.into()))
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(uuid) => {
                let mut buffer = Uuid::encode_buffer();
                f.write_str(uuid.hyphenated().encode_lower(&mut buffer))
            }
            Self::Foreign(text) => f.write_str(text),
        }
    }
}

impl From<RequestId> for SourceId {
    fn from(id: RequestId) -> Self {
        Self::Own(id.uuid())
    }
}

impl From<TopUpId> for SourceId {
    fn from(id: TopUpId) -> Self {
        Self::Own(id.uuid())
    }
}

impl From<RefundId> for SourceId {
    fn from(id: RefundId) -> Self {
        Self::Own(id.uuid())
    }
}

/// Why a text is no source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Its kind is none of this program's.
    #[error("the kind of the source is unknown")]
    UnknownKind,
    /// Its id, its part or its number among the entries of a command cannot be one.
    #[error("the source is malformed")]
    Malformed,
}

impl From<SourceError> for sqlx::Error {
    fn from(error: SourceError) -> Self {
        Self::Decode(Box::new(error))
    }
}

/// The source of a command. Copying one of ours allocates nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    kind: SourceKind,
    id: SourceId,
    /// Counted from the second; 0 is the first, or the whole.
    part: u16,
}

impl Source {
    /// The source of this kind, of what this id names.
    #[must_use]
    pub fn new(kind: SourceKind, id: impl Into<SourceId>) -> Self {
        Self { kind, id: id.into(), part: 0 }
    }

    /// The same, by an id as it is stored, or as Stripe names it.
    ///
    /// # Errors
    /// [`SourceError::Malformed`].
    pub fn named(kind: SourceKind, id: &str) -> Result<Self, SourceError> {
        SourceId::parse(id).map(|id| Self::new(kind, id))
    }

    /// The source of another kind for the same thing: the hold of a request, the payout of a refund.
    #[must_use]
    pub fn sibling(&self, kind: SourceKind) -> Self {
        Self::new(kind, self.id.clone())
    }

    /// The n-th part of it, counted from 1.
    #[must_use]
    pub fn part(self, n: u16) -> Self {
        Self { part: if n < 2 { 0 } else { n }, ..self }
    }

    /// The source of the n-th entry of the command, counted from nothing. The first is the plain one, so that one look-up finds
    /// it.
    #[must_use]
    pub fn entry(&self, n: usize) -> EntrySource {
        EntrySource { command: self.clone(), leg: u8::try_from(n).unwrap_or(u8::MAX) }
    }

    /// The sources of all entries that the command can have.
    pub fn entries(&self) -> impl Iterator<Item = EntrySource> + use<> {
        let command = self.clone();
        (0..MAX_LEGS).map(move |n| command.entry(n))
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> SourceKind {
        self.kind
    }

    /// What it names.
    #[must_use]
    pub fn id(&self) -> &SourceId {
        &self.id
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.prefix())?;
        self.id.fmt(f)?;
        match self.part {
            0 => Ok(()),
            part => write!(f, ".{part}"),
        }
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let (word, rest) = text.split_once(':').ok_or(SourceError::UnknownKind)?;
        let kind = SourceKind::from_word(word).ok_or(SourceError::UnknownKind)?;
        let (id, part) = match rest.split_once('.') {
            Some((id, part)) if kind == SourceKind::WriteOffReturn => (id, counted(part)?),
            _ => (rest, 0),
        };
        Ok(Self { kind, id: SourceId::parse(id)?, part })
    }
}

/// A number from 2 on, as this module writes it.
fn counted<T: FromStr + fmt::Display + PartialOrd + From<u8>>(text: &str) -> Result<T, SourceError> {
    let number: T = text.parse().map_err(|_| SourceError::Malformed)?;
    if number < T::from(2) || number.to_string() != text {
        return Err(SourceError::Malformed);
    }
    Ok(number)
}

/// The source of one entry: its command's, and its place among the command's entries. Unique in the books.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntrySource {
    command: Source,
    /// Counted from nothing.
    leg: u8,
}

impl EntrySource {
    /// The source of the command that made the entry.
    #[must_use]
    pub fn command(&self) -> &Source {
        &self.command
    }

    /// The entry's place among those of its command, counted from nothing.
    #[must_use]
    pub fn leg(&self) -> usize {
        self.leg.into()
    }

    /// The kind of the command.
    #[must_use]
    pub fn kind(&self) -> SourceKind {
        self.command.kind
    }

    /// What the command names.
    #[must_use]
    pub fn id(&self) -> &SourceId {
        &self.command.id
    }
}

impl fmt::Display for EntrySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.command.fmt(f)?;
        match self.leg {
            0 => Ok(()),
            leg => write!(f, "/{}", leg.saturating_add(1)),
        }
    }
}

impl FromStr for EntrySource {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let (command, leg) = match text.split_once('/') {
            Some((command, number)) => (command, counted::<u8>(number)?.saturating_sub(1)),
            None => (text, 0),
        };
        let command = command.parse()?;
        if usize::from(leg) >= MAX_LEGS {
            return Err(SourceError::Malformed);
        }
        Ok(Self { command, leg })
    }
}

#[cfg(test)]
mod tests;
