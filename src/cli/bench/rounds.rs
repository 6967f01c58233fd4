//! Drives one server: each phase is warmed up, and then all of them are measured in short slices that alternate.
//!
//! A machine's speed can change within minutes by more than what the ratios are to show: it shares its cores, throttles them,
//! or flushes its disk. Phases of one piece would be measured in different minutes. In a round, each phase has one slice, so
//! that what is compared lies within seconds, and the rounds show how much the comparison varies.

use std::sync::Arc;
use std::time::Duration;

use super::load::{Connections, Requests, Slice};
use super::purse::{Buyer, Purse, Spent};
use super::report::{Phase, ServerReport};
use super::target::{self, Base};
use super::{Problem, Settings};
use crate::agent::tokenise::StripeBase;

/// The measured time of a slice. Short against the minutes in which a machine's speed changes: a round takes two seconds. Long
/// against answers and commits, which take milliseconds, and against [`SETTLE`]. A whole second would give half as many rounds.
const SLICE: Duration = Duration::from_millis(500);
/// A slice's load before its clock starts. In it the server does what the phase before has left to do, and its caches fill
/// with what this phase needs. Connections are kept, so that they need none of it.
const SETTLE: Duration = Duration::from_millis(100);
/// How many answers each connection should get in a slice. What is under way at its ends is counted or not as chance will have
/// it, and that is one of them. A slow server gets longer slices, and fewer.
const ANSWERS_A_SLICE: u32 = 10;
/// A warm-up is never shorter, because how fast the server is decides how much credit is bought.
const LEAST_WARM_UP: Duration = Duration::from_millis(200);
/// The number of the paid phase; free is 0, and unpaid 1.
const PAID: usize = 2;
/// The order of the phases in a round, and then in the next one: all orders that there are, arranged so that within six rounds
/// and from one to the next each phase follows each other one equally often. What a phase leaves behind (a checkpoint of the
/// database, a processor that is hot) then hits both others alike.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0], [1, 0, 2], [0, 2, 1]];

/// A server to drive.
pub(super) struct Driven<'a> {
    /// What the report calls it.
    pub(super) name: &'a str,
    /// Where it is.
    pub(super) base: &'a Base,
    /// A path that costs nothing.
    pub(super) free: &'a str,
    /// A path with a price.
    pub(super) paid: &'a str,
    /// Where cards become tokens.
    pub(super) stripe: StripeBase,
}

/// The warm-ups, and then the rounds. The first failure ends it. The paid phase is begun only when the others have worked,
/// because it costs wallets.
pub(super) async fn drive(driven: Driven<'_>, settings: &Settings) -> Result<ServerReport, Problem> {
    let Driven { name, base, free, paid, stripe } = driven;
    let http = target::client();
    let free_status = target::probe_free(&http, base, free).await?;
    let asked = target::probe_paid(&http, base, paid).await?;
    let mut run = Run::new(name, base, settings);
    for (phase, path, expected) in [("free", free, free_status), ("unpaid", paid, 402)] {
        if !run.warm_up(phase, Requests::Same(base.render(path, None)), expected).await {
            return Ok(run.report(base, Spent::default()));
        }
    }
    let requests = most_requests(settings, run.fastest);
    let wallets = u64::try_from(settings.wallets).unwrap_or(u64::MAX);
    settings.say(&format!("{name}, buying {wallets} wallets"));
    let buyer = Buyer::new(http, stripe, base, paid, asked, requests.div_ceil(wallets))?;
    let (purse, expected) = buyer.fill(settings.wallets, requests).await?;
    let (purse, buyer) = (Arc::new(purse), Arc::new(buyer));
    let refilling = tokio::spawn(Arc::clone(&purse).refill(buyer));
    if run.warm_up("paid", Requests::Paid(Arc::clone(&purse)), expected).await {
        run.rounds(&purse).await;
    }
    purse.close();
    // It ends with what it is buying; that it may have panicked shows in the waiting.
    let _ = refilling.await;
    Ok(run.report(base, purse.spent()))
}

/// A server that is being measured.
struct Run<'a> {
    name: &'a str,
    settings: &'a Settings,
    connections: Connections,
    /// What is known of each phase, and what it sends.
    phases: Vec<(Phase, Requests)>,
    slice: Duration,
    /// The most answers in any warm-up.
    fastest: u64,
    /// The longest of the phases' usual times to an answer, in their warm-ups.
    slowest: Duration,
}

impl<'a> Run<'a> {
    fn new(name: &'a str, base: &Base, settings: &'a Settings) -> Self {
        let connections = Connections::to(base.address, settings.connections);
        Self {
            name,
            settings,
            connections,
            phases: Vec::new(),
            slice: SLICE,
            fastest: 0,
            slowest: Duration::ZERO,
        }
    }

