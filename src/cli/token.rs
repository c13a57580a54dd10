//! `larder token`: makes a token for the admin, and the digest that the rules file holds of it.

use std::io::Read as _;

use super::TokenArguments;
use crate::config::Role;
use crate::config::token::digest;
use crate::hexadecimal::hexadecimal;

/// Longest token that is read, bytes.
const LONGEST: u64 = 4096;

/// What is printed, and the exit code.
pub(super) fn token(arguments: &TokenArguments) -> (String, u8) {
    let (text, is_new) = match arguments.stdin {
        true => match given() {
            Ok(text) => (text, false),
            Err(error) => return (format!("larder: {error}"), 2),
        },
        false => (format!("larder_{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>()), true),
    };
    let digest = hexadecimal(&digest(&text));
    if arguments.json {
        let json = serde_json::json!({ "token": is_new.then_some(&text), "sha256": digest });
        return (format!("{json:#}"), 0);
    }
    let role = if arguments.viewer { Role::Viewer } else { Role::Admin }.word();
    let name = arguments.name.as_ref().map(|name| format!("name = {name:?}, ")).unwrap_or_default();
    let line = format!("{{ {name}role = \"{role}\", sha256 = \"{digest}\" }},");
    let token = if is_new {
        format!("The token, which nothing else knows. Keep it:\n\n    {text}\n\n")
    } else {
        String::new()
    };
    (format!("{token}Its line in [admin] tokens = [ … ] of the rules file:\n\n    {line}"), 0)
}

fn given() -> Result<String, String> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(LONGEST).read_to_string(&mut text);
    read.map_err(|error| format!("cannot read a token from standard input: {error}"))?;
    let token = text.trim();
    let can_be_sent = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if can_be_sent {
        Ok(token.to_owned())
    } else {
        Err("standard input has no token of visible ASCII characters".to_owned())
    }
}
