//! `larder healthcheck`: what an orchestrator learns from its exit code.

use crate::support::larder::{Exit, signal};
use crate::support::{Larder, Plan, Site, Tier, Upstream, larder};

on_both_tiers! {
    a_ready_larder_is_healthy,
}

/// The health check as a container runs it: it finds the address in the rules file.
fn by_file(served: &Larder, more: &str) -> Exit {
    let rules = format!("[admin]\nlisten = \"{}\"\n{more}", served.admin);
    larder(Some(&rules), &["healthcheck"])
}

#[track_caller]
fn is_healthy(exit: &Exit) {
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""), "{exit:?}");
}

#[track_caller]
fn is_unhealthy(exit: &Exit, why: &str) {
    assert!(exit.code == Some(1) && exit.stderr.contains(why), "{exit:?} does not say {why:?}");
}

fn a_ready_larder_is_healthy(tier: Tier) {
    let site = Site::start(tier, "");
    is_healthy(&by_file(&site, ""));
    is_healthy(&larder(None, &["healthcheck", "--admin", &site.admin.to_string()]));
    // On all interfaces it is asked over loopback.
    is_healthy(&larder(None, &["healthcheck", "--admin", &format!("0.0.0.0:{}", site.admin.port())]));
}

#[test]
fn a_fault_elsewhere_in_the_file_changes_nothing() {
    let site = Site::start(Tier::Embedded, "");
    is_healthy(&by_file(&site, "[[family]]\nname = 7\n[store]\nredis = \"${NOT_SET}\"\n[[family]\n"));
}

#[test]
fn the_probe_needs_no_token() {
    let upstream = Upstream::start();
    let plan = Plan::new(&upstream.url()).environment("LARDER_ADMIN_TOKEN", "of-the-admin-0123456789");
    is_healthy(&by_file(&plan.start(), ""));
}

#[test]
fn a_larder_that_hangs_or_has_ended_is_unhealthy() {
    let mut site = Site::start(Tier::Embedded, "");
    signal(site.id(), "STOP");
    is_unhealthy(&by_file(&site, ""), "not ready");
    signal(site.id(), "CONT");
    is_healthy(&by_file(&site, ""));
    site.terminate();
    assert_eq!(site.larder.wait(), Some(0));
    is_unhealthy(&by_file(&site, ""), "not ready");
}

#[test]
fn an_address_that_cannot_be_asked_is_a_failure_that_says_why() {
    is_unhealthy(&larder(None, &["healthcheck", "--admin", "127.0.0.1:0"]), "give it a fixed port");
    is_unhealthy(&larder(None, &["healthcheck", "--admin", "localhost"]), "write \"127.0.0.1");
    is_unhealthy(&larder(None, &["healthcheck", "--rules", "missing.toml"]), "missing.toml");
}
