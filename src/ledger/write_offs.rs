//! Debt that was written off, and what becomes of it when the money comes back for which it was owed.
//!
//! A dispute takes what was spent: the client owes it. An operator writes that off. Then the dispute is won, and the reinstatement
//! would make credit of money that nobody had paid, which could be refunded to a card. So what was written off is taken back with
//! it, to where it came from, in the same transaction.

use super::account::Account;
use super::aftermath::Prepared;
use super::core::{Clawback, ClientId, Command, Reinstate, Within};
use super::source::{Source, SourceKind};
use crate::db::{Connection, query, query_scalar};
use crate::domain::Micros;

/// Write-offs of a client, oldest first, with the place of their entry among the client's.
const OF_CLIENT: &str = "\
SELECT a.id, a.amount, e.sequence FROM adjustments AS a JOIN entries AS e ON e.source = $2 || a.id
WHERE a.client = $1 AND a.kind = 'write_off_debt' ORDER BY e.sequence";
const SEQUENCE: &str = "SELECT sequence FROM entries WHERE source = $1";
const IS_POSTED: &str = "SELECT EXISTS (SELECT 1 FROM entries WHERE source = $1)";
/// What a command has moved into an account: its first entry and its second, since a clawback has no more of them there.
const MOVED_TO: &str = "\
SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM entries WHERE source IN ($1, $2) AND credit = $3";

/// A write-off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WriteOff {
    /// [`SourceKind::Adjustment`].
    source: Source,
    /// Of its entry.
    pub(super) sequence: i64,
    /// What has not been taken back yet.
    pub(super) left: Micros,
    /// How often a part of it has been taken back.
    parts: u16,
}

impl WriteOff {
    #[cfg(test)]
    pub(super) fn new(source: Source, sequence: i64, left: Micros) -> Self {
        Self { source, sequence, left, parts: 0 }
    }

    /// The source of the part that is taken back next.
    fn next_source(&self) -> Source {
        self.source.sibling(SourceKind::WriteOffReturn).part(self.parts.saturating_add(1))
    }
}

/// Takes write-offs back that the return of so much of a clawback makes groundless.
///
/// Those after the clawback: with that money, the client would have owed so much less. The oldest first, because a later clawback has
/// only the later ones. What was written off before has nothing to do with it. So it does not matter in which order money is taken,
/// let off and given back.
pub(super) fn take_back(
    write_offs: &mut [WriteOff],
    client: ClientId,
    clawed_at: i64,
    returned: Micros,
) -> Vec<Command> {
    let mut most = returned;
    let mut commands = Vec::new();
    for write_off in write_offs.iter_mut().filter(|write_off| write_off.sequence > clawed_at) {
        let amount = write_off.left.min(most);
        if amount.is_zero() {
            continue;
        }
        commands.push(Command::Clawback(Clawback {
            client,
            source: write_off.next_source(),
            amount,
            to: Account::Adjustment,
            forfeits: Micros::ZERO,
            within: Within::Debt,
        }));
        most = most.saturating_sub(amount);
        write_off.left = write_off.left.saturating_sub(amount);
        write_off.parts = write_off.parts.saturating_add(1);
    }
    commands
}

/// These commands, and after each that gives something back, those that take back what was written off of it. Locks nothing: the
/// client is locked.
pub(super) async fn with_take_backs(
    connection: &mut Connection,
    client: ClientId,
    commands: Vec<Command>,
) -> Result<Prepared, sqlx::Error> {
    if !commands.iter().any(|command| matches!(command, Command::Reinstate(_))) {
        return Ok(Prepared::Commands(client, commands));
    }
    let mut write_offs = of_client(connection, client).await?;
    let mut all = Vec::with_capacity(commands.len());
    for command in commands {
        let taken_back = match &command {
            Command::Reinstate(back) if !write_offs.is_empty() => {
                groundless(connection, back, &mut write_offs).await?
            }
            _ => Vec::new(),
        };
        all.push(command);
        all.extend(taken_back);
    }
    Ok(Prepared::Commands(client, all))
}

async fn groundless(
    connection: &mut Connection,
    back: &Reinstate,
    write_offs: &mut [WriteOff],
) -> Result<Vec<Command>, sqlx::Error> {
    let is_posted: bool =
        query_scalar(IS_POSTED).bind(back.source.to_string()).fetch_one(&mut *connection).await?;
    let clawed_at: Option<i64> =
        query_scalar(SEQUENCE).bind(back.of.to_string()).fetch_optional(&mut *connection).await?;
    // One that is in the books had its part in what was written off. One whose clawback is not in them yet can have none.
    let Some(clawed_at) = clawed_at.filter(|_| !is_posted) else {
        return Ok(Vec::new());
    };
    let returned = match back.amount {
        Some(part) => part,
        // Refunds come back whole.
        None => moved_to(connection, Account::RefundPending, &back.of).await?,
    };
    Ok(take_back(write_offs, back.client, clawed_at, returned))
}

