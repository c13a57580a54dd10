//! WsgiDAV: files that are written, copied, moved and locked.

use crate::recipe::Recipe;
use crate::{readme, script};

const WEBDAV: Recipe = Recipe { name: "webdav", prepare: &[], run: &["python", "app.py"], any_port: &[] };

#[test]
fn a_webdav_server_answers_the_same_behind_larder() {
    script::same_with_and_without_larder(WEBDAV, "webdav.py");
}

#[test]
fn the_readme_of_webdav_is_true() {
    readme::is_true(WEBDAV);
}

#[test]
fn a_file_that_is_copied_over_another_is_seen_there_without_any_rule() {
    let rules = WEBDAV.rules();
    let (families, _) = rules.split_once("[invalidate]").unwrap();
    let served = WEBDAV.behind_larder_with(families);
    let larder = &served.larder;
    let host = larder.address.to_string();
    let get = |path: &str| larder.call("GET", path).header("host", &host).send();
    get("/list.txt").shows("stored");
    get("/list.txt").shows("hit").carries("Buy bread.\n");
    let copy = larder.call("COPY", "/drafts/letter.txt").header("host", &host);
    let copied = copy.header("destination", &format!("{}/list.txt", served.url())).send();
    assert_eq!(copied.status, 204, "{copied:?}");
    get("/list.txt").carries("Dear Ann,\n");
}
