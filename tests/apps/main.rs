//! Real applications with Larder in front of them, each with the rules that its user would write: the recipes of
//! `examples/recipes`. Real clients send one script of requests to the application alone and to Larder in front of it, and
//! the answers must be the same; a browser does what only browsers do; and what each README shows is tried. The files of
//! `deploy/` are checked here too, since the programs that read them are applications that have to be installed. So is the
//! admin's dashboard, in the browser.
//!
//! The packages are installed once, under `target/apps` (`tests/apps/install`). A tool that is missing is a failure.

#![allow(clippy::unwrap_used, reason = "in a test an unexpected error may end it")]

#[path = "../suite/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the suite")]
mod support;

mod browser;
mod dashboard;
mod deployment;
mod django;
mod express;
mod fastapi;
mod graphql_yoga;
mod json_server;
mod packages;
mod rails;
mod readme;
mod recipe;
mod schemathesis;
mod script;
mod socket_io;
mod spa;
mod static_files;
mod webdav;
