//! What must be so before real money moves, across the sections; and what nodes that share a database need.

use std::net::SocketAddr;

use super::problem::Report;
use super::{DatabaseConfig, StripeConfig, stripe};

/// The settings that these rules are about; `None` is one that has a problem of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings<'a> {
    pub(super) stripe: Option<&'a StripeConfig>,
    pub(super) public_url: Option<&'a str>,
    pub(super) admin_listen: Option<SocketAddr>,
    pub(super) admin_public_url: Option<&'a str>,
    pub(super) database: Option<&'a DatabaseConfig>,
    /// Whether `PREPAID402_KEY_SECRET` is set.
    pub(super) has_key_secret: bool,
    pub(super) sandbox: bool,
    /// Whether half of all addresses, or more, count as a proxy's.
    pub(super) trusts_everybody: bool,
}

pub(super) fn check(settings: Settings<'_>, report: &mut Report) {
    let live = settings.stripe.is_some_and(StripeConfig::is_live);
    if live {
        check_live(settings, report);
    }
    if settings.database.is_some_and(DatabaseConfig::is_shared) && !settings.has_key_secret {
        if live {
            report.problem(
                "PREPAID402_KEY_SECRET",
                "is required with live keys and PostgreSQL: otherwise the first node makes one up, and when its disk is lost, \
                 nobody can be given a lost clientId again; set it to \"1:\" and the output of `openssl rand -base64 32`, the \
                 same on every node, and keep a copy",
            );
        } else {
            report.warn(
                "PREPAID402_KEY_SECRET is not set, although the database is PostgreSQL: this node makes a secret of its own \
                 unless it has one, other nodes will not start without a copy, and live keys will not be accepted. Set it to \
                 \"1:\" and the output of `openssl rand -base64 32`, the same on every node.",
            );
        }
    }
}

fn check_live(settings: Settings<'_>, report: &mut Report) {
    if settings.sandbox {
        report.problem("stripe", "the sandbox never takes live keys: use `prepaid402 serve`");
    }
    if settings.stripe.is_some_and(|stripe| stripe.api_base != stripe::STRIPE_API) {
        let what = format!(
            "must be {} with live keys: a simulator must never be given one, so use test keys with it",
            stripe::STRIPE_API
        );
        report.problem("stripe.api_base", what);
    }
    if settings.public_url.is_some_and(|url| !url.starts_with("https://")) {
        report.problem(
            "public_url",
            "must begin with https:// with live keys: over plain http anybody on the way can read and spend a client's key; \
             put a proxy that speaks TLS in front, and write the address that callers see, such as \"https://api.example.com\"",
        );
    }
    if settings.trusts_everybody {
        report.problem(
            "trusted_proxies",
            "must not hold the whole internet with live keys, nor half of it, in whatever pieces: anybody could choose the address \
             they come from, and the limits against stolen cards count by it; write the addresses of your own proxies, such as [\"10.0.0.0/8\"]",
        );
    }
    let remote = settings.admin_listen.is_some_and(|address| !address.ip().to_canonical().is_loopback());
    if remote && !settings.admin_public_url.is_some_and(|url| url.starts_with("https://")) {
        report.problem(
            "admin_public_url",
            "must be set with live keys and admin pages that other machines reach: put a proxy that speaks TLS in front of \
             them and write its address, such as \"https://admin.example.com\", or write admin_listen = \"127.0.0.1:4403\"",
        );
    }
}
