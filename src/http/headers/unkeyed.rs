//! Request fields by which upstream might answer or execute another request than the rules and the key describe:
//! which fields are removed from reads and writes, which stay where a family asks for that, and which methods a write
//! may mean.

use std::borrow::Cow;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, COOKIE, HeaderName, HeaderValue};
use http::{HeaderMap, Method};

use super::{ForwardedPolicy, claims};

/// Fields that override the method. Sorted.
static METHOD_OVERRIDES: [&str; 3] = ["x-http-method", "x-http-method-override", "x-method-override"];

/// Request fields that [`keep_keyed`] leaves: those for the cache itself (validators, ranges, directives, which do
/// not reach upstream on a fetch unless keyed), those that frame and describe content, and those about previous hops.
/// Sorted.
static NEEDED: [&str; 20] = [
    "cache-control",
    "cdn-loop",
    "content-encoding",
    "content-language",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "max-forwards",
    "pragma",
    "range",
    "transfer-encoding",
    "via",
    "x-forwarded-for",
];

/// Removes fields from a read that may change its response without being part of its key, except those that its
/// family keys on (`by_family`): fields that turn it into another request or another method, and claims ([`claims`])
/// of an untrusted peer. Applied before all other code, so that requests with and without them are the same.
pub fn strip_unkeyed(headers: &mut HeaderMap, policy: ForwardedPolicy, by_family: impl Fn(&HeaderName) -> bool) {
    strip(headers, |name| (is_unkeyed(name) && !by_family(name)) || claims::goes(name, policy, &by_family));
}

/// Removes from a read all fields except `keyed` and those that cannot affect the response (`forward = "keyed"`).
/// `keyed` are the fields that the family keys on, normalises, or identifies callers by. `Accept`, `Accept-Language`,
/// `Accept-Encoding`, `User-Agent`, `Origin`, `Cookie` and `Authorization` are removed too unless keyed, since
/// upstream may negotiate without saying so in `Vary`. Applied before all other code, so that variants are selected
/// by what upstream received: without a field, all clients share one variant. A trusted proxy's claims stay: they are
/// part of every key.
pub fn keep_keyed(headers: &mut HeaderMap, keyed: &[HeaderName]) {
    let is_kept = |name: &HeaderName| {
        keyed.contains(name) || NEEDED.binary_search(&name.as_str()).is_ok() || claims::is_keyed(name)
    };
    strip(headers, |name| !is_kept(name));
}

/// Removes all other fields.
pub fn keep_only(headers: &mut HeaderMap, kept: &[HeaderName]) {
    strip(headers, |name| !kept.contains(name));
}

/// Removes all cookies except those with these names, in the order of the names: the others are not part of the key.
pub fn keep_cookies(headers: &mut HeaderMap, names: &[&str]) {
    if !headers.contains_key(COOKIE) {
        return;
    }
    let pairs = || headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    // As they are keyed: without blanks around name and value.
    let plain = |pair: &[u8], name: &str| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let is_it = pair[..equals].trim_ascii() == name.as_bytes();
        is_it.then(|| [name.as_bytes(), pair[equals + 1..].trim_ascii()].join(&b'='))
    };
    let kept: Vec<Vec<u8>> =
        names.iter().flat_map(|name| pairs().filter_map(|pair| plain(pair, name)).collect::<Vec<_>>()).collect();
    let line = HeaderValue::from_bytes(&kept.join(&b"; "[..]));
    headers.remove(COOKIE);
    if let Some(line) = line.ok().filter(|line| !line.is_empty()) {
        headers.insert(COOKIE, line);
    }
}

/// Removes an untrusted peer's claims ([`claims`]) from a write. With a claimed path, no rule would match what it
/// writes. Method overrides stay: the rules know them ([`methods_meant`]). So do the fields that families identify
/// callers by (`is_identity`): upstream sees the same caller as on reads.
pub fn strip_claims(headers: &mut HeaderMap, policy: ForwardedPolicy, is_identity: impl Fn(&HeaderName) -> bool) {
    strip(headers, |name| claims::goes(name, policy, &is_identity));
}

/// Methods that are registered as safe (RFC 9110 §9.2.1).
pub fn is_safe(method: &Method) -> bool {
    matches!(method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "QUERY" | "PROPFIND" | "REPORT" | "SEARCH")
}

/// Most overriding methods of a write. No real client names more.
const MEANT: usize = 8;

/// The methods that upstream may execute a write as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meant {
    /// One of these.
    These(Vec<Method>),
    /// Too many: the write may be any method.
    Any,
}

