//! A REST API whose lists, pages and embedded resources all change with one write.

use crate::recipe::Recipe;
use crate::{readme, script};

const JSON_SERVER: Recipe =
    Recipe { name: "json-server", prepare: &[], run: &["node", "server.js"], any_port: &[] };

#[test]
fn json_server_answers_the_same_behind_larder() {
    script::same_with_and_without_larder(JSON_SERVER, "json-server.js");
}

#[test]
fn the_readme_of_json_server_is_true() {
    readme::is_true(JSON_SERVER);
}
