//! Redis comes back after an outage that all proxies had: what each of them kept meanwhile has to be there before anything
//! stored is trusted, whichever proxy is first.

use crate::support::larder::signal;
use crate::support::{Larder, Site, Tier, eventually};

/// No member is removed while the test runs.
const RULES: &str = r#"
[store]
timeout = "200ms"
connect_timeout = "30s"

[[family]]
name = "users"
path = '/users'
ttl = "600s"

[invalidate]
'/users/create' = ["users"]
"#;

fn says(larder: &Larder, word: &str) -> bool {
    larder.admin_get("/cache/fleet").text().contains(word)
}

/// The second proxy is there again, and the first, which keeps an invalidation, is not yet.
fn first_to_return(coherence: &str) {
    let store = format!("[store]\ncoherence = \"{coherence}\"");
    let mut site = Site::start(Tier::Redis, &RULES.replace("[store]", &store));
    let other = site.another();
    site.get("/users").shows("stored").carries("/users #1");
    eventually("both have hits", || site.get("/users").is("hit") && other.get("/users").is("hit"));
    site.redis().hang();
    for proxy in [&site.larder, &other] {
        eventually("the outage is noticed", || proxy.get("/users").is("detail=store-away"));
    }
    // Not even sent, since there is no connection; so it cannot be carried out as Redis wakes.
    site.write("POST", "/users/create").has_status(200).shows("detail=store-away");
    signal(site.larder.id(), "STOP");
    site.redis().resume();
    eventually("the other one is back", || says(&other, "\"reason\":\"returning\""));
    for _ in 0..10 {
        let answer = other.get("/users").shows("detail=store-away");
        assert_ne!(answer.text(), "/users #1", "{answer:?}");
    }
    signal(site.larder.id(), "CONT");
    if coherence == "strict" {
        return;
    }
    for proxy in [&other, &site.larder] {
        eventually("hits are back", || {
            let answer = proxy.get("/users");
            assert_ne!(answer.text(), "/users #1", "{answer:?}");
            answer.is("hit")
        });
    }
}

#[test]
fn who_is_back_first_waits_for_what_the_others_keep() {
    first_to_return("lease");
}

/// Strict proxies are no members: nobody knows whom to wait for.
#[test]
fn strict_proxies_wait_for_as_long_as_anybody_may_take() {
    first_to_return("strict");
}