impl Meant {
    /// Whether it may be one of these methods.
    pub fn overlaps(&self, methods: &[Method]) -> bool {
        self.any(|method| methods.contains(method))
    }

    /// Whether it may be a method with this property.
    pub fn any(&self, holds: impl Fn(&Method) -> bool) -> bool {
        match self {
            Meant::These(meant) => meant.iter().any(holds),
            Meant::Any => true,
        }
    }
}

/// The methods that upstream may execute a write as: its own, and those named by its fields (`X-HTTP-Method-Override`
/// and the like), by `_method` in its query, or by that in the content of a POST. `content` is `None` if it is not
/// known completely.
pub fn methods_meant(method: &Method, headers: &HeaderMap, query: Option<&str>, content: Option<&[u8]>) -> Meant {
    let by_field = headers.iter().filter(|(name, _)| overrides_method(name));
    let by_field = by_field.flat_map(|(_, value)| value.as_bytes().split(|byte| *byte == b','));
    let form = match (method == Method::POST).then(|| Form::of(headers, content)) {
        Some(Form::Unknown) => return Meant::Any,
        Some(Form::Pairs(content)) => content,
        Some(Form::None) | None => &[],
    };
    let by_pair = named_by_pairs(query.unwrap_or("").as_bytes()).chain(named_by_pairs(form));
    let mut methods = vec![method.clone()];
    for name in by_field.map(Cow::Borrowed).chain(by_pair.map(Cow::Owned)) {
        let name = name.trim_ascii().to_ascii_uppercase();
        match Method::from_bytes(&name) {
            Ok(named) if methods.contains(&named) => {}
            Ok(_) if methods.len() > MEANT => return Meant::Any,
            Ok(named) => methods.push(named),
            Err(_) => {}
        }
    }
    Meant::These(methods)
}

/// The content of a POST, as a form that may contain `_method`.
enum Form<'c> {
    /// Contains no `_method`.
    None,
    /// `name=value` pairs.
    Pairs(&'c [u8]),
    /// May contain any.
    Unknown,
}

impl<'c> Form<'c> {
    fn of(headers: &HeaderMap, content: Option<&'c [u8]>) -> Form<'c> {
        let read = MediaType::of(headers);
        let readable = content.filter(|content| content.is_empty() || !headers.contains_key(CONTENT_ENCODING));
        let Some(content) = readable else {
            return if read == MediaType::Other { Form::None } else { Form::Unknown };
        };
        let may_name = match read {
            MediaType::Pairs => return Form::Pairs(content),
            MediaType::Several => !content.is_empty(),
            // The presence of the field suffices.
            MediaType::Multipart => holds(content, METHOD_PARAMETER) || has_method_part(content),
            MediaType::Json => holds(&json_unescaped(content), METHOD_PARAMETER),
            MediaType::Other => holds(content, METHOD_PARAMETER),
        };
        if may_name { Form::Unknown } else { Form::None }
    }
}

/// How frameworks read the content of a POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MediaType {
    /// `name=value` pairs. Rack also reads untyped content so.
    Pairs,
    Multipart,
    /// Laravel reads `_method` from it.
    Json,
    /// Several types: depends on the framework.
    Several,
    Other,
}

impl MediaType {
    fn of(headers: &HeaderMap) -> MediaType {
        let mut lines = headers.get_all(CONTENT_TYPE).iter().map(HeaderValue::as_bytes);
        let line = lines.next().unwrap_or_default().trim_ascii();
        // PHP reads up to the first of these.
        let end = line.iter().position(|byte| matches!(byte, b';' | b',' | b' ' | b'\t'));
        let (essence, rest) = line.split_at(end.unwrap_or(line.len()));
        let is = |name: &[u8]| essence.eq_ignore_ascii_case(name);
        if lines.next().is_some() || rest.trim_ascii_start().starts_with(b",") {
            MediaType::Several
        } else if essence.is_empty() || is(b"application/x-www-form-urlencoded") {
            MediaType::Pairs
        } else if is(b"multipart/form-data") {
            MediaType::Multipart
        } else if holds(line, b"/json") || holds(line, b"+json") {
            MediaType::Json
        } else {
            MediaType::Other
        }
    }
}

/// The form parameter that overrides the method in frameworks.
const METHOD_PARAMETER: &[u8] = b"_method";

