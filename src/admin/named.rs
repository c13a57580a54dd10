//! The families and instances that requests name, and the remedy for names that there are not.

use super::refusal::Refusal;
use crate::marks::Tag;
use crate::rules::InstanceEverywhere;
use crate::running::Live;

/// This instance of all families that have it.
pub fn find_instance(live: &Live, name: &str, value: &str) -> Result<InstanceEverywhere, Refusal> {
    let found = live.rules.instance_everywhere(name, value, live.redaction.secret.as_ref());
    found.map_err(|have| unknown_instance(name, &have))
}

/// `have`: the names that may have been meant, or all that there are.
pub fn unknown_instance(name: &str, have: &[String]) -> Refusal {
    let what_to_do = match have {
        [] => "no family has instances: POST /cache/clear/{family} purges all of a family".to_owned(),
        have => format!("there are {}", have.join(", ")),
    };
    Refusal::not_found(format!("no family has an instance {name:?}"), what_to_do)
}

/// The tags of a reference to a family, a level, a glob or an instance.
pub fn resolve(live: &Live, reference: &str) -> Result<Vec<Tag>, Refusal> {
    live.rules.resolve(reference, live.redaction.secret.as_ref()).map_err(|unknown| {
        let families: Vec<&str> = live.rules.families().iter().map(|family| family.name.as_str()).collect();
        match unknown.instance {
            Some((message, remedy)) => Refusal::not_found(message, remedy),
            None => unknown_family(reference, &unknown.nearest, &families),
        }
    })
}

/// `nearest`: names that may have been meant. `families`: all that there are.
fn unknown_family(reference: &str, nearest: &[String], families: &[&str]) -> Refusal {
    let family = families.iter().find(|name| reference.strip_prefix(**name).is_some_and(|it| it.starts_with(':')));
    let what_to_do = match (family, nearest) {
        (Some(family), _) => {
            format!("{family:?} has no such instances: POST /cache/clear/{family} purges all of it")
        }
        (None, []) if families.is_empty() => {
            "there are no families: POST /cache/clear purges everything".to_owned()
        }
        (None, []) => format!("there are {}", families.join(", ")),
        (None, nearest) => format!("did you mean {}?", nearest.join(" or ")),
    };
    Refusal::not_found(format!("unknown family {reference:?}"), what_to_do)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http::StatusCode;
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn an_unknown_family_is_answered_with_what_there_is() {
        let rows: [(&str, &[&str], &[&str], &str); 4] = [
            ("user_lst", &["user_list"], &["user_list"], "did you mean user_list?"),
            ("x", &[], &["user_list", "booking"], "there are user_list, booking"),
            ("x", &[], &[], "there are no families: POST /cache/clear purges everything"),
            (
                "user_list:7",
                &["user_list"],
                &["user_list"],
                "\"user_list\" has no such instances: POST /cache/clear/user_list purges all of it",
            ),
        ];
        for (reference, nearest, families, remedy) in rows {
            let nearest: Vec<String> = nearest.iter().map(|&name| name.to_owned()).collect();
            let refusal = unknown_family(reference, &nearest, families);
            let response = refusal.into_response();
            let status = response.status();
            let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((status, &body["what_to_do"]), (StatusCode::NOT_FOUND, &json!(remedy)));
        }
    }
}