    /// Begins the next phase with load that is not measured. Whether it worked.
    async fn warm_up(&mut self, phase: &'static str, requests: Requests, expected: u16) -> bool {
        self.settings.say(&format!("{}, warm-up of {phase}", self.name));
        let slice = Slice { settle: Duration::ZERO, window: warm_up(self.settings) };
        let came = self.connections.drive(slice, &requests, expected).await;
        self.fastest = self.fastest.max(came.answers);
        self.slowest = self.slowest.max(Duration::from_micros(came.latencies.percentile(5_000)));
        let worked = came.failures() == 0;
        let phase = Phase { name: phase, expected, measured: came.only_failures(), rounds: Vec::new() };
        self.phases.push((phase, requests));
        worked
    }

    /// Measures all phases, to the end or to the first failure.
    async fn rounds(&mut self, purse: &Purse) {
        let (rounds, slice) = split(self.settings.window, self.slowest);
        self.slice = slice;
        let seconds = ((SETTLE + slice) * 3 * rounds).as_secs();
        let name = self.name;
        self.settings.say(&format!("{name}, free, unpaid and paid in {rounds} rounds, about {seconds} s"));
        let mut resting = None;
        for order in ORDERS.iter().cycle().take(usize::try_from(rounds).unwrap_or(usize::MAX)) {
            for &number in order {
                if number == PAID {
                    resting = None;
                } else if resting.is_none() {
                    resting = Some(purse.rest().await);
                }
                if !self.measure(number).await {
                    return;
                }
            }
        }
    }

    /// Measures the next slice of a phase. Whether it worked.
    async fn measure(&mut self, number: usize) -> bool {
        let Some((phase, requests)) = self.phases.get_mut(number) else { return false };
        let slice = Slice { settle: SETTLE, window: self.slice };
        let came = self.connections.drive(slice, requests, phase.expected).await;
        let worked = came.failures() == 0;
        phase.rounds.push(came.answers);
        phase.measured.add(came);
        worked
    }

    /// What came. Phases whose turn did not come have nothing to tell.
    fn report(self, base: &Base, spent: Spent) -> ServerReport {
        let phases = self.phases.into_iter().map(|(phase, _)| phase);
        ServerReport {
            name: self.name.to_owned(),
            url: base.url.clone(),
            slice: self.slice,
            phases: phases
                .filter(|phase| !phase.rounds.is_empty() || phase.measured.failures() > 0)
                .collect(),
            spent,
            books: None,
        }
    }
}

fn warm_up(settings: &Settings) -> Duration {
    settings.warm_up.max(LEAST_WARM_UP)
}

/// Into how many rounds the measured time of a phase is split, and how long a slice is then.
fn split(window: Duration, slowest: Duration) -> (u32, Duration) {
    let least = SLICE.max(slowest.saturating_mul(ANSWERS_A_SLICE));
    let rounds = window.as_micros() / least.as_micros().max(1);
    let rounds = u32::try_from(rounds).unwrap_or(u32::MAX).max(1);
    (rounds, window / rounds)
}

