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

const CALLERS: &str = r#"
[server]
credential_headers = ["Acme-Caller"]

[[family]]
name = "plain"
path = '/plain'
ttl = "60s"

[[family]]
name = "keyed"
path = '/keyed'
ttl = "60s"
headers = ["x-api-key"]

[[family]]
name = "by_token"
path = '/by/token'
ttl = "60s"
identity = "header:authorization"

[[family]]
name = "by_address"
path = '/by/address'
ttl = "60s"
identity = "header:cf-connecting-ip"

[[family]]
name = "by_cookie"
path = '/by/cookie'
ttl = "60s"
identity = "cookie:sid"

[[family]]
name = "chosen"
path = '/chosen'
ttl = "60s"
identity = "cookie:sid"
cookies = { keep = ["theme"] }

[[family]]
name = "kept"
path = '/kept'
ttl = "60s"
cookies = { keep = ["theme"] }

[[family]]
name = "bare"
path = '/bare'
ttl = "60s"
identity = "header:authorization"
cookies = { keep = [] }

[[family]]
name = "stripped"
path = '/stripped'
ttl = "60s"
set_cookie = "strip"
"#;

on_both_tiers! {
    fields_with_credentials_share_no_entry,
    fields_with_credentials_share_no_fetch,
    a_family_that_keys_on_a_credential_tells_callers_apart_by_it,
    a_credential_beside_the_identity_shares_no_entry,
    a_caller_without_the_cookie_of_the_identity_is_anonymous,
    cookies_that_are_not_kept_are_neither_keyed_nor_sent,
    kept_cookies_tell_entries_apart,
    set_cookie_can_be_stripped,
    what_a_client_claims_of_itself_reaches_nobody,
    what_a_trusted_proxy_claims_is_sent_and_keyed,
    callers_that_a_proxy_names_share_nothing,
    a_proxy_that_is_not_named_is_not_trusted,
    explain_names_the_key_that_the_proxy_uses,
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

const CREDENTIALS: [&str; 7] =
    ["X-API-Key", "X-Auth-Token", "Api-Key", "Authorization", "Cookie", "Private-Token", "Acme-Caller"];

/// Upstream answers with what it was shown of these fields.
fn echo(site: &Site, target: &str, fields: &'static [&'static str]) {
    site.upstream.answer(&format!("GET {target}"), move |request| {
        let shown = fields.iter().find_map(|field| request.header(&field.to_ascii_lowercase()));
        Reply::new(format!("for {} #{}", shown.unwrap_or("nobody"), request.nth))
    });
}

fn fields_with_credentials_share_no_entry(tier: Tier) {
    let site = Site::start(tier, CALLERS);
    echo(&site, "/plain", &CREDENTIALS);
    site.get("/plain").shows("stored").carries("for nobody #1");
    for field in CREDENTIALS {
        for caller in ["ann", "bob", "ann"] {
            let answer = site.call("GET", "/plain").header(field, caller).send().hides("hit").hides("stored");
            assert!(answer.text().starts_with(&format!("for {caller} ")), "{field}: {answer:?}");
        }
    }
    site.get("/plain").shows("hit").carries("for nobody #1");
}

fn fields_with_credentials_share_no_fetch(tier: Tier) {
    let site = Site::start(tier, CALLERS);
    for field in CREDENTIALS {
        let target = format!("/plain?{field}");
        echo(&site, &target, &CREDENTIALS);
        let gate = site.upstream.hold_all(&target);
        let callers = ["ann", "bob"];
        let pending = callers.map(|caller| site.call("GET", &target).header(field, caller).start());
        gate.wait_for(2);
        gate.open();
        for (pending, caller) in pending.into_iter().zip(callers) {
            let answer = pending.response();
            assert!(answer.text().starts_with(&format!("for {caller} ")), "{field}: {answer:?}");
        }
    }
}

