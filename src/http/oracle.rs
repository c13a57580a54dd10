//! An independent model of RFC 9111 for tests: §3, §4, §4.2, §4.2.4 and §5.2 sentence by sentence, on texts and on
//! integers that cannot overflow, without code under test. Where the RFC leaves a choice, the model permits all of
//! it; what it forbids, no reading of the RFC allows. Without targeted fields (RFC 9213). Statuses about the request
//! (RFC 6585 and RFC 9110 §15) count as forbidden to store.

/// Lines of a header section.
pub(crate) type Lines = Vec<(String, String)>;

/// A response with the request that fetched it. Times are seconds since 1970.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub request: Lines,
    pub status: u16,
    pub response: Lines,
    pub request_time: i128,
    pub response_time: i128,
}

/// What the operator has agreed on with the origin (§4.2.4: "an out-of-band contract"). Seconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contract {
    pub ttl: Option<i128>,
    pub heuristic: bool,
    pub stale_while_revalidate: Option<i128>,
    pub stale_if_error: Option<i128>,
    pub stale_if_unreachable: i128,
}

/// The state of upstream when the stored response is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Situation {
    /// Not contacted yet.
    Untried,
    /// It responded with 500, 502, 503 or 504.
    Erring,
    /// It is unreachable.
    Disconnected,
}

/// How a response may be served without validation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permitted {
    Fresh,
    Stale,
}

/// RFC 9110 §15.1.
const HEURISTICALLY_CACHEABLE: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

/// Statuses whose caching behaviour a cache without partial content understands.
const UNDERSTOOD: [u16; 14] = [200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501];

/// RFC 6585 §3 to §6: "Responses with the […] status code MUST NOT be stored by a cache."
const NEVER_BY_RFC_6585: [u16; 4] = [428, 429, 431, 511];

/// Sentences of RFC 9110 §15 that blame "the request" or its sender, not the resource.
const CAUSED_BY_THE_REQUEST: [(u16, &str); 18] = [
    (400, "something that is perceived to be a client error (e.g., malformed request syntax"),
    (401, "lacks valid authentication credentials"),
    (402, "reserved for future use: payment of who asks"),
    (403, "understood the request but refuses to fulfill it"),
    (
        406,
        "acceptable to the user agent, according to the proactive negotiation header fields received in the request",
    ),
    (407, "the client needs to authenticate itself in order to use a proxy"),
    (408, "did not receive a complete request message"),
    (411, "refuses to accept the request without a defined Content-Length"),
    (412, "conditions given in the request header fields evaluated to false"),
    (413, "refusing to process a request because the request content is larger"),
    (414, "refusing to service the request because the target URI is longer"),
    (415, "refusing to service the request because the content is in a format not supported"),
    (416, "the set of ranges requested has been rejected"),
    (417, "the expectation given in the request's Expect header field could not be met"),
    (421, "the request was directed at a server that is unable or unwilling to produce an authoritative response"),
    (422, "unable to process the contained instructions"),
    (426, "refuses to perform the request using the current protocol"),
    (501, "does not support the functionality required to fulfill the request"),
];

/// 4xx statuses with a specification: RFC 9110 §15.5, RFC 4918, RFC 6585, RFC 7725, RFC 8470.
const REGISTERED_4XX: [u16; 29] = [
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423,
    424, 425, 426, 428, 429, 431, 451,
];

/// RFC 9110 §15: one that is not recognised is treated "as being equivalent to the x00 status code of that class".
fn recognised(status: u16) -> u16 {
    let is_unknown = (400..500).contains(&status) && !REGISTERED_4XX.contains(&status);
    if is_unknown { 400 } else { status }
}

/// All values of a field, joined as in RFC 9110 §5.2.
fn field(lines: &Lines, name: &str) -> Option<String> {
    let values: Vec<&str> =
        lines.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect();
    if values.is_empty() { None } else { Some(values.join(", ")) }
}

/// The first line of a field.
fn first(lines: &Lines, name: &str) -> Option<String> {
    lines.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
}

/// A directive's name in lower case, and its argument without quotes.
type Directives = Vec<(String, Option<String>)>;

