//! An answer that is dropped in the middle: because its caller has gone, who stays charged, or because the server's worker ends,
//! which is no doing of the caller's.
//!
//! From within the answer both look the same. So it is left to a task of its worker: as long as that runs, the worker does not
//! end, and it is the caller who has gone. With a worker end its tasks, before or after what was left to them, and then nobody
//! takes it.

use std::cell::RefCell;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::http::delivery::Delivery;

/// Dropped with its delivery inside, it is one that the server has cut.
struct Left(Option<Delivery>);

impl Drop for Left {
    fn drop(&mut self) {
        if let Some(delivery) = self.0.take() {
            delivery.cut_by_server();
        }
    }
}

thread_local! {
    static HERE: RefCell<Option<UnboundedSender<Left>>> = const { RefCell::new(None) };
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
    let left = Left(Some(delivery));
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
        let (sender, mut left) = unbounded_channel::<Left>();
        *here = Some(sender);
        let open = Open;
        Some(async move {
            while let Some(mut left) = left.recv().await {
                if let Some(delivery) = left.0.take() {
                    delivery.caller_has_gone();
                }
            }
            drop(open);
        })
    })
}
