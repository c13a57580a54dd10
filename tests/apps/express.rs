//! Sessions, uploads, compression and CORS, as people use them with Express.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::recipe::Recipe;
use crate::{browser, readme, script};

const EXPRESS: Recipe = Recipe { name: "express", prepare: &[], run: &["node", "app.js"], any_port: &[] };

/// What a browser saw.
static SEEN: LazyLock<Value> = LazyLock::new(|| browser::runs("express.js", &EXPRESS.behind_larder().url()));

#[test]
fn an_express_application_answers_the_same_behind_larder() {
    script::same_with_and_without_larder(EXPRESS, "express.js");
}

#[test]
fn the_readme_of_express_is_true() {
    readme::is_true(EXPRESS);
}

#[test]
fn a_browser_may_read_what_the_application_lets_its_origin_read() {
    assert_eq!(SEEN["cors"], json!([200, 200, 200, 200, 200, 200]));
}

#[test]
fn a_browser_with_a_session_sees_its_own_until_it_logs_out() {
    assert_eq!(SEEN["cookies"], json!([401, "ann", "ann", true, 401]));
}

#[test]
fn a_browser_sees_each_write_in_what_the_application_gave_no_lifetime() {
    assert_eq!(SEEN["titles"], json!(["first", "first", "second", "second", "third", "third"]));
}

#[test]
fn a_browser_sees_each_write_in_what_the_application_lets_it_keep() {
    assert_eq!(SEEN["latest"], json!(["first", "second", "third"]));
}
