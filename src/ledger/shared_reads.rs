//! Reads of the same thing that many ask for at once: done once, for all of them. Hundreds of requests that come with a wallet
//! that was not here lately would otherwise wait for the few reading connections, until some wait for too long.
//!
//! What is told is never older than the question: whoever comes while a read runs waits for the next one, together with all
//! others who have come meanwhile. Nothing is remembered, and so no more is kept than is being asked for. A read belongs to
//! nobody who asked: it goes on when they leave.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Reads by what is read. Cheap to clone.
#[derive(Debug)]
pub(super) struct SharedReads<K, T> {
    /// The process's: a server worker's ends with its connections.
    runtime: Handle,
    running: Arc<Running<K, T>>,
}

/// What is being read, and the read that comes after it.
#[derive(Debug)]
struct Running<K, T> {
    reads: Mutex<HashMap<K, Option<Next<T>>>>,
    #[cfg(test)]
    begun: std::sync::atomic::AtomicUsize,
}

struct Next<T> {
    work: BoxFuture<'static, T>,
    told: watch::Sender<Option<T>>,
}

impl<T> std::fmt::Debug for Next<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

impl<T> Next<T> {
    fn new(work: impl Future<Output = T> + Send + 'static) -> (Self, watch::Receiver<Option<T>>) {
        let (told, answer) = watch::channel(None);
        (Self { work: Box::pin(work), told }, answer)
    }
}

impl<K, T> Running<K, T> {
    fn all(&self) -> MutexGuard<'_, HashMap<K, Option<Next<T>>>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, T> Clone for SharedReads<K, T> {
    fn clone(&self) -> Self {
        Self { runtime: self.runtime.clone(), running: Arc::clone(&self.running) }
    }
}

impl<K, T> SharedReads<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Reads on the runtime that this is called on.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub(super) fn on_this_runtime() -> Self {
        let running = Running {
            reads: Mutex::default(),
            #[cfg(test)]
            begun: 0.into(),
        };
        Self { runtime: Handle::current(), running: Arc::new(running) }
    }

    /// How many reads have begun.
    #[cfg(test)]
    pub(super) fn begun(&self) -> usize {
        self.running.begun.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// What `work` reads, or somebody else's work that begins after this was called. `None`: the read has panicked, or the
    /// process ends.
    pub(super) async fn read<F>(&self, key: K, work: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut answer = self.join(key, work);
        answer.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> watch::Receiver<Option<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (turns, first, answer) = match self.running.all().entry(key) {
            Entry::Occupied(mut running) => {
                return match running.get_mut() {
                    Some(next) => next.told.subscribe(),
                    none => {
                        let (next, answer) = Next::new(work());
                        *none = Some(next);
                        answer
                    }
                };
            }
            Entry::Vacant(nothing) => {
                let (first, answer) = Next::new(work());
                let running = Arc::clone(&self.running);
                let turns = Turns { key: nothing.key().clone(), running, is_open: true };
                nothing.insert(None);
                (turns, first, answer)
            }
        };
        // Not under the lock: a runtime that has ended drops it at once.
        self.runtime.spawn(turns.take(first));
        answer
    }
}

/// One read after the other, until nobody waits any more. However it ends, the next who asks can read.
struct Turns<K: Eq + Hash, T> {
    key: K,
    running: Arc<Running<K, T>>,
    is_open: bool,
}

impl<K: Eq + Hash, T> Turns<K, T> {
    async fn take(mut self, first: Next<T>) {
        let mut next = Some(first);
        while let Some(Next { work, told }) = next {
            #[cfg(test)]
            self.running.begun.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            told.send_replace(Some(work.await));
            next = self.next();
        }
    }

    fn next(&mut self) -> Option<Next<T>> {
        let mut all = self.running.all();
        let next = all.get_mut(&self.key).and_then(Option::take);
        if next.is_none() {
            all.remove(&self.key);
            self.is_open = false;
        }
        next
    }
}

impl<K: Eq + Hash, T> Drop for Turns<K, T> {
    fn drop(&mut self) {
        if self.is_open {
            // Whoever waits for the next one is told that there is none.
            drop(self.running.all().remove(&self.key));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;
    use futures_util::poll;
    use tokio::sync::Semaphore;

    use super::*;

    type Reads = SharedReads<u8, Result<u32, String>>;

    /// Counts reads, each of which waits for a permit.
    #[derive(Debug)]
    struct Source {
        begun: AtomicU32,
        go: Semaphore,
    }

    fn source() -> Arc<Source> {
        Arc::new(Source { begun: AtomicU32::new(0), go: Semaphore::new(0) })
    }

    impl Source {
        async fn read(self: Arc<Self>) -> Result<u32, String> {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            self.go.acquire().await.unwrap().forget();
            Ok(number)
        }

        fn begun(&self) -> u32 {
            self.begun.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn five_hundred_at_once_are_two_reads_and_none_is_told_what_is_older_than_its_question() {
        let (reads, source) = (Reads::on_this_runtime(), source());
        let mut first = Box::pin(reads.read(1, || Arc::clone(&source).read()));
        assert!(poll!(first.as_mut()).is_pending());
        tokio::task::yield_now().await;
        assert_eq!(source.begun(), 1);
        let mut others: Vec<_> =
            (0..499).map(|_| Box::pin(reads.read(1, || Arc::clone(&source).read()))).collect();
        for other in &mut others {
            assert!(poll!(other.as_mut()).is_pending());
        }
        // Another thing is read beside it.
        let mut beside = Box::pin(reads.read(2, || async { Ok(77) }));
        assert!(poll!(beside.as_mut()).is_pending());
        assert_eq!(beside.await, Some(Ok(77)));
        source.go.add_permits(2);
        assert_eq!(first.await, Some(Ok(1)));
        assert!(join_all(others).await.into_iter().all(|told| told == Some(Ok(2))));
        assert_eq!(source.begun(), 2);
        assert!(reads.running.all().is_empty(), "nothing is kept");
    }

    #[tokio::test]
    async fn a_read_goes_on_when_whoever_began_it_leaves() {
        let (reads, source) = (Reads::on_this_runtime(), source());
        let ask = || Box::pin(reads.read(1, || Arc::clone(&source).read()));
        let (mut first, mut second, mut third) = (ask(), ask(), ask());
        for reader in [&mut first, &mut second, &mut third] {
            assert!(poll!(reader.as_mut()).is_pending());
        }
        drop((first, second));
        source.go.add_permits(2);
        assert_eq!(third.await, Some(Ok(2)));
        assert!(reads.running.all().is_empty());
    }

    #[tokio::test]
    async fn an_error_is_told_to_all_and_not_kept_and_a_panic_keeps_nobody_out() {
        let reads = Reads::on_this_runtime();
        assert_eq!(reads.read(1, || async { Err("away".to_owned()) }).await, Some(Err("away".to_owned())));
        assert_eq!(reads.read(1, || async { Ok(1) }).await, Some(Ok(1)));
        let mut panics = Box::pin(reads.read(1, || async { panic!("on purpose") }));
        let mut waits = Box::pin(reads.read(1, || async { Ok(2) }));
        assert!(poll!(panics.as_mut()).is_pending() && poll!(waits.as_mut()).is_pending());
        assert_eq!((panics.await, waits.await), (None, None));
        assert_eq!(reads.read(1, || async { Ok(3) }).await, Some(Ok(3)));
        assert!(reads.running.all().is_empty());
    }
}
