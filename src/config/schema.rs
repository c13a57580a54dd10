//! The JSON Schema of `rules.toml`, for editors (taplo, Even Better TOML). It describes names, types and words; rules
//! that span fields are left to `larder check`. A test compares it with every field that the reader knows.

use serde_json::{Map, Value, json};

/// The schema (draft 7, for editor support).
pub fn schema() -> Value {
    let fields = [
        ("server", server()),
        ("admin", admin()),
        ("purge", purge()),
        ("store", store()),
        ("memory", memory()),
        ("log", log()),
        ("traces", traces()),
        ("jwt", jwt()),
        ("alerts", alerts()),
        (
            "family",
            json!({ "type": "array", "items": family(), "description": "the cached families; the first match wins" }),
        ),
        ("invalidate", invalidate()),
        (
            "warm",
            json!({ "type": "array", "items": warm(), "description": "what is fetched before a client asks for it" }),
        ),
    ];
    let mut root = table("Rules of Larder, a caching reverse proxy", fields);
    root["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    root["title"] = json!("rules.toml");
    root
}

fn table<const N: usize>(description: &str, fields: [(&str, Value); N]) -> Value {
    let fields: Map<String, Value> = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({ "type": "object", "description": description, "properties": fields, "additionalProperties": false })
}

fn required(mut table: Value, names: &[&str]) -> Value {
    table["required"] = json!(names);
    table
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

/// A duration such as `3m`, or a variable.
fn duration(description: &str) -> Value {
    json!({ "type": "string", "pattern": r"^\s*[0-9].*[a-z]\s*$|\$\{", "description": description })
}

/// A size such as `8MiB`, or a variable.
fn size(description: &str) -> Value {
    json!({ "type": "string", "pattern": r"^\s*[0-9].*[A-Za-z]\s*$|\$\{", "description": description })
}

fn number(description: &str, least: u64, most: u64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most, "description": description })
}

fn truth(description: &str) -> Value {
    json!({ "type": "boolean", "description": description })
}

/// One of the words, or a variable.
fn choice(description: &str, words: &[&str]) -> Value {
    json!({ "anyOf": [{ "enum": words }, { "type": "string", "pattern": r"\$\{" }], "description": description })
}

fn texts(description: &str) -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "description": description })
}

const COUNT: u64 = 1_000_000;

fn server() -> Value {
    let fields = [
        ("listen", text("address for clients, such as 127.0.0.1:8080")),
        ("upstream", text("the API: http:// or https://, host and port")),
        ("host", text("the Host field that upstream receives: \"upstream\", \"client\", or a host")),
        ("forwarded", choice("X-Forwarded-* and Forwarded", &["set", "append", "off"])),
        ("connect_timeout", duration("to connect to upstream")),
        ("upstream_timeout", duration("until upstream's answer begins")),
        (
            "reinvalidate_after",
            duration("when what a write without an answer invalidates is invalidated once more"),
        ),
        ("idle_timeout", duration("the longest silence within an answer")),
        ("header_timeout", duration("for a client to send the head of a request")),
        ("drain_timeout", duration("how long a shutdown waits for what runs")),
        ("stream_after", duration("the silence after which an exchange counts as a stream")),
        ("stream_timeout", duration("the longest silence of an event stream or an upgraded connection")),
        ("upstream_keep_alive", duration("how long an idle connection to upstream is used again")),
        (
            "trusted_proxies",
            texts("networks whose X-Forwarded-* and Forwarded are trusted, with forwarded = \"append\""),
        ),
        ("credential_headers", texts("request fields that carry credentials, beside those that are known to")),
        ("case_insensitive_paths", truth("whether upstream takes paths that differ in case for one")),
        ("underscores", truth("whether request fields with _ in their names are forwarded")),
        ("resolver", text("the DNS server that resolves upstream's name")),
        ("max_upstream_requests", number("at a time", 1, COUNT)),
        ("max_upstream_requests_per_client", number("of one client at a time", 1, COUNT)),
        ("max_unshared_per_client", number("requests of one client that only upstream can answer", 1, COUNT)),
        ("max_upstream_streams", number("at a time", 1, COUNT)),
        ("max_upstream_streams_per_client", number("of one client at a time", 1, COUNT)),
        ("collapse_wait", duration("outside of families: how long a request waits for another one")),
        ("upgrades", texts("protocols that a connection may be upgraded to")),
        ("max_head", size("the largest head of a request or a response")),
        ("max_connections", number("from clients", 1, COUNT)),
        ("max_connections_per_client", number("from one client", 1, COUNT)),
        ("max_streams_per_client", number("HTTP/2 streams of one client", 1, COUNT)),
        ("max_heads", size("for unfinished request heads")),
        ("max_query_body", size("the largest content of a QUERY that is cached")),
        ("max_rule_body", size("the largest content of a write or its answer that rules take values from")),
        ("upload_rate", size("the least that a client may send each second")),
        ("download_rate", size("the least that a client may take each second")),
        ("on_incomplete", choice("a write that upstream cannot have received whole", &["ignore", "invalidate"])),
        ("login", text("a pattern over the path of Location: a write that is redirected there has been refused")),
        ("cache_status", choice("the Cache-Status that clients receive", &["plain", "key", "off"])),
        ("group_fields", choice("Cache-Groups and its kin towards clients", &["remove", "keep"])),
        (
            "upstream_tls",
            table(
                "TLS with upstream",
                [
                    ("ca", text("file (PEM) with the authorities that upstream's certificate may come from")),
                    ("cert", text("file (PEM) with a certificate that is shown to upstream")),
                    ("key", text("file (PEM) with its key")),
                    ("server_name", text("the name that upstream's certificate is for")),
                ],
            ),
        ),
    ];
    table("the proxy itself", fields)
}

