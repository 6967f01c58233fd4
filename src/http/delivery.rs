//! The delivery of a charged answer, at both doors: how it ends, and whose doing it is when it breaks off. Only what the API
//! broke is given back, always and at once; a caller who is slow, gone or broken has bought what was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::reversals::Reversals;
use crate::domain::RequestId;
use crate::ledger::{ClientId, EntryId};
use crate::paywall::Captured;
use crate::proxy::pace::Reading;
use crate::proxy::upload::{UploadFault, UploadProgress, UploadReport};

/// Larger pieces are handed over in several, so that how fast a caller takes them is seen.
const PIECE: usize = 32 * 1024;

/// What goes to the caller first, and what is left.
pub(crate) fn first_of(mut piece: Bytes) -> (Bytes, Option<Bytes>) {
    if piece.len() <= PIECE {
        return (piece, None);
    }
    let first = piece.split_to(PIECE);
    (first, Some(piece))
}

/// What the API does with the caller's body, as far as it can break an answer.
#[derive(Debug, Clone, Default)]
pub(crate) enum Upload {
    /// There is none, or all of it was here before the API was called.
    #[default]
    Nothing,
    /// To the upstream.
    Forwarded {
        report: UploadReport,
        /// See [`UploadProgress::is_callers_fault`].
        is_safe: bool,
    },
    /// To a handler, who may read it or not.
    Handed(Arc<UploadProgress>),
}

impl Upload {
    /// Why the caller's body has not come whole.
    pub(crate) fn fault(&self) -> Option<UploadFault> {
        match self {
            Self::Nothing => None,
            Self::Forwarded { report, .. } => report.fault(),
            Self::Handed(progress) => progress.fault(),
        }
    }

    fn is_callers_fault(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Forwarded { report, is_safe } => report.is_callers_fault(*is_safe),
            Self::Handed(progress) => progress.is_callers_fault(false),
        }
    }
}

/// The part of a capture that ends with the delivery of its answer. Dropped without a word: the caller has gone, and stays
/// charged.
#[derive(Debug)]
pub(crate) struct Delivery {
    reversals: Reversals,
    request: RequestId,
    client: ClientId,
    /// For the operator: [`crate::ledger::keys::KeyRecord::client_public_id`].
    client_name: Arc<str>,
    entry: EntryId,
    upload: Upload,
    /// How the caller reads.
    reading: Reading,
    /// The gateway itself is cutting connections: what is not delivered then stays noted, and is given back at restart.
    closing: Arc<AtomicBool>,
    done: bool,
}

impl Delivery {
    pub(crate) fn new(
        reversals: &Reversals,
        closing: &Arc<AtomicBool>,
        request: RequestId,
        captured: &Captured,
        upload: Upload,
    ) -> Self {
        Self {
            reversals: reversals.clone(),
            request,
            client: captured.posted.client,
            client_name: Arc::clone(&captured.wallet.record.client_public_id),
            entry: captured.posted.entry,
            upload,
            reading: Reading::new(),
            closing: Arc::clone(closing),
            done: false,
        }
    }

    /// Whose answer it is.
    pub(crate) fn request(&self) -> RequestId {
        self.request
    }

    /// A piece goes to the caller: how long it takes until the next one is asked for is the caller's doing.
    pub(crate) fn handed_over(&mut self, bytes: usize) {
        self.reading.handed_over(bytes);
    }

    /// The caller's connection takes more.
    pub(crate) fn asked(&mut self) {
        self.reading.asked();
    }

    /// The API has gone on although it was waited for.
    pub(crate) fn api_lives(&mut self) {
        self.reading.upstream_lives();
    }

    /// All of it has gone out.
    pub(crate) fn finish(mut self) {
        self.done = true;
        self.reversals.ledger().delivered(self.entry);
    }

    /// The answer has broken off where it came from. An API that gives up on a caller who does not read on, or who does not
    /// send what was announced, has not broken it.
    pub(crate) fn broke_off(mut self) {
        if self.reading.is_slow() || self.upload.is_callers_fault() {
            tracing::info!(request.id = %self.request, "an answer broke off because of its caller, who stays charged");
            return self.finish();
        }
        self.done = true;
        self.reversals.give_back(self.request, self.client, &self.client_name, self.entry);
    }

    /// Nobody asks for the rest any more.
    pub(crate) fn caller_has_gone(self) {
        drop(self);
    }

    /// The server has cut it, which goes on with other work: no doing of the caller's.
    pub(crate) fn cut_by_server(mut self) {
        // Where the books are being closed, it stays noted, as whatever the process itself cuts.
        if !self.closing.load(Ordering::Relaxed) {
            self.done = true;
            self.reversals.give_back(self.request, self.client, &self.client_name, self.entry);
        }
    }

    /// A stream without an end that has delivered, and has had nothing to say for as long as it may: it ends as it does, and
    /// what came is paid for.
    pub(crate) fn fell_silent(self) {
        tracing::info!(request.id = %self.request, "a stream that had delivered fell silent, and ends; it stays charged");
        self.finish();
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.done && !self.closing.load(Ordering::Relaxed) {
            self.reversals.ledger().delivered(self.entry);
        }
    }
}