fn a_family_that_keys_on_a_credential_tells_callers_apart_by_it(tier: Tier) {
    let site = Site::start(tier, CALLERS);
    echo(&site, "/keyed", &["x-api-key"]);
    let get = |caller: &str| site.call("GET", "/keyed").header("X-API-Key", caller).send();
    get("ann").shows("stored").carries("for ann #1");
    get("bob").shows("stored").carries("for bob #2");
    get("ann").shows("hit").carries("for ann #1");
    site.call("GET", "/keyed").header("X-API-Key", "ann").header("X-Auth-Token", "x").send().hides("hit");
    // What would be removed elsewhere is sent where it is keyed.
    echo(&site, "/by/address", &["cf-connecting-ip"]);
    let get = |address: &str| site.call("GET", "/by/address").header("CF-Connecting-IP", address).send();
    get("192.0.2.1").shows("stored").carries("for 192.0.2.1 #1");
    get("192.0.2.2").shows("stored").carries("for 192.0.2.2 #2");
    get("192.0.2.1").shows("hit").carries("for 192.0.2.1 #1");
}

fn a_credential_beside_the_identity_shares_no_entry(tier: Tier) {
    let site = Site::start(tier, CALLERS);
    let app = || site.call("GET", "/by/token").header("Authorization", "Bearer app");
    app().send().shows("stored");
    app().send().shows("hit");
    for (field, value) in [("X-Auth-Token", "ann"), ("Cookie", "sid=ann")] {
        app().header(field, value).send().hides("hit").hides("stored");
    }
    // Tokens against forged requests come beside the cookie, and tell nobody apart.
    app().header("X-XSRF-TOKEN", "1").send().shows("hit");
    // A family may say that it needs none of the cookies.
    let bare = |cookie: &str| {
        site.call("GET", "/bare").header("Authorization", "Bearer app").header("Cookie", cookie).send()
    };
    bare("_ga=1").shows("stored");
    bare("_ga=2").shows("hit");
    assert_eq!(site.upstream.last("/bare").header("cookie"), None);
}

fn a_caller_without_the_cookie_of_the_identity_is_anonymous(tier: Tier) {
    let site = Site::start(tier, CALLERS);
    echo(&site, "/by/cookie", &["cookie", "authorization"]);
    let get = |cookies: &str| site.call("GET", "/by/cookie").header("Cookie", cookies);
    get("_ga=1").send().shows("stored").carries("for nobody #1");
    get("_ga=2; theme=dark").send().shows("hit").carries("for nobody #1");
    site.get("/by/cookie").shows("hit").carries("for nobody #1");
    get("_ga=1; sid=ann").send().shows("stored").carries("for _ga=1; sid=ann #2");
    get("_ga=1").header("Authorization", "bob").send().hides("hit").hides("stored").carries("for _ga=1 #3");
    // What is sent beside it may tell the API who asks, too.
    get("sid=ann; remember=bob").send().shows("stored").carries("for sid=ann; remember=bob #4");
    get("sid=ann; remember=bob").send().shows("hit").carries("for sid=ann; remember=bob #4");
    for empty in ["sid=; remember=ann", "sid=; remember=bob", "sid ="] {
        get(empty).send().shows("hit").carries("for nobody #1");
    }
}

fn cookies_that_are_not_kept_are_neither_keyed_nor_sent(tier: Tier) {
    let site = Site::start(tier, CALLERS);
    site.upstream.answer("GET /chosen", |request| {
        let cookies = request.header("cookie").unwrap_or("no cookie").to_owned();
        Reply::new(format!("{cookies} #{}", request.nth)).header("Vary", "Cookie")
    });
    let get = |cookies: &str| site.call("GET", "/chosen").header("Cookie", cookies).send();
    get("_ga=1; theme=dark; sid=ann").shows("stored").carries("sid=ann; theme=dark #1");
    get("sid=ann; _ga=2; theme=dark; _gid=1").shows("hit");
    get("sid=ann; theme=light").shows("stored").carries("sid=ann; theme=light #2");
    get("sid=bob; theme=dark").shows("stored").carries("sid=bob; theme=dark #3");
    get("_ga=1").shows("stored").carries("no cookie #4");
    get("_gid=1").shows("hit").carries("no cookie #4");
    site.get("/chosen").shows("hit").carries("no cookie #4");
    // A write reaches upstream as it came.
    site.call("POST", "/chosen").header("Cookie", "_ga=1; sid=ann").send();
    assert_eq!(site.upstream.last("POST /chosen").header("cookie"), Some("_ga=1; sid=ann"));
}