fn admin() -> Value {
    let fields = [
        ("role", choice("what its bearer may do", &["viewer", "admin"])),
        ("name", text("what logs call it; default: its role")),
        (
            "families",
            texts(
                "the families, levels and globs that an admin token may purge, warm and bypass; default: everything",
            ),
        ),
        ("token", text("the token, best from the environment: ${LARDER_ADMIN_TOKEN}")),
        ("sha256", text("the digest of the token, as larder token prints it")),
        ("token_file", text("a file with the token, which is read again when it changes")),
    ];
    let mut token = table("a bearer token: one of the last three fields", fields);
    token["oneOf"] = ["token", "sha256", "token_file"].map(|name| json!({ "required": [name] })).to_vec().into();
    let tokens =
        json!({ "type": "array", "items": required(token, &["role"]), "description": "none: loopback only" });
    let fields = [
        ("listen", text("where the admin listens, such as 127.0.0.1:9090")),
        ("tokens", tokens),
        ("hosts", texts("host names by which the admin may be called, beside localhost and addresses")),
    ];
    table("health, statistics, metrics and purging", fields)
}

fn purge() -> Value {
    let fields = [
        ("from", texts("addresses and networks that may send them without a token")),
        ("tokens", truth("everybody with an admin token in Authorization may send them")),
    ];
    table(
        "PURGE and BAN requests at the proxy, as users of Varnish send them; without this table they are forwarded",
        fields,
    )
}

fn store() -> Value {
    let fields = [
        ("redis", text("redis://, rediss://, redis+cluster:// or redis+sentinel://")),
        ("username", text("where the URL has none; not percent-encoded")),
        (
            "password",
            text("where the URL has none; not percent-encoded, best from the environment: ${REDIS_PASSWORD}"),
        ),
        ("password_file", text("a file with the password")),
        (
            "namespace",
            json!({ "type": "string", "pattern": r"^\s*[A-Za-z0-9_.-]{1,64}\s*$|\$\{", "description": "one for each API" }),
        ),
        ("version", version()),
        ("compress", compress()),
        ("compress_above", size("up to this a body is not compressed")),
        ("timeout", duration("the longest any request waits for Redis")),
        ("connect_timeout", duration("to connect to Redis")),
        ("marks_max", number("marks stored in Redis", 1024, 1_000_000_000)),
        ("tls_ca", text("file (PEM) with the authorities that the server's certificate may come from")),
        ("tls_cert", text("file (PEM) with a certificate that is shown to the server")),
        ("tls_key", text("file (PEM) with its key")),
        ("coherence", choice("what a hit may rely on", &["lease", "strict", "eventual"])),
        ("lease", duration("how long a Larder that hangs holds up writes")),
        ("on_outage", choice("writes while Redis is away", &["forward", "refuse"])),
        ("wait_replicas", number("replicas that must have an invalidation", 0, 100)),
        ("collapse_timeout", duration("how long to wait for what another Larder fetches")),
        ("sweep_rate", number("keys a second that are looked at; 0: none", 0, 1_000_000)),
        ("sweep_pause", duration("from one walk over all entries to the next")),
        ("secret", text("at least 16 bytes, from the environment: ${LARDER_SECRET}")),
    ];
    table("Redis or Valkey, which several Larders share", fields)
}

