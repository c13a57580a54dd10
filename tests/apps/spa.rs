//! An API with CORS for a single-page application.

use crate::readme;
use crate::recipe::Recipe;

const SPA: Recipe = Recipe { name: "spa", prepare: &[], run: &["node", "server.js"], any_port: &[] };

#[test]
fn the_readme_of_a_single_page_application_is_true() {
    readme::is_true(SPA);
}