/// The directives of `Cache-Control`; `None` with an unclosed quote.
fn cache_control(lines: &Lines) -> Option<Directives> {
    let text = field(lines, "cache-control").unwrap_or_default();
    let mut members = vec![String::new()];
    let (mut quoted, mut escaped) = (false, false);
    for letter in text.chars() {
        if letter == ',' && !quoted {
            members.push(String::new());
            continue;
        }
        if letter == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && letter == '\\' && !escaped;
        if let Some(member) = members.last_mut() {
            member.push(letter);
        }
    }
    if quoted { None } else { Some(members.iter().filter_map(|member| directive(member.trim())).collect()) }
}

fn directive(member: &str) -> Option<(String, Option<String>)> {
    let is_token = |letter: char| letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter);
    let name: String = member.chars().take_while(|letter| is_token(*letter)).collect();
    if name.is_empty() {
        return None;
    }
    let rest = &member[name.len()..];
    let argument = match rest.strip_prefix('=') {
        None if rest.is_empty() => None,
        None => Some(rest.to_owned()),
        Some(text) if text.len() > 1 && text.starts_with('"') && text.ends_with('"') => {
            Some(unescape(&text[1..text.len() - 1]))
        }
        Some(text) => Some(text.to_owned()),
    };
    Some((name.to_lowercase(), argument))
}

fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(if letter == '\\' { letters.next().unwrap_or('\\') } else { letter });
    }
    plain
}

fn has(directives: &Directives, name: &str) -> bool {
    directives.iter().any(|(known, _)| known == name)
}

/// §1.2.2: digits only; larger numbers count as 2^31.
fn delta_seconds(text: &str) -> Option<i128> {
    let is_number = !text.is_empty() && text.chars().all(|letter| letter.is_ascii_digit());
    is_number.then(|| text.parse::<i128>().unwrap_or(1 << 31).min(1 << 31))
}

/// §4.2.1: of several the first; invalid freshness information is stale.
fn first_seconds(directives: &Directives, name: &str) -> Option<i128> {
    let (_, argument) = directives.iter().find(|(known, _)| known == name)?;
    Some(argument.as_deref().and_then(delta_seconds).unwrap_or(0))
}

/// The valid numbers of a directive.
fn all_seconds(directives: &Directives, name: &str) -> Vec<i128> {
    let named = directives.iter().filter(|(known, _)| known == name);
    named.filter_map(|(_, argument)| argument.as_deref().and_then(delta_seconds)).collect()
}

/// §5.2.2.4, §5.2.2.7: whether the directive is present without field names.
fn is_unqualified(directives: &Directives, name: &str) -> bool {
    let mut named = directives.iter().filter(|(known, _)| known == name);
    named.any(|(_, argument)| argument.as_deref().is_none_or(|text| listed(text).is_empty()))
}

/// The field names of the directive.
fn qualified(directives: &Directives, name: &str) -> Vec<String> {
    let named = directives.iter().filter(|(known, _)| known == name);
    named.flat_map(|(_, argument)| listed(argument.as_deref().unwrap_or(""))).collect()
}

fn listed(text: &str) -> Vec<String> {
    text.split(',').map(|name| name.trim().to_lowercase()).filter(|name| !name.is_empty()).collect()
}

impl Exchange {
    fn directives(&self) -> Directives {
        cache_control(&self.response).unwrap_or_default()
    }

