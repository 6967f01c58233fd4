//! Answers on their way to callers on another thread: one wake-up a thread for a whole batch, instead of one a caller.
//!
//! To wake a task of another thread's runtime costs a system call, and a batch answers hundreds of callers. So a server's
//! worker has one mailbox: what arrives there is handed on by a task of that worker, for which its neighbours are a queue
//! away. Without a mailbox an answer goes to its caller directly.

use std::cell::RefCell;

use tokio::sync::{mpsc, oneshot};

/// An answer and who waits for it. Dropped, wherever and by whom, it is delivered.
#[derive(Debug)]
struct Parcel<T>(Option<(oneshot::Sender<T>, T)>);

impl<T> Drop for Parcel<T> {
    fn drop(&mut self) {
        if let Some((caller, answer)) = self.0.take() {
            // A caller who has gone is no reason to undo anything: the outcome stands.
            let _ = caller.send(answer);
        }
    }
}

/// Where the answers for one thread arrive. Cheap to clone.
#[derive(Debug)]
pub(super) struct Mailbox<T>(mpsc::UnboundedSender<Vec<Parcel<T>>>);

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: 'static> Mailbox<T> {
    /// A mailbox, and the task of its thread that hands on what arrives, for as long as anybody can send something.
    pub(super) fn new() -> (Self, impl Future<Output = ()> + 'static) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let handing_on = async move { while receiver.recv().await.is_some() {} };
        (Self(sender), handing_on)
    }
}

/// Who waits for an answer, and the mailbox of the thread it waits on.
#[derive(Debug)]
pub(super) struct Recipient<T> {
    caller: oneshot::Sender<T>,
    mailbox: Option<Mailbox<T>>,
}

impl<T> Recipient<T> {
    pub(super) fn new(caller: oneshot::Sender<T>, mailbox: Option<Mailbox<T>>) -> Self {
        Self { caller, mailbox }
    }

    /// At once, mailbox or not.
    pub(super) fn answer(self, answer: T) {
        drop(Parcel(Some((self.caller, answer))));
    }
}

/// The answers of one batch. Dropping it sends them all.
#[derive(Debug)]
pub(super) struct Round<T> {
    bags: Vec<(Mailbox<T>, Vec<Parcel<T>>)>,
}

impl<T> Round<T> {
    pub(super) fn new() -> Self {
        Self { bags: Vec::new() }
    }

    /// Takes an answer along, or delivers it now where there is no mailbox.
    pub(super) fn add(&mut self, recipient: Recipient<T>, answer: T) {
        let Recipient { caller, mailbox } = recipient;
        let parcel = Parcel(Some((caller, answer)));
        let Some(mailbox) = mailbox else { return };
        // As many as the server has workers.
        match self.bags.iter_mut().find(|(known, _)| known.0.same_channel(&mailbox.0)) {
            Some((_, bag)) => bag.push(parcel),
            None => self.bags.push((mailbox, vec![parcel])),
        }
    }
}

impl<T> Drop for Round<T> {
    fn drop(&mut self) {
        for (mailbox, bag) in self.bags.drain(..) {
            // Where the thread has ended, the bag comes back and is dropped here, or goes with the last who could send.
            let _ = mailbox.0.send(bag);
        }
    }
}

thread_local! {
    static HERE: RefCell<Option<Mailbox<super::writer::Answer>>> = const { RefCell::new(None) };
}

/// The mailbox of this thread, if it has one.
pub(super) fn here() -> Option<Mailbox<super::writer::Answer>> {
    HERE.with_borrow(Clone::clone)
}

/// Takes a mailbox off its thread when the task that hands on ends: nothing keeps alive then what arrived too late for it.
struct Opened(Mailbox<super::writer::Answer>);

impl Drop for Opened {
    fn drop(&mut self) {
        // Dropped after the borrow: what is delivered by that may look here.
        drop(HERE.try_with(|here| here.borrow_mut().take_if(|mailbox| mailbox.0.same_channel(&self.0.0))));
    }
}

/// Gives this thread a mailbox for answers to captures. `None`: it has one. The task is to be run by the runtime that serves on
/// this thread, until that ends.
pub(crate) fn open_here() -> Option<impl Future<Output = ()> + 'static> {
    HERE.with_borrow_mut(|here| {
        if here.is_some() {
            return None;
        }
        let (mailbox, handing_on) = Mailbox::new();
        *here = Some(mailbox.clone());
        let opened = Opened(mailbox);
        Some(async move {
            handing_on.await;
            drop(opened);
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn a_round_is_handed_on_by_the_mailbox_it_is_for() {
        let ((first, hand_on), (second, never_runs)) = (Mailbox::new(), Mailbox::new());
        let (callers, mut answers): (Vec<_>, Vec<_>) = (0..5).map(|_| oneshot::channel()).unzip();
        let mut round = Round::new();
        let boxes = [Some(first.clone()), Some(second), Some(first), None, None];
        for (number, (caller, mailbox)) in callers.into_iter().zip(boxes).enumerate() {
            round.add(Recipient::new(caller, mailbox), number);
        }
        let arrived = |answers: &mut [oneshot::Receiver<usize>]| -> Vec<usize> {
            answers.iter_mut().filter_map(|answer| answer.try_recv().ok()).collect()
        };
        assert_eq!(arrived(&mut answers), [3, 4], "those without a mailbox");
        drop(round);
        assert!(arrived(&mut answers).is_empty());
        hand_on.await;
        assert_eq!(arrived(&mut answers), [0, 2]);
        drop(never_runs);
        assert_eq!(arrived(&mut answers), [1], "a thread that ends delivers what lies in its mailbox");
    }

    #[tokio::test]
    async fn what_is_sent_to_a_thread_that_has_ended_is_delivered_all_the_same() {
        let (mailbox, handing_on) = Mailbox::new();
        drop(handing_on);
        let (caller, answer) = oneshot::channel();
        let mut round = Round::new();
        round.add(Recipient::new(caller, Some(mailbox)), 7);
        drop(round);
        assert_eq!(answer.await, Ok(7));
    }

    #[test]
    fn a_thread_has_one_mailbox_until_its_task_ends() {
        let task = open_here().unwrap();
        assert!(open_here().is_none());
        assert!(here().is_some());
        drop(task);
        assert!(here().is_none());
        assert!(open_here().is_some());
    }
}
