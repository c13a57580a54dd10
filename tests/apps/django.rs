//! Django REST framework with sessions, CSRF tokens and gzip.

use crate::recipe::Recipe;
use crate::{readme, script};

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