async fn of_client(connection: &mut Connection, client: ClientId) -> Result<Vec<WriteOff>, sqlx::Error> {
    let mut write_offs = Vec::new();
    for row in query(OF_CLIENT)
        .bind(client)
        .bind(SourceKind::Adjustment.prefix())
        .fetch_all(&mut *connection)
        .await?
    {
        let left = Micros::new(row.try_get(1)?).ok_or_else(out_of_range)?;
        let id: &str = row.try_get(0)?;
        let Ok(source) = Source::named(SourceKind::Adjustment, id) else {
            // Money that comes back must be booked all the same.
            tracing::error!("an adjustment has an id that cannot be read: {id:?}");
            continue;
        };
        let mut write_off = WriteOff { source, sequence: row.try_get(2)?, left, parts: 0 };
        loop {
            let part = write_off.next_source();
            let amount = moved_to(connection, Account::Adjustment, &part).await?;
            if amount.is_zero() {
                break;
            }
            write_off.left = write_off.left.saturating_sub(amount);
            write_off.parts = write_off.parts.saturating_add(1);
        }
        write_offs.push(write_off);
    }
    Ok(write_offs)
}

async fn moved_to(
    connection: &mut Connection,
    account: Account,
    source: &Source,
) -> Result<Micros, sqlx::Error> {
    let [first, second] = [0, 1].map(|n| source.entry(n).to_string());
    let amount = query_scalar(MOVED_TO).bind(first).bind(second).bind(account.number());
    Micros::new(amount.fetch_one(connection).await?).ok_or_else(out_of_range)
}