fn kept_cookies_tell_entries_apart(tier: Tier) {
    let site = Site::start(tier, CALLERS);
    echo(&site, "/kept", &["cookie"]);
    let get = |cookies: &str| site.call("GET", "/kept").header("Cookie", cookies).send();
    get("theme=dark; sid=1").shows("stored").carries("for theme=dark #1");
    get("theme=light; sid=1").shows("stored").carries("for theme=light #2");
    get("sid=2").shows("stored").carries("for nobody #3");
    get("theme=dark; sid=2").shows("hit").carries("for theme=dark #1");
    // Servers differ in whether they trim blanks: it is sent as it is keyed.
    get("theme =blue").shows("stored").carries("for theme=blue #4");
    get("theme= blue").shows("hit").carries("for theme=blue #4");
    get("theme=a; theme=b").shows("stored").carries("for theme=a; theme=b #5");
    get("theme=a, b").shows("stored").carries("for theme=a, b #6");
    site.get("/kept").shows("hit").carries("for nobody #3");
}

fn set_cookie_can_be_stripped(tier: Tier) {
    let site = Site::start(tier, CALLERS);
    let reply = || Reply::numbered().header("Set-Cookie", "session=1").header("ETag", "\"1\"");
    site.upstream.on("/stripped", reply());
    assert_eq!(site.get("/stripped").shows("stored").header("set-cookie"), None);
    assert_eq!(site.get("/stripped").shows("hit").header("set-cookie"), None);
    // Neither where nothing is stored, nor where what is stored is confirmed.
    site.upstream.on("/stripped?b", reply().cached("no-store"));
    assert_eq!(site.get("/stripped?b").hides("stored").header("set-cookie"), None);
    assert_eq!(site.call("HEAD", "/stripped?c").send().header("set-cookie"), None);
    let ranged = site.call("GET", "/stripped?b").header("If-Match", "\"1\"").send();
    assert_eq!(ranged.hides("hit").header("set-cookie"), None);
    // Nor where the cache is not asked at all.
    let with_content = site.call("GET", "/stripped?b").body("x").send().shows("detail=request-body");
    assert_eq!(with_content.header("set-cookie"), None);
    site.upstream.answer("/stripped?d", |request| match request.header("if-none-match") {
        Some(_) => Reply::with_status(304, "").header("Set-Cookie", "session=2").cached("max-age=60"),
        None => Reply::numbered().header("ETag", "\"1\"").header("Set-Cookie", "session=1").cached("no-cache"),
    });
    site.get("/stripped?d").shows("stored");
    let confirmed = site.get("/stripped?d").shows("fwd-status=304").carries("/stripped?d #1");
    assert_eq!(confirmed.header("set-cookie"), None);
    site.get("/stripped?d").shows("hit");
}

const CLAIMS: [&str; 11] = [
    "X-Forwarded-Ssl",
    "X-Forwarded-Scheme",
    "X-Forwarded-Port",
    "X-Script-Name",
    "CloudFront-Forwarded-Proto",
    "CF-Visitor",
    "Front-End-Https",
    "X-Rewrite-Uri",
    "X-Original-URL",
    "X-Real-IP",
    "True-Client-IP",
];

/// Of these those that tell of no path and no address.
fn is_of_origin(name: &str) -> bool {
    !matches!(name, "X-Rewrite-Uri" | "X-Original-URL" | "X-Real-IP" | "True-Client-IP")
}

