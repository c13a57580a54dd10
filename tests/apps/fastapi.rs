//! FastAPI with JSON Web Tokens and SQLModel.

use crate::recipe::Recipe;
use crate::{readme, script};

const FASTAPI: Recipe =
    Recipe { name: "fastapi", prepare: &[], run: &["uvicorn", "app:app"], any_port: &["--port", "0"] };

#[test]
fn fastapi_answers_the_same_behind_larder() {
    script::same_with_and_without_larder(FASTAPI, "fastapi.py");
}

#[test]
fn the_readme_of_fastapi_is_true() {
    readme::is_true(FASTAPI);
}

#[test]
fn a_redirect_leads_to_the_address_that_the_client_knows() {
    let served = FASTAPI.behind_larder();
    let host = served.larder.address.to_string();
    let redirect = served.larder.call("GET", "/products/").header("host", &host).send().has_status(307);
    assert_eq!(redirect.header("location"), Some(format!("{}/products", served.url()).as_str()));
}