/// How many requests a phase may send that is no faster than the fastest one in its warm-up, and half as many more, because a
/// warm-up is short and the server may still become faster.
fn most_requests(settings: &Settings, fastest: u64) -> u64 {
    let warm_up = warm_up(settings);
    let (rounds, slice) = split(settings.window, Duration::ZERO);
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let all = millis(warm_up + (SETTLE + slice) * rounds);
    let all = fastest.saturating_mul(all) / millis(warm_up).max(1);
    let in_flight = u64::try_from(settings.connections).unwrap_or(u64::MAX);
    (all.saturating_mul(3) / 2).saturating_add(in_flight.saturating_mul(4))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::cli::bench::load::Measured;

    fn settings(seconds: u64, warm_up: u64) -> Settings {
        Settings {
            connections: 2,
            warm_up: Duration::from_secs(warm_up),
            window: Duration::from_secs(seconds),
            wallets: 1,
            quiet: true,
        }
    }

    #[test]
    fn each_phase_follows_each_other_one_equally_often() {
        let sequence: Vec<usize> = ORDERS.into_iter().cycle().take(7).flatten().take(19).collect();
        for phase in 0..3 {
            assert!(ORDERS.iter().all(|order| order.contains(&phase)), "{phase} once a round");
            for before in 0..3 {
                let followed = sequence.windows(2).filter(|pair| **pair == [before, phase]).count();
                assert_eq!(followed, if before == phase { 0 } else { 3 }, "{phase} after {before}");
            }
        }
    }

    #[test]
    fn the_measured_time_is_split_without_a_rest() {
        let millis = Duration::from_millis;
        for (seconds, slowest, expected) in [
            (1, 0, (2, 500)),
            (5, 3, (10, 500)),
            (5, 50, (10, 500)),
            // Ten answers need longer: as many slices as fit, and no time left over.
            (5, 60, (8, 625)),
            (1, 90, (1, 1_000)),
            // An answer that takes longer than all the time.
            (1, 5_000, (1, 1_000)),
            (300, 1, (600, 500)),
        ] {
            let (rounds, slice) = split(Duration::from_secs(seconds), millis(slowest));
            assert_eq!((rounds, slice), (expected.0, millis(expected.1)), "{seconds} s, {slowest} ms");
        }
    }

    #[test]
    fn credit_is_for_the_warm_up_and_every_slice_with_its_start() {
        // 1,000 a second for 1 s and 10 times 600 ms, half as many more, and four for each connection.
        assert_eq!(most_requests(&settings(5, 1), 1_000), 10_500 + 8);
        // The shortest warm-up is 200 ms: 1,000 a second again.
        assert_eq!(most_requests(&settings(1, 0), 200), (200 + 1_200) * 3 / 2 + 8);
        assert_eq!(most_requests(&settings(1, 0), 0), 8);
        assert_eq!(most_requests(&settings(300, 60), u64::MAX), u64::MAX / 60_000 * 3 / 2 + 8, "no overflow");
    }

    /// A server that answers `good` requests with 200, and all others with 500.
    async fn server(good: usize) -> Base {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let left = Arc::new(std::sync::atomic::AtomicUsize::new(good));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let left = Arc::clone(&left);
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    while stream.read(&mut buffer).await.unwrap_or(0) > 0 {
                        let order = std::sync::atomic::Ordering::Relaxed;
                        let good = left.fetch_update(order, order, |left| left.checked_sub(1)).is_ok();
                        let status = if good { "200 OK" } else { "500 No" };
                        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        Base::find(&url, false).await.expect("found")
    }

    /// A run with these phases, which differ in nothing, after a warm-up that is left out.
    fn run<'a>(base: &Base, settings: &'a Settings, slice: Duration) -> Run<'a> {
        let mut run = Run::new("a server", base, settings);
        run.slice = slice;
        run.phases = ["free", "unpaid", "paid"]
            .map(|name| {
                let phase = Phase { name, expected: 200, measured: Measured::default(), rounds: Vec::new() };
                (phase, Requests::Same(base.render("/", None)))
            })
            .into();
        run
    }

    #[tokio::test]
    async fn slices_of_a_phase_add_up_and_each_is_kept() {
        let (base, settings) = (server(usize::MAX).await, settings(1, 0));
        let mut run = run(&base, &settings, Duration::from_millis(200));
        for number in [0, 1, 0] {
            assert!(run.measure(number).await);
        }
        let report = run.report(&base, Spent::default());
        let told: Vec<_> = report.phases.iter().map(|phase| (phase.name, phase.rounds.len())).collect();
        assert_eq!(told, [("free", 2), ("unpaid", 1)], "the paid phase did not have its turn");
        for phase in &report.phases {
            assert!(phase.rounds.iter().all(|answers| *answers > 0), "{phase:?}");
            assert_eq!(phase.measured.answers, phase.rounds.iter().sum::<u64>());
        }
        assert_eq!(report.slice, Duration::from_millis(200));
    }

    #[tokio::test]
    async fn a_warm_up_is_not_measured_but_its_failures_are_told() {
        let settings = settings(1, 0);
        for (good, worked) in [(usize::MAX, true), (100, false)] {
            let base = server(good).await;
            let mut run = Run::new("a server", &base, &settings);
            assert_eq!(run.warm_up("free", Requests::Same(base.render("/", None)), 200).await, worked);
            assert!(run.fastest > 0 && run.slowest > Duration::ZERO);
            let report = run.report(&base, Spent::default());
            if worked {
                assert!(report.phases.is_empty(), "its turn did not come: {report:?}");
                continue;
            }
            let [phase] = report.phases.as_slice() else { panic!("{report:?}") };
            assert_eq!((phase.measured.answers, phase.measured.latencies.max()), (0, 0), "{phase:?}");
            assert!(phase.rounds.is_empty() && phase.measured.unexpected[&500] > 0, "{phase:?}");
        }
    }

    #[tokio::test]
    async fn the_rounds_go_through_all_phases_and_end_with_the_first_failure() {
        let settings = settings(1, 0);
        let base = server(usize::MAX).await;
        let mut all = run(&base, &settings, SLICE);
        all.rounds(&Purse::empty()).await;
        let report = all.report(&base, Spent::default());
        assert!(report.phases.iter().all(|phase| phase.rounds.len() == 2), "{report:?}");
        assert_eq!((report.phases.len(), report.slice), (3, SLICE));

        let base = server(100).await;
        let mut failing = run(&base, &settings, SLICE);
        failing.rounds(&Purse::empty()).await;
        let report = failing.report(&base, Spent::default());
        assert_eq!(report.phases.len(), 1, "{report:?}");
        assert!(report.phases[0].measured.unexpected[&500] > 0, "{report:?}");
    }
}
