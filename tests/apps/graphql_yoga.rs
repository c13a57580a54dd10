//! GraphQL Yoga: queries over GET, mutations over POST, subscriptions as event streams.

use crate::recipe::Recipe;
use crate::{readme, script};

const YOGA: Recipe = Recipe { name: "graphql-yoga", prepare: &[], run: &["node", "app.js"], any_port: &[] };

#[test]
fn graphql_yoga_answers_the_same_behind_larder() {
    script::same_with_and_without_larder(YOGA, "graphql-yoga.js");
}

#[test]
fn the_readme_of_graphql_yoga_is_true() {
    readme::is_true(YOGA);
}
