use super::*;
use crate::config::{Config, Overrides};

const FAMILIES: &str = r#"
[[family]]
name = "plan"
path = '/plans/(?<id>\d+)'
[[family]]
name = "me"
path = '/me'
identity = "header:authorization"
"#;

/// Families that are not warmed.
const OTHERS: &str = r#"
[[family]]
name = "rights"
path = '/rights'
authorize = { path = "/check", ttl = "5s" }
[[family]]
name = "never"
path = '/never'
cache = "never"
"#;

fn parsed(table: &str) -> Result<Vec<WarmTable>, String> {
    let text = format!("{FAMILIES}[[warm]]\n{table}\n");
    let env = |name: &str| (name == "TOKEN").then(|| "s3cret".to_owned());
    let config = Config::parse(&text, "rules.toml", &Overrides::default(), &env);
    config.map(|config| config.warm).map_err(|faults| faults.to_string())
}

#[test]
fn a_table_is_read_with_its_defaults() {
    let table = &parsed("paths = [\"/plans/{1..100}\"]\nhost = \"API.example.com:80\"").unwrap()[0];
    assert_eq!((table.host.as_str(), table.concurrency, table.rate), ("api.example.com", 4, None));
    assert_eq!((table.on_startup, table.on_invalidate, &table.schedule), (false, false, &None));
    assert_eq!(table.line, 9);
    let (what, when) = table.described();
    assert_eq!((what.as_str(), when.as_str()), ("100 paths", "by POST /cache/warm"));
}

#[test]
fn values_of_headers_come_from_the_environment_and_are_not_shown() {
    let table =
        &parsed("sitemap = \"/sitemap.xml\"\nheaders = { Authorization = \"Bearer ${TOKEN}\" }").unwrap()[0];
    assert_eq!(table.headers["authorization"], "Bearer s3cret");
    assert!(!format!("{table:?}").contains("s3cret"), "{table:?}");
}

#[test]
fn all_fields_are_described() {
    let table = &parsed(
        "family = \"plan\"\nhottest = 20\non = [\"invalidate\"]\nevery = \"30m\"\nhours = \"9-11\"\n\
         time_zone = \"Europe/Paris\"\nconcurrency = 8\nrate = 50",
    )
    .unwrap()[0];
    assert_eq!((table.concurrency, table.rate, table.zone), (8, Some(50), chrono_tz::Europe::Paris));
    let (what, when) = table.described();
    assert_eq!(what, "the 20 hottest of plan");
    assert_eq!(when, "after an invalidation, every 30m, in its hours, by POST /cache/warm");
    let predicted = &parsed("family = \"plan\"\npredict = true").unwrap()[0];
    assert!(matches!(predicted.schedule, Some(Schedule::BeforeEachHour { hours: None })));
}

#[test]
fn families_whose_reads_are_to_be_counted_are_noted() {
    let text = format!("{FAMILIES}[[warm]]\nfamily = \"plan\"\nevery = \"1h\"\n");
    let config = Config::parse(&text, "rules.toml", &Overrides::default(), &|_| None).unwrap();
    let counted: Vec<bool> = config.rules.families().iter().map(|family| family.counted).collect();
    assert_eq!(counted, [true, false]);
}

#[test]
fn settings_without_effect_and_unknown_values_are_refused() {
    let host = "host = \"h\"\npaths = [\"/a\"]\n";
    let rows = [
        ("on = [\"startup\"]".to_owned(), "names nothing to warm"),
        ("paths = [\"/a\"]".to_owned(), "host is missing"),
        ("host = \"h\"\npaths = [\"a\"]".to_owned(), "does not begin with \"/\""),
        ("host = \"h\"\npaths = [\"/a/{1..100001}\"]".to_owned(), "stands for 100001 paths"),
        ("host = \"h/x\"\npaths = [\"/a\"]".to_owned(), "is not a host"),
        (format!("{host}on = [\"start\"]"), "\"start\" is not known"),
        (format!("{host}every = \"1h\"\ncron = \"0 6 * * *\""), "in addition to every"),
        (format!("{host}cron = \"6 Uhr\""), "it has 2 fields, not 5"),
        (format!("{host}cron = \"a 6 * * *\""), "is no cron expression"),
        (format!("{host}cron = \"0 0 6 * * *\""), "it has 6 fields, not 5"),
        (format!("{host}cron = \"0 0 30 2 *\""), "that day never comes"),
        (format!("{host}every = \"1h\"\ntime_zone = \"Europe/Paris\""), "has no effect without cron, hours"),
        (format!("{host}headers = {{ Authorization = \"Bearer x\" }}"), "must not be in the file"),
        (format!("{host}headers = {{ X-Api-Key = \"x\" }}"), "set that variable"),
        ("family = \"rights\"\nevery = \"1h\"".to_owned(), "has authorize"),
        ("family = \"never\"\nevery = \"1h\"".to_owned(), "has cache = \"never\""),
        (format!("{host}hours = \"9-11\""), "has no effect without every"),
        (format!("{host}every = \"1h\"\nhours = \"9-25\""), "is not a span of hours"),
        (format!("{host}time_zone = \"Europe/Paris\""), "has no effect"),
        (format!("{host}cron = \"0 6 * * *\"\ntime_zone = \"Paris\""), "is not a time zone"),
        (format!("{host}hottest = 10"), "has no effect without a family"),
        (format!("{host}concurrency = 129"), "is more than max_upstream_requests_per_client (128)"),
        (format!("{host}rate = 0"), "out of range"),
        (format!("{host}headers = {{ Host = \"x\" }}"), "cannot be set"),
        (format!("{host}headers = {{ \"If-None-Match\" = \"x\" }}"), "cannot be set"),
        (format!("{host}headers = {{ \"a b\" = \"x\" }}"), "is no field name"),
        ("family = \"plans\"\nevery = \"1h\"".to_owned(), "did you mean \"plan\"?"),
        ("family = \"me\"\nevery = \"1h\"".to_owned(), "has an identity"),
        ("family = \"plan\"\nhost = \"h\"\nevery = \"1h\"".to_owned(), "counted with their hosts"),
        ("family = \"plan\"\non = [\"startup\"]".to_owned(), "no reads are counted yet"),
        ("host = \"h\"\nopenapi = \"api.yaml\"".to_owned(), "is YAML"),
        ("sitemap = \"https://h/sitemap.xml\"".to_owned(), "does not begin with \"/\""),
    ];
    for (table, part) in rows {
        let faults = parsed(&format!("{table}{OTHERS}")).unwrap_err();
        assert!(faults.contains(part), "{table}: {faults}");
    }
}
