//! An answer that is dropped in the middle: because its caller has gone, who stays charged, or because the server's worker ends,
//! which is no doing of the caller's.
//!
//! From within the answer both look the same. So it is left to a task of its worker: as long as that runs, the worker does not
//! end, and it is the caller who has gone. With a worker end its tasks, before or after what was left to them, and then nobody
//! takes it.

use std::cell::RefCell;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::http::delivery::Delivery;

/// A delivery on its way to a task of a worker. Dropped with its delivery inside, it is one that the server has cut.
pub(super) struct OnItsWay {
    delivery: Option<Delivery>,
    /// The answer is stored, and can be fetched with its key whatever becomes of it here.
    is_kept: bool,
}

impl OnItsWay {
    pub(super) fn new(delivery: Delivery, is_kept: bool) -> Self {
        Self { delivery: Some(delivery), is_kept }
    }

    /// It has arrived.
    pub(super) fn taken(mut self) -> Option<Delivery> {
        self.delivery.take()
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        match self.delivery.take() {
            Some(delivery) if self.is_kept => delivery.finish(),
            Some(delivery) => delivery.cut_by_server(),
            None => {}
        }
    }
}

thread_local! {
    static HERE: RefCell<Option<UnboundedSender<OnItsWay>>> = const { RefCell::new(None) };
}

/// Ends with the task that it belongs to.
struct Open;

impl Drop for Open {
    fn drop(&mut self) {
        // Dropped after the borrow.
        drop(HERE.try_with(|here| here.borrow_mut().take()));
    }
}

/// Says of a delivery on this thread that nobody asks for the rest of its answer any more.
pub(super) fn leave(delivery: Delivery) {
    let left = OnItsWay::new(delivery, false);
    // Without a task the worker has ended.
    let _ = HERE.try_with(|here| {
        if let Some(here) = here.borrow().as_ref() {
            // What nobody receives any more is dropped, which says that the server has cut it.
            drop(here.send(left));
        }
    });
}

/// The task that this thread needs, to be run by the runtime that serves on it until that ends. `None`: it has it.
pub(super) fn watch_here() -> Option<impl Future<Output = ()> + 'static> {
    HERE.with_borrow_mut(|here| {
        if here.is_some() {
            return None;
        }
        let (sender, mut left) = unbounded_channel::<OnItsWay>();
        *here = Some(sender);
        let open = Open;
        Some(async move {
            while let Some(left) = left.recv().await {
                if let Some(delivery) = left.taken() {
                    delivery.caller_has_gone();
                }
            }
            drop(open);
        })
    })
}