    /// §3: "A cache MUST NOT store a response to a request unless: …"
    pub fn may_store(&self) -> Result<(), &'static str> {
        let Some(said) = cache_control(&self.response) else {
            return Err("Cache-Control cannot be read");
        };
        if cache_control(&self.request).is_some_and(|asked| has(&asked, "no-store")) {
            return Err("§5.2.1.5: request no-store");
        }
        if !(200..=599).contains(&self.status) {
            return Err("§3: the status is not final");
        }
        if self.status == 206 || self.status == 304 {
            return Err("§3: 206 and 304 are not understood");
        }
        if NEVER_BY_RFC_6585.contains(&self.status) {
            return Err("RFC 6585: never stored");
        }
        if CAUSED_BY_THE_REQUEST.iter().any(|(status, _)| *status == recognised(self.status)) {
            return Err("RFC 9110 §15.5: caused by one request");
        }
        // RFC 9110 §14.4: it "indicates the partial range of the selected representation".
        if first(&self.response, "content-range").is_some() {
            return Err("RFC 9110 §14.4: a part");
        }
        let must_understand = said.iter().any(|(name, argument)| name == "must-understand" && argument.is_none());
        let understood = UNDERSTOOD.contains(&self.status);
        if must_understand && !understood {
            return Err("§3: must-understand");
        }
        if has(&said, "no-store") && !(must_understand && understood) {
            return Err("§3: no-store");
        }
        if is_unqualified(&said, "private") {
            return Err("§3: private");
        }
        let shared = ["must-revalidate", "public", "s-maxage"].iter().any(|name| has(&said, name));
        if first(&self.request, "authorization").is_some() && !shared {
            return Err("§3.5: Authorization");
        }
        let allowed = ["public", "max-age", "s-maxage"].iter().any(|name| has(&said, name))
            || first(&self.response, "expires").is_some()
            || HEURISTICALLY_CACHEABLE.contains(&self.status);
        if allowed { Ok(()) } else { Err("§3: nothing allows it") }
    }

    /// §5.2.2.7: the fields that must not be stored.
    pub fn private_fields(&self) -> Vec<String> {
        qualified(&self.directives(), "private")
    }

    /// §5.2.2.4: the fields that must not be reused without validation.
    pub fn no_cache_fields(&self) -> Vec<String> {
        qualified(&self.directives(), "no-cache")
    }

    fn date_value(&self) -> i128 {
        let date = first(&self.response, "date").and_then(|text| http_date(&text, self.response_time));
        date.unwrap_or(self.response_time)
    }

    /// §4.2.1, and §4.2.2 without an explicit lifetime.
    fn freshness_lifetime(&self, contract: &Contract) -> Option<i128> {
        let said = self.directives();
        if let Some(stated) = first_seconds(&said, "s-maxage").or_else(|| first_seconds(&said, "max-age")) {
            return Some(stated);
        }
        if let Some(expires) = first(&self.response, "expires") {
            // §5.3: an invalid date is in the past. §4.2: a lifetime is a duration, so it is not negative.
            let expires = http_date(&expires, self.response_time);
            return Some(expires.map_or(0, |expires| (expires - self.date_value()).max(0)));
        }
        if !HEURISTICALLY_CACHEABLE.contains(&self.status) && !has(&said, "public") {
            return None;
        }
        let modified = first(&self.response, "last-modified").filter(|_| contract.heuristic);
        let modified = modified.and_then(|text| http_date(&text, self.response_time));
        contract.ttl.max(modified.map(|modified| (self.date_value() - modified) / 10))
    }

    /// §4.2.3.
    fn current_age(&self, now: i128) -> i128 {
        let age = field(&self.response, "age").unwrap_or_default();
        let age_value = delta_seconds(age.split(',').next().unwrap_or("").trim()).unwrap_or(0);
        let apparent_age = (self.response_time - self.date_value()).max(0);
        let response_delay = self.response_time - self.request_time;
        let corrected_age_value = age_value + response_delay;
        let corrected_initial_age = apparent_age.max(corrected_age_value);
        let resident_time = now - self.response_time;
        corrected_initial_age + resident_time
    }

    /// §4: "a cache MUST NOT reuse a stored response unless: …", for a request with these fields.
    pub fn may_serve(
        &self,
        contract: &Contract,
        request: &Lines,
        now: i128,
        situation: Situation,
    ) -> Result<Permitted, &'static str> {
        let (said, asked) = (self.directives(), cache_control(request).unwrap_or_default());
        if is_unqualified(&said, "no-cache") {
            return Err("§4: no-cache");
        }
        let lifetime = self.freshness_lifetime(contract).ok_or("§4.2: no lifetime")?;
        let age = self.current_age(now);
        let staleness = age - lifetime;
        if situation != Situation::Untried
            && all_seconds(&asked, "stale-if-error").iter().any(|most| staleness <= *most)
        {
            // RFC 5861 §4: "regardless of other freshness information".
            return if lifetime > age { Ok(Permitted::Fresh) } else { self.may_be_stale(&said) };
        }
        let max_stale = max_stale(&asked);
        asks_for_no_better(request, &asked, age, lifetime, max_stale)?;
        // §4.2: response_is_fresh = (freshness_lifetime > current_age)
        if lifetime > age {
            return Ok(Permitted::Fresh);
        }
        let stale = self.may_be_stale(&said)?;
        if max_stale.is_some_and(|most| staleness <= most) {
            return Ok(stale);
        }
        if has(&asked, "max-age") {
            return Err("§5.2.1.1: max-age without max-stale");
        }
        let period = allowed_staleness(&said, contract, situation).ok_or("§4.2.4: nothing permits it")?;
        if staleness <= period { Ok(stale) } else { Err("§4.2.4: too stale") }
    }

    /// §4.2.4: "prohibited by an explicit in-protocol directive".
    fn may_be_stale(&self, said: &Directives) -> Result<Permitted, &'static str> {
        for name in ["must-revalidate", "proxy-revalidate", "s-maxage"] {
            if has(said, name) {
                return Err("§4.2.4: prohibited by a directive");
            }
        }
        Ok(Permitted::Stale)
    }
}

