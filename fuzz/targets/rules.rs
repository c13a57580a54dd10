#![no_main]
//! The reader of `rules.toml`: any text is either faulty, and says so, or rules that can be used.

use http::Method;
use larder::config::{Config, Overrides};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let environment = |name: &str| (name == "NAME").then(|| "value \"' \u{e4}".to_owned());
    match Config::parse(text, "rules.toml", &Overrides::default(), &environment) {
        Err(faults) => assert!(!faults.to_string().is_empty()),
        Ok(config) => {
            for path in ["/", "/v1.0/users/42", "/a%2Fb//c"] {
                use_rules(&config, path);
            }
        }
    }
});

fn use_rules(config: &Config, path: &str) {
    if let Some(claimed) = config.rules.route(&Method::GET, path) {
        assert!(!claimed.family.tags(&claimed.captures).is_empty());
        assert!(!claimed.family.label(&claimed.captures).is_empty());
    }
    for invalidated in config.rules.invalidated_by(&Method::POST, path) {
        assert!(!invalidated.tags.is_empty());
    }
}