fn holds(content: &[u8], word: &[u8]) -> bool {
    content.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

/// Whether a part of a multipart message may have a name that means `_method`. A name in pieces or encoded (`name*`,
/// RFC 2231) may be any.
fn has_method_part(content: &[u8]) -> bool {
    const NAME: &[u8] = b"name";
    let ends = content.windows(NAME.len()).enumerate();
    let mut ends = ends.filter(|(_, window)| window.eq_ignore_ascii_case(NAME)).map(|(at, _)| at + NAME.len());
    ends.any(|end| match content[end..].trim_ascii_start() {
        [b'=', value @ ..] => {
            let value = value.trim_ascii_start();
            let quote = value.first().copied().filter(|byte| matches!(byte, b'"' | b'\''));
            let value = if quote.is_some() { &value[1..] } else { value };
            let is_end = |byte: u8| match quote {
                Some(quote) => byte == quote,
                None => matches!(byte, b';' | b'\r' | b'\n'),
            };
            // No legitimate client escapes these.
            let name = value.iter().copied().take(LONGEST_NAME).take_while(|byte| !is_end(*byte));
            is_method_parameter(&name.filter(|byte| *byte != b'\\').collect::<Vec<u8>>())
        }
        [b'*', ..] => true,
        _ => false,
    })
}

/// Examined length of a part's name, in bytes.
const LONGEST_NAME: usize = 256;

/// JSON with the escapes of ASCII characters decoded (RFC 8259 §7); `\\u005f` counts as one too.
fn json_unescaped(content: &[u8]) -> Cow<'_, [u8]> {
    const ESCAPE: &[u8] = b"\\u00";
    if !holds(content, ESCAPE) {
        return Cow::Borrowed(content);
    }
    let (mut out, mut rest) = (Vec::with_capacity(content.len()), content);
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| rest.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let escaped = digit(4).zip(digit(5)).filter(|_| rest.starts_with(ESCAPE));
        let escaped = escaped.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        out.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[6..] } else { tail };
    }
    Cow::Owned(out)
}

/// The values of `_method` among `name=value` pairs.
fn named_by_pairs(pairs: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    // Most untyped content is no form.
    let pairs = if memchr::memchr(b'=', pairs).is_some() { pairs } else { &[] };
    pairs.split(|byte| matches!(byte, b'&' | b';')).filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        is_method_parameter(&form_decoded(&pair[..at])).then(|| form_decoded(&pair[at + 1..]))
    })
}

/// As lenient frameworks read names: PHP reads ` `, `.` and `[` as `_`. Leading blanks may be dropped or count.
fn is_method_parameter(name: &[u8]) -> bool {
    let spelled = |byte: u8| if matches!(byte, b' ' | b'.' | b'[' | b']') { b'_' } else { byte };
    let trimmed = name.trim_ascii_start();
    let has_blank = trimmed.len() < name.len();
    let name: Vec<u8> = trimmed.trim_ascii_end().iter().map(|byte| spelled(*byte)).collect();
    let end = name.iter().rposition(|byte| *byte != b'_').map_or(0, |last| last + 1);
    let is = |word: &[u8]| name[..end].eq_ignore_ascii_case(word);
    is(METHOD_PARAMETER) || has_blank && is(&METHOD_PARAMETER[1..])
}

/// Decodes `+` and percent-encodings; a `%` that starts no encoding stays.
fn form_decoded(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    percent_encoding::percent_decode(&spaced).collect()
}