/// §5.2.1.2: the staleness that the client accepts.
fn max_stale(asked: &Directives) -> Option<i128> {
    let any = asked.iter().any(|(name, argument)| name == "max-stale" && argument.is_none());
    if any { Some(1 << 100) } else { all_seconds(asked, "max-stale").into_iter().max() }
}

/// §5.2.1, §5.4.
fn asks_for_no_better(
    request: &Lines,
    asked: &Directives,
    age: i128,
    lifetime: i128,
    max_stale: Option<i128>,
) -> Result<(), &'static str> {
    let pragma = field(request, "pragma").filter(|_| first(request, "cache-control").is_none());
    if has(asked, "no-cache") || pragma.is_some_and(|text| text.to_lowercase().contains("no-cache")) {
        return Err("§5.2.1.4: request no-cache");
    }
    let oldest = all_seconds(asked, "max-age").into_iter().max();
    if oldest.is_some_and(|oldest| age > oldest + max_stale.unwrap_or(0)) {
        return Err("§5.2.1.1: older than max-age");
    }
    let least = all_seconds(asked, "min-fresh").into_iter().min();
    if least.is_some_and(|least| lifetime < age + least) {
        return Err("§5.2.1.3: not fresh for min-fresh");
    }
    Ok(())
}

/// RFC 5861 §3, §4; RFC 9111 §4.2.4.
fn allowed_staleness(said: &Directives, contract: &Contract, situation: Situation) -> Option<i128> {
    let stated = |name, agreed| all_seconds(said, name).into_iter().max().or(agreed);
    let on_error = stated("stale-if-error", contract.stale_if_error);
    match situation {
        Situation::Untried => stated("stale-while-revalidate", contract.stale_while_revalidate),
        Situation::Erring => on_error,
        Situation::Disconnected => on_error.max(Some(contract.stale_if_unreachable)),
    }
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// RFC 9110 §5.6.7, in seconds since 1970; the weekday is not checked.
fn http_date(text: &str, now: i128) -> Option<i128> {
    let text = text.to_lowercase();
    let words: Vec<&str> = text.split_whitespace().collect();
    match words[..] {
        [_, day, month, year, time, "gmt"] => seconds(number(year)?, month, day, time),
        [_, date, time, "gmt"] => {
            let [day, month, digits] = date.split('-').collect::<Vec<_>>()[..] else {
                return None;
            };
            two_digit_year(number(digits)?, month, day, time, now)
        }
        [_, month, day, time, year] => seconds(number(year)?, month, day, time),
        _ => None,
    }
}

/// "… a timestamp […] that appears to be more than 50 years in the future as representing the most recent year in
/// the past that had the same last two digits".
fn two_digit_year(digits: i128, month: &str, day: &str, time: &str, now: i128) -> Option<i128> {
    let fifty_years = 50 * 31_556_952;
    let years = (1900..2200).rev().filter(|year| year % 100 == digits);
    years.filter_map(|year| seconds(year, month, day, time)).find(|date| *date <= now + fifty_years)
}

fn number(text: &str) -> Option<i128> {
    text.parse().ok()
}

fn seconds(year: i128, month: &str, day: &str, time: &str) -> Option<i128> {
    let [hours, minutes, seconds] = time.split(':').collect::<Vec<_>>()[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)?;
    let years: i128 = (1970..year).map(days_of_year).sum::<i128>() - (year..1970).map(days_of_year).sum::<i128>();
    let months: i128 = (0..month).map(|month| days_of_month(year, month)).sum();
    let days = years + months + number(day)? - 1;
    Some(days * 86_400 + number(hours)? * 3600 + number(minutes)? * 60 + number(seconds)?)
}

fn days_of_year(year: i128) -> i128 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if is_leap { 366 } else { 365 }
}

