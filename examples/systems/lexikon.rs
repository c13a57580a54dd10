//! Lexikon: terms in projects, and their authors. Callers have JSON Web Tokens.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use ring::hmac;
use serde_json::{Value, json};

use super::api::{Answer, Api, Call};

/// Terms, users, and the secret of their tokens.
pub struct Lexikon {
    secret: String,
    users: BTreeMap<String, Value>,
    accounts: BTreeMap<String, Vec<Value>>,
    terms: Vec<Value>,
}

impl Lexikon {
    /// Two users and two terms.
    pub fn new(secret: &str) -> Lexikon {
        let user =
            |name: &str| (name.to_owned(), json!({ "id": name, "email": format!("{name}@lexikon.example") }));
        Lexikon {
            secret: secret.to_owned(),
            users: ["123", "456"].map(user).into(),
            accounts: BTreeMap::new(),
            terms: vec![term("python", "123", "456"), term("redis", "456", "456")],
        }
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes())
    }

    /// A token of this user for this long (RFC 7519). Each is another one.
    fn token(&self, user: &str, lifetime: Duration) -> String {
        let exp = (now() + lifetime).as_secs();
        let claims = json!({ "sub": user, "exp": exp, "jti": rand::random::<u32>().to_string() });
        let [header, claims] =
            [json!({ "alg": "HS256" }), claims].map(|it| URL_SAFE_NO_PAD.encode(it.to_string()));
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key(), format!("{header}.{claims}").as_bytes()));
        format!("{header}.{claims}.{signature}")
    }

    /// The user whose valid token a request has.
    fn caller(&self, call: &Call) -> Option<String> {
        let (message, signature) = call.token.as_ref()?.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key(), message.as_bytes(), &signature).ok()?;
        let claims = URL_SAFE_NO_PAD.decode(message.split_once('.')?.1).ok()?;
        let claims: Value = serde_json::from_slice(&claims).ok()?;
        (claims["exp"].as_u64()? > now().as_secs()).then(|| claims["sub"].as_str().map(str::to_owned))?
    }

    fn found(&self, query: &str) -> Answer {
        let fits = |term: &&Value| term["name"].as_str().is_some_and(|name| name.contains(query));
        let found: Vec<&Value> = self.terms.iter().filter(fits).collect();
        Answer::ok(json!({ "query": query, "terms": found })).after(45)
    }

    /// What only its caller may see.
    fn own(&mut self, caller: &str, call: &Call) -> Answer {
        let (method, path) = call.route();
        match (method, &path[..]) {
            ("GET", ["terms"]) => {
                let own: Vec<&Value> = self.terms.iter().filter(|term| term["created_by"] == caller).collect();
                Answer::ok(json!({ "page": call.parameter("page").unwrap_or("1"), "terms": own }))
            }
            ("GET", ["users", id, "oauth_accounts"]) => {
                Answer::ok(json!({ "accounts": self.accounts.get(*id).cloned().unwrap_or_default() }))
            }
            ("GET", ["api_keys"]) => Answer::ok(json!({ "keys": [format!("key-of-{caller}")] })),
            ("POST", ["users", id, "oauth_accounts"]) => {
                self.accounts.entry((*id).to_owned()).or_default().push(call.content.clone());
                Answer { status: StatusCode::CREATED, ..Answer::ok(call.content.clone()) }
            }
            ("PATCH", ["users", id]) => {
                let Some(user) = self.users.get_mut(*id) else { return Answer::not_found() };
                for (name, value) in call.content.as_object().into_iter().flatten() {
                    user[name] = value.clone();
                }
                // The whole user, as GET would answer.
                Answer::ok(user.clone()).with("content-location", format!("/users/{id}"))
            }
            ("POST", ["projects", id, "terms"]) => {
                let new = term(call.content["name"].as_str().unwrap_or(""), caller, id);
                self.terms.push(new.clone());
                Answer { status: StatusCode::CREATED, ..Answer::ok(new) }
            }
            _ => Answer::not_found(),
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn term(name: &str, created_by: &str, project: &str) -> Value {
    json!({ "name": name, "created_by": created_by, "project_id": project })
}

impl Api for Lexikon {
    fn answer(&mut self, call: &Call) -> Answer {
        let (method, path) = call.route();
        match (method, &path[..]) {
            ("POST", ["auth", "token"]) => {
                let seconds = call.content["seconds"].as_u64().unwrap_or(3600);
                let user = call.content["user"].as_str().unwrap_or("");
                Answer::ok(json!({ "token": self.token(user, Duration::from_secs(seconds)) }))
            }
            ("GET", ["users", id]) => match self.users.get(*id) {
                Some(user) => {
                    let tag = format!("\"{}\"", user["email"].as_str().unwrap_or(""));
                    match call.if_none_match.as_ref() {
                        Some(known) if *known == tag => {
                            Answer { status: StatusCode::NOT_MODIFIED, ..Answer::ok(Value::Null) }
                                .with("etag", tag)
                        }
                        _ => Answer::ok(user.clone()).with("etag", tag).after(15),
                    }
                }
                None => Answer::not_found(),
            },
            ("GET", ["users", id, "settings"]) => Answer::ok(json!({ "id": id, "theme": "dark" })),
            ("GET", ["projects", id, "terms"]) => {
                let of_project: Vec<&Value> =
                    self.terms.iter().filter(|term| term["project_id"] == **id).collect();
                Answer::ok(json!({ "terms": of_project })).after(25)
            }
            ("GET", ["stats", "live"]) => Answer::ok(json!({ "terms": self.terms.len() })),
            ("GET", ["stats", "daily", day]) => Answer::ok(json!({ "day": day, "terms": self.terms.len() })),
            ("GET", ["terms", "search"]) => self.found(call.parameter("q").unwrap_or("")),
            // A search with many conditions has them in its content.
            ("POST", ["terms", "search"]) => self.found(call.content["query"].as_str().unwrap_or("")),
            _ => match self.caller(call) {
                Some(caller) => self.own(&caller, call),
                None => Answer::error(StatusCode::UNAUTHORIZED, "log in").with("www-authenticate", "Bearer"),
            },
        }
    }
}
