//! The place, message and remedy of each fault.

use super::*;

/// The lines before line 10 of every row below: families to refer to.
const BEFORE: &str = r"[[family]]
name = 'user'
path = '/user/(?<id>\d+)'
[[family]]
name = 'booking:stats'
path = '/stats'

# 8
# 9
";

/// Text from line 10 on; then line, column, a part of the message and one of the remedy.
type Row = (&'static str, usize, usize, &'static str, &'static str);

fn assert_single_faults(rows: &[Row]) {
    for (text, line, column, message, remedy) in rows {
        let found = faults(&format!("{BEFORE}{text}\n"));
        let [fault] = &found[..] else { panic!("{text}: {found:#?}") };
        assert!(fault.message.contains(message) && fault.remedy.contains(remedy), "{text}:\n{fault:#?}");
        assert_eq!((fault.line, fault.column), (*line, *column), "{text}:\n{fault:#?}");
        assert_eq!(fault.marked.start + 1, fault.column, "{text}:\n{fault:#?}");
    }
}

const FAMILY: &str = "[[family]]\nname = 'x'\npath = '/x'\n";

#[test]
fn each_fault_in_a_family_has_its_place_and_remedy() {
    assert_single_faults(&[
        ("[[family]]\npath = '/x'", 10, 1, "family #3: name is missing", "write name"),
        ("[[family]]\nname = 'x'", 10, 1, "family \"x\": path is missing", "write path"),
        ("[[family]]\nname = ''\npath = '/x'", 11, 8, "name is empty", "write a value"),
        ("[[family]]\nname = 'a b'\npath = '/x'", 11, 8, "\"a b\" cannot be a name", "letters"),
        ("[[family]]\nname = 'a::b'\npath = '/x'", 11, 8, "cannot be a name", "levels"),
        ("[[family]]\nname = 'user'\npath = '/x'", 11, 8, "name of the family on line 2 too", "rename"),
        ("[[family]]\nname = 3\npath = '/x'", 11, 8, "must be a string, not a whole number", "quotes"),
        (
            "[[family]]\nname = 'x'\npath = '^/stats$'",
            12,
            8,
            "the path of family \"booking:stats\" on line 6",
            "differ",
        ),
        ("[[family]]\nname = 'x'\npath = '/x('", 12, 11, "at its character 3: unclosed group", "docs.rs/regex"),
        ("[[family]]\nname = 'x'\npath = \"/\\\\d(\"", 12, 8, "unclosed group", "docs.rs/regex"),
        ("[[family]]\nname = 'x'\npath = 'x'", 12, 9, "begins with \"/\"", "begin the pattern with /"),
        (
            "[[family]]\nname = 'x'\npath = '/(?<a>.)(?<b>.)(?<c>.)(?<d>.)(?<e>.)'",
            12,
            8,
            "more than 4 named captures",
            "(?:…)",
        ),
        ("[family]\nname = 'x'", 10, 2, "duplicate key", "rename"),
    ]);
    let fields: &[(&str, usize, &str, &str)] = &[
        ("tll = '3m'", 1, "family \"x\": unknown key \"tll\"", "did you mean \"ttl\"?"),
        ("colour = 1", 1, "unknown key \"colour\"", "known here: name, cache, methods, path"),
        ("ttl = 180", 7, "must be a duration, not a whole number", "\"180s\""),
        ("ttl = '180'", 7, "\"180\" is not a duration", "\"180s\""),
        ("ttl = 'three'", 7, "\"three\" is not a duration", "\"90s\""),
        ("ttl = '0s'", 7, "ttl of 0", "at least \"1s\""),
        ("ttl = '500ms'", 7, "fraction of a second", "whole seconds"),
        ("ttl = '100years'", 7, "out of range", "write 0s to"),
        ("negative_ttl = '0s'", 16, "negative_ttl of 0", "or remove it"),
        ("ttl_policy = 'overrride'\nttl = '1s'", 14, "\"overrride\" is not known", "\"default\" or \"override\""),
        ("ttl_policy = 'override'", 14, "without a ttl", "add ttl"),
        (
            "instance = { d = 'query:d' }\nquery = { keep = ['e'] }",
            18,
            "not part of the cache key",
            "keep = [\"e\", \"d\"]",
        ),
        ("instance = { d = 'query:d' }\nquery = { drop = ['d'] }", 18, "not part of the cache key", "from drop"),
        ("instance = { d = 'header:d' }", 18, "not part of the cache key", "headers = [\"d\"]"),
        ("instance = { d = 'identity' }", 18, "not part of the cache key", "identity = \"header:NAME\""),
        ("instance = { d = 'cookie:d' }", 18, "\"cookie:d\" is not a source", "\"query:NAME\""),
        ("instance = { d = 'header:cookie' }", 18, "cookie has credentials", "write \"identity\""),
        ("instance = { 'a b' = 'query:d' }", 14, "cannot be a name", "letters"),
        (
            "instance = { a='query:a', b='query:b', c='query:c', d='query:d', e='query:e' }",
            12,
            "more than 4",
            "leave out",
        ),
        ("methods = ['GET', 'PUT']", 19, "\"PUT\" is not a method whose", "write GET (HEAD goes with it), QUERY"),
        ("methods = ['DELETE']", 12, "\"DELETE\" is not a method whose", "QUERY, or POST"),
        ("methods = ['HEAD']", 11, "lacks \"GET\"", "remove it"),
        ("methods = 'GET'", 11, "must be a list, not a string", "[\"GET\"]"),
        ("query = { keep = ['a'], drop = ['b'] }", 9, "both keep and drop", "write one"),
        ("query = {}", 9, "neither keep nor drop", "{ keep = "),
        ("query = { sort = 'no' }", 18, "must be true or false", "without quotes"),
        ("cookies = {}", 11, "keep is missing", "write cookies = { keep = "),
        ("cookies = ['sid']", 11, "must be a table", "{ … }"),
        ("cookies = { keep = ['sid=1'] }", 21, "is not the name of a cookie", "\"sessionid\""),
        ("cookies = { keep = ['a', 'a'] }", 26, "has \"a\" twice", "remove one"),
        ("cookies = { drop = ['a'], keep = [] }", 13, "unknown key \"drop\"", "keep"),
        ("authorize = '/c'", 13, "must be a table", "{ … }"),
        (
            "authorize = { path = '/c' }",
            13,
            "ttl is missing",
            "authorize = { path = \"/auth/check\", ttl = \"5s\" }",
        ),
        ("authorize = { ttl = '5s' }", 13, "path is missing", "authorize = { path ="),
        ("authorize = { path = 'c', ttl = '5s' }", 22, "\"c\" is not a path", "without host and query"),
        ("authorize = { path = '/c?a=1', ttl = '5s' }", 22, "is not a path", "without host and query"),
        ("authorize = { path = '/a/../c', ttl = '5s' }", 22, "not a path in normal form", "write \"/c\""),
        ("authorize = { path = '/c', ttl = '0s' }", 34, "ttl of 0", "at least \"1s\""),
        ("authorize = { path = '/c', ttl = '5s', kept = 1 }", 40, "unknown key \"kept\"", "known here: path, ttl"),
        ("set_cookie = 'remove'", 14, "is not known", "\"forward\" or \"strip\""),
        ("query = { kept = ['a'], keep = [] }", 11, "unknown key \"kept\"", "did you mean \"keep\"?"),
        ("headers = ['a b']", 12, "\"a b\" is not a field name", "accept-language"),
        ("headers = ['a', 'A']", 17, "twice", "remove one"),
        ("identity = 'token'", 12, "is not an identity", "header:NAME"),
        ("identity = 'cookie:a b'", 12, "is not an identity", "cookie:NAME"),
        ("max_body = '8 Mib/s'", 12, "is not a size", "\"8MiB\""),
        ("max_body = 8", 12, "must be a size, not a whole number", "\"8B\""),
        ("max_body = '0B'", 12, "out of range", "write 1 B to"),
        ("client_directives = 'some'", 21, "\"some\" is not known", "\"harmless\" or \"all\" or \"none\""),
        ("range = 'all'", 9, "\"all\" is not known", "\"forward\" or \"whole\""),
        ("forward = 'whole'", 11, "\"whole\" is not known", "\"all\" or \"keyed\""),
        ("max_variants = 0", 16, "out of range", "from 1 to 1000"),
        ("normalize = ['a b']", 14, "\"a b\" is not a field name", "accept-language"),
        ("close_delimited = 'keep'", 19, "\"keep\" is not known", "\"forward\" or \"store\""),
        ("heuristic = 'yes'", 13, "must be true or false", "true"),
        ("stale_if_unreachable = 'never'", 24, "\"never\" is not a duration", "\"90s\""),
        ("revalidate = 'never'", 14, "\"never\" is not known", "\"when-stale\" or \"always\""),
        ("stale_while_slow = '0s'", 20, "out of range", "write 1ms to 1h"),
        ("stale_while_slow = 500", 20, "must be a duration", "\"500s\""),
        ("write_through = 'yes'", 17, "must be true or false", "true"),
        ("compress = 'gzip'", 12, "\"gzip\" is not known", "\"zstd\" or \"off\""),
        ("version = 'v 2'", 11, "\"v 2\" is not a version", "1 to 64 letters"),
        ("version = 2", 11, "must be a string, not a whole number", "quotes"),
        ("cache = 'always'", 9, "\"always\" is not known", "\"default\" or \"never\""),
        ("methods = ['GET', 'POST']\ncache = 'never'", 19, "has no effect beside cache = \"never\"", "remove it"),
        ("ttl = '1m'\ncache = 'never'", 1, "ttl has no effect beside cache = \"never\"", "remove one of them"),
        ("negative_ttl = {}", 16, "names no status", "{ 404 = \"10s\" }"),
        ("negative_ttl = { 401 = '1s' }", 18, "401 is about one request", "301, 302"),
        ("negative_ttl = { 200 = '1s' }", 18, "200 is a success", "remove it"),
        ("negative_ttl = { 304 = '1s' }", 18, "304 is no response of its own", "remove it"),
        ("negative_ttl = { 503 = '1s' }", 18, "503 is a failure that passes", "remove it"),
        ("negative_ttl = { missing = '1s' }", 18, "missing is not a status", "404 = \"10s\""),
        ("negative_ttl = { 404 = '0s' }", 24, "404 of 0", "or remove it"),
        ("until = '9 Europe/Paris'", 9, "does not begin with a time of day", "\"09:00 Europe/Paris\""),
        ("until = '09:00'", 9, "\"09:00\" has no time zone", "\"09:00 Europe/Paris\" or \"09:00 UTC\""),
        ("until = '09:00 Europe/Pari'", 9, "does not end with a time zone", "\"Europe/Paris\""),
        ("adaptive_ttl = true", 16, "has no ttl to multiply", "add ttl"),
        ("adaptive_ttl = {}\nttl = '1m'", 16, "neither hot nor cold", "adaptive_ttl = true"),
        ("adaptive_ttl = { hot = '2x' }\nttl = '1m'", 24, "\"2x\" is not a factor with a rate", "2x over 1000/h"),
        ("adaptive_ttl = { hot = '2x under 10/h' }\nttl = '1m'", 24, "is not a factor", "2x over 1000/h"),
        ("adaptive_ttl = { hot = '11x over 10/h' }\nttl = '1m'", 24, "factor out of range", "at most 10x"),
        ("adaptive_ttl = { cold = '0.05x under 10/h' }\nttl = '1m'", 25, "factor out of range", "at least 0.1x"),
        ("adaptive_ttl = { cold = '0.5x under 1/h' }\nttl = '1m'", 25, "rate out of range", "write 2/h to"),
        (
            "adaptive_ttl = { hot = '2x over 5/h', cold = '0.5x under 6/h' }\nttl = '1m'",
            46,
            "is for URLs that are hot as well",
            "lower its rate",
        ),
        ("client_cache_control = 'nocache'", 24, "has an unknown directive, nocache", "\"no-cache\""),
        ("client_cache_control = 'max-age'", 24, "has a wrong value for max-age", "max-age=60"),
        ("client_cache_control = 'public=1'", 24, "has a wrong value for public", "without a value"),
        ("client_cache_control = 'max-age=1, max-age=2'", 24, "has max-age twice", "remove one"),
        (
            "client_cache_control = 'max-age=60'\nidentity = 'cookie:sid'",
            24,
            "lets caches give one caller's response to others",
            "\"private, max-age=60\"",
        ),
        (
            "cdn_cache_control = 'max-age=60'\nidentity = 'header:authorization'",
            21,
            "lets caches give one caller's response to others",
            "identity = \"none\"",
        ),
        ("cdn_cache_control = 'max-age=60,'", 21, "is not a list of directives", "max-age=60"),
        ("cdn_cache_control = 'max-age=\"60\"'", 21, "has a wrong value for max-age", "max-age=60"),
        ("ttl = '${TTL}'", 8, "variable TTL is not set", "${TTL:-…}"),
        ("ttl = '${BAD}'", 7, "\"${BAD}\" is not a duration", "with its unit"),
    ];
    for (text, column, message, remedy) in fields {
        let found = faults(&format!("{BEFORE}{FAMILY}{text}\n"));
        let [fault] = &found[..] else { panic!("{text}: {found:#?}") };
        assert!(fault.message.contains(message) && fault.remedy.contains(remedy), "{text}:\n{fault:#?}");
        assert_eq!((fault.line, fault.column), (13, *column), "{text}:\n{fault:#?}");
    }
}

#[test]
fn a_field_with_credentials_is_no_instance() {
    let text = "[server]\ncredential_headers = ['acme-caller']\n[[family]]\nname = 'a'\npath = '/a'\nheaders = ['acme-caller']\n\
                instance = { caller = 'header:acme-caller' }\n";
    let faults = parsed(text, &Overrides::default()).unwrap_err().0;
    assert!(faults.len() == 1 && faults[0].line == 3, "{faults:?}");
    assert!(faults[0].message.contains("acme-caller has credentials"), "{faults:?}");
}

#[test]
fn each_fault_in_an_invalidation_has_its_place_and_remedy() {
    assert_single_faults(&[
        ("invalidate = 1", 10, 1, "unknown key \"invalidate\"", "write a line below [invalidate]"),
        ("[[invalidate]]\npath = '/a'", 10, 1, "must be a table, not a list", "write [invalidate], and below it"),
        ("[invalidate]\n'/a' = 'user'", 11, 8, "must be a list, not a string", "[\"user\"]"),
        ("[invalidate]\n'/a' = []", 11, 8, "names no family", "name at least one"),
        ("[invalidate]\n'/a' = ['usr']", 11, 9, "unknown family \"usr\"", "did you mean \"user\"?"),
        ("[invalidate]\n'/a' = ['zz']", 11, 9, "unknown family", "families here: booking, booking:stats, user"),
        ("[invalidate]\n'/a' = ['z*']", 11, 9, "fits no family", "families here"),
        (
            "[[family]]\nname = 'authorize'\npath = '/z'\nauthorize = { path = '/c', ttl = '5s' }",
            11,
            8,
            "is the name of the family of verdicts",
            "rename the family",
        ),
        (
            "[[family]]\nname = 'y'\npath = '/y'\nauthorize = { path = '/c', ttl = '5s' }\n\
             [[family]]\nname = 'z'\npath = '/z'\nauthorize = { path = '/c', ttl = '6s' }",
            17,
            13,
            "has another ttl than on line 13",
            "write ttl = \"5s\" in both",
        ),
        ("[invalidate]\n'/a' = ['user', '']", 11, 17, "is empty", "write a value"),
        ("[invalidate]\n'/a' = ['user:{id}']", 11, 10, "{id} is not a capture", "no named captures"),
        ("[invalidate]\n'/a/(?<uid>.)' = ['user:{id}']", 11, 20, "{id} is not a capture", "did you mean \"uid\"?"),
        ("[invalidate]\n'/a' = ['user:1:2']", 11, 10, "2 parts", "at most one part"),
        ("[invalidate]\n'/a' = ['booking:stat']", 11, 10, "unknown family", "did you mean \"booking:stats\"?"),
        ("[invalidate]\n'/a[' = ['user']", 11, 4, "character 3: unclosed character class", "docs.rs/regex"),
        ("[invalidate]\n'a' = ['user']", 11, 2, "begins with \"/\"", "begin the pattern"),
        (
            "[invalidate]\n'/a' = ['user']\n'/a' = ['user']",
            12,
            1,
            "duplicate key",
            "write both in one list: '/path' = [{",
        ),
        ("[invalidate]\n'/a' = { methods = ['PUT'] }", 11, 8, "families is missing", "write families"),
        ("[invalidate]\n'/a' = { families = ['user'], mod = 1 }", 11, 31, "unknown key \"mod\"", "\"mode\""),
        ("[invalidate]\n'/a' = { families = ['user'], mode = 'x' }", 11, 38, "not known", "\"hard\" or"),
        (
            "[invalidate]\n'/a' = { families = ['user'], except = [] }",
            11,
            40,
            "except is empty",
            "'/points/preview'",
        ),
        (
            "[invalidate]\n'/a/.*' = { families = ['user'], except = ['/b'] }",
            11,
            44,
            "\"/b\" fits no path that the rule fits",
            "over the whole path of the write",
        ),
        (
            "[invalidate]\n'/a' = { families = ['user'], except = ['^/a$'] }",
            11,
            41,
            "is the whole path of the rule",
            "remove the rule",
        ),
        ("[invalidate]\n'/a' = ['user:{bdy.id}']", 11, 10, "{bdy.id} names no value", "did you mean {body.id}?"),
        (
            "[invalidate]\n'/a' = { families = ['user'], again = '5ms' }",
            11,
            39,
            "\"5ms\" is out of range",
            "100ms to 1h",
        ),
        ("[invalidate]\n'/a' = { families = ['user'], grace = '5s' }", 11, 39, "no meaning", "mode = \"soft\""),
        (
            "[invalidate]\n'/a' = { families = ['user'], mode = 'soft', grace = '5ms' }",
            11,
            54,
            "\"5ms\" is out of range",
            "1s to 1day",
        ),
        (
            "[invalidate]\n'/a' = { families = ['user'], refresh = 1 }",
            11,
            41,
            "must be true or false",
            "without quotes",
        ),
        ("[invalidate]\n'/a' = { families = ['user'], methods = ['A B'] }", 11, 42, "not a method", "\"POST\""),
        ("[invalidate]\n'/a' = { families = ['user'], methods = [] }", 11, 41, "is empty", "remove it"),
        ("[invalidate]\n'/a' = { families = ['user'], on = ['9xx'] }", 11, 37, "\"9xx\" is not a status", "2xx"),
        ("[invalidate]\n'/a' = { families = ['user'], on = [99] }", 11, 37, "out of range", "200 to 599"),
        ("[invalidate]\n'/a' = { families = ['user'], on = [true] }", 11, 37, "must be a string", "quotes"),
        ("[invalidate]\n'/a' = { families = ['user'], on = '2xx' }", 11, 36, "must be a list", "[\"2xx\"]"),
        ("[invalidate]\n'/a' = { families = ['user'], on = [] }", 11, 36, "is empty", "2xx and 3xx"),
    ]);
}

#[test]
fn each_fault_in_the_other_tables_has_its_place_and_remedy() {
    assert_single_faults(&[
        ("[servers]\nlisten = ''", 10, 2, "unknown table or key \"servers\"", "did you mean \"server\"?"),
        ("[warm]\nat = 'start'", 10, 1, "warm must be a list of tables, not a table", "write [[warm]]"),
        ("[[warm]]\nsitemap = '/s'\nat = 'start'", 12, 1, "[[warm]]: unknown key \"at\"", "did you mean"),
        ("[server]\nlisten = ':8080'", 11, 10, "[server]: listen is not an IP address", "\"0.0.0.0:8080\""),
        ("[server]\nlisten = ''", 11, 10, "listen is empty", "write a value"),
        ("[server]\nupstream = 'localhost:8000'", 11, 12, "upstream is not a URL", "http://127.0.0.1:8000"),
        ("[server]\nupstream = 'http://u:p@h'", 11, 12, "user or password", "remove it"),
        ("[server]\nhost = 'a b'", 11, 8, "is not a host", "\"client\""),
        ("[server]\nforwarded = 'add'", 11, 13, "\"add\" is not known", "\"append\""),
        (
            "[server]\nforwarded = 'append'",
            11,
            13,
            "there are no trusted proxies",
            "add trusted_proxies = [\"10.0.0.0/8\"]",
        ),
        ("[server]\ntrusted_proxies = ['10.0.0.0/8']", 11, 19, "has no effect", "add that, or remove it"),
        ("[server]\ntrusted_proxies = ['10/8']", 11, 20, "is not a network", "\"10.0.0.0/8\""),
        ("[server]\ncredential_headers = ['a b']", 11, 23, "is not a field name", "write one such as"),
        ("[server]\nconnect_timeout = '0s'", 11, 19, "out of range", "write 1ms to 1day"),
        ("[server]\non_incomplete = 'drop'", 11, 17, "\"drop\" is not known", "\"ignore\" or \"invalidate\""),
        ("[server]\nlogin = 'https://sso/login'", 11, 10, "can match no path", "without scheme and host"),
        ("[server]\nlogin = '/login(.*'", 11, 16, "faulty at its character 7", "regex"),
        ("[server]\nmax_connections = 0", 11, 19, "0 is out of range", "from 1 to 1000000"),
        ("[server]\nmax_connections = -5", 11, 19, "-5 is out of range", "from 1"),
        (
            "[server]\nmax_connections = 4\nmax_connections_per_client = 5",
            12,
            30,
            "is more than max_connections",
            "lower it, or raise max_connections",
        ),
        ("[server]\nmax_connections_per_client = 0", 11, 30, "0 is out of range", "from 1 to 1000000"),
        ("[server]\nmax_streams_per_client = 0", 11, 26, "0 is out of range", "from 1 to 1000000"),
        ("[server]\nmax_heads = '1KiB'", 11, 13, "is out of range", "write 256.0 KiB"),
        (
            "[server]\nmax_head = '1MiB'\nmax_heads = '1MiB'",
            12,
            13,
            "less than four times max_head",
            "lower max_head",
        ),
        ("[server]\nmax_connections = '5'", 11, 19, "must be a whole number, not a string", "without quotes"),
        ("[server]\nlistn = ''", 11, 1, "[server]: unknown key \"listn\"", "did you mean \"listen\"?"),
        ("[[server]]\nlisten = ''", 10, 1, "server must be a table, not a list", "[name]"),
        ("[server]\ncollapse_wait = '2h'", 11, 17, "out of range", "0s to 1h"),
        ("[server]\ncollapse_wait = 1", 11, 17, "must be a duration", "\"1s\""),
        ("[server]\nmax_unshared_per_client = 0", 11, 27, "out of range", "1 to 1000000"),
        ("[server]\nupgrades = 'websocket'", 11, 12, "must be a list", "[\"websocket\"]"),
        ("[server]\nupgrades = ['web socket']", 11, 13, "is not a protocol", "name/1"),
        ("[server]\nupgrades = ['a/1/2']", 11, 13, "is not a protocol", "\"websocket\""),
        ("[server]\nupgrades = ['a', '']", 11, 18, "empty", ""),
        ("[server]\nupgrades = ['H2C']", 11, 13, "speaks itself", "HTTP/2"),
        ("[admin]\nlisten = '127.0.0.1:8080'", 11, 10, "the address of the server too", "port of its own"),
        ("[admin]\ntokens = [{ role = 'boss', token = 'x' }]", 11, 20, "\"boss\" is not known", "\"viewer\" or"),
        ("[admin]\ntokens = [{ role = 'admin' }]", 11, 11, "token is missing", "write token"),
        ("[admin]\ntokens = [{ role = 'admin', token = 'a b' }]", 11, 37, "cannot be sent", "letters and digits"),
        (
            "[admin]\ntokens = [{ role = 'admin', token = 'a' }, { role = 'viewer', token = 'a' }]",
            11,
            71,
            "is listed twice",
            "of its own",
        ),
        ("[admin]\ntokens = ['x']", 11, 11, "must be a table", "{ … }"),
        ("[store]\nnamespace = 'x'", 10, 1, "[store]: redis is missing", "in memory only"),
        ("[store]\nredis = 'redis+cluster://a,b/1'", 11, 9, "one database only", "redis+cluster://"),
        ("[store]\nredis = 'redis+sentinel://a'", 11, 9, "does not name the primary", "/mymaster"),
        ("[store]\nredis = 'redis://h'\ntls_ca = 'ca.pem'", 12, 10, "without TLS", "rediss://"),
        ("[store]\nredis = 'rediss://h'\ntls_cert = 'a.pem'", 12, 12, "without its key", "add tls_key"),
        ("[store]\nredis = 'rediss://h'\ntls_key = 'a.pem'", 12, 11, "without its certificate", "add tls_cert"),
        ("[store]\nredis = 'rediss://h'\ntls_ca = ''", 12, 10, "empty", ""),
        ("[store]\nredis = 'localhost'", 11, 9, "redis is not a URL", "redis://"),
        ("[store]\nredis = 'redis://h'\nnamespace = 'a:b'", 12, 13, "is not a namespace", "1 to 64"),
        ("[store]\nredis = 'redis://h'\ntimeout = '2h'", 12, 11, "out of range", "1ms to 1m"),
        ("[store]\nredis = 'redis://h'\nmarks_max = 5", 12, 13, "out of range", "from 1024"),
        ("[store]\nredis = 'redis://h'\nlease = '99ms'", 12, 9, "out of range", "100ms to 1m"),
        ("[store]\nredis = 'redis://h'\nlease = '61s'", 12, 9, "out of range", "100ms to 1m"),
        ("[store]\nredis = 'redis://h'\ncoherence = 'x'", 12, 13, "\"x\" is not known", "\"strict\""),
        ("[store]\nredis = 'redis://h'\non_outage = 'x'", 12, 13, "\"x\" is not known", "\"refuse\""),
        ("[store]\nredis = 'redis://h'\nwait_replicas = -1", 12, 17, "out of range", "0 to 100"),
        ("[store]\nredis = 'redis://h'\ncollapse_timeout = '99ms'", 12, 20, "out of range", "100ms to 1m"),
        ("[store]\nredis = 'redis://h'\nsweep_rate = 1000001", 12, 14, "out of range", "0 to 1000000"),
        ("[store]\nredis = 'redis://h'\nsweep_pause = '0s'", 12, 15, "out of range", "1s to 1day"),
        (
            "[store]\nredis = 'redis://h'\nsecret = '0123456789abcdef'",
            12,
            10,
            "must not be in the file",
            "${LARDER_SECRET}",
        ),
        ("[store]\nredis = 'redis://h'\nsecret = '${BAD}'", 12, 10, "shorter than 16 bytes", "openssl rand"),
        ("[store]\nredis = 'redis://h'\nsecret = ''", 12, 10, "empty", ""),
        ("[memory]\ncapacity = '1KiB'", 11, 12, "out of range", "1.0 MiB"),
        ("[memory]\ncapacity = '2MiB'\nmax_body = '3MiB'", 12, 12, "larger than the capacity", "raise capacity"),
        ("[memory]\nmarks = 100", 11, 9, "out of range", "from 1024"),
        ("[log]\nformat = 'xml'", 11, 10, "\"xml\" is not known", "\"text\" or \"json\""),
        ("[log]\naccess = 'yes'", 11, 10, "must be true or false", "without quotes"),
        ("[log]\nlevel = 'inof'", 11, 9, "is not a level", "did you mean \"info\"?"),
        ("[log]\nlevel = 'larder=loud'", 11, 9, "is not a filter", "larder=debug"),
    ]);
}

#[test]
fn syntax_errors_have_a_position_and_a_remedy() {
    assert_single_faults(&[
        ("[server]\nlisten = \"x", 11, 12, "not TOML", "quote"),
        ("[server]\nlisten =", 11, 9, "not TOML", "write a value"),
        ("[server\nlisten = '127.0.0.1:1'", 10, 8, "not TOML: unclosed table", "[name]"),
        ("[server]\nhost = client", 11, 8, "not TOML: string values must be quoted", "in quotes"),
        ("[invalidate]\n'/a' = [\"\\d\"]", 11, 11, "not TOML", "single quotes"),
        ("[invalidate]\n/a = ['user']", 11, 1, "not TOML", "single quotes"),
    ]);
}

#[test]
fn every_fault_of_a_file_is_reported_in_its_order() {
    let text = r#"
[server]
listen = ":80"
upstream = "${NOWHERE}"
speed = 1

[[family]]
name = "a"
path = '/a('
ttl = "0s"

[[family]]
name = "a"
path = '/b'
tll = "3m"

[invalidate]
'/x/(?<id>\d+)' = ["b", "a:{di}", "zz*"]
'/y[' = { families = ["a"], mode = "soft", on = ["1xx"], grace = "2w" }

[warm]
"#;
    let found = faults(text);
    let places: Vec<_> = found.iter().map(|fault| (fault.line, fault.column)).collect();
    let expected = [
        (3, 10),
        (4, 13),
        (5, 1),
        (9, 11),
        (10, 7),
        (13, 8),
        (15, 1),
        (18, 20),
        (18, 26),
        (18, 35),
        (19, 4),
        (19, 50),
        (19, 66),
        (21, 1),
    ];
    assert_eq!(places, expected, "{}", Faults(found));
}

#[test]
fn faults_of_toml_and_of_meaning_are_reported_together() {
    let found = faults("[server]\nlisten = oops\nspeed = 1\n[invalidate]\n'/a' = ['b']\n");
    let places: Vec<_> = found.iter().map(|fault| (fault.line, fault.message.as_str())).collect();
    // While parts of the file are unparsed, a missing family "b" is no fault.
    assert_eq!(places.len(), 2, "{places:?}");
    assert!(places[0].0 == 2 && places[0].1.contains("not TOML"), "{places:?}");
    assert!(places[1].0 == 3 && places[1].1.contains("speed"), "{places:?}");
}

#[test]
fn an_unreadable_file_has_a_reason() {
    let error = |path: &Path| Config::load(Some(path), &Overrides::default(), &env).unwrap_err().to_string();
    let folder = tempfile::tempdir().unwrap();
    assert!(error(&folder.path().join("none")).contains("create it"));
    assert!(error(folder.path()).contains("name a file in it"));
    let large = folder.path().join("large");
    std::fs::write(&large, vec![b'#'; 5 << 20]).unwrap();
    assert!(error(&large).contains("larger than 4 MiB"), "{}", error(&large));
}

#[test]
fn fields_with_credentials_cannot_become_tags() {
    let rules = |server: &str, name: &str| {
        format!(
            "{server}\n[[family]]\nname = 'a'\npath = '/a/(?<id>.+)'\n[invalidate]\n'/x' = ['a:{{id=header.{name}}}']\n"
        )
    };
    for (server, name) in [
        ("", "authorization"),
        ("", "cookie"),
        ("", "x-api-key"),
        ("[server]\ncredential_headers = ['x-own']", "x-own"),
    ] {
        let faults = faults(&rules(server, name));
        let [fault] = &faults[..] else { panic!("{name}: {faults:?}") };
        assert!(fault.message.contains("credentials") && fault.remedy.contains("{identity}"), "{fault:?}");
    }
    assert_eq!(faults(&rules("", "x-tenant")), []);
}
