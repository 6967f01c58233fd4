//! What is tried.

use proptest::collection::vec;

use super::*;

fn amounts() -> impl Strategy<Value = Micros> {
    prop_oneof![90 => 1..60i64, 3 => Just(0i64), 1 => Just(MAX), 1 => MAX - 60..=MAX]
        .prop_map(|amount| Micros::new(amount).unwrap())
}

/// Few amounts, so that a repeated source often comes with the same content.
fn few_amounts() -> impl Strategy<Value = Micros> {
    prop_oneof![Just(7i64), Just(20)].prop_map(|amount| Micros::new(amount).unwrap())
}

fn clients() -> impl Strategy<Value = ClientId> {
    prop_oneof![12 => Just(1i64), 6 => Just(2i64), 4 => Just(3i64), 2 => Just(4i64), 1 => Just(9i64)]
}

fn came_to(client: ClientId, hold: Source, amount: Micros) -> Settle {
    Settle { client, hold, amount, route: 1, price_list: 1, upstream_status: 200, key: None }
}

fn numbered(kind: &str, number: u8) -> Source {
    format!("{kind}:{number}").parse().unwrap()
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = 0..40u8;
    let amount = prop_oneof![2 => amounts(), 1 => few_amounts()];
    let capture =
        (clients(), number.clone(), amount.clone(), 0..3i64).prop_map(|(client, n, price, route)| {
            Command::Capture(Capture {
                client,
                source: numbered("usage", n),
                price,
                route,
                price_list: 1,
                upstream_status: 200,
                held: false,
                key: None,
            })
        });
    let top_up = (clients(), number.clone(), amount.clone(), few_amounts(), 0..20u8).prop_map(
        |(client, n, amount, bonus, odd)| {
            let other = if client == 3 { Currency::USD } else { eur() };
            let currency = if odd == 0 { other } else { Model::currency_of(client) };
            let bonus = if odd % 2 == 0 { bonus } else { Micros::ZERO };
            // Client 2 lives at the end of the range, where giving back may not fit any more.
            let amount = if client == 2 && odd > 9 { Micros::MAX.saturating_sub(amount) } else { amount };
            Command::TopUp(TopUp { client, source: numbered("topup", n), amount, bonus, currency })
        },
    );
    let reverse = (number.clone(), 0..20u8).prop_map(|(n, odd)| {
        let of = match odd {
            0 => "topup",
            1 => "reversal",
            2 => "refund",
            _ => "usage",
        };
        Command::Reverse(Reverse { capture: numbered(of, n), client: None })
    });
    // Settling and releasing hit a hold when they name the same number; settling when the amount fits, too.
    let held = 35..80u8;
    let hold = (clients(), held.clone(), prop_oneof![1 => amount.clone(), 3 => few_amounts()]).prop_map(
        |(client, n, amount)| Command::Hold(Hold { client, source: numbered("hold", n), amount, key: None }),
    );
    let settle = (clients(), held.clone(), few_amounts()).prop_map(|(client, n, price)| {
        Command::Capture(Capture {
            client,
            source: numbered("usage", n),
            price,
            route: 1,
            price_list: 1,
            upstream_status: 200,
            held: true,
            key: None,
        })
    });
    let came_to = (clients(), held.clone(), prop_oneof![1 => amounts(), 3 => few_amounts()])
        .prop_map(|(client, n, amount)| Command::Settle(came_to(client, numbered("hold", n), amount)));
    let release = (clients(), held, 0..20u8).prop_map(|(client, n, odd)| {
        let of = match odd {
            0 => "usage",
            1 => "release",
            _ => "hold",
        };
        Command::Release(Release { client, hold: numbered(of, n) })
    });
    let within = prop_oneof![
        2 => Just(Within::Debt),
        1 => prop_oneof![Just(0i64), 0..60i64]
            .prop_map(|reserved| Within::Credit { reserved: Micros::new(reserved).unwrap() }),
    ];
    let forfeits = prop_oneof![2 => Just(Micros::ZERO), 3 => few_amounts()];
    let clawback = (clients(), number.clone(), amount.clone(), any::<bool>(), forfeits, within).prop_map(
        |(client, n, amount, dispute, forfeits, within)| {
            let to = if dispute { Account::Clearing(Rail::Stripe) } else { Account::RefundPending };
            Command::Clawback(Clawback {
                client,
                source: numbered("refund", n),
                amount,
                to,
                forfeits,
                within,
            })
        },
    );
    let pay_out = (clients(), number.clone())
        .prop_map(|(client, n)| Command::PayOut(PayOut { client, refund: numbered("refund", n) }));
    let back =
        (clients(), number.clone(), proptest::option::of(amount.clone())).prop_map(|(client, n, part)| {
            // What comes back in part comes back under a source of its own.
            let kind = if part.is_some() { "reinstatement" } else { "refund-return" };
            let source = numbered(kind, n);
            Command::Reinstate(Reinstate { client, source, of: numbered("refund", n), amount: part })
        });
    let adjust =
        (clients(), number.clone(), few_amounts(), any::<bool>()).prop_map(|(client, n, amount, credit)| {
            let gift = if credit { Gift::Credit } else { Gift::Forgiveness };
            Command::Adjust(Adjust { client, source: numbered("adjustment", n), amount, gift })
        });
    let fee = (clients(), number, few_amounts(), any::<bool>(), any::<bool>()).prop_map(
        |(client, n, amount, dispute, is_returned)| {
            let account = if dispute { Account::Dispute(Rail::Stripe) } else { Account::Fees(Rail::Stripe) };
            Command::Fee(Fee { client, source: numbered("fee", n), amount, account, is_returned })
        },
    );
    let command = prop_oneof![
        8 => capture, 6 => top_up, 3 => reverse, 4 => clawback, 5 => hold, 1 => settle, 1 => came_to, 1 => release, 1 => pay_out,
        1 => back, 1 => fee, 2 => adjust
    ]
    .boxed();
    let step = prop_oneof![9 => command.prop_map(Step::Do), 1 => Just(Step::NextBatch)];
    // A command that was just sent is sent again now and then, as a caller who got no answer would; and what was just held or
    // captured is settled, released or given back.
    vec((step, 0..8u8, 0..24u8), 1..160).prop_map(|steps| {
        let mut played: Vec<Step> = Vec::with_capacity(steps.len());
        for (step, again, follow) in steps {
            let before = |by: usize| played.len().checked_sub(by).and_then(|index| played.get(index));
            let repeat = before(usize::from(again) + 1).cloned().filter(|_| again < 2);
            let next = before(usize::from(follow / 4) + 1).and_then(|step| follow_up(step, follow % 4));
            played.push(step);
            played.extend(repeat);
            played.extend(next);
        }
        played
    })
}

