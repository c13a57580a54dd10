//! Several responses for one URL: normalised fields, many variants, and APIs with faulty `Vary` or tags.

use crate::support::{Reply, Response, Site, Tier, eventually};

on_both_tiers! {
    fields_are_compared_in_one_form_where_a_family_asks_for_it,
    fields_are_compared_as_they_came_where_no_family_asks,
    a_missing_variant_is_fetched_without_the_tags_of_others,
    no_caller_gets_anothers_variant,
    the_number_of_variants_is_bounded,
}

const RULES: &str = r#"
[[family]]
name = "normal"
path = '/normal/.*'
ttl = "600s"
normalize = ["accept-encoding", "accept-language"]

[[family]]
name = "few"
path = '/few'
ttl = "600s"
max_variants = 2

[[family]]
name = "plain"
path = '/plain'
ttl = "600s"
"#;

fn varying(site: &Site, target: &str, vary: &'static str) {
    let answer = move |request: &crate::support::upstream::Request| {
        Reply::new(format!("#{}", request.nth)).header("Vary", vary)
    };
    site.upstream.answer(target, answer);
}

#[track_caller]
fn get(site: &Site, target: &str, name: &str, value: &str) -> Response {
    site.call("GET", target).header(name, value).send()
}

fn fields_are_compared_in_one_form_where_a_family_asks_for_it(tier: Tier) {
    let site = Site::start(tier, RULES);
    let same: [(&str, &[&str]); 4] = [
        ("Accept-Encoding", &["gzip, br", "br,gzip", " GZIP ;q=1.0 ,\tBr", "br, gzip;q=1", "gzip, br, gzip"]),
        ("Accept-Encoding", &["identity;q=0, gzip", "gzip,identity;Q=0.0"]),
        ("Accept-Language", &["de, en;q=0.5", "DE,en;q=0.500", "en ; q=0.5 , de"]),
        ("Accept-Language", &["de-CH, de;q=0.9", "de;q=0.9,de-ch"]),
    ];
    for (index, (name, values)) in same.into_iter().enumerate() {
        let target = format!("/normal/same/{index}");
        varying(&site, &target, name);
        get(&site, &target, name, values[0]).shows("stored");
        for value in values {
            let found = get(&site, &target, name, value);
            assert!(found.is("hit"), "{name}: {value:?} is {:?}: {found:?}", values[0]);
        }
    }
    let different = [
        ("Accept-Encoding", "gzip", "br"),
        ("Accept-Encoding", "gzip, br;q=0", "gzip, br"),
        ("Accept-Encoding", "gzip;q=0", "gzip"),
        ("Accept-Language", "de, en;q=0.5", "en, de;q=0.5"),
        ("Accept-Language", "de", "de-CH"),
        ("Accept-Language", "de;q=0", "de"),
    ];
    for (index, (name, one, other)) in different.into_iter().enumerate() {
        let target = format!("/normal/different/{index}");
        varying(&site, &target, name);
        get(&site, &target, name, one).shows("stored");
        let found = get(&site, &target, name, other);
        assert!(!found.is("hit"), "{name}: {one:?} is not {other:?}: {found:?}");
    }
}

fn fields_are_compared_as_they_came_where_no_family_asks(tier: Tier) {
    let site = Site::start(tier, RULES);
    varying(&site, "/plain", "Accept-Encoding");
    get(&site, "/plain", "Accept-Encoding", "gzip, br").shows("stored");
    get(&site, "/plain", "Accept-Encoding", "br, gzip").shows("fwd=vary-miss; stored");
}

fn a_missing_variant_is_fetched_without_the_tags_of_others(tier: Tier) {
    let site = Site::start(tier, RULES);
    let answer = |request: &crate::support::upstream::Request| {
        let language = request.header("accept-language").unwrap_or("none").to_owned();
        Reply::new(language).stale("public").header("Vary", "Accept-Language")
    };
    site.upstream.answer("/plain", answer);
    for language in ["de", "en", "fr"] {
        get(&site, "/plain", "Accept-Language", language).shows("stored").carries(language);
        let sent = site.upstream.last("/plain");
        assert_eq!((sent.header("if-none-match"), sent.header("if-modified-since")), (None, None), "{language}");
    }
    // Each with its own, once.
    get(&site, "/plain", "Accept-Language", "de").shows("fwd=stale; stored");
    assert_eq!(site.upstream.last("/plain").headers("if-none-match"), ["\"1\""]);
}

/// How one API answers, well or badly.
#[derive(Debug, Clone, Copy)]
struct Api {
    by_origin: bool,
    by_language: bool,
    /// It compresses for clients that accept that, and names the field or not.
    coded: Option<bool>,
    tag: Option<&'static str>,
    /// Each variant has a tag of its own.
    own_tags: bool,
    /// What a 304 repeats: the tag, the allowed origin, and so many of the fields in `Vary`.
    repeats: (bool, bool, usize),
    fresh: bool,
    /// For requests that it dislikes.
    refusal: u16,
}

impl Api {
    fn of(mut seed: u64) -> Api {
        let mut pick = |most: u64| {
            // Numbers that go before each other in no way that matters here (Knuth's MMIX).
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % most
        };
        Api {
            by_origin: pick(2) == 0,
            by_language: pick(2) == 0,
            coded: [None, Some(true), Some(false)][pick(3) as usize],
            tag: [None, Some("\"v1\""), Some("W/\"v1\""), Some("\"v1\"")][pick(4) as usize],
            own_tags: pick(4) == 0,
            repeats: (pick(2) == 0, pick(2) == 0, pick(4) as usize),
            fresh: pick(3) == 0,
            refusal: [406, 400, 429, 501, 403, 414][pick(6) as usize],
        }
    }

