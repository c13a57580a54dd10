//! Files, downloaded in parts by `wget -c`.

use crate::recipe::Recipe;
use crate::{readme, script};

const STATIC: Recipe = Recipe { name: "static", prepare: &[], run: &["node", "server.js"], any_port: &[] };

#[test]
fn static_files_and_their_parts_are_the_same_behind_larder() {
    script::same_with_and_without_larder(STATIC, "static.js");
}

#[test]
fn the_readme_of_static_files_is_true() {
    readme::is_true(STATIC);
}