fn days_of_month(year: i128, month: usize) -> i128 {
    match month {
        1 => days_of_year(year) - 337,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
    use proptest::prelude::*;
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::http::demands::Demands;
    use crate::http::freshness::{Freshness, LifetimeSource, Reuse, ValidationReason};
    use crate::http::storable::{Received, RequestFacts, Storable, storable};
    use crate::http::{ClientDirectives, Policy};

    /// Fri, 06 Nov 2026 13:00:00 GMT
    const NOW: i128 = 1_793_970_000;

    /// An exchange, and a later request that might use its response.
    #[derive(Debug, Clone)]
    struct Case {
        exchange: Exchange,
        contract: Contract,
        request: Lines,
        /// Milliseconds since the response was received.
        elapsed: u64,
    }

    fn at(seconds: i128) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap())
    }

    fn headers(lines: &Lines) -> HeaderMap {
        let pair = |(name, value): &(String, String)| {
            (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap())
        };
        lines.iter().map(pair).collect()
    }

    fn policy(contract: &Contract) -> Policy {
        let seconds = |seconds: i128| Duration::from_secs(u64::try_from(seconds).unwrap());
        Policy {
            ttl: contract.ttl.map(seconds),
            negative_ttl: contract.ttl.map(seconds),
            heuristic: contract.heuristic,
            stale_while_revalidate: contract.stale_while_revalidate.map(seconds),
            stale_if_error: contract.stale_if_error.map(seconds),
            stale_if_unreachable: seconds(contract.stale_if_unreachable),
            ..Policy::default()
        }
    }

    fn verdict(case: &Case) -> Storable {
        let Exchange { request, status, response, request_time, response_time } = &case.exchange;
        let (request, response) = (headers(request), headers(response));
        let facts = RequestFacts {
            authorization: request.contains_key("authorization"),
            cookie: request.contains_key("cookie"),
            other_credentials: false,
            no_store: Demands::of(&request, ClientDirectives::All).no_store,
        };
        let received = Received {
            status: StatusCode::from_u16(*status).unwrap(),
            headers: &response,
            is_close_delimited: false,
            request_time: at(*request_time),
            response_time: at(*response_time),
        };
        storable(facts, received, &policy(&case.contract))
    }

    /// How often each verdict occurred.
    type Tally = BTreeMap<String, usize>;

    fn count(tally: &mut Tally, what: &str) {
        *tally.entry(what.to_owned()).or_default() += 1;
    }

    /// Compares the model with the implementation, and counts the verdicts.
    fn compare(case: &Case, tally: &mut Tally) -> Result<(), String> {
        let permission = case.exchange.may_store();
        count(tally, permission.err().unwrap_or("may be stored"));
        match verdict(case) {
            Storable::No(reason) => count(tally, reason.token()),
            Storable::Yes { freshness, withheld, .. } => {
                count(tally, "stored");
                permission.map_err(|why| format!("stored against {why}"))?;
                let (exchange, response) = (&case.exchange, headers(&case.exchange.response));
                let is_kept = |name: &String| {
                    response.contains_key(name) && !withheld.iter().any(|field| field == name.as_str())
                };
                if exchange.private_fields().iter().any(is_kept) {
                    return Err("a private field is stored".to_owned());
                }
                if exchange.no_cache_fields().iter().any(is_kept) && !freshness.always_validate {
                    return Err("a no-cache field is reused".to_owned());
                }
                count(tally, if withheld.is_empty() { "nothing withheld" } else { "fields withheld" });
                compare_reuse(case, &freshness, tally)?;
            }
        }
        Ok(())
    }

    fn compare_reuse(case: &Case, freshness: &Freshness, tally: &mut Tally) -> Result<(), String> {
        let Case { exchange, contract, request, elapsed } = case;
        let demands = Demands::of(&headers(request), ClientDirectives::All);
        let now = freshness.response_time + Duration::from_millis(*elapsed);
        let seconds = exchange.response_time + i128::from(elapsed / 1000);
        let permission = |situation| exchange.may_serve(contract, request, seconds, situation);
        let untried = permission(Situation::Untried);
        count(
            tally,
            untried.map_or_else(
                |why| why,
                |permitted| match permitted {
                    Permitted::Fresh => "may be served fresh",
                    Permitted::Stale => "may be served stale",
                },
            ),
        );
        count(tally, freshness.source.explanation());
        match freshness.reuse(now, &demands) {
            Reuse::Fresh { .. } if untried != Ok(Permitted::Fresh) => {
                return Err(format!("served as fresh: {untried:?}"));
            }
            Reuse::StaleWhileRevalidate { .. } | Reuse::Stale { .. } if untried.is_err() => {
                return Err(format!("served stale: {untried:?}"));
            }
            Reuse::SoftInvalidated { .. } => {
                return Err("soft-invalidated, and no write has invalidated it".to_owned());
            }
            Reuse::Fresh { .. } => count(tally, "fresh"),
            Reuse::StaleWhileRevalidate { .. } => count(tally, "stale-while-revalidate"),
            Reuse::Stale { .. } => count(tally, "stale"),
            Reuse::Validate { because: ValidationReason::RequestMaxAge, ttl }
                if ttl < 0 && demands.max_age >= Some(freshness.age(now)) =>
            {
                count(tally, "stale, young enough, and refused by max-age");
            }
            Reuse::Validate { because, .. } => count(tally, because.token()),
        }
        for (period, situation) in [
            (freshness.stale_if_error, Situation::Erring),
            (freshness.stale_if_error.max(freshness.stale_if_unreachable), Situation::Disconnected),
        ] {
            let permitted = permission(situation);
            let used = freshness.is_usable_after_failure(period, now, &demands);
            count(tally, &format!("{situation:?}: used {used}, permitted {}", permitted.is_ok()));
            if used && permitted.is_err() {
                return Err(format!("used while {situation:?}: {permitted:?}"));
            }
        }
        Ok(())
    }

    /// Mostly numbers near thresholds.
    fn argument() -> impl Strategy<Value = String> {
        prop_oneof![
            9 => (0u32..50).prop_map(|seconds| format!("={seconds}")),
            2 => (0u32..40).prop_map(|seconds| format!("=\"{seconds}\"")),
            1 => prop::sample::select(vec![
                "", "=", "=x", "=-1", "=1.5", "=\"\"", "=99999999999", "=\"9", "= 9", "=9;x", "='9'", "=\"\\9\"",
            ]).prop_map(str::to_owned),
        ]
    }

    fn with_argument(names: &[&'static str]) -> impl Strategy<Value = String> + use<> {
        (prop::sample::select(names.to_vec()), argument()).prop_map(|(name, argument)| format!("{name}{argument}"))
    }

    fn one_of(members: &[&'static str]) -> impl Strategy<Value = String> + use<> {
        prop::sample::select(members.to_vec()).prop_map(str::to_owned)
    }

    fn response_directive() -> impl Strategy<Value = String> {
        prop_oneof![
            5 => with_argument(&["max-age", "Max-Age"]),
            1 => with_argument(&["s-maxage"]),
            4 => with_argument(&["stale-while-revalidate", "stale-if-error"]),
            3 => one_of(&[
                "no-store", "no-cache", "private", "public", "Public", "must-revalidate", "proxy-revalidate",
                "must-understand", "immutable", "no-transform",
            ]),
            2 => one_of(&[
                "private=\"x-user\"", "no-cache=\"X-User, x-b\"", "private=\"x-user, vary\"", "no-cache=\"date\"",
                "private=x-user", "no-cache=\"\"", "private=\"a b\"", "no-cache=\"x-user\\\"\"", "private;x",
            ]),
            1 => one_of(&["", "x=\"no-store, private\"", "max-age", "x=\"\\\"\"", "public=x", "no-store=x", "&", "x\""]),
        ]
    }

    fn request_directive() -> impl Strategy<Value = String> {
        prop_oneof![
            5 => with_argument(&["max-age", "min-fresh", "max-stale", "Max-Stale", "stale-if-error"]),
            2 => (30u32..120).prop_map(|seconds| format!("max-age={seconds}")),
            1 => one_of(&["no-cache", "No-Store", "only-if-cached", "max-stale", "x=\"no-cache\"", "", "x\""]),
        ]
    }

    /// Lines of `Cache-Control`, of one or two members each.
    fn control(member: impl Strategy<Value = String>, most: usize) -> impl Strategy<Value = Lines> {
        let line = prop::collection::vec(member, 1..3).prop_map(|members| members.join(" ,"));
        let name = |line| ("cache-control".to_owned(), line);
        prop::collection::vec(line.prop_map(name), 0..most)
    }

    /// A date at this distance from [`NOW`], in one of the three formats, or none.
    fn date(offset: std::ops::Range<i128>) -> impl Strategy<Value = String> {
        (offset, 0u8..24).prop_map(|(offset, form)| {
            let text = httpdate::fmt_http_date(at(NOW + offset));
            let (day, month, year, time) = (&text[5..7], &text[8..11], &text[12..16], &text[17..25]);
            let weekdays = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
            let weekday = weekdays.iter().find(|name| name.starts_with(&text[..3])).unwrap();
            match form {
                0 => "0".to_owned(),
                1 => "yesterday".to_owned(),
                2 => text.replace("GMT", "PST"),
                3 => text.to_lowercase(),
                4..8 => format!("{weekday}, {day}-{month}-{} {time} GMT", &year[2..]),
                8..11 => format!(
                    "{} {month} {} {time} {year}",
                    &text[..3],
                    day.replacen('0', " ", usize::from(day.starts_with('0')))
                ),
                _ => text,
            }
        })
    }

    /// Lines of one field.
    fn lines(
        name: &'static str,
        value: impl Strategy<Value = String>,
        most: usize,
    ) -> impl Strategy<Value = Lines> {
        prop::collection::vec(value.prop_map(move |value| (name.to_owned(), value)), 0..=most)
    }

    fn response() -> impl Strategy<Value = Lines> {
        let age = prop_oneof![4 => (0u32..30).prop_map(|age| age.to_string()), 1 => one_of(&["x", "-1", "3, 9", "1.5", ""])];
        let other = one_of(&[
            "x-user: ann",
            "vary: *",
            "vary: accept",
            "set-cookie: a=b",
            "etag: \"a\"",
            "content-type: text/event-stream",
            "content-range: bytes 0-1/2",
            "pragma: no-cache",
        ]);
        let other = other.prop_map(|line| {
            line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap()
        });
        // Up to seventy years ahead: beyond fifty, a two-digit year means the past.
        let expires = prop_oneof![8 => date(-20..60), 1 => date(1_300_000_000..2_200_000_000)];
        let sections = (
            control(response_directive(), 4),
            lines("expires", expires, 1),
            lines("expires", date(-20..60), 1),
            lines("date", date(-30..30), 1),
            lines("age", age, 1),
            lines("last-modified", date(-900..100), 1),
            prop::collection::vec(other, 0..2),
        );
        sections.prop_map(|(control, expires, again, date, age, modified, other)| {
            let again = if expires.is_empty() || again.len() + age.len() < 2 { Lines::new() } else { again };
            [control, expires, again, date, age, modified, other].concat()
        })
    }

    fn exchange() -> impl Strategy<Value = Exchange> {
        let status = prop_oneof![
            6 => Just(200u16),
            3 => prop::sample::select(vec![203, 204, 206, 300, 301, 302, 304, 307, 404, 405, 410, 500, 503, 599, 103, 700]),
            1 => 400u16..500,
            1 => 500u16..512,
        ];
        let request = prop_oneof![
            8 => Just(Lines::new()),
            1 => Just(vec![("cache-control".to_owned(), "no-store".to_owned())]),
            1 => Just(vec![("authorization".to_owned(), "Basic YTpi".to_owned())]),
            1 => Just(vec![("cookie".to_owned(), "a=b".to_owned())]),
        ];
        (request, status, response(), 0i128..5).prop_map(|(request, status, response, delay)| Exchange {
            request,
            status,
            response,
            request_time: NOW - delay,
            response_time: NOW,
        })
    }

    fn contract() -> impl Strategy<Value = Contract> {
        let period = || prop_oneof![2 => Just(None), 1 => (0i128..40).prop_map(Some)];
        (period(), any::<bool>(), period(), period(), 0i128..60).prop_map(
            |(ttl, heuristic, stale_while_revalidate, stale_if_error, stale_if_unreachable)| Contract {
                ttl,
                heuristic,
                stale_while_revalidate,
                stale_if_error,
                stale_if_unreachable,
            },
        )
    }

    fn case() -> impl Strategy<Value = Case> {
        let pragma = lines("pragma", one_of(&["no-cache", "No-Cache", "x"]), 1);
        let request = prop_oneof![
            4 => Just(Lines::new()),
            6 => control(request_directive(), 3),
            1 => (control(request_directive(), 2), pragma).prop_map(|(control, pragma)| [control, pragma].concat()),
        ];
        (exchange(), contract(), request, 0u64..70_000).prop_map(|(exchange, contract, request, elapsed)| Case {
            exchange,
            contract,
            request,
            elapsed,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn nothing_is_stored_or_served_that_the_rfc_forbids(case in case()) {
            if let Err(fault) = compare(&case, &mut Tally::new()) {
                prop_assert!(false, "{fault}");
            }
        }
    }

    /// Enough cases for the rarest verdict to occur several times.
    const CASES: usize = 10_000;

    /// The generator reaches every verdict of both, so that the property above covers all of them.
    #[test]
    fn every_verdict_occurs() {
        let mut runner = TestRunner::deterministic();
        let (case, mut tally) = (case(), Tally::new());
        for _ in 0..CASES {
            let case = case.new_tree(&mut runner).unwrap().current();
            compare(&case, &mut tally).unwrap_or_else(|fault| panic!("{fault}: {case:#?}"));
        }
        let expected = [
            // Larder's verdict on storing,
            "stored",
            "fields withheld",
            "nothing withheld",
            "request-no-store",
            "no-store",
            "private",
            "event-stream",
            "set-cookie",
            "authorization",
            "cookie",
            "vary-star",
            "status",
            "content-range",
            "no-lifetime",
            "stale-at-once",
            // its source of the lifetime,
            LifetimeSource::SMaxage.explanation(),
            LifetimeSource::MaxAge.explanation(),
            LifetimeSource::Expires.explanation(),
            LifetimeSource::FamilyTtl.explanation(),
            LifetimeSource::NegativeTtl.explanation(),
            LifetimeSource::Heuristic.explanation(),
            LifetimeSource::None.explanation(),
            // and its use of the stored response.
            "fresh",
            "stale-while-revalidate",
            "stale",
            "no-cache",
            "expired",
            "must-revalidate",
            "request-no-cache",
            "request-max-age",
            "stale, young enough, and refused by max-age",
            "request-min-fresh",
            "Erring: used true, permitted true",
            "Erring: used false, permitted true",
            "Erring: used false, permitted false",
            "Disconnected: used true, permitted true",
            "Disconnected: used false, permitted true",
            "Disconnected: used false, permitted false",
            // The model's verdict.
            "may be stored",
            "Cache-Control cannot be read",
            "§5.2.1.5: request no-store",
            "§3: the status is not final",
            "§3: 206 and 304 are not understood",
            "RFC 6585: never stored",
            "RFC 9110 §15.5: caused by one request",
            "RFC 9110 §14.4: a part",
            "§3: must-understand",
            "§3: no-store",
            "§3: private",
            "§3.5: Authorization",
            "§3: nothing allows it",
            "may be served fresh",
            "may be served stale",
            "§4: no-cache",
            "§4.2: no lifetime",
            "§5.2.1.4: request no-cache",
            "§5.2.1.1: older than max-age",
            "§5.2.1.1: max-age without max-stale",
            "§5.2.1.3: not fresh for min-fresh",
            "§4.2.4: prohibited by a directive",
            "§4.2.4: nothing permits it",
            "§4.2.4: too stale",
        ];
        let missing: Vec<_> = expected.iter().filter(|verdict| !tally.contains_key(**verdict)).collect();
        assert!(missing.is_empty(), "never: {missing:?}; of {tally:#?}");
        let unknown: Vec<_> = tally.keys().filter(|verdict| !expected.contains(&verdict.as_str())).collect();
        assert!(unknown.is_empty(), "not in the list: {unknown:?}");
    }
}
