//! An independent model of RFC 9111 for tests: §3, §4, §4.2, §4.2.4 and §5.2 sentence by sentence, on texts and on
//! integers that cannot overflow, without code under test. Where the RFC leaves a choice, the model permits all of
//! it; what it forbids, no reading of the RFC allows. Without targeted fields (RFC 9213). Statuses about the request
//! (RFC 6585 and RFC 9110 §15) count as forbidden to store.

mod cases;
mod comparison;

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
    (402, "reserved for future use: payment by the client"),
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
