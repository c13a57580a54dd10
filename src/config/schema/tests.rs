use std::collections::BTreeSet;

use super::*;
use crate::config::{Config, Overrides};
use crate::rules::reader::RulesReader;

/// One of everything, so that the reader reads every field.
const ALL: &str = r#"
[server.upstream_tls]
[admin]
tokens = [{ role = "admin", token = "x" }]
[purge]
tokens = true
[store]
redis = "redis://h"
[memory]
[log]
[traces]
endpoint = "http://h/v1/traces"
[jwt]
jwks_file = "keys.json"
[alerts]
[[family]]
name = "a"
path = '/a'
identity = "jwt:sub"
query = { keep = ["b"] }
cookies = { keep = ["c"] }
ttl = "1m"
adaptive_ttl = { hot = "2x over 1000/h" }
authorize = { path = "/c", ttl = "5s" }
alerts = { hit_rate = "50%" }
[[family]]
name = "b"
path = '/b'
[invalidate]
'/a' = { families = ["a"] }
[[warm]]
family = "b"
every = "1h"
"#;

/// Every field that the reader reads, with the place of its table.
fn asked() -> BTreeSet<(String, String)> {
    let (reader, root) = RulesReader::open("rules.toml", ALL, &|_| None);
    let read = Config::read(&mut reader.root(&root), &Overrides::default());
    assert!(read.1.is_empty());
    let asked = reader.asked().into_iter().map(|(place, key)| (place, key.to_owned())).collect();
    assert_eq!(reader.finish(), [], "the file is good");
    asked
}

/// Every field of the schema, with the place of its table.
fn fields_of(schema: &Value, place: &str, fields: &mut BTreeSet<(String, String)>) {
    let below = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        fields.insert((place.to_owned(), name.clone()));
        fields_of(schema, &below(name), fields);
    }
    if schema["items"].is_object() {
        fields_of(&schema["items"], &format!("{place}[]"), fields);
    }
    // A field may be a table or a value.
    for kind in schema["anyOf"].as_array().into_iter().flatten() {
        fields_of(kind, place, fields);
    }
    for kind in schema["additionalProperties"]["anyOf"].as_array().into_iter().flatten() {
        // Several rules for one path have the same fields as one.
        if kind["type"] == "object" {
            fields_of(kind, &below("*"), fields);
        }
    }
}

#[test]
fn the_schema_has_every_field_that_the_reader_knows_and_no_other() {
    let mut fields = BTreeSet::new();
    fields_of(&schema(), "", &mut fields);
    let asked = asked();
    let missing: Vec<_> = asked.difference(&fields).collect();
    let unknown: Vec<_> = fields.difference(&asked).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "missing: {missing:?}; not known to the reader: {unknown:?}"
    );
    assert!(fields.len() > 80);
}

/// The words of the field at this place.
fn words(schema: &Value) -> Option<Vec<&str>> {
    let words = schema["anyOf"][0]["enum"].as_array()?;
    Some(words.iter().filter_map(Value::as_str).collect())
}

#[test]
fn the_schema_has_the_words_that_the_reader_accepts() {
    let schema = schema();
    let mut tried = 0;
    let tables = [
        ("/properties/server", "[server]\nKEY = VALUE"),
        ("/properties/store", "[store]\nredis = 'redis://h'\nKEY = VALUE"),
        ("/properties/log", "[log]\nKEY = VALUE"),
        ("/properties/family/items", "[[family]]\nname = 'a'\npath = '/a'\nttl = '1s'\nKEY = VALUE"),
        (
            "/properties/invalidate/additionalProperties/anyOf/1",
            "[invalidate]\n'/a' = { families = ['*'], KEY = VALUE }",
        ),
        ("/properties/admin/properties/tokens/items", "[admin]\ntokens = [{ token = 'x', KEY = VALUE }]"),
    ];
    for (place, file) in tables {
        let fields = schema.pointer(place).unwrap()["properties"].as_object().unwrap();
        for (name, words) in fields.iter().filter_map(|(name, schema)| Some((name, words(schema)?))) {
            let read = |word: &str| {
                let text = file.replace("KEY", name).replace("VALUE", &format!("'{word}'"));
                let needed = if word == "append" { "\ntrusted_proxies = ['10.0.0.0/8']" } else { "" };
                // Nothing else has an effect beside it.
                let text = if word == "never" { text.replace("ttl = '1s'", "") } else { text };
                let text = text + needed;
                Config::parse(&text, "rules.toml", &Overrides::default(), &|_| None)
            };
            for word in &words {
                assert!(read(word).is_ok(), "{name} = {word:?}: {}", read(word).unwrap_err());
            }
            let faults = read("nothing like it").unwrap_err().0;
            let listed: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
            assert_eq!(faults[0].remedy, format!("write {}", listed.join(" or ")), "{name}");
            tried += 1;
        }
    }
    assert!(tried >= 15, "{tried}");
}