fn version() -> Value {
    json!({ "type": "string", "pattern": r"^\s*[A-Za-z0-9_.-]{1,64}\s*$|\$\{", "description": "a part of the cache keys: a change makes all entries misses" })
}

fn compress() -> Value {
    let word = choice("", &["zstd", "off"]);
    json!({ "anyOf": [{ "type": "boolean" }, { "enum": ["zstd", "off"] }, word["anyOf"][1]], "description": "whether bodies are compressed in Redis" })
}

fn negative_ttl() -> Value {
    let by_status = json!({ "type": "object", "additionalProperties": duration("for this status") });
    json!({ "anyOf": [duration("for 404 and 410"), by_status], "description": "for 404 and 410, or by status: { 404 = \"10s\" }" })
}

fn adaptive_ttl() -> Value {
    let factors = table(
        "the factors of the ttl",
        [("hot", text("such as 2x over 1000/h")), ("cold", text("such as 0.5x under 10/h"))],
    );
    json!({ "anyOf": [{ "type": "boolean" }, factors], "description": "the ttl is multiplied by how often the URL is requested" })
}

fn memory() -> Value {
    let fields = [
        ("capacity", size("for entries")),
        ("max_body", size("the largest body that is stored")),
        ("marks", number("slots for marks of tags without an entry in memory", 1024, 1 << 30)),
    ];
    table("entries in this process", fields)
}

fn log() -> Value {
    let fields = [
        ("format", choice("of its lines", &["text", "json"])),
        ("access", truth("a line for each request")),
        (
            "access_format",
            choice("of the lines of requests; the default is format", &["text", "json", "combined"]),
        ),
        ("access_to", choice("where the lines of requests go", &["stderr", "stdout"])),
        ("level", text("off, error, warn, info, debug, trace, or a filter like info,larder=debug")),
    ];
    table("the log", fields)
}

fn traces() -> Value {
    let fields = [
        ("endpoint", text("the URL of the collector's receiver, such as http://127.0.0.1:4318/v1/traces")),
        ("sample", text("the part of new traces that is recorded, such as 10%")),
        (
            "headers",
            json!({ "type": "object", "additionalProperties": { "type": "string" }, "description": "of requests to the collector; credentials from the environment" }),
        ),
        ("service", text("service.name of the spans")),
    ];
    table("spans of requests, sent to a collector of OpenTelemetry over OTLP (HTTP, protobuf)", fields)
}