fn strip(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn is_unkeyed(name: &HeaderName) -> bool {
    // `X-Accel-…`: nginx, and fields that make Rack send files through it.
    name.as_str().starts_with("x-accel-") || overrides_method(name)
}

fn overrides_method(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-") && METHOD_OVERRIDES.binary_search(&name.as_str()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample::{Fields, fields};

    #[test]
    fn tables_are_sorted() {
        assert!(METHOD_OVERRIDES.is_sorted() && NEEDED.is_sorted());
    }

    #[test]
    fn fields_that_redirect_a_read_are_removed_unless_keyed() {
        let sent = fields(&[
            ("accept", "*/*"),
            ("host", "h"),
            ("front-end-https", "on"),
            ("x-original-url", "/admin"),
            ("x-rewrite-uri", "/admin"),
            ("cf-visitor", "{\"scheme\":\"https\"}"),
            ("x-http-method-override", "DELETE"),
            ("x-forwarded-scheme", "http"),
            ("x-forwarded-host", "h"),
            ("x-accel-internal", "/x"),
            ("x-tenant", "7"),
        ]);
        let stripped = |policy, keyed: &str| {
            let mut kept = sent.clone();
            strip_unkeyed(&mut kept, policy, |name| name == keyed);
            kept
        };
        let rest = [("accept", "*/*"), ("host", "h"), ("x-tenant", "7")];
        assert_eq!(stripped(ForwardedPolicy::Set, ""), fields(&rest));
        let kept = stripped(ForwardedPolicy::Set, "x-original-url");
        assert_eq!((&kept["x-original-url"], kept.len()), (&HeaderValue::from_static("/admin"), 4));
        // A trusted proxy's claims about scheme and host.
        let kept = stripped(ForwardedPolicy::Append, "");
        let rest = [
            ("accept", "*/*"),
            ("host", "h"),
            ("front-end-https", "on"),
            ("cf-visitor", "{\"scheme\":\"https\"}"),
            ("x-forwarded-scheme", "http"),
            ("x-forwarded-host", "h"),
            ("x-tenant", "7"),
        ];
        assert_eq!(kept, fields(&rest));
    }

    #[test]
    fn only_keyed_fields_stay_with_forward_keyed() {
        let mut headers = fields(&[
            ("accept", "*/*"),
            ("accept-language", "de"),
            ("authorization", "Basic x"),
            ("cookie", "a=1"),
            ("host", "h"),
            ("if-none-match", "\"1\""),
            ("user-agent", "x"),
            ("via", "1.1 a"),
            ("x-forwarded-host", "h"),
        ]);
        keep_keyed(&mut headers, &[http::header::ACCEPT_LANGUAGE]);
        let kept: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        let mut kept = kept;
        kept.sort_unstable();
        assert_eq!(kept, ["accept-language", "host", "if-none-match", "via", "x-forwarded-host"]);
    }

    #[test]
    fn only_keyed_cookies_stay() {
        let sent = fields(&[("cookie", "a=1; sid=x=y;b=2; sid"), ("cookie", "sid =z; sidx=1; SID=2")]);
        let rows: [(&[&str], &str); 3] =
            [(&["sid"], "sid=x=y; sid=z"), (&["b", "a"], "b=2; a=1"), (&["a", "other", "b"], "a=1; b=2")];
        for (names, expected) in rows {
            let mut headers = sent.clone();
            keep_cookies(&mut headers, names);
            assert_eq!(headers, fields(&[("cookie", expected)]), "{names:?}");
        }
        let mut headers = sent;
        keep_cookies(&mut headers, &["other"]);
        assert!(headers.is_empty());
    }

    #[test]
    fn a_write_stays_the_write_it_is() {
        let mut headers = fields(&[
            ("x-original-url", "/b"),
            ("x-forwarded-ssl", "on"),
            ("x-script-name", "/b"),
            ("x-http-method", "PUT"),
        ]);
        strip_claims(&mut headers, ForwardedPolicy::Set, |_| false);
        assert_eq!(headers, fields(&[("x-http-method", "PUT")]));
    }

    #[test]
    fn fields_can_override_the_method_of_a_write() {
        let rows: [(Fields<'_>, Option<&str>, &[&str]); 6] = [
            (&[], None, &["POST"]),
            (&[("x-http-method-override", "delete")], None, &["POST", "DELETE"]),
            (&[("x-http-method", "PUT"), ("x-method-override", " PATCH , PUT")], None, &["POST", "PUT", "PATCH"]),
            (&[], Some("a=1&_method=DELETE"), &["POST", "DELETE"]),
            (&[("x-http-method", "POST")], Some("_method="), &["POST"]),
            (&[("x-http-method", "no method")], Some("method=PUT"), &["POST"]),
        ];
        for (values, query, expected) in rows {
            let meant = methods_meant(&Method::POST, &fields(values), query, Some(b""));
            let Meant::These(mut methods) = meant else { panic!("{values:?} {query:?}: too many") };
            methods[1..].sort();
            let mut expected: Vec<_> =
                expected.iter().map(|name| Method::from_bytes(name.as_bytes()).unwrap()).collect();
            expected[1..].sort();
            assert_eq!(methods, expected, "{values:?} {query:?}");
        }
    }

    #[test]
    fn a_form_may_be_any_method() {
        const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
        let delete = |query: &str, media_type: &str, coding: &str, content: Option<&[u8]>| {
            let mut headers = fields(&[("content-type", media_type), ("content-encoding", coding)]);
            if coding.is_empty() {
                headers.remove(CONTENT_ENCODING);
            }
            methods_meant(&Method::POST, &headers, Some(query), content).overlaps(&[Method::DELETE])
        };
        for query in
            ["_method=DELETE", "%5Fmethod=DELETE", "a;_METHOD=%64elete", ".method=+DELETE", "_method%5B%5D=DELETE"]
        {
            assert!(delete(query, FORM, "", Some(b"")), "{query}");
            assert!(delete("", FORM, "", Some(format!("a=1&{query}").as_bytes())), "{query}");
        }
        for query in ["method=DELETE", "_method2=DELETE", "_method=PUT", "x=_method%3DDELETE", "_method"] {
            assert!(!delete(query, FORM, "", Some(query.as_bytes())), "{query}");
        }
        let part = |name: &str, text: &str| {
            let part = format!("--x\r\nContent-Disposition: form-data; {name}\r\n\r\n{text}\r\n--x--");
            delete("", "multipart/form-data; boundary=x", "", Some(part.as_bytes()))
        };
        let names = [
            r#"name="_method""#,
            r#"name=".method""#,
            r#"name=" method""#,
            r#"NAME = "  .Method""#,
            r#"name="[method""#,
            r#"name=".me\\thod""#,
            "name=.method; x=1",
            "name='.method'",
            "name=.method",
            "name*0=.met; name*1=hod",
        ];
        for name in names {
            assert!(part(name, "DELETE"), "{name}");
        }
        for name in [r#"name="method""#, r#"name="a.method""#, r#"name="a"; filename="the method""#, "name"] {
            assert!(!part(name, "the method"), "{name}");
        }
        assert!(delete("", "application/json", "", Some(b"{\"_method\": \"DELETE\"}")));
        for json in [r#"{"\u005fmethod": "DELETE"}"#, r#"{"\u005Fm\u0065thod": "DELETE"}"#] {
            for media_type in ["application/json", "text/JSON; charset=utf-8", "application/vnd.api+json"] {
                assert!(delete("", media_type, "", Some(json.as_bytes())), "{media_type} {json}");
            }
        }
        for json in [r#"{"method": "DELETE"}"#, r#"{"a": "\u00e9\u00\u005f"}"#, r#"{"\u"#] {
            assert!(!delete("", "application/json", "", Some(json.as_bytes())), "{json}");
        }
        // Unknown content may contain it.
        let media_types = [
            (FORM, true),
            ("Multipart/Form-Data;x", true),
            ("application/json", true),
            ("application/vnd.api+json", true),
            ("", true),
            ("application/octet-stream", false),
        ];
        for (media_type, is_form) in media_types {
            assert_eq!(delete("", media_type, "", None), is_form, "{media_type}");
            assert_eq!(delete("", media_type, "gzip", Some(b"zzz")), is_form, "{media_type}");
        }
        let put = methods_meant(&Method::PUT, &fields(&[("content-type", FORM)]), None, None);
        assert_eq!(put, Meant::These(vec![Method::PUT]));
    }

    #[test]
    fn untyped_content_is_a_form_and_doubly_typed_may_be() {
        let delete = |lines: Fields<'_>, content: Option<&[u8]>| {
            methods_meant(&Method::POST, &fields(lines), None, content).overlaps(&[Method::DELETE])
        };
        assert!(delete(&[], Some(b"a=1&%5fmethod=DELETE")));
        assert!(delete(&[], None));
        assert!(delete(&[("content-encoding", "gzip")], Some(b"zzz")));
        assert!(!delete(&[], Some(b"a=1")) && !delete(&[], Some(b"")));
        let (text, form) = ("text/plain", "application/x-www-form-urlencoded");
        let several: [Fields<'_>; 3] = [
            &[("content-type", text), ("content-type", form)],
            &[("content-type", form), ("content-type", text)],
            &[("content-type", "text/plain , application/x-www-form-urlencoded")],
        ];
        for lines in several {
            assert!(delete(lines, Some(b"a=1")) && delete(lines, None) && !delete(lines, Some(b"")), "{lines:?}");
        }
        assert!(delete(
            &[("content-type", "application/x-www-form-urlencoded charset=x")],
            Some(b"_method=delete")
        ));
    }

    #[test]
    fn a_write_with_too_many_methods_may_be_any() {
        let meant = |count: usize| {
            let names: Vec<String> = (0..count).map(|number| format!("M{number}, m{number}")).collect();
            methods_meant(&Method::POST, &fields(&[("x-http-method", &names.join(","))]), None, Some(b""))
        };
        assert!(matches!(meant(MEANT), Meant::These(methods) if methods.len() == MEANT + 1));
        for count in [MEANT + 1, 5000] {
            let any = meant(count);
            assert_eq!(any, Meant::Any);
            assert!(any.overlaps(&[Method::DELETE]));
        }
    }
}
