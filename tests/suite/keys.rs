//! Upstream sees exactly what the key holds: a query, a cookie or a field that does not count in a family does not reach
//! upstream either, and one that reaches it tells entries apart.

use crate::support::{Reply, Site, Tier};

const QUERIES: &str = r#"
[[family]]
name = "pages"
path = '/pages'
ttl = "60s"
query = { keep = ["page"] }

[[family]]
name = "list"
path = '/list'
ttl = "60s"
query = { drop = ["utm_source"] }

[[family]]
name = "unsorted"
path = '/unsorted'
ttl = "60s"
query = { sort = false }

[[family]]
name = "all"
path = '/all'
ttl = "60s"
"#;

on_both_tiers! {
    parameters_that_are_not_keyed_are_not_sent,
    what_upstream_may_take_for_a_parameter_is_keyed_and_sent,
    the_query_that_is_keyed_is_the_query_that_is_sent,
}

fn parameters_that_are_not_keyed_are_not_sent(tier: Tier) {
    let site = Site::start(tier, QUERIES);
    site.get("/list?utm_source=evil&b=1&a=2").shows("stored").carries("/list?a=2&b=1 #1");
    site.get("/list?a=2&utm_source=good&b=1").shows("hit");
    site.get("/list?utm_source=x").shows("stored").carries("/list #1");
    site.get("/list").shows("hit").carries("/list #1");
    site.get("/pages?evil=1").shows("stored").carries("/pages #1");
    site.get("/pages?page=2&evil=1").shows("stored").carries("/pages?page=2 #1");
    // Past the cache too.
    let call = site.call("GET", "/list?utm_source=x&a=9").header("If-Match", "\"1\"");
    call.send().carries("/list?a=9 #1");
    site.call("HEAD", "/list?utm_source=x&a=8").send();
    assert_eq!(site.upstream.count("HEAD /list?a=8"), 1);
}

fn what_upstream_may_take_for_a_parameter_is_keyed_and_sent(tier: Tier) {
    let site = Site::start(tier, QUERIES);
    let rows = [
        ("/pages", "Page=2"),
        ("/pages", "page[]=9"),
        ("/pages", "page%5B%5D=9"),
        ("/pages", "x=1;page=9"),
        ("/pages", "+page=9"),
        ("/list", "utm_source=x;page=999"),
        ("/list", "UTM_SOURCE=x"),
    ];
    for (path, query) in rows {
        let target = format!("{path}?{query}");
        site.get(&target).shows("fwd=uri-miss; stored").carries(&format!("{target} #1"));
        site.get(&target).shows("hit").carries(&format!("{target} #1"));
    }
    for path in ["/pages", "/list"] {
        site.get(path).shows("fwd=uri-miss; stored").carries(&format!("{path} #1"));
    }
}

fn the_query_that_is_keyed_is_the_query_that_is_sent(tier: Tier) {
    let site = Site::start(tier, QUERIES);
    site.get("/all?b=1&a=2").shows("stored").carries("/all?a=2&b=1 #1");
    site.get("/all?a=2&b=1").shows("hit");
    let operators = ["/all?f[][n]=a&f[][op]=eq&f[][n]=b", "/all?f[][n]=a&f[][n]=b&f[][op]=eq"];
    let lists = ["/all?b=1&a=1&b=2", "/all?b=1&b=2&a=1"];
    let unsorted = ["/unsorted?b=1&a=2", "/unsorted?a=2&b=1"];
    for target in operators.into_iter().chain(lists).chain(unsorted) {
        site.get(target).shows("fwd=uri-miss; stored").carries(&format!("{target} #1"));
        site.get(target).shows("hit");
    }
    // Without a family a query counts as it came.
    site.upstream.on("/free?b=1&a=2", Reply::numbered().cached("max-age=60"));
    site.get("/free?b=1&a=2").shows("stored").carries("/free?b=1&a=2 #1");
    site.get("/free?a=2&b=1").hides("hit");
}
