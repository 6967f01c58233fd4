//! The wallet on a real file system.

use super::*;
use crate::agent::testing::{key, origin, pending};

fn wallet(directory: &tempfile::TempDir) -> Wallet {
    Wallet::new(directory.path().join("made").join("wallet.json"))
}

#[test]
fn what_was_written_is_read_again() {
    let directory = tempfile::tempdir().expect("directory");
    let (wallet, shop) = (wallet(&directory), origin("https://shop.example"));
    assert_eq!(wallet.account(&shop).expect("empty"), Account::default());
    let written = wallet.update(&shop, |account| {
        account.remember_key(key("pck_one"));
        account.remember_key(key("pck_two"));
        account.add_charge(Currency::USD, Units::new(50_000).expect("units"));
        account.pending = Some(pending(50_000, 500));
        account.honours_max_amount = true;
    });
    let written = written.expect("written");
    assert_eq!(wallet.account(&shop).expect("read"), written);
    assert_eq!(written.client_key, Some(key("pck_two")));
    assert_eq!(written.former_keys, [key("pck_one")]);
    // Another port is another server.
    assert_eq!(wallet.account(&origin("https://shop.example:444")).expect("other"), Account::default());
}

#[test]
fn concurrent_changes_are_all_kept() {
    let directory = tempfile::tempdir().expect("directory");
    let (wallet, shop) = (wallet(&directory), origin("https://shop.example"));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let one = Units::new(1).expect("units");
                    wallet.update(&shop, |account| account.add_charge(Currency::USD, one)).expect("update");
                }
            });
        }
    });
    let charged = wallet.account(&shop).expect("read").charged;
    assert_eq!(charged.get("usd").map(|units| units.get()), Some(40));
    let left: Vec<_> = std::fs::read_dir(directory.path().join("made")).expect("list").collect();
    assert_eq!(left.len(), 2, "the wallet and its lock, no temporary file");
}

#[cfg(unix)]
#[test]
fn nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("directory");
    let (wallet, shop) = (wallet(&directory), origin("https://shop.example"));
    wallet.update(&shop, |account| account.remember_key(key("pck_one"))).expect("written");
    let mode = |path: &Path| std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!((mode(wallet.path()), mode(wallet.directory())), (0o600, 0o700));
    std::fs::set_permissions(wallet.path(), std::fs::Permissions::from_mode(0o640)).expect("chmod");
    assert!(matches!(wallet.account(&shop), Err(WalletError::ReadableByOthers(_))));
    assert!(matches!(wallet.update(&shop, |_| {}), Err(WalletError::ReadableByOthers(_))));
}

#[test]
fn a_damaged_wallet_is_left_alone() {
    let directory = tempfile::tempdir().expect("directory");
    let (wallet, shop) = (wallet(&directory), origin("https://shop.example"));
    for content in [
        "{",
        r#"{"version":2,"origins":{}}"#,
        r#"{"version":1,"origins":{"https://shop.example:443":{"chargedUnits":{"usd":-1}}}}"#,
    ] {
        wallet.create_directory().expect("directory");
        let _ = std::fs::remove_file(wallet.path());
        let mut file = private().create_new(true).open(wallet.path()).expect("create");
        file.write_all(content.as_bytes()).expect("write");
        let changed = wallet.update(&shop, |account| account.remember_key(key("pck_one")));
        assert!(matches!(changed, Err(WalletError::Damaged(_))), "{content}");
        assert_eq!(std::fs::read_to_string(wallet.path()).expect("read"), content);
    }
}

#[tokio::test]
async fn only_one_run_pays_at_a_server() {
    let directory = tempfile::tempdir().expect("directory");
    let (wallet, shop) = (wallet(&directory), origin("https://shop.example"));
    let held = wallet.lock_payments(&shop).await.expect("free");
    let mut second = Box::pin(wallet.lock_payments(&shop));
    assert!(futures_util::poll!(&mut second).is_pending());
    // A payment elsewhere does not wait.
    wallet.lock_payments(&origin("https://other.example")).await.expect("free");
    drop(held);
    second.await.expect("free again");
}