fn what_a_client_claims_of_itself_reaches_nobody(tier: Tier) {
    for server in ["", "[server]\nunderscores = true\n", "[server]\nforwarded = 'off'\n"] {
        let site = Site::start(tier, server);
        for method in ["GET", "POST", "PUT", "OPTIONS", "HEAD"] {
            for name in CLAIMS {
                let target = format!("/{name}");
                let call = site.call(method, &target).header(name, "1").header(&name.replace('-', "_"), "1");
                call.header("Forwarded", "host=evil.test").send();
                let received = site.upstream.last(&format!("{method} {target}"));
                for name in [name.to_ascii_lowercase(), name.to_ascii_lowercase().replace('-', "_")] {
                    assert_eq!(received.header(&name), None, "{server} {method} {name}");
                }
                let forwarded = received.headers("forwarded").join(", ");
                assert!(!forwarded.contains("evil.test"), "{server} {method}: {forwarded}");
            }
        }
    }
}

fn what_a_trusted_proxy_claims_is_sent_and_keyed(tier: Tier) {
    let site = Site::start(tier, "[server]\nforwarded = 'append'\ntrusted_proxies = ['127.0.0.0/8', '::1']\n");
    for name in CLAIMS {
        let target = format!("/{name}");
        site.upstream.on(&target, Reply::numbered().cached("max-age=60"));
        let get = |value: &str| site.call("GET", &target).header(name, value).send();
        get("1").shows("stored").carries(&format!("{target} #1"));
        let read = site.upstream.last(&format!("GET {target}"));
        site.call("POST", &format!("{target}/a")).header(name, "1").send();
        let written = site.upstream.last(&format!("POST {target}/a"));
        let expected = is_of_origin(name).then_some("1");
        let field = name.to_ascii_lowercase();
        assert_eq!((read.header(&field), written.header(&field)), (expected, expected), "{name}");
        assert_eq!(get("2").is("hit"), !is_of_origin(name), "{name}");
        get("1").shows("hit").carries(&format!("{target} #1"));
    }
    // What comes from the client beside it is for that client alone.
    site.upstream.on("/links", Reply::numbered().cached("max-age=60"));
    let get = |forwarded: &str| site.call("GET", "/links").header("Forwarded", forwarded).send();
    get("for=192.0.2.1;host=evil.test;proto=https").shows("stored").carries("/links #1");
    site.get("/links").shows("stored").carries("/links #2");
    get("for=192.0.2.2;host=evil.test;proto=https").shows("hit").carries("/links #1");
    get("for=192.0.2.2").shows("hit").carries("/links #2");
    // Upstream is told one scheme.
    site.call("GET", "/told").header("X-Forwarded-Ssl", "on").send();
    assert_eq!(site.upstream.last("/told").header("x-forwarded-proto"), None);
}

fn callers_that_a_proxy_names_share_nothing(tier: Tier) {
    for (trusted, is_trusted) in [("127.0.0.1", true), ("10.0.0.0/8", false)] {
        let server = format!("[server]\nforwarded = 'append'\ntrusted_proxies = ['{trusted}']\n");
        let site = Site::start(tier, &server);
        site.upstream.answer("/mail", |request| {
            Reply::new(request.header("x-forwarded-user").unwrap_or("nobody")).cached("max-age=60")
        });
        let get = |user: &str| site.call("GET", "/mail").header("X-Forwarded-User", user).send();
        for user in ["ann", "bob"] {
            get(user).carries(if is_trusted { user } else { "nobody" });
        }
        assert_eq!(get("ann").is("hit"), !is_trusted);
        site.call("POST", "/mail").header("X-Forwarded-User", "ann").send();
        let user = site.upstream.last("POST /mail").header("x-forwarded-user").map(str::to_owned);
        assert_eq!(user.as_deref(), is_trusted.then_some("ann"));
    }
}