fn jwt() -> Value {
    let one_or_more =
        |description| json!({ "anyOf": [text(description), texts(description)], "description": description });
    let algorithms = json!({
        "type": "array",
        "items": { "enum": ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512", "EdDSA"] },
        "description": "those that count; the default is all that fit the kind of the key",
    });
    let fields = [
        ("secret", text("shared secret of HS256, HS384, HS512, from the environment: ${JWT_SECRET}")),
        ("secret_file", text("a file with the shared secret")),
        ("public_key_file", text("a file (PEM) with a public key: RSA, EC P-256, EC P-384 or Ed25519")),
        ("jwks_file", text("a file with a JWK Set")),
        ("jwks_url", text("the http or https URL of a JWK Set")),
        ("jwks_refresh", duration("how often the JWK Set is read again")),
        ("algorithms", algorithms),
        ("audience", one_or_more("what tokens must be for (aud)")),
        ("issuer", one_or_more("what tokens must be from (iss)")),
        ("leeway", duration("for exp and nbf, where clocks differ")),
        ("require_exp", truth("whether a token without exp is refused")),
    ];
    table(
        "which bearer tokens are valid, for families with identity = \"jwt:…\"; one of the first five fields",
        fields,
    )
}

fn percent(description: &str) -> Value {
    json!({ "type": "string", "pattern": r"^\s*[0-9.]+\s*%\s*$|^off$|\$\{", "description": description })
}

fn thresholds() -> [(&'static str, Value); 3] {
    [
        ("hit_rate", percent("hits, of hits and misses: lower ones raise an alert; \"70%\" or \"off\"")),
        ("error_rate", percent("answers with a status of 500 or more, of all: higher ones raise an alert")),
        ("hit_latency", text("mean time of an answer from the cache, such as 10ms: longer ones raise an alert")),
    ]
}

fn alerts() -> Value {
    let [hit_rate, error_rate, hit_latency] = thresholds();
    let fields = [
        hit_rate,
        error_rate,
        hit_latency,
        ("memory", percent("of Redis's maxmemory")),
        ("store_away", text("how long Redis may not answer, such as 10s, or off")),
        ("window", duration("the time over which rates are taken")),
        ("interval", duration("from one evaluation to the next")),
        ("min_requests", number("the least number of requests in the window", 1, 1_000_000_000)),
        ("webhook", text("each change is sent there as JSON: http:// or https://")),
        ("webhook_token", text("sent as bearer token, best from the environment: ${WEBHOOK_TOKEN}")),
    ];
    table("when an alert is raised, and where it is sent", fields)
}

fn identity() -> Value {
    let source = |words: &str| json!({ "type": "string", "pattern": format!(r"^({words})$|\$\{{") });
    let sources = r"header:.+|cookie:.+|jwt:.+";
    json!({
        "anyOf": [source(&format!("none|{sources}")), { "type": "array", "items": source(sources) }],
        "description": "header:NAME, cookie:NAME, jwt:CLAIM, a list of these, or none",
    })
}

fn family() -> Value {
    let mut alerts = table("thresholds that differ from [alerts]; \"off\": no alerts", thresholds());
    alerts["type"] = json!(["object", "string"]);
    let query = table(
        "which query parameters are part of the key; the default is all",
        [
            ("keep", texts("these alone")),
            ("drop", texts("all but these")),
            ("sort", truth("whether parameters that differ in their order alone are one query")),
        ],
    );
    let cookies = table("which cookies are part of the key and sent", [("keep", texts("these alone"))]);
    let methods = json!({ "type": "array", "items": { "enum": ["GET", "HEAD", "QUERY", "POST"] }, "description": "HEAD goes with GET; POST only where it is a search" });
    let family = table(
        "responses that are cached and invalidated together",
        [
            ("name", text("levels by \":\", such as booking:stats")),
            ("path", text("a regular expression over the whole path, in single quotes: '/users/(?<id>\\d+)'")),
            ("methods", methods),
            ("ttl", duration("how long a response is fresh where upstream does not say")),
            ("ttl_policy", choice("whose lifetime wins", &["default", "override"])),
            (
                "cache",
                choice("\"never\": requests for the path are forwarded and not stored", &["default", "never"]),
            ),
            ("version", version()),
            ("compress", compress()),
            ("negative_ttl", negative_ttl()),
            ("until", text("the time of day at which lifetimes end, such as 09:00 Europe/Paris")),
            ("adaptive_ttl", adaptive_ttl()),
            ("cdn_cache_control", text("the CDN-Cache-Control that clients receive, such as max-age=60")),
            (
                "authorize",
                required(
                    table(
                        "the API is asked first whether it authorizes the caller, as nginx does with auth_request",
                        [
                            (
                                "path",
                                text("the path that is asked, with the caller's credentials: 2xx, or 401 and 403"),
                            ),
                            ("ttl", duration("how long the API's answer is kept for the caller")),
                        ],
                    ),
                    &["path", "ttl"],
                ),
            ),
            ("stale_while_revalidate", duration("serve stale while a fresh one is fetched (RFC 5861)")),
            ("stale_if_error", duration("serve stale while upstream fails (RFC 5861)")),
            ("stale_if_unreachable", duration("serve stale while upstream gives no answer at all")),
            ("stale_while_slow", duration("serve stale when upstream has not answered by then")),
            ("revalidate", choice("when a stored response is validated", &["when-stale", "always"])),
            ("write_through", truth("whether the response to PUT and PATCH is what a GET would bring")),
            ("query", query),
            ("cookies", cookies),
            ("set_cookie", choice("responses with Set-Cookie", &["forward", "strip"])),
            (
                "client_cache_control",
                text(
                    "the Cache-Control that clients receive: \"no-cache\", \"pass\", or a value such as max-age=60",
                ),
            ),
            ("headers", texts("request fields that are part of the key")),
            ("identity", identity()),
            ("heuristic", truth("whether to derive a missing lifetime from Last-Modified")),
            ("client_directives", choice("of a client's Cache-Control", &["harmless", "all", "none"])),
            ("close_delimited", choice("responses that end with their connection", &["forward", "store"])),
            ("normalize", texts("request fields that are brought to one form first")),
            ("max_variants", number("stored variants of one URL", 1, 1000)),
            ("range", choice("how to fetch a range that is not stored", &["forward", "whole"])),
            ("forward", choice("request fields sent to upstream", &["all", "keyed"])),
            ("collapse", choice("who shares a fetch", &["off", "proxy", "fleet"])),
            ("max_body", size("the largest body that is stored")),
            (
                "instance",
                json!({
                    "type": "object",
                    "description": "what else than captures makes an instance: { date = \"query:date\" }",
                    "additionalProperties": {
                        "type": "string", "pattern": r"^\s*(query:.+|header:.+|identity)\s*$|\$\{"
                    },
                }),
            ),
            ("alerts", alerts),
            ("invalidation", choice("\"none\": no rule may name the family", &["rules", "none"])),
        ],
    );
    required(family, &["name", "path"])
}

fn warm() -> Value {
    let headers = json!({
        "type": "object",
        "description": "request fields to send; secrets best from the environment: \"Bearer ${WARM_TOKEN}\"",
        "additionalProperties": { "type": "string" },
    });
    let on = json!({ "type": "array", "items": { "enum": ["startup", "invalidate"] }, "description": "what a run follows" });
    let fields = [
        ("paths", texts("paths with their queries; {1..100} and {a,b} stand for several")),
        ("file", text("a file with one path on each line")),
        (
            "openapi",
            text("an OpenAPI description (JSON): a path at the API, or a file; its GET routes without parameters"),
        ),
        ("sitemap", text("the path of a sitemap at the API")),
        ("family", text("the most frequent reads of this family, as this proxy counts them")),
        ("hottest", number("how many of them", 1, 10_000)),
        ("predict", truth("those of the same hour on earlier days, shortly before that hour")),
        ("host", text("the host in the URLs of clients")),
        ("headers", headers),
        ("on", on),
        ("every", duration("how long after one run the next one begins")),
        ("hours", text("with every: the hours in which runs begin, such as \"9-11\" (until 11:59)")),
        ("cron", text("minute, hour, day, month, day of the week: \"0 6 * * *\"")),
        ("time_zone", text("of cron, hours and predict, such as \"Europe/Paris\"")),
        ("concurrency", number("requests at a time", 1, 1000)),
        ("rate", number("requests a second", 1, 100_000)),
    ];
    table("what is fetched before a client asks for it, and when", fields)
}

fn invalidate() -> Value {
    let status = json!({ "anyOf": [{ "type": "integer", "minimum": 200, "maximum": 599 }, { "type": "string" }] });
    let rule = table(
        "what a write invalidates",
        [
            ("families", texts("families, levels, globs, or instances: \"user:{id}\"")),
            ("methods", texts("of the write")),
            ("on", json!({ "type": "array", "items": status, "description": "404, \"2xx\", \"200-299\"" })),
            ("mode", choice("soft: served stale while one fresh response is fetched", &["hard", "soft"])),
            ("grace", duration("with mode = \"soft\": for how long")),
            ("again", duration("once more after this time")),
            ("refresh", truth("fetch the hottest of it again at once")),
            ("except", texts("patterns over the paths of writes that change nothing others read")),
        ],
    );
    let rule = required(rule, &["families"]);
    let families = texts("families, levels, globs, or instances: \"user:{id}\"");
    let rules = json!({ "type": "array", "items": rule, "description": "several rules for one path" });
    json!({
        "type": "object",
        "description": "which writes invalidate what: patterns over the write's path",
        "additionalProperties": { "anyOf": [families, rule, rules] },
    })
}

#[cfg(test)]
mod tests;
