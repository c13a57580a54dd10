//! Which paths are equal (RFC 3986 §6.2.2, §2.2): every spelling that an upstream treats alike.

use crate::support::{Site, Tier};

on_both_tiers! {
    a_write_invalidates_every_spelling_of_its_path,
    literals_of_rules_stand_for_every_spelling,
    paths_without_case_are_one,
}

const RULES: &str = r#"
[[family]]
name = "t"
path = '/t/.*'
ttl = "10m"

[[family]]
name = "user"
path = '/u/@(?<name>[a-z.]+)'
ttl = "10m"

[[family]]
name = "item"
path = '/items/(?<id>\d+)'
ttl = "10m"

[invalidate]
'/items/(?<id>\d+):publish' = ["item:{id}"]
'/u/%40(?<name>[^/]+)/(?:a%2Bb|c)' = ["user:{name}"]
"#;

fn a_write_invalidates_every_spelling_of_its_path(tier: Tier) {
    let site = Site::start(tier, RULES);
    for delimiter in "!$&'()*+,;=:@".chars() {
        let plain = format!("/t/joe{delimiter}x");
        let encoded = format!("/t/joe%{:02X}x", u32::from(delimiter));
        let lower = format!("/t/%6aoe%{:02x}x", u32::from(delimiter));
        for (read, write) in [(&plain, &encoded), (&encoded, &plain), (&lower, &plain), (&plain, &lower)] {
            site.get(read);
            site.get(read).shows("hit");
            site.write("PUT", write).has_status(200);
            site.get(read).hides("hit");
        }
    }
}

fn literals_of_rules_stand_for_every_spelling(tier: Tier) {
    let site = Site::start(tier, RULES);
    for write in ["/items/7:publish", "/items/7%3Apublish", "/items/%37%3apublish"] {
        site.get("/items/7");
        site.get("/items/7").shows("hit");
        site.get("/items/8");
        site.write("POST", write).has_status(200);
        site.get("/items/7").hides("hit");
        site.get("/items/8").shows("hit");
    }
    for read in ["/u/@joe.x", "/u/%40joe.x", "/u/%40joe%2Ex"] {
        for write in ["/u/@joe.x/a+b", "/u/%40joe.x/a%2bb", "/u/@joe%2ex/c"] {
            site.get(read);
            site.get(read).shows("hit");
            site.write("POST", write).has_status(200);
            site.get(read).hides("hit");
        }
    }
}

fn paths_without_case_are_one(tier: Tier) {
    let rules = "[server]\ncase_insensitive_paths = true\n[[family]]\nname = 'user'\npath = '/Users/(?<id>[^/]+)'\nttl = '10m'\n\
                 [invalidate]\n'/Users/(?<id>[^/]+)/Activate' = ['user:{id}']\n";
    let site = Site::start(tier, rules);
    for write in ["/USERS/JOE", "/users/%4Aoe", "/users/joe/activate", "/USERS/Joe/ACTIVATE"] {
        for read in ["/users/joe", "/Users/JOE", "/uSERS/j%6Fe"] {
            site.get(read);
            site.get(read).shows("hit");
            assert!(site.upstream.count(&format!("GET {read}")) > 0, "it reaches upstream as it came");
            site.write("PUT", write).has_status(200);
            site.get(read).hides("hit");
        }
    }
    site.get("/users/%C3%89ric");
    site.get("/users/%C3%89ric").shows("hit");
    site.write("PUT", "/users/%c3%a9RIC").has_status(200);
    site.get("/users/%C3%89ric").hides("hit");
}