/// Why a value does not match; supports the subset of JSON Schema that the schema uses.
fn misfit(schema: &Value, value: &Value, at: &str) -> Option<String> {
    let no = |what: &str| Some(format!("{at}: {value} is not {what}"));
    if let Some(kinds) = schema["anyOf"].as_array() {
        let all: Option<Vec<String>> = kinds.iter().map(|kind| misfit(kind, value, at)).collect();
        return all.map(|all| all.join("; "));
    }
    if let Some(words) = schema["enum"].as_array() {
        return if words.contains(value) { None } else { no("one of the words") };
    }
    match schema["type"].as_str() {
        Some("boolean") if !value.is_boolean() => no("true or false"),
        Some("integer") => {
            let Some(number) = value.as_u64() else { return no("a number") };
            let limit = |name: &str| schema[name].as_u64();
            let fits = limit("minimum").is_none_or(|least| least <= number)
                && limit("maximum").is_none_or(|most| number <= most);
            if fits { None } else { no("in range") }
        }
        Some("string") => {
            let Some(text) = value.as_str() else { return no("a string") };
            let pattern = schema["pattern"].as_str().unwrap_or("");
            if regex::Regex::new(pattern).unwrap().is_match(text) { None } else { no(pattern) }
        }
        Some("array") => {
            let Some(list) = value.as_array() else { return no("a list") };
            list.iter().find_map(|item| misfit(&schema["items"], item, at))
        }
        Some("object") => {
            let Some(table) = value.as_object() else { return no("a table") };
            let lacks = schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|name| !table.contains_key(name.as_str().unwrap()));
            if let Some(name) = lacks {
                return Some(format!("{at}: {name} is missing"));
            }
            table.iter().find_map(|(name, value)| {
                let at = format!("{at}.{name}");
                match (&schema["properties"][name], &schema["additionalProperties"]) {
                    (Value::Null, Value::Bool(false)) => Some(format!("{at} is not known")),
                    (Value::Null, other) => misfit(other, value, &at),
                    (field, _) => misfit(field, value, &at),
                }
            })
        }
        _ => None,
    }
}

fn misfit_of(text: &str) -> Option<String> {
    let value: Value = toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    misfit(&schema(), &value, "")
}

#[test]
fn valid_files_match_the_schema() {
    for text in [
        ALL,
        include_str!("../../../rules.toml"),
        include_str!("../../../examples/hita/rules.toml"),
        include_str!("../../../deploy/rules.toml"),
        "[server]\nforwarded = '${F}'\nidle_timeout = '${T}'\nmax_heads = '1 GiB'",
        "[invalidate]\n'/a' = ['x']\n'/b' = [{ families = ['x'], on = [404, '2xx'] }, { families = ['y'], mode = 'soft' }]",
        "[[invalidate.'/a']]\nfamilies = ['x']",
        "[[family]]\nname = 'a'\npath = '/a'\nnegative_ttl = { 404 = '1s', 301 = '1d' }\nadaptive_ttl = true\ncompress = true",
        "[store]\ncompress = 'zstd'\nversion = '${V}'",
    ] {
        assert_eq!(misfit_of(text), None, "{text}");
    }
}

#[test]
fn values_of_the_wrong_type_do_not_match_the_schema() {
    for text in [
        "[servers]\nlisten = 'x'",
        "[server]\nlistn = 'x'",
        "[server]\nidle_timeout = 30",
        "[server]\nforwarded = 'add'",
        "[server]\nunderscores = 'yes'",
        "[server]\nmax_connections = 0",
        "[server]\nupgrades = 'websocket'",
        "[[family]]\nname = 'a'",
        "[[family]]\nname = 'a'\npath = '/a'\nttl = '300'",
        "[[family]]\nname = 'a'\npath = '/a'\nidentity = 'Authorization'",
        "[[family]]\nname = 'a'\npath = '/a'\nquery = { kept = ['a'] }",
        "[[family]]\nname = 'a'\npath = '/a'\nmethods = ['PUT']",
        "[invalidate]\n'/a' = 'x'",
        "[invalidate]\n'/a' = { families = ['x'], mod = 'soft' }",
        "[invalidate]\n'/a' = { methods = ['PUT'] }",
        "[admin]\ntokens = [{ role = 'boss', token = 'x' }]",
        "[store]\nnamespace = 'a:b'",
        "[store]\nversion = 2",
        "[store]\ncompress = 'gzip'",
        "[[family]]\nname = 'a'\npath = '/a'\nttl = '1m'\nadaptive_ttl = 'yes'",
        "[[family]]\nname = 'a'\npath = '/a'\nttl = '1m'\nadaptive_ttl = { warm = '2x over 10/h' }",
        "[[family]]\nname = 'a'\npath = '/a'\nnegative_ttl = 10",
    ] {
        assert!(misfit_of(text).is_some(), "{text}");
        assert!(Config::parse(text, "rules.toml", &Overrides::default(), &|_| None).is_err(), "{text}");
    }
}