fn a_proxy_that_is_not_named_is_not_trusted(tier: Tier) {
    let site = Site::start(tier, "[server]\nforwarded = 'append'\ntrusted_proxies = ['10.0.0.0/8']\n");
    for method in ["GET", "POST"] {
        let call =
            site.call(method, "/a").header("X-Forwarded-Proto", "https").header("X-Forwarded-For", "192.0.2.1");
        call.header("X-Forwarded-Ssl", "on").header("Forwarded", "for=192.0.2.1;host=evil.test").send();
        let received = site.upstream.last(&format!("{method} /a"));
        assert_eq!(received.headers("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(received.headers("x-forwarded-proto"), ["http"]);
        assert_eq!(received.header("x-forwarded-ssl"), None);
        assert!(!received.headers("forwarded").join(", ").contains("192.0.2.1"));
    }
}

type Fields<'f> = &'f [(&'f str, &'f str)];

fn explain_names_the_key_that_the_proxy_uses(tier: Tier) {
    let server = "[server]\ncache_status = 'key'\nforwarded = 'append'\ntrusted_proxies = ['127.0.0.1']\n";
    let site = Site::start(tier, &(server.to_owned() + &CALLERS.replace("[server]\n", "") + QUERIES));
    let rows: [(&str, Fields<'_>, &str); 9] = [
        ("/list?utm_source=x&b=1&a=2", &[], "neither part of the key nor sent"),
        ("/all?b=1&a=2", &[("Front-End-Https", "on")], ""),
        ("/all", &[("X-Original-URL", "/b")], "x-original-url"),
        ("/all", &[("Forwarded", "for=192.0.2.1;host=a")], ""),
        ("/by/cookie", &[("Cookie", "_ga=1")], "it is anonymous"),
        ("/by/cookie", &[("Cookie", "_ga=1; sid=1")], ""),
        ("/chosen", &[("Cookie", "_ga=1; sid=1; theme=dark")], "sent: sid, theme"),
        ("/plain", &[("X-API-Key", "1")], "carries x-api-key and no family says"),
        (
            "/by/token",
            &[("Authorization", "1"), ("Cookie", "a=1")],
            "carries cookie, by which the family does not",
        ),
    ];
    for (target, fields, note) in rows {
        let call = fields.iter().fold(site.call("GET", target), |call, (name, value)| call.header(name, value));
        let status = call.header("Host", "h").send().header("cache-status").unwrap().to_owned();
        let mut question = format!("/cache/explain?url=http://h{}", target.replace('&', "%26"));
        for (name, value) in fields {
            question += &format!("&header={name}:{}", value.replace(' ', "%20").replace(';', "%3B"));
        }
        let explanation = site.admin_get(&question).json();
        let key = explanation["key"].as_str().unwrap();
        assert!(status.contains(&format!(":{key}\"")), "{target} {fields:?}: {status} {explanation:#}");
        assert!(explanation["notes"].to_string().contains(note), "{target} {fields:?}: {explanation:#}");
    }
}

/// By a field that is removed where nobody is told apart by it.
#[test]
fn a_write_has_the_caller_of_the_reads_that_it_invalidates() {
    let rules = "[[family]]\nname = 'me'\npath = '/me'\nttl = '60s'\nidentity = 'header:x-remote-user'\n\
                 [invalidate]\n'/logout' = [\"me:{identity}\"]\n";
    let site = Site::start(Tier::Embedded, rules);
    let by = |method: &str, target: &str, caller: &str| site.call(method, target).header("X-Remote-User", caller);
    for caller in ["ann", "bob"] {
        by("GET", "/me", caller).send().shows("stored");
    }
    by("POST", "/logout", "ann").body("{}").send().has_status(200);
    assert_eq!(site.upstream.last("POST /logout").header("x-remote-user"), Some("ann"));
    by("GET", "/me", "ann").send().shows("detail=invalidated");
    by("GET", "/me", "bob").send().shows("hit");
}
