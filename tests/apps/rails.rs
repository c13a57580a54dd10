//! Rails sessions.

use crate::readme;
use crate::recipe::Recipe;

const RAILS: Recipe = Recipe { name: "rails", prepare: &[], run: &["node", "server.js"], any_port: &[] };

#[test]
fn the_readme_of_rails_sessions_is_true() {
    readme::is_true(RAILS);
}
