//! socket.io over long polls and WebSockets.

use serde_json::json;

use crate::recipe::Recipe;
use crate::{browser, readme, script};

const SOCKET_IO: Recipe = Recipe { name: "socket-io", prepare: &[], run: &["node", "app.js"], any_port: &[] };

#[test]
fn socket_io_tells_the_same_behind_larder() {
    script::same_with_and_without_larder(SOCKET_IO, "socket-io.js");
}

#[test]
fn the_readme_of_socket_io_is_true() {
    readme::is_true(SOCKET_IO);
}

#[test]
fn a_browser_hears_of_each_message_by_long_polls_and_by_web_socket() {
    let seen = browser::runs("socket-io.js", &SOCKET_IO.behind_larder().url());
    assert_eq!(seen, json!(["by polling", "by polling", "by websocket", "by websocket"]));
}
