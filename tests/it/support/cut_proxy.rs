//! A wire that can be cut at any byte: between a gateway and its database.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Towards {
    /// What the gateway says.
    Server,
    /// What the server answers.
    Gateway,
}

/// When the wire is cut.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// After so many bytes more in one direction, over all connections.
    Bytes(Towards, usize),
    /// When the server says that it has committed: the gateway does not hear it.
    Commit,
}

/// What is to happen.
#[derive(Debug, Clone, Copy)]
struct Cut {
    moment: Moment,
    /// Whether the other connections are cut too.
    all: bool,
    /// Whether it stays so until [`CutProxy::repair`].
    stays: bool,
}

/// A proxy in front of a server.
#[derive(Debug, Clone)]
pub struct CutProxy {
    pub address: SocketAddr,
    wires: Arc<Wires>,
}

#[derive(Debug)]
struct Wires {
    armed: Mutex<Option<Cut>>,
    passed: [AtomicU64; 2],
    /// Whether nothing gets through, also not on new connections.
    is_down: AtomicBool,
    cut_all: watch::Sender<()>,
}

impl CutProxy {
    /// Connections go to a port of this machine.
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wires = Arc::new(Wires {
            armed: Mutex::new(None),
            passed: Default::default(),
            is_down: AtomicBool::new(false),
            cut_all: watch::channel(()).0,
        });
        let carrying = Arc::clone(&wires);
        tokio::spawn(async move {
            while let Ok((gateway, _)) = listener.accept().await {
                if carrying.is_down.load(Ordering::Relaxed) {
                    continue;
                }
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                    tokio::spawn(Arc::clone(&carrying).carry(gateway, server));
                }
            }
        });
        Self { address, wires }
    }

    /// Bytes that have passed so far.
    pub fn passed(&self, towards: Towards) -> u64 {
        self.wires.passed[towards as usize].load(Ordering::Relaxed)
    }

    /// After exactly so many bytes more in one direction, the connection that the last of them went over is cut at both
    /// ends, or every connection is. New ones are carried as before.
    pub fn arm(&self, towards: Towards, bytes: usize, all: bool) {
        let cut = Cut { moment: Moment::Bytes(towards, bytes), all, stays: false };
        *self.wires.armed.lock().unwrap() = Some(cut);
    }

    /// The same for every connection, and nothing gets through any more. Without a number of bytes: after the next captures
    /// have been committed, and before the gateway hears of it.
    pub fn arm_outage(&self, after: Option<(Towards, usize)>) {
        let moment = after.map_or(Moment::Commit, |(towards, bytes)| Moment::Bytes(towards, bytes));
        *self.wires.armed.lock().unwrap() = Some(Cut { moment, all: true, stays: true });
    }

    /// Ends an outage. `false`: there was none.
    pub fn repair(&self) -> bool {
        self.disarm();
        self.wires.is_down.swap(false, Ordering::Relaxed)
    }

    /// Forgets what was to happen. `false`: it has happened.
    pub fn disarm(&self) -> bool {
        self.wires.armed.lock().unwrap().take().is_some()
    }
}

/// Whether these bytes tell that captures are committed, be it by COMMIT or in a statement of their own: the first time after
/// they were sent that the server says it is ready, and in no transaction (ReadyForQuery, "I").
/// <https://www.postgresql.org/docs/current/protocol-message-formats.html>
fn commits_captures(towards: Towards, bytes: &[u8], captures: &mut bool) -> bool {
    let contain = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
    match towards {
        Towards::Server => *captures |= contain(b"usage:"),
        Towards::Gateway if *captures && contain(b"Z\0\0\0\x05I") => {
            *captures = false;
            return true;
        }
        Towards::Gateway => {}
    }
    false
}

impl Wires {
    /// How many of these bytes pass, and whether the wire is cut after them.
    fn admit(&self, towards: Towards, bytes: &[u8], captures: &mut bool) -> (usize, Option<Cut>) {
        let is_committed = commits_captures(towards, bytes, captures);
        let mut armed = self.armed.lock().unwrap();
        let passes = match armed.as_mut().map(|cut| &mut cut.moment) {
            Some(Moment::Bytes(way, left)) if *way == towards && *left <= bytes.len() => Some(*left),
            Some(Moment::Bytes(way, left)) if *way == towards => {
                *left -= bytes.len();
                None
            }
            Some(Moment::Commit) => is_committed.then_some(0),
            _ => None,
        };
        let admitted = passes.unwrap_or(bytes.len());
        self.passed[towards as usize].fetch_add(admitted as u64, Ordering::Relaxed);
        (admitted, passes.and_then(|_| armed.take()))
    }

    async fn carry(self: Arc<Self>, mut gateway: TcpStream, mut server: TcpStream) {
        let mut all = self.cut_all.subscribe();
        let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        let mut captures = false;
        loop {
            let (towards, bytes, to) = tokio::select! {
                read = gateway.read(&mut asked) => (Towards::Server, &asked[..read.unwrap_or(0)], &mut server),
                read = server.read(&mut answered) => (Towards::Gateway, &answered[..read.unwrap_or(0)], &mut gateway),
                _ = all.changed() => break,
            };
            if bytes.is_empty() {
                break;
            }
            let (admitted, cut) = self.admit(towards, bytes, &mut captures);
            if to.write_all(&bytes[..admitted]).await.is_err() {
                break;
            }
            if let Some(cut) = cut {
                if cut.stays {
                    self.is_down.store(true, Ordering::Relaxed);
                }
                if cut.all {
                    self.cut_all.send_replace(());
                }
                break;
            }
        }
        drop(gateway);
        // What has passed is to arrive: the server hears an end and no reset, and what it still says is lost.
        let _ = server.shutdown().await;
        while matches!(server.read(&mut answered).await, Ok(1..)) {}
    }
}
