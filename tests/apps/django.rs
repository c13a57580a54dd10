//! Django REST framework with sessions, CSRF tokens and gzip.

use serde_json::json;

use crate::recipe::Recipe;
use crate::{browser, readme, script};

const DJANGO: Recipe = Recipe {
    name: "django",
    prepare: &["python", "manage.py", "migrate"],
    run: &["gunicorn", "notes.wsgi", "--threads", "4"],
    any_port: &["--bind", "127.0.0.1:0"],
};

#[test]
fn django_rest_framework_answers_the_same_behind_larder() {
    script::same_with_and_without_larder(DJANGO, "django.py");
}

#[test]
fn the_readme_of_django_is_true() {
    readme::is_true(DJANGO);
}

#[test]
fn a_browser_logs_in_by_the_form_and_sees_what_it_writes() {
    let seen = browser::runs_unguarded("django.js", &DJANGO.behind_larder().url());
    assert_eq!(
        seen,
        json!({
            "refused": "Authentication credentials were not provided.",
            "wrong": ["/accounts/login/", true],
            "right": ["/notes/mine/", true],
            "first": "Only ann knows.",
            "written": 200,
            "second": "New.",
        })
    );
}

#[test]
fn visitors_with_cookies_that_are_not_djangos_share_what_everybody_sees() {
    let site = DJANGO.behind_larder();
    let get = |cookie: &str| {
        site.larder.call("GET", "/notes/").header("host", "127.0.0.1").header("cookie", cookie).send()
    };
    get("_ga=GA1.1.7").has_status(200).shows("stored");
    get("_ga=GA1.1.8; theme=dark").has_status(200).shows("hit");
}