/// What may come after a hold, a capture or a clawback.
fn follow_up(step: &Step, which: u8) -> Option<Step> {
    let command = match (step, which) {
        (Step::Do(Command::Hold(hold)), which)
            if which == 0 || (which == 1 && hold.amount.get() % 2 == 1) =>
        {
            Command::Capture(Capture {
                client: hold.client,
                source: hold.source.sibling(SourceKind::Usage),
                price: hold.amount,
                route: 1,
                price_list: 1,
                upstream_status: 200,
                held: true,
                key: None,
            })
        }
        (Step::Do(Command::Hold(hold)), 1 | 3) => {
            let (number, held): (u8, i64) = (hold.source.id().to_string().parse().ok()?, hold.amount.get());
            let amount = match number % 8 {
                0 => 0,
                1 => held,
                2 => held + 1,
                _ => held / 2,
            };
            Command::Settle(came_to(hold.client, hold.source.clone(), Micros::new(amount)?))
        }
        (Step::Do(Command::Settle(settle)), 0) => {
            Command::Release(Release { client: settle.client, hold: settle.hold.clone() })
        }
        (Step::Do(Command::Settle(settle)), 1) => {
            Command::Reverse(Reverse { capture: settle.usage(), client: None })
        }
        (Step::Do(Command::Hold(hold)), 2) => {
            Command::Release(Release { client: hold.client, hold: hold.source.clone() })
        }
        (Step::Do(Command::Capture(capture)), which) if which == 0 || (which > 1 && capture.client == 2) => {
            Command::Reverse(Reverse { capture: capture.source.clone(), client: None })
        }
        (Step::Do(Command::Clawback(taken)), 0) => {
            Command::PayOut(PayOut { client: taken.client, refund: taken.source.clone() })
        }
        (Step::Do(Command::Clawback(taken)), which) => Command::Reinstate(Reinstate {
            client: taken.client,
            source: taken.source.sibling(match which {
                1 => SourceKind::Reinstatement,
                _ => SourceKind::RefundReturn,
            }),
            of: taken.source.clone(),
            amount: (which == 1).then(|| taken.amount.min(Micros::new(7).unwrap_or(Micros::ZERO))),
        }),
        // Whoever lives at the end of the range and is filled up again cannot be given back what was spent before.
        (Step::Do(Command::Capture(capture)), 1) if capture.client == 2 => Command::TopUp(TopUp {
            client: 2,
            source: capture.source.sibling(SourceKind::TopUp),
            amount: capture.price,
            bonus: Micros::ZERO,
            currency: Currency::USD,
        }),
        _ => return None,
    };
    Some(Step::Do(command))
}
