//! Lexikon: terms in projects, and their authors. Callers have JSON Web Tokens.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::{Answer, Api, Call};

/// Terms, users, and the secret of their tokens.
pub struct Lexikon {
    secret: String,
    users: BTreeMap<String, Value>,
    accounts: BTreeMap<String, Vec<Value>>,
    terms: Vec<Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    /// Makes every token another one.
    jti: usize,
}

impl Lexikon {
    /// Two users and two terms.
    pub fn new(secret: &str) -> Lexikon {
        let user = |name: &str| (name.to_owned(), json!({ "id": name, "email": format!("{name}@lexikon.example") }));
        Lexikon {
            secret: secret.to_owned(),
            users: ["123", "456"].map(user).into(),
            accounts: BTreeMap::new(),
            terms: vec![term("python", "123", "456"), term("redis", "456", "456")],
        }
    }

    /// A token of this user for this long.
    fn token(&self, user: &str, lifetime: Duration) -> Option<String> {
        let exp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()? + lifetime;
        let claims = Claims { sub: user.to_owned(), exp: exp.as_secs(), jti: rand::random::<u32>() as usize };
        jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(self.secret.as_bytes())).ok()
    }

    fn caller(&self, call: &Call) -> Option<String> {
        let key = DecodingKey::from_secret(self.secret.as_bytes());
        let token = call.token.as_ref()?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &Validation::new(Algorithm::HS256));
        Some(claims.ok()?.claims.sub)
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
            ("POST", ["terms"]) => {
                let text = |name: &str| call.content[name].as_str().unwrap_or("").to_owned();
                let new = term(&text("name"), caller, &text("project_id"));
                self.terms.push(new.clone());
                Answer { status: StatusCode::CREATED, ..Answer::ok(new) }
            }
            _ => Answer::not_found(),
        }
    }
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
                match self.token(call.content["user"].as_str().unwrap_or(""), Duration::from_secs(seconds)) {
                    Some(token) => Answer::ok(json!({ "token": token })),
                    None => Answer::error(StatusCode::INTERNAL_SERVER_ERROR, "no token"),
                }
            }
            ("GET", ["users", id]) => match self.users.get(*id) {
                Some(user) => {
                    let tag = format!("\"{}\"", user["email"].as_str().unwrap_or(""));
                    match call.if_none_match.as_ref() {
                        Some(known) if *known == tag => {
                            Answer { status: StatusCode::NOT_MODIFIED, ..Answer::ok(Value::Null) }.with("etag", tag)
                        }
                        _ => Answer::ok(user.clone()).with("etag", tag).after(15),
                    }
                }
                None => Answer::not_found(),
            },
            ("GET", ["users", id, "settings"]) => Answer::ok(json!({ "id": id, "theme": "dark" })),
            ("GET", ["projects", id, "terms"]) => {
                let of_project: Vec<&Value> = self.terms.iter().filter(|term| term["project_id"] == **id).collect();
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