fn out_of_range() -> sqlx::Error {
    sqlx::Error::Decode("a sum is out of range".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::account::Rail;
    use super::super::core::{Adjust, Batch, Capture, ClientState, Gift, Outcome, TopUp};
    use super::*;
    use crate::domain::Currency;

    fn m(n: i64) -> Micros {
        Micros::new(n).unwrap()
    }

    fn adjustment(id: &str) -> Source {
        Source::named(SourceKind::Adjustment, id).unwrap()
    }

    /// What happens to a client.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        PaysIn(i64),
        Spends(i64),
        /// Money is taken: by a dispute, or by a refund.
        Taken(i64),
        LetOff(i64),
        /// One of what was taken comes back, and whether in two parts.
        Back(usize, bool),
    }

    /// Money that was taken and has not come back whole.
    #[derive(Debug, Clone)]
    struct Open {
        source: Source,
        clawed_at: i64,
        left: i64,
    }

    struct Books {
        batch: Batch,
        write_offs: Vec<WriteOff>,
        open: Vec<Open>,
        count: usize,
        paid_in: i64,
        spent: i64,
    }

    impl Books {
        fn new() -> Self {
            let mut batch = Batch::starting_at(1);
            batch.clients.insert(1, ClientState::new(Currency::USD));
            Self { batch, write_offs: Vec::new(), open: Vec::new(), count: 0, paid_in: 0, spent: 0 }
        }

        fn name(&mut self, kind: SourceKind) -> Source {
            self.count += 1;
            Source::named(kind, &self.count.to_string()).unwrap()
        }

        fn state(&self) -> ClientState {
            self.batch.clients[&1]
        }

        fn post(&mut self, command: &Command) -> bool {
            matches!(self.batch.apply(command), Outcome::Posted { repeated: false, .. })
        }

        fn play(&mut self, event: Event) {
            match event {
                Event::PaysIn(amount) => {
                    let (source, currency) = (self.name(SourceKind::TopUp), Currency::USD);
                    let top_up =
                        TopUp { client: 1, source, amount: m(amount), bonus: Micros::ZERO, currency };
                    assert!(self.post(&Command::TopUp(top_up)));
                    self.paid_in += amount;
                }
                Event::Spends(price) => {
                    let source = self.name(SourceKind::Usage);
                    let capture = Capture {
                        client: 1,
                        source,
                        price: m(price),
                        route: 1,
                        price_list: 1,
                        upstream_status: 200,
                        held: false,
                        key: None,
                    };
                    if self.post(&Command::Capture(capture)) {
                        self.spent += price;
                    }
                }
                Event::Taken(amount) => {
                    let source = self.name(SourceKind::Dispute);
                    let clawback = Clawback {
                        client: 1,
                        source: source.clone(),
                        amount: m(amount),
                        to: Account::Clearing(Rail::Stripe),
                        forfeits: Micros::ZERO,
                        within: Within::Debt,
                    };
                    let clawed_at = self.state().sequence + 1;
                    assert!(self.post(&Command::Clawback(clawback)));
                    self.open.push(Open { source, clawed_at, left: amount });
                }
                Event::LetOff(amount) => {
                    let (amount, source) =
                        (m(amount).min(self.state().debt), self.name(SourceKind::Adjustment));
                    if !amount.is_zero() {
                        let adjust =
                            Adjust { client: 1, source: source.clone(), amount, gift: Gift::Forgiveness };
                        assert!(self.post(&Command::Adjust(adjust)));
                        self.write_offs.push(WriteOff::new(source, self.state().sequence, amount));
                    }
                }
                Event::Back(which, in_parts) => {
                    if self.open.is_empty() {
                        return;
                    }
                    let which = which % self.open.len();
                    let open = self.open[which].clone();
                    let amount = if in_parts && open.left > 1 { open.left / 2 } else { open.left };
                    let back = Reinstate {
                        client: 1,
                        source: self.name(SourceKind::Reinstatement),
                        of: open.source.clone(),
                        amount: Some(m(amount)),
                    };
                    assert!(self.post(&Command::Reinstate(back)));
                    for command in take_back(&mut self.write_offs, 1, open.clawed_at, m(amount)) {
                        assert!(self.post(&command));
                    }
                    match open.left - amount {
                        0 => drop(self.open.remove(which)),
                        left => self.open[which].left = left,
                    }
                }
            }
        }

        /// What the seller has given and not taken back.
        fn given(&self) -> i64 {
            let sum = |of: fn(&super::super::core::Entry) -> Account| -> i64 {
                self.batch
                    .entries
                    .iter()
                    .filter(|entry| of(entry) == Account::Adjustment)
                    .map(|entry| entry.amount.get())
                    .sum()
            };
            sum(|entry| entry.debit) - sum(|entry| entry.credit)
        }
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            3 => (1..50i64).prop_map(Event::PaysIn),
            4 => (1..40i64).prop_map(Event::Spends),
            3 => (1..50i64).prop_map(Event::Taken),
            3 => (1..60i64).prop_map(Event::LetOff),
            2 => (0..9usize, any::<bool>()).prop_map(|(which, in_parts)| Event::Back(which, in_parts)),
        ];
        vec(event, 1..60)
    }

    proptest! {
        /// When everything that was taken has come back, the client has what it has paid in and not spent, whatever was let off
        /// in between: nobody has paid that.
        #[test]
        fn what_all_comes_back_leaves_what_was_paid_in_and_not_spent(events in events(), order in 0..9usize) {
            let mut books = Books::new();
            for event in events {
                books.play(event);
                prop_assert!(books.given() >= 0);
            }
            while !books.open.is_empty() {
                books.play(Event::Back(order, order % 2 == 0));
            }
            let state = books.state();
            prop_assert_eq!(books.given(), 0);
            prop_assert_eq!((state.paid.get(), state.debt.get()), (books.paid_in - books.spent, 0));
        }
    }

    #[test]
    fn what_was_let_off_before_money_was_taken_has_nothing_to_do_with_it() {
        let of = |id: &str, sequence, left| WriteOff::new(adjustment(id), sequence, m(left));
        let mut write_offs = [of("early", 5, 10), of("late", 9, 10), of("latest", 12, 10)];
        let taken = take_back(&mut write_offs, 1, 7, m(15));
        let told: Vec<_> = taken
            .iter()
            .map(|command| match command {
                Command::Clawback(clawback) => (clawback.source.to_string(), clawback.amount.get()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [("write-off-return:late".into(), 10), ("write-off-return:latest".into(), 5)]);
        assert_eq!(write_offs.map(|write_off| write_off.left.get()), [10, 0, 5]);
    }

    #[test]
    fn each_part_has_a_source_of_its_own() {
        let mut write_off = [WriteOff::new(adjustment("a"), 5, m(10))];
        let sources: Vec<Source> = (0..3)
            .flat_map(|_| take_back(&mut write_off, 1, 1, m(3)))
            .map(|command| command.source())
            .collect();
        assert_eq!(sources, ["write-off-return:a", "write-off-return:a.2", "write-off-return:a.3"]);
        assert!(sources.iter().all(|part| part.id() == adjustment("a").id()));
    }
}