    /// The body for a request, and whether it is coded.
    fn body(self, field: impl Fn(&str) -> Option<String>) -> (String, bool) {
        let part = |counts: bool, name: &str| match counts {
            true => field(name).unwrap_or_else(|| "none".to_owned()),
            false => "any".to_owned(),
        };
        let accepted = field("accept-encoding").is_some_and(|value| value == "gzip" || value == "*");
        let is_coded = self.coded.is_some() && accepted;
        (
            format!("{} {} {is_coded}", part(self.by_origin, "origin"), part(self.by_language, "accept-language")),
            is_coded,
        )
    }

    fn answer(self, request: &crate::support::upstream::Request) -> Reply {
        if request.header("x-bad").is_some() {
            return Reply::status(self.refusal).cached("public, max-age=600");
        }
        let (body, is_coded) = self.body(|name| request.header(name).map(str::to_owned));
        let vary = [
            (self.by_origin, "Origin"),
            (self.by_language, "Accept-Language"),
            (self.coded == Some(true), "Accept-Encoding"),
        ];
        let vary: Vec<_> = vary.iter().filter(|(named, _)| *named).map(|(_, name)| *name).collect();
        let tag = self.tag.map(|tag| match self.own_tags {
            true => tag.replace("v1", &body.replace(' ', "-")),
            false => tag.to_owned(),
        });
        let is_known =
            tag.as_ref().is_some_and(|tag| request.header("if-none-match").is_some_and(|sent| sent.contains(tag)));
        let (repeats_tag, repeats_origin, repeated) =
            if is_known { self.repeats } else { (true, true, usize::MAX) };
        let mut reply = if is_known { Reply::status(304) } else { Reply::new(body) };
        reply = reply.cached("public, max-age=60");
        if !self.fresh {
            reply = reply.header("Age", "100");
        }
        if is_coded && !is_known {
            reply = reply.header("Content-Encoding", "gzip");
        }
        if let (Some(tag), true) = (&tag, repeats_tag) {
            reply = reply.header("ETag", tag);
        }
        if self.by_origin && repeats_origin {
            reply = reply.header("Access-Control-Allow-Origin", request.header("origin").unwrap_or("none"));
        }
        vary.into_iter().take(repeated).fold(reply, |reply, name| reply.header("Vary", name))
    }
}

/// A simple model of who may receive what, against APIs that use one tag for all variants, omit fields in a 304,
/// compress without `Vary`, and reject some requests with storable responses.
fn no_caller_gets_anothers_variant(tier: Tier) {
    let site = Site::start(tier, "");
    let choices: [(&str, &[Option<&str>]); 3] = [
        ("origin", &[None, Some("http://a"), Some("http://b")]),
        ("accept-language", &[None, Some("de"), Some("en")]),
        ("accept-encoding", &[None, Some("gzip"), Some("identity"), Some("gzip;q=0"), Some("*")]),
    ];
    for seed in 0..24_u64 {
        let (api, target) = (Api::of(seed), format!("/{seed}"));
        site.upstream.answer(&target, move |request| api.answer(request));
        let mut state = seed;
        let mut answers = Vec::new();
        for _ in 0..20 {
            let mut pick = |most: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
                (state >> 33) as usize % most
            };
            let fields: Vec<(&str, &str)> =
                choices.iter().filter_map(|(name, values)| Some((*name, values[pick(values.len())]?))).collect();
            let is_bad = pick(6) == 0;
            let call =
                fields.iter().fold(site.call("GET", &target), |call, (name, value)| call.header(name, value));
            let answer = if is_bad { call.header("X-Bad", "1").send() } else { call.send() };
            answers.push(format!("{fields:?} {is_bad}: {:?}", answer.headers("cache-status")));
            if is_bad && answer.status == api.refusal {
                continue;
            }
            let own =
                |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            let (body, is_coded) = api.body(own);
            // If nothing names the field, an uncoded response suits clients that accept a coding too.
            let was_coded = answer.header("content-encoding").is_some();
            let may_be_plain = is_coded && api.coded == Some(false) && !was_coded;
            let body = if may_be_plain { body.replace("true", "false") } else { body };
            assert_eq!((answer.status, answer.text()), (200, body), "{api:?} {answers:#?}");
            assert!(was_coded == is_coded || may_be_plain, "{api:?} {answers:#?}");
            if api.by_origin {
                let allowed = own("origin").unwrap_or_else(|| "none".to_owned());
                assert_eq!(answer.headers("access-control-allow-origin"), [allowed], "{api:?} {answers:#?}");
            }
        }
    }
}

fn the_number_of_variants_is_bounded(tier: Tier) {
    let site = Site::start(tier, RULES);
    varying(&site, "/few", "Accept");
    let ask = |value: &str| get(&site, "/few", "Accept", value);
    for (value, number) in [("a", 1), ("b", 2), ("c", 3)] {
        ask(value).carries(&format!("#{number}"));
    }
    // A HEAD neither stores nor waits: surplus variants are removed soon after the response that exceeded the limit.
    let is_stored = |value: &str| site.call("HEAD", "/few").header("Accept", value).send().is("hit");
    eventually("two of three are left", || {
        ["a", "b", "c"].into_iter().filter(|value| is_stored(value)).count() <= 2
    });
    assert!(is_stored("c"), "the youngest stays");
}
